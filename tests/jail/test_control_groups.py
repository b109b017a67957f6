"""Control groups of version 2, on the kernel where it has any, else on files that look like its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.backends.jail.kernel.cgroup import Group, delegate

MOUNTS = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup2 " in line]


@pytest.fixture
def controller() -> str:
    """Some controller of version 2, whichever it is: version 1 may hold the ones that jails need."""
    found = Path(MOUNTS[0], "cgroup.controllers").read_text().split() if MOUNTS else []
    if not found:
        pytest.skip("this kernel has no controllers of version 2")
    return found[0]


@pytest.fixture
def occupied(controller: str) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A group with a process in it, as a service manager delegates them."""
    top = Path(MOUNTS[0])
    enabled = controller in (top / "cgroup.subtree_control").read_text().split()
    group = top / "e2b-test"
    try:
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
        group.mkdir()
    except OSError as error:
        pytest.skip(f"this account may not make groups: {error}")
    process = subprocess.Popen(["sleep", "60"])
    (group / "cgroup.procs").write_text(str(process.pid))
    yield group, process
    process.kill()
    process.wait()
    for left in sorted(group.rglob("*/"), reverse=True):
        if left.is_dir():
            left.rmdir()
    group.rmdir()
    if not enabled:
        (top / "cgroup.subtree_control").write_text(f"-{controller}")


def test_what_a_delegated_group_holds_makes_room(
    occupied: tuple[Path, subprocess.Popen[bytes]], controller: str
) -> None:
    group, process = occupied
    for _ in range(2):
        delegate(group, (controller,))
        assert (group / "cgroup.subtree_control").read_text().split() == [controller]
        assert (group / "e2b-leaf" / "cgroup.procs").read_text().split() == [str(process.pid)]
    (group / "jail").mkdir()
    assert controller in (group / "jail" / "cgroup.controllers").read_text()


def test_a_controller_that_is_not_there_is_refused(occupied: tuple[Path, subprocess.Popen[bytes]]) -> None:
    group, process = occupied
    with pytest.raises(OSError, match="Errno"):
        delegate(group, ("no-such-controller",))
    assert (group / "cgroup.procs").read_text().split() == [str(process.pid)], "nobody was moved in vain"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, text in {
        "memory.max": "max\n",
        "memory.current": "1048576\n",
        "memory.peak": "2097152\n",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n",
        "pids.max": "max\n",
        "pids.current": "5\n",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_files_of_version_2(files: Path) -> None:
    group = Group(files, files, unified=True)
    assert (group.used_bytes(), group.peak_bytes(), group.oom_kills(), group.processes()) == (2**20, 2**21, 1, 5)
    group.limit(2**30, 64)
    assert (files / "memory.max").read_text() == str(2**30)
    assert (files / "pids.max").read_text().startswith("64")
    group.close()


def test_a_kernel_that_keeps_no_peak(files: Path) -> None:
    (files / "memory.peak").unlink()
    group = Group(files, files, unified=True)
    assert group.peak_bytes() is None
    group.restart_peak()
    group.close()
