"""The fork protocol: a container's init asks a fork server for a process, and hears when it started and how it ended.

Messages have a fixed binary shape instead of JSON: the kernel copies every page that Python touches in a process that
has just been forked, and a fork server forks all the time.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any

INTERPRETER, GUEST_AGENT, FORKABLE = 0, 1, 2
"""Roles of a process. ``FORKABLE`` is an interpreter without the two locks that would keep its forks out of containers
of their own: Landlock, whose rules name the files of one container, and the refusal of ``setns``."""
CHANNEL, ANSWERS = 63, 62
"""The numbers of a process's descriptors for what the host sends, a socket, and for what it sends itself, a pipe, which
takes no descriptors along. Not 3, which the first file is to have that a program opens, and none that would enlarge the
kernel's table."""
_EVENT = struct.Struct("=iidd")
_STARTED, _ENDED, _FAILED = 1, 2, 3
_MAX_FDS = 10
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_FDS * struct.calcsize("i"))


def send_request(
    fork_server: socket.socket, role: int, namespaces: list[int], rules: list[int], files: list[int]
) -> None:
    """Ask for a process, with copies of descriptors of its namespaces, Landlock rules and files."""
    socket.send_fds(fork_server, [bytes((role, len(namespaces), len(rules)))], [*namespaces, *rules, *files])


def receive_request(channel: socket.socket) -> tuple[int, list[int], list[int], list[int]] | None:
    """Return what ``send_request`` was given; None when the shim and every init are gone."""
    head, ancillary, _, _ = channel.recvmsg(3, _ANCILLARY_BYTES)
    if not head:
        return None
    fds = array.array("i", ancillary[0][2]).tolist()
    spaces, rest = head[1], head[1] + head[2]
    return head[0], fds[:spaces], fds[spaces:rest], fds[rest:]


def send_started(channel: socket.socket, pid: int) -> None:
    channel.send(_EVENT.pack(_STARTED, pid, 0, 0))


def send_ended(channel: socket.socket, status: int, cpu_s: float, peak_mib: float) -> None:
    channel.send(_EVENT.pack(_ENDED, status, cpu_s, peak_mib))


def send_failed(channel: socket.socket, number: int) -> None:
    channel.send(_EVENT.pack(_FAILED, number, 0, 0))


def receive_event(channel: socket.socket) -> dict[str, Any] | None:
    """Return the next event of one process; None when its fork server is gone."""
    data = channel.recv(_EVENT.size)
    if not data:
        return None
    kind, number, cpu_s, peak_mib = _EVENT.unpack(data)
    if kind == _STARTED:
        return {"started": number}
    if kind == _ENDED:
        return {"ended": number, "cpu_s": cpu_s, "peak_mib": peak_mib}
    return {"failed": os.strerror(number)}
