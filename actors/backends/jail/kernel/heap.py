"""A heap that is cheap to fork: Python's memory as the private view of a file in memory.

A fork copies the page table of ordinary memory entry by entry, and its end takes each back: some 20,000 entries with
the science stack, most of them of memory that no program looks at. Of a private view of a file it copies nothing but
what the forking process has written since; the rest is found in the file when it is first touched.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable, Iterable, Iterator

from actors.backends.jail.kernel import mappings
from actors.backends.jail.kernel.namespaces import check, libc, set_dumpable

NAME = "heap"
"""The name of the file, as memory maps show it."""
RESERVED_BYTES = 2**30
"""Addresses reserved for what is allocated while a heap is laid out; what goes beyond them becomes ordinary memory."""
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_MMAP_THRESHOLD = 32 * 2**20  # the most that glibc allows, which it reaches by itself in time
_TRIM_THRESHOLD, _TOP_PAD = 2 * _MMAP_THRESHOLD, 128 * 2**10
_MADV_DONTFORK, _MADV_POPULATE_WRITE = 10, 23  # of mman.h
_PRESENT, _OF_FILE = 1 << 63, 1 << 61  # of pagemap

libc.sbrk.restype = libc.malloc.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_ssize_t]
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.malloc_trim.argtypes = [ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _ArenaAllocator(ctypes.Structure):
    """CPython's ``PyObjectArenaAllocator``."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


_laid_out: list[tuple[int, int]] = []


@contextlib.contextmanager
def laid_out() -> Iterator[None]:
    """Put what is allocated in this context into a file in memory, which this process and its forks then see privately.

    Inside the context the file is shared memory, so a process that is forked there does not get it, and crashes rather
    than write into it; those that only execute a program (``subprocess``, ``posix_spawn``) are not affected.

    Where a limit on addresses leaves no room all goes into ordinary memory, and forks merely cost more.
    """
    with _arenas_from_malloc():
        start = _grow()
        if start is None:
            yield
            return
        file = os.memfd_create(NAME, mappings.FILE_FLAGS)
        try:
            os.ftruncate(file, RESERVED_BYTES)
            mappings.map_file(start, RESERVED_BYTES, mmap.MAP_SHARED, file)
            check(libc.madvise(start, RESERVED_BYTES, _MADV_DONTFORK), "madvise(DONTFORK)")
            yield
            size = _trim(start)
            if size > 0:
                os.ftruncate(file, size)
                mappings.map_file(start, size, mmap.MAP_PRIVATE, file)  # in one step: what is there stays there
                mappings.seal(file)
                _laid_out.append((start, size))
        finally:
            os.close(file)


def _grow() -> int | None:
    """Have ``malloc`` take ``RESERVED_BYTES`` from the kernel; return where these pages begin, all untouched."""
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * RESERVED_BYTES)
    libc.malloc_trim(0)
    start = _end()
    libc.mallopt(_M_TOP_PAD, RESERVED_BYTES)
    libc.free(libc.malloc(_MMAP_THRESHOLD // 2))  # more than is left after a trim, so that it must grow
    libc.mallopt(_M_TOP_PAD, _TOP_PAD)
    return start if _end() - start >= RESERVED_BYTES else None


def _trim(start: int) -> int:
    """Give back what was not used; return how much from ``start`` on was."""
    libc.malloc_trim(_TOP_PAD)
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    return min(_end() - start, RESERVED_BYTES)


def _end() -> int:
    """Return where the heap ends, rounded up to a page."""
    return -(-int(libc.sbrk(0)) // mmap.PAGESIZE) * mmap.PAGESIZE


@contextlib.contextmanager
def _arenas_from_malloc() -> Iterator[None]:
    """Have Python take its arenas from ``malloc``, not from the kernel, which scatters them between libraries.

    ``realloc(NULL, size)`` takes the arguments of an arena allocator. Such an arena is not given back when it becomes
    empty, as ``munmap`` refuses it.
    """
    python = ctypes.pythonapi
    own = _ArenaAllocator()
    python.PyObject_GetArenaAllocator(ctypes.byref(own))
    from_malloc = _ArenaAllocator(None, ctypes.cast(libc.realloc, ctypes.c_void_p).value, own.free)
    python.PyObject_SetArenaAllocator(ctypes.byref(from_malloc))
    try:
        yield
    finally:
        python.PyObject_SetArenaAllocator(ctypes.byref(own))


def settle(work: Callable[[], None]) -> None:
    """Make private copies of the pages of the file that ``work`` writes to, and of no others.

    A child does the work and says which pages it has copied. A page that is this process's own already costs a fork one
    fault, when it first writes to it; any other may cost two, one of them to read.
    """
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(sender, _written().tobytes())
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        pages = array.array("Q", file.read())
    for first, last in _runs(pages):
        libc.madvise(first * mmap.PAGESIZE, (last + 1 - first) * mmap.PAGESIZE, _MADV_POPULATE_WRITE)


def _written() -> array.array[int]:
    """Return the numbers of those pages of the file that this process has private copies of."""
    set_dumpable(True)
    found = array.array("Q")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for start, size in _laid_out:
            first = start // mmap.PAGESIZE
            entries = array.array("Q", os.pread(pagemap.fileno(), size // mmap.PAGESIZE * 8, first * 8))
            found.extend(first + at for at, entry in enumerate(entries) if entry & _PRESENT and not entry & _OF_FILE)
    return found


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = -1
    for page in pages:
        if page != last + 1:
            if first >= 0:
                yield first, last
            first = page
        last = page
    if first >= 0:
        yield first, last
