"""What another account of the machine, or another machine, can do to a deployment: nothing."""

from __future__ import annotations

import ctypes
import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import ray

from actors import directories
from actors.deployment import join_file, local_ray
from actors.deployment.join_file import LocalDeployment
from actors.errors import NoDeployment
from tests.accounts import ATTACKER, VICTIM, as_root, done_by

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
RENAME_EXCHANGE = 2


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that both accounts may look into, with one of each in it."""
    with tempfile.TemporaryDirectory(prefix="accounts-", dir="/tmp") as directory:
        place = Path(directory)
        place.chmod(0o755)
        for name, uid in (("attackers", ATTACKER), ("victims", VICTIM)):
            (place / name).mkdir(mode=0o700)
            os.chown(place / name, uid, uid)
        yield place


def directory_of_ray() -> Path:
    return Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[3]


@as_root
def test_nobody_else_reaches_what_ray_keeps(orchestrator_cluster: None) -> None:
    directory = directory_of_ray()
    session = next((directory / "ray").glob("session_2*"))
    assert (directory / "token").exists()
    for path in (directory, directory / "token", session, session / "logs", session / "sockets" / "raylet"):
        with pytest.raises(PermissionError):
            done_by(ATTACKER, partial(os.stat if path != directory else os.listdir, path))
    with pytest.raises(PermissionError):
        done_by(ATTACKER, partial(os.symlink, "/etc/passwd", session / "logs" / "planted"))
    with pytest.raises(OSError, match="not permitted"):
        done_by(ATTACKER, partial(os.rename, directory, directory.with_name("mine")))


def test_nothing_of_ray_listens_to_other_machines(orchestrator_cluster: None) -> None:
    # Whoever descends from what this process has started; it listens itself, as a driver.
    ours = {process.pid for process in psutil.Process().children(recursive=True)} | {os.getpid()}
    listening = {
        (each.pid, each.laddr.ip, each.laddr.port)
        for each in psutil.net_connections("inet")
        if each.pid in ours and each.status in (psutil.CONN_LISTEN, psutil.CONN_NONE) and not each.raddr
    }
    assert len(listening) > 6, "the GCS, the raylet, its agents, the metrics, the workers"
    assert {ip for _, ip, _ in listening} <= LOOPBACK, listening


@as_root
@pytest.mark.parametrize("directory_made_by", ["attackers", "victims"])
def test_a_join_file_that_another_account_flips_is_never_believed(place: Path, directory_made_by: str) -> None:
    """The attacker has the directory, or only a way to flip a link in it; the link leads to a file of the victim's."""
    runtime = place / directory_made_by / "e2b-orchestrator"
    own = place / "victims" / "own.json"
    own.write_text("{}")
    os.chown(own, VICTIM, VICTIM)

    def plant() -> None:
        runtime.mkdir(mode=0o755)
        started_s = join_file.started_s(os.getppid())
        assert started_s is not None
        told = {"pid": os.getppid(), "started_s": started_s, "address": "127.0.0.1:1", "token_path": str(own)}
        (runtime / "forged").write_text(json.dumps(told))
        (runtime / "raced.json").symlink_to(own)

    def flip() -> None:
        exchange = ctypes.CDLL(None).renameat2
        ends_at = time.monotonic() + 1.0
        forged, link = os.fsencode(runtime / "forged"), os.fsencode(runtime / "raced.json")
        while time.monotonic() < ends_at:
            exchange(-100, forged, -100, link, RENAME_EXCHANGE)

    def read() -> set[str]:
        os.environ["XDG_RUNTIME_DIR"], os.environ["XDG_STATE_HOME"] = str(runtime.parent), str(place / "victims")
        return {_outcome() for _ in range(500)}

    (place / "attackers").chmod(0o755)
    done_by(ATTACKER if directory_made_by == "attackers" else VICTIM, plant)
    if directory_made_by == "victims":
        os.chown(runtime / "forged", ATTACKER, ATTACKER)
    attacker = os.fork()
    if attacker == 0:
        flip()
        os._exit(0)
    try:
        assert done_by(VICTIM, read) <= {"NoDeployment", "None"}
    finally:
        os.waitpid(attacker, 0)


def _outcome() -> str:
    try:
        return type(join_file.read("raced")).__name__.removesuffix("Type")
    except NoDeployment:
        return "NoDeployment"


@as_root
def test_an_account_without_a_place_of_its_own_has_one_among_temporary_files_unless_another_is_there_first(
    place: Path,
) -> None:
    def made() -> tuple[Path, int]:
        os.environ["HOME"], os.environ["TMPDIR"] = "/nonexistent", str(place)
        for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            os.environ.pop(name, None)
        tempfile.tempdir = None
        found = directories.secure(directories.runtime())
        return found, os.stat(found).st_mode & 0o777

    place.chmod(0o1777)
    found, mode = done_by(VICTIM, made)
    assert (found.parent, mode) == (place, 0o700)
    os.chown(found, ATTACKER, ATTACKER)
    with pytest.raises(PermissionError):
        done_by(VICTIM, made)


@as_root
def test_a_token_is_not_taken_from_where_another_account_could_have_put_it(place: Path) -> None:
    token = place / "attackers" / "token"
    done_by(ATTACKER, partial(token.write_text, "mine"))
    with pytest.raises(NoDeployment, match="belongs to another account"):
        local_ray.join(LocalDeployment(os.getpid(), 0.0, "127.0.0.1:1", str(token)))
