"""Fewer memory mappings: what a fork copies, and its end takes back, one by one.

Each shared library comes as five mappings, told apart by what may be done to their memory. With the science stack that
makes 700, and half of a process's fork and end. Neighbours that may be used alike are one mapping to the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from actors.backends.jail.namespaces import check, libc

libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_CODE, _CONSTANTS, _DATA = "r-xp", "r--p", "rw-p"


class Mapping(NamedTuple):
    """One line of ``/proc/self/maps``."""

    start: int
    end: int
    mode: str
    file: str


def merge_libraries() -> None:
    """Give the constants of libraries the rights of their neighbours, so that most become one with them.

    What the dynamic linker has written and then locked becomes data, the rest code. That guards against errors in
    processes that run trusted code; these run anything that they are given, or only fork.
    """
    with open("/proc/self/maps") as file:
        mappings = list(parse(file))
    for mapping, mode in alike(mappings):
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if mode == _DATA else mmap.PROT_EXEC)
        with contextlib.suppress(OSError):  # a security module may forbid it; forks then merely stay dearer
            check(libc.mprotect(mapping.start, mapping.end - mapping.start, protection), "mprotect")


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
