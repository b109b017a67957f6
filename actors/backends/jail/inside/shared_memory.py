"""The shared memory of a forked interpreter: copies at the same addresses, so that forks do not meet through it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

from actors.backends.jail.kernel import bwrap, mappings  # noqa: F401 - it declares mmap and mprotect
from actors.backends.jail.kernel.namespaces import check, libc

_MAP_FIXED = 0x10
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_ANONYMOUS = "/dev/zero"
_FAILED = ctypes.c_void_p(-1).value
_PART_BYTES = 2**22
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
_PROTECTIONS = ((b"r", mmap.PROT_READ), (b"w", mmap.PROT_WRITE), (b"x", mmap.PROT_EXEC))


@dataclass(frozen=True, slots=True)
class _Shared:
    start: int
    size: int
    protection: int
    offset: int
    path: str


def unshare() -> None:
    """Give this process what is in its shared memory in memory of its own, as its copies of files hold it.

    Raises:
        OSError: there is no room for it.
    """
    for memory in list(_shared()):
        file = _own_file(memory)
        try:
            if file >= 0:
                flags = mmap.MAP_SHARED | _MAP_FIXED
                _map(memory.start, memory.size, memory.protection, flags, file, memory.offset)
            else:
                _copy(memory)
        finally:
            if file >= 0:
                os.close(file)


def _shared() -> Iterator[_Shared]:
    with open("/proc/self/maps", "rb") as file:
        for line in file:
            addresses, mode, offset, _, _, *path = line.split(maxsplit=5)
            if mode[3:4] == b"s":
                start, end = (int(address, 16) for address in addresses.split(b"-"))
                protection = sum(flag for letter, flag in _PROTECTIONS if letter in mode)
                name = os.fsdecode(path[0].rstrip(b"\n")) if path else ""
                if protection & mmap.PROT_WRITE or name.startswith((*bwrap.PRIVATE, _ANONYMOUS)):  # else of the image
                    yield _Shared(start, end - start, protection, int(offset, 16), name)


def _own_file(memory: _Shared) -> int:
    """Open this fork's copy of a mapped file; -1 for what has none."""
    if memory.path.startswith(bwrap.PRIVATE) and os.path.isfile(memory.path):
        flags = os.O_RDWR if memory.protection & mmap.PROT_WRITE else os.O_RDONLY
        return os.open(memory.path, flags | os.O_CLOEXEC)
    return -1


def _copy(memory: _Shared) -> None:
    """Put new memory, which nobody shares yet, in the place of some, with the same content."""
    own = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        copy = _map(0, memory.size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        for at in range(0, memory.size, _PART_BYTES):
            part = _read(own, memory.start + at, min(_PART_BYTES, memory.size - at))
            if part.strip(b"\0"):  # else no page need be there for it
                ctypes.memmove(copy + at, part, len(part))
    finally:
        os.close(own)
    check(libc.mprotect(copy, memory.size, memory.protection), "mprotect")
    if libc.mremap(copy, memory.size, memory.size, _MREMAP_MAYMOVE | _MREMAP_FIXED, memory.start) != memory.start:
        check(-1, "mremap")


def _read(own: int, at: int, size: int) -> bytes:
    try:
        return os.pread(own, size, at)
    except OSError:  # beyond the end of a file that was cut short, where a look would kill
        return b""


def _map(start: int, size: int, protection: int, flags: int, file: int = -1, offset: int = 0) -> int:
    address = libc.mmap(start, size, protection, flags, file, offset)
    if address == _FAILED:
        check(-1, "mmap")
    return int(address)
