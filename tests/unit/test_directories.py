"""Directories that are this account's alone, all the way from the root of the file system."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from actors import directories
from actors.deployment import local_ray
from actors.errors import NoDeployment
from tests.accounts import ATTACKER, as_root


def test_what_is_missing_is_made_for_this_account_alone(tmp_path: Path) -> None:
    made = directories.secure(tmp_path / "a" / "b")
    assert made == tmp_path / "a" / "b"
    assert made.stat().st_mode & 0o777 == 0o700
    with directories.opened(made) as descriptor:
        assert os.fstat(descriptor).st_ino == made.stat().st_ino


def test_one_that_is_removed_while_it_is_made_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As pathlib finds it: it cannot be made, for it is there, and then it is not there.
    monkeypatch.setattr(os, "mkdir", lambda *_: (_ for _ in ()).throw(FileExistsError(17, "File exists")))
    with pytest.raises(FileNotFoundError) as told:
        directories.secure(tmp_path / "place")
    assert told.value.filename == str(tmp_path / "place")


def for_a_group(path: Path) -> None:
    path.chmod(0o770)


def for_everybody(path: Path) -> None:
    path.chmod(0o1777)


def a_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to(path.with_name("moved"))


def a_file(path: Path) -> None:
    path.rmdir()
    path.touch()


def below_what_everybody_may_change(path: Path) -> None:
    path.parent.chmod(0o777)


def below_what_a_group_may_change(path: Path) -> None:
    os.chown(path.parent, -1, ATTACKER)
    path.parent.chmod(0o775)


def anothers(path: Path) -> None:
    os.chown(path, ATTACKER, -1)


def below_anothers(path: Path) -> None:
    os.chown(path.parent, ATTACKER, -1)


@pytest.mark.parametrize(
    "spoil",
    [
        *(for_a_group, for_everybody, a_link, a_file, below_what_everybody_may_change),
        *(pytest.param(each, marks=as_root) for each in (below_what_a_group_may_change, anothers, below_anothers)),
    ],
)
def test_what_another_account_could_replace_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = directories.secure(tmp_path / "way" / "place")
    spoil(path)
    with pytest.raises(OSError, match=str(tmp_path)), directories.opened(path):
        pass
    with pytest.raises(OSError, match=str(tmp_path)):
        directories.secure(path)


def test_a_directory_where_all_may_write_is_passed_if_each_keeps_what_is_its_own(tmp_path: Path) -> None:
    path = directories.secure(tmp_path / "way" / "place")
    path.parent.chmod(0o1777)
    assert directories.secure(path) == path


def test_links_on_the_way_are_resolved_once(tmp_path: Path) -> None:
    (tmp_path / "way").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "way")
    assert directories.secure(tmp_path / "link" / "place") == tmp_path / "way" / "place"


def test_lasting_state_lies_below_the_users_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert directories.state() == tmp_path / "e2b-orchestrator"


def test_what_runs_is_listed_in_the_runtime_directory_if_that_is_this_accounts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = directories.secure(tmp_path / "run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    assert directories.runtime() == base / "e2b-orchestrator"
    base.chmod(0o777)
    assert not directories.runtime().is_relative_to(base)


def test_else_it_is_listed_with_lasting_state_and_not_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    expected = tmp_path / "state" / "e2b-orchestrator" / f"run-{platform.node()}"
    assert directories.runtime() in (expected, Path(f"/run/user/{os.geteuid()}/e2b-orchestrator"))


def test_temporary_files_go_where_each_account_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, other = tmp_path / "usual", tmp_path / "other"
    for place in (usual, other):
        place.mkdir()
        place.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(usual))
    monkeypatch.setattr(directories, "TEMPORARY", (str(other),))
    assert directories.temporary() == usual
    usual.chmod(0o777)
    assert directories.temporary() == other
    with pytest.raises(directories.ExposedDirectory, match=r"usual") as refused:
        directories.temporary(longest=5)
    assert "set TMPDIR" in refused.value.strerror
    other.rmdir()
    with pytest.raises(directories.ExposedDirectory):
        directories.temporary()


@as_root
def test_temporary_files_do_not_go_where_another_account_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anothers = tmp_path / "anothers"
    anothers.mkdir()
    anothers.chmod(0o1777)
    os.chown(anothers, ATTACKER, ATTACKER)
    monkeypatch.setattr(tempfile, "tempdir", str(anothers))
    monkeypatch.setattr(directories, "TEMPORARY", ())
    with pytest.raises(directories.ExposedDirectory):
        directories.temporary()
    with pytest.raises(NoDeployment, match="anothers: others may replace"):
        local_ray.LocalCluster.start()
    assert list(anothers.iterdir()) == []
