"""Python's memory in one piece: a fork copies every mapping, and frees it again, so fewer of them make it cheaper."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from actors.backends.jail.namespaces import libc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD = 32 * 2**20  # the most that glibc allows, which it reaches by itself in time


class _ArenaAllocator(ctypes.Structure):
    """CPython's ``PyObjectArenaAllocator``."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


@contextlib.contextmanager
def contiguous() -> Iterator[None]:
    """Lay what is allocated meanwhile side by side in the heap.

    Python asks the kernel for its arenas, which come to lie between the libraries that are loaded at the same time.
    Here they come from ``malloc``: ``realloc(NULL, size)`` takes the arguments of an arena allocator. Such an arena is
    not given back to the kernel when it becomes empty, as ``munmap`` refuses it. A tenth more forks a second.
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
