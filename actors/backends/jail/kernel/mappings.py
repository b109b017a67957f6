"""The memory of libraries, made cheap to fork: few mappings, and few pages of a process's own.

A fork copies every mapping of memory and gives it back at its end, which costs more the more often its parents have
written to it and been forked. The science stack comes with 700 mappings, five for each library.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from actors.backends.jail.kernel.namespaces import check, libc, set_dumpable

NAME = "libraries"
"""The name of the file that holds their data, as memory maps show it."""
_CODE, _CONSTANTS, _DATA = "r-xp", "r--p", "rw-p"
_PACKAGES = ("/site-packages/", "/dist-packages/")
_MAP_FIXED = 0x10
FILE_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


class Mapping(NamedTuple):
    """One line of ``/proc/self/maps``."""

    start: int
    end: int
    mode: str
    file: str

    @property
    def size(self) -> int:
        return self.end - self.start


def merge() -> None:
    """Give the constants of libraries the rights of their neighbours, so that most become one mapping with them.

    What the dynamic linker has written and then locked becomes data, the rest code. That guards against errors in
    processes that run trusted code; these run anything that they are given, or only fork.
    """
    for mapping, mode in alike(_own()):
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if mode == _DATA else mmap.PROT_EXEC)
        with contextlib.suppress(OSError):  # a security module may forbid it; forks then merely stay dearer
            check(libc.mprotect(mapping.start, mapping.size, protection), "mprotect")


def share_data() -> None:
    """Put the data of packages' libraries into a file in memory, of which forks copy only what is written from now on.

    Done while nothing else runs in this process: what such a library wrote meanwhile would be lost. So the libraries of
    Python itself and of the system stay as they are.
    """
    found = list(data_of_packages(_own()))
    set_dumpable(True)  # to open its own memory
    file, memory = os.memfd_create(NAME, FILE_FLAGS), os.open("/proc/self/mem", os.O_RDONLY)
    try:
        at = 0
        for mapping in found:
            os.pwrite(file, os.pread(memory, mapping.size, mapping.start), at)
            map_file(mapping.start, mapping.size, mmap.MAP_PRIVATE, file, at)
            at += mapping.size
        seal(file)
    finally:
        os.close(memory)
        os.close(file)
        set_dumpable(False)


def seal(file: int) -> None:
    """Forbid any further change of a file in memory, and of its seals."""
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)


def parse(lines: Iterable[str]) -> Iterator[Mapping]:
    for line in lines:
        addresses, mode, _, _, _, *file = line.rstrip("\n").split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        yield Mapping(start, end, mode, file[0] if file else "")


def alike(mappings: list[Mapping]) -> Iterator[tuple[Mapping, str]]:
    """Yield each mapping of a library's constants with the mode of the neighbour that it can join."""
    for at, mapping in enumerate(mappings):
        if mapping.mode != _CONSTANTS or ".so" not in mapping.file:
            continue
        beside = [other for other in mappings[max(0, at - 1) : at + 2] if other.file == mapping.file]
        if any(other.mode == _DATA and other.start == mapping.end for other in beside):
            yield mapping, _DATA
        elif any(other.mode == _CODE for other in beside):
            yield mapping, _CODE


def data_of_packages(mappings: Iterable[Mapping]) -> Iterator[Mapping]:
    """Yield the writable mappings of installed packages' libraries, as far as they come from the libraries' files."""
    for mapping in mappings:
        if mapping.mode == _DATA and ".so" in mapping.file and any(place in mapping.file for place in _PACKAGES):
            yield mapping


def map_file(start: int, size: int, flags: int, file: int, offset: int = 0) -> None:
    """Replace the memory at ``start`` by a mapping of a file."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if libc.mmap(start, size, protection, flags | _MAP_FIXED, file, offset) != start:
        check(-1, "mmap")


def _own() -> list[Mapping]:
    with open("/proc/self/maps") as file:
        return list(parse(file))
