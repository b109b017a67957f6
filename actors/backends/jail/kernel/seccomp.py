"""The seccomp filters, which refuse system calls that are dangerous, or rare and not counted by any limit.

What is allowed is a list, in ``system_calls.tbl`` and ``arguments.py``, with the reasons. What is refused fails with an
errno that libraries know how to live with; filters that kill on anything unknown break numerical libraries at random.
Only these filters stop vsock and netlink sockets, io_uring, keyrings and nested namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from actors.backends.jail.kernel import arguments, bpf, system_calls
from actors.backends.jail.kernel.namespaces import check, libc

ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000
_SOCKET_TYPE = 0xF  # the rest are flags
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_OWN = "own:"
_SUCCESS = 0
_install = libc.prctl


@dataclass(frozen=True, slots=True)
class Architecture:
    audit: int  # of linux/audit.h
    x32: bool


ARCHITECTURES = {"x86_64": Architecture(0xC000003E, True), "aarch64": Architecture(0xC00000B7, False)}


class Code(NamedTuple):
    """The instructions of the filters."""

    inherited: bytes
    """Holds for fork servers too, and all that they fork inherits it."""
    own: bytes
    """For interpreters, each of which has the kernel compile it anew; it refuses only what fork servers need: to enter
    their containers' namespaces, and to install it."""
    forkable: bytes
    """The same for interpreters that fork themselves into namespaces."""


def assemble(machine: str) -> Code:
    """Return the filters that together make the wall.

    Calls whose arguments no filter looks at cost nothing, since the kernel remembers that they pass.

    Raises:
        KeyError: an architecture that there are no numbers for.
    """
    arch, numbers = ARCHITECTURES[machine], system_calls.numbered(machine)
    inherited: dict[int, bytes] = {}
    forkable = {numbers["prctl"]: _no_more_filters()}
    own = dict(forkable)
    for call in system_calls.table():
        if call.name not in numbers:
            continue
        if call.verdict.startswith(_OWN):
            own[numbers[call.name]] = bpf.end(_verdict(call.verdict.removeprefix(_OWN)))
        inherited[numbers[call.name]] = _inherited(call.verdict)
    calls = bpf.switch(inherited, _refuse(errno.ENOSYS))
    if arch.x32:
        calls = bpf.if_at_least(_X32_BIT, bpf.end(KILL), calls)
    # Another instruction set has other numbers: int 0x80 would walk past every rule.
    of_architecture = bpf.if_equal(arch.audit, bpf.LOAD_NUMBER + calls, bpf.end(KILL))
    allow = bpf.end(ALLOW)
    return Code(
        bpf.LOAD_ARCHITECTURE + of_architecture,
        bpf.LOAD_NUMBER + bpf.switch(own, allow),
        bpf.LOAD_NUMBER + bpf.switch(forkable, allow),
    )


class Filter:
    """A seccomp filter laid out in memory for the kernel to read."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        """Put it on this process and all that it will start; cannot be undone.

        Raises:
            OSError: the kernel refuses filters.
        """
        check(_install(_PR_SET_SECCOMP, _MODE_FILTER, self._program, 0, 0), "prctl(SECCOMP)")


def _inherited(verdict: str) -> bytes:
    if verdict in _RULES:
        return _RULES[verdict]()
    return bpf.end(ALLOW if verdict.startswith(_OWN) else _verdict(verdict))


def _verdict(word: str) -> int:
    match word:
        case "allow":
            return ALLOW
        case "success":
            return _ERRNO | _SUCCESS
        case _:
            return _ERRNO | int(getattr(errno, word))


def _refuse(number: int) -> bytes:
    return bpf.end(_ERRNO | number)


def _clone() -> bytes:
    flags = bpf.load_argument(0) + bpf.mask(arguments.NEW_NAMESPACES | arguments.CLONE_PARENT)
    return flags + bpf.if_equal(0, bpf.end(ALLOW), _refuse(errno.EPERM))


def _prlimit() -> bytes:
    return bpf.load_argument(0) + bpf.if_equal(arguments.INIT, _refuse(errno.EPERM), bpf.end(ALLOW))


def _socket() -> bytes:
    protocol = bpf.load_argument(2)
    protocol += bpf.one_of(arguments.PROTOCOLS, bpf.end(ALLOW), _refuse(errno.EPROTONOSUPPORT))
    kind = bpf.load_argument(1) + bpf.mask(_SOCKET_TYPE)
    kind += bpf.one_of(arguments.TYPES, protocol, _refuse(errno.EPERM))
    return bpf.load_argument(0) + bpf.one_of(arguments.FAMILIES, kind, _refuse(errno.EAFNOSUPPORT))


def _setsockopt() -> bytes:
    unknown = _refuse(errno.ENOPROTOOPT)
    verdicts = {level: dict.fromkeys(options, bpf.end(ALLOW)) for level, options in arguments.SOCKET_OPTIONS.items()}
    verdicts[arguments.SOL_SOCKET] |= dict.fromkeys(arguments.BUFFER_SIZES, _refuse(_SUCCESS))
    levels = {level: bpf.load_argument(2) + bpf.switch(options, unknown) for level, options in verdicts.items()}
    return bpf.load_argument(1) + bpf.switch(levels, unknown)


def _fadvise() -> bytes:
    return bpf.load_argument(3) + bpf.if_equal(arguments.FADVISE_DONT_NEED, _refuse(_SUCCESS), bpf.end(ALLOW))


def _ioctl() -> bytes:
    requests = dict.fromkeys(arguments.IOCTLS, bpf.end(ALLOW))
    requests[arguments.IOCTL_ETHTOOL] = _refuse(errno.EOPNOTSUPP)
    return bpf.load_argument(1) + bpf.switch(requests, _refuse(errno.ENOTTY))


def _fcntl() -> bytes:
    commands = dict.fromkeys(arguments.FCNTLS, bpf.end(ALLOW))
    commands[arguments.FCNTL_PIPE_SIZE] = bpf.load_argument(2) + bpf.if_at_least(
        arguments.MOST_PIPE_BYTES + 1, _refuse(errno.EPERM), bpf.end(ALLOW)
    )
    return bpf.load_argument(1) + bpf.switch(commands, _refuse(errno.EINVAL))


def _prctl() -> bytes:
    return bpf.load_argument(0) + bpf.one_of(arguments.PRCTLS, bpf.end(ALLOW), _refuse(errno.EINVAL))


def _no_more_filters() -> bytes:
    return bpf.load_argument(0) + bpf.if_equal(arguments.PRCTL_SECCOMP, _refuse(errno.EINVAL), bpf.end(ALLOW))


_RULES: dict[str, Callable[[], bytes]] = {
    "clone": _clone,
    "prlimit": _prlimit,
    "socket": _socket,
    "setsockopt": _setsockopt,
    "ioctl": _ioctl,
    "fadvise": _fadvise,
    "fcntl": _fcntl,
    "prctl": _prctl,
}
