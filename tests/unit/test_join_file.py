"""The file by which a running deployment is found: written for this account alone, believed only from this account."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from actors import directories
from actors.deployment import join_file
from actors.deployment.join_file import LocalDeployment
from actors.errors import NoDeployment
from tests.accounts import ATTACKER, as_root


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The account's runtime directory."""
    base = tmp_path / "run"
    base.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    return base


def running() -> LocalDeployment:
    """One that this very process owns."""
    started_s = join_file.started_s(os.getpid())
    assert started_s is not None
    return LocalDeployment(os.getpid(), started_s, "127.0.0.1:1", "/nowhere/token")


def test_what_is_written_is_found_by_its_namespace_until_it_is_removed(base: Path) -> None:
    join_file.write("one", running())
    assert join_file.read("one") == running()
    assert join_file.read("other") is None
    join_file.remove("one")
    assert join_file.read("one") is None
    assert list(base.iterdir()) == []


def test_nobody_else_can_look_into_it(base: Path) -> None:
    join_file.write("one", running())
    assert directories.runtime().stat().st_mode & 0o777 == 0o700
    assert join_file.path("one").stat().st_mode & 0o777 == 0o600


def test_a_process_that_came_later_to_the_same_id_is_not_the_deployments(base: Path) -> None:
    own = running()
    join_file.write("one", LocalDeployment(own.pid, own.started_s - 60.0, own.address, own.token_path))
    assert join_file.read("one") is None


def test_a_process_that_ended_has_no_start() -> None:
    # The highest id that the kernel may give is one below this.
    assert join_file.started_s(int(Path("/proc/sys/kernel/pid_max").read_text())) is None


def test_the_start_of_a_process_does_not_move_with_the_clock() -> None:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert join_file.started_s(os.getpid()) == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"), abs=0.011)
    # What psutil tells is by the clock, years from the machine's start.
    assert psutil.Process().create_time() > 1e9


@as_root
def test_a_file_of_another_account_is_not_believed(base: Path) -> None:
    join_file.write("one", running())
    os.chown(join_file.path("one"), ATTACKER, -1)
    with pytest.raises(NoDeployment, match="not this account's alone"):
        join_file.read("one")


def test_a_file_that_others_can_write_to_is_not_believed(base: Path) -> None:
    join_file.write("one", running())
    join_file.path("one").chmod(0o660)
    with pytest.raises(NoDeployment, match="not this account's alone"):
        join_file.read("one")


def test_a_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    join_file.write("one", running())
    elsewhere = join_file.path("one").rename(tmp_path / "elsewhere")
    join_file.path("one").symlink_to(elsewhere)
    with pytest.raises(NoDeployment, match=r"one\.json"):
        join_file.read("one")
    # Nor in writing, where somebody knows the name that is written first.
    elsewhere.write_text("precious")
    (directories.runtime() / "two.new").symlink_to(elsewhere)
    join_file.write("two", running())
    assert elsewhere.read_text() == "precious"
    assert join_file.read("two") == running()


def test_a_pipe_in_its_place_holds_nobody_up(base: Path) -> None:
    os.mkfifo(join_file.make_directory() / "one.json", 0o600)
    with pytest.raises(NoDeployment, match="not this account's alone"):
        join_file.read("one")


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"pid": 1, "started_at": 1, "address": "", "token": ""})])
def test_what_another_version_wrote_is_left_to_it(base: Path, text: str) -> None:
    join_file.make_directory()
    join_file.path("one").write_text(text)
    with pytest.raises(NoDeployment, match="another version"):
        join_file.read("one")


def test_a_directory_that_others_can_write_to_is_refused(base: Path) -> None:
    join_file.write("one", running())
    directories.runtime().chmod(0o770)
    for use in (lambda: join_file.read("one"), join_file.make_directory, lambda: join_file.write("one", running())):
        with pytest.raises(NoDeployment, match="XDG_RUNTIME_DIR"):
            use()


def test_an_account_that_has_no_place_of_its_own_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> Path:
        raise directories.ExposedDirectory(tmp_path, "others may replace what is in it; set TMPDIR")

    monkeypatch.setattr(directories, "runtime", none)
    for use in (lambda: join_file.read("one"), join_file.make_directory, lambda: join_file.write("one", running())):
        with pytest.raises(NoDeployment, match="set TMPDIR"):
            use()
