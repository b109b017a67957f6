"""The inodes of a jail: its processes see the machine's files through overlays of the jail's own.

A bound file is one and the same inode for everybody on the machine: who watches it learns what others open, and who
locks it keeps others out or talks to them. An overlay has inodes of its own over the same content and page cache.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from actors.backends.jail.kernel import bwrap, namespaces

_SHARED = ("/proc", "/dev")
"""What has no content of the machine, or cannot be seen through an overlay: devices."""
_NEW_ROOT, _EMPTY = bwrap.HOME, "/dev/shm"  # noqa: S108 - the prototype's, where every container puts its own
"""Where the new root is put together, and the empty second layer without which an overlay is not read-only."""
_FLAGS = namespaces.MS_RDONLY | namespaces.MS_NOSUID | namespaces.MS_NODEV
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def take_own(process: int) -> None:
    """Replace the root of this process's mount namespace by overlays of what is mounted there.

    ``process`` is open at this process's directory in a /proc that shows it.

    Raises:
        OSError: the kernel refuses overlays to whoever is not root, or over what is mounted here.
    """
    found = list(_mounted(process))
    lower = {path: os.open(path, os.O_PATH) for path in found}
    above = {path: os.open(os.path.dirname(path), os.O_PATH) for path in found}
    for path, fd in lower.items():
        target = _NEW_ROOT + path.rstrip("/")
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.fchdir(fd)
            namespaces.mount("overlay", target, "overlay", _FLAGS, f"lowerdir=.:{_EMPTY}")
        elif os.fstat(fd).st_ino != os.stat(target).st_ino:  # else it is mounted over itself, as Python's own file is
            os.fchdir(above[path])
            namespaces.mount(os.path.basename(path), target, "", namespaces.MS_BIND)
    for path in _SHARED:
        namespaces.mount(path, _NEW_ROOT + path, "", namespaces.MS_BIND | namespaces.MS_REC)
    for fd in (*lower.values(), *above.values()):
        os.close(fd)
    namespaces.change_root(_NEW_ROOT)


def _mounted(process: int) -> Iterator[str]:
    """Yield where something is mounted that needs an overlay, what is above before what is below."""
    with open(os.open("mountinfo", os.O_RDONLY, dir_fd=process), "rb") as file:
        places = {os.fsdecode(_ESCAPED.sub(_unescaped, line.split()[4])) for line in file}
    for path in sorted(places, key=len):
        private = path in bwrap.PRIVATE and not any(other.startswith(f"{path}/") for other in places)
        if not private and not any(path == shared or path.startswith(f"{shared}/") for shared in _SHARED):
            yield path


def _unescaped(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1], 8),))
