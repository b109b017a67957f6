"""Huge pages for memory that is forked often: a fork copies an entry for each page, so fewer pages make it cheaper."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from actors.backends.jail.namespaces import libc

_MADV_COLLAPSE = 25  # Linux 6.1
_HUGE = 2 * 2**20


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD = 32 * 2**20  # the most that glibc allows, which it reaches by itself in time


class _ArenaAllocator(ctypes.Structure):
    """CPython's ``PyObjectArenaAllocator``."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


@contextlib.contextmanager
def contiguous() -> Iterator[None]:
    """Lay what is allocated meanwhile side by side in the heap, where it fills huge pages.

    Python asks the kernel for its arenas, which come to lie between the libraries that are loaded at the same time, too
    scattered to be gathered. Here they come from ``malloc``: ``realloc(NULL, size)`` takes the arguments of an arena
    allocator. Such an arena is not given back to the kernel when it becomes empty, as ``munmap`` refuses it.
    """
    python = ctypes.pythonapi
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * _MMAP_THRESHOLD)
    own = _ArenaAllocator()
    python.PyObject_GetArenaAllocator(ctypes.byref(own))
    from_heap = _ArenaAllocator(None, ctypes.cast(libc.realloc, ctypes.c_void_p).value, own.free)
    python.PyObject_SetArenaAllocator(ctypes.byref(from_heap))
    try:
        yield
    finally:
        python.PyObject_SetArenaAllocator(ctypes.byref(own))


def collapse() -> None:
    """Gather this process's private memory into huge pages, as far as the kernel can; where it cannot, nothing changes.

    Of a page that a fork writes to, 4 KiB are copied all the same: the kernel splits it for that.
    """
    with open("/proc/self/maps") as file:
        lines = [line.split() for line in file]
    for place, permissions, _, _, _, *name in lines:
        if permissions.startswith("rw") and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in place.split("-"))
            start, end = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if start < end:
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
