"""Wait for the process at the other end of stdin to end, then remove what its local Ray left in the directory given.

Run as a script with nothing but the standard library while it waits, so that it costs a few megabytes.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

PATIENCE_S = 5.0
SWEEPS, SWEEP_EVERY_S = 10, 0.3


def users_of(directory: str) -> list[int]:
    """Processes of the session in the directory.

    Ray passes its paths to all of its own on their command lines; one that has retitled itself since has its log open.
    """
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    named = os.fsencode(directory) in file.read()
                if named or any(path.startswith(directory + "/") for path in open_files(entry)):
                    found.append(int(entry))
            except OSError:  # it ended meanwhile, or is another account's
                continue
    return found


def open_files(pid: str) -> list[str]:
    paths = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            paths.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    return paths


def main(directory: str) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    deadline = time.monotonic() + PATIENCE_S
    while os.path.exists(directory) and (left := users_of(directory)):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    shutil.rmtree(directory, ignore_errors=True)
    sweep_control_groups()


def sweep_control_groups() -> None:
    """Remove the groups of jails whose client was killed; the kernel takes a moment to empty them."""
    sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))
    from actors.backends.jail.kernel import cgroup

    if (parents := cgroup.find()) is None:
        return
    for _ in range(SWEEPS):
        parents.sweep()
        time.sleep(SWEEP_EVERY_S)


if __name__ == "__main__":
    main(sys.argv[1])
