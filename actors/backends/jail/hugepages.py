"""Huge pages for the zygote's memory: a fork copies an entry for each page, so fewer pages make it cheaper."""

from __future__ import annotations

import ctypes

from actors.backends.jail.namespaces import libc

_MADV_COLLAPSE = 25  # Linux 6.1
_HUGE = 2 * 2**20


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
