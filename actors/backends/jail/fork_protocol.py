"""What cells and templates tell each other of an inmate: what it is to be and where, that it lives, how it ended.

Of a fixed shape: the kernel copies whatever Python touches in a process that has just been forked, and a template is
forked from all the time.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any

INTERPRETER, ATTENDANT, FORKABLE = 0, 1, 2
"""What an inmate may be. A forkable interpreter lacks the two locks that would keep its forks out of cells of theirs:
Landlock, whose rules name the files of this cell, and the refusal of ``setns``."""
_WORD = struct.Struct("=iidd")
_BORN, _ENDED, _FAILED = 1, 2, 3
_MAX_FDS = 9
_ROOM = socket.CMSG_SPACE(_MAX_FDS * struct.calcsize("i"))


def order(template: socket.socket, role: int, namespaces: list[int], rules: list[int], files: list[int]) -> None:
    """Ask for an inmate, with copies of descriptors of its namespaces, Landlock rules and files."""
    socket.send_fds(template, [bytes((role, len(namespaces), len(rules)))], [*namespaces, *rules, *files])


def take_order(channel: socket.socket) -> tuple[int, list[int], list[int], list[int]] | None:
    """Return what ``order`` was given; None when the keeper is gone."""
    head, ancillary, _, _ = channel.recvmsg(3, _ROOM)
    if not head:
        return None
    fds = array.array("i", ancillary[0][2]).tolist()
    spaces, rest = head[1], head[1] + head[2]
    return head[0], fds[:spaces], fds[spaces:rest], fds[rest:]


def tell_born(channel: socket.socket, pid: int) -> None:
    channel.send(_WORD.pack(_BORN, pid, 0, 0))


def tell_ended(channel: socket.socket, status: int, cpu_s: float, peak_mib: float) -> None:
    channel.send(_WORD.pack(_ENDED, status, cpu_s, peak_mib))


def tell_failed(channel: socket.socket, number: int) -> None:
    channel.send(_WORD.pack(_FAILED, number, 0, 0))


def hear(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next word of an inmate's life; None when its template is gone."""
    word = channel.recv(_WORD.size)
    if not word:
        return None
    kind, number, cpu_s, peak_mib = _WORD.unpack(word)
    if kind == _BORN:
        return {"born": number}
    if kind == _ENDED:
        return {"ended": number, "cpu_s": cpu_s, "peak_mib": peak_mib}
    return {"failed": os.strerror(number)}
