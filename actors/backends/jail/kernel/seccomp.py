"""The seccomp filters, which refuse system calls that are dangerous and rarely needed.

They are a denylist on purpose: programs use what they like of the ordinary interface, and a call refused here fails
with an errno that libraries know how to live with. Filters that kill on anything unknown break numerical libraries at
random. Only these filters stop vsock and netlink sockets, io_uring, keyrings and nested namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from actors.backends.jail.kernel.namespaces import check, libc

# Of linux/bpf_common.h, linux/seccomp.h and linux/audit.h.
_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; the network namespace holds only a loopback
_PROTOCOLS = (0, 6, 17)  # the family's own, TCP, UDP; rarer ones are large and little tested
_LEVELS = (0, 41)  # SOL_IP, SOL_IPV6
# Of linux/netfilter*: tables of packet filters, replaced through any socket by who has the capability.
_NETFILTER = tuple(base + number for base in (64, 96, 128) for number in range(4))
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: type into the controlling terminal


@dataclass(frozen=True, slots=True)
class Architecture:
    audit: int
    column: int
    x32: bool


ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 0, True), "aarch64": Architecture(0xC00000B7, 1, False)}
_ABSENT = -1
_NEEDED_BY_FORK_SERVERS = "setns"
_install = libc.prctl

# name: (x86_64, aarch64); refused with EPERM.
FORBIDDEN: dict[str, tuple[int, int]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "personality": (135, 92),
    "modify_ldt": (154, _ABSENT),
    "shmget": (29, 194),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "clock_settime": (227, 112),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, _ABSENT),
    "ioperm": (173, _ABSENT),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "vhangup": (153, 58),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "uselib": (134, _ABSENT),
    "ustat": (136, _ABSENT),
    "sysfs": (139, _ABSENT),
    "_sysctl": (156, _ABSENT),
}
# Refused with ENOSYS, so that callers fall back to what they used before these existed.
MISSING: dict[str, tuple[int, int]] = {
    "clone3": (435, 435),  # its flags are behind a pointer, where no filter can look
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),  # memory that RLIMIT_DATA does not count
    "memfd_secret": (447, 447),
}
CLONE, SOCKET, SOCKETPAIR, IOCTL, SETSOCKOPT = (56, 220), (41, 198), (53, 199), (16, 29), (54, 208)


def assemble(machine: str) -> tuple[bytes, bytes]:
    """Return the instructions of the two filters that together make the wall.

    The first holds for fork servers too, and interpreters inherit it. The second is for interpreters alone, each of
    which has the kernel compile it anew; it holds only what fork servers need: to enter their containers' namespaces.

    Raises:
        KeyError: an architecture that there are no numbers for.
    """
    arch = ARCHITECTURES[machine]
    return b"".join(_inherited(arch)), b"".join(_own(arch))


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


def _inherited(arch: Architecture) -> Iterator[bytes]:
    yield _op(_LOAD, _ARCH_AT)
    yield _op(_JUMP_EQ, arch.audit, skip_if=1)
    yield _op(_RETURN, KILL)  # another instruction set has other numbers: int 0x80 would walk past every rule
    yield _op(_LOAD, _NUMBER_AT)
    if arch.x32:
        yield from _when(_JUMP_GE, _X32_BIT, KILL)
    for table, number in ((FORBIDDEN, errno.EPERM), (MISSING, errno.ENOSYS)):
        for name, columns in table.items():
            if columns[arch.column] != _ABSENT and name != _NEEDED_BY_FORK_SERVERS:
                yield from _when(_JUMP_EQ, columns[arch.column], _ERRNO | number)
    yield _op(_JUMP_EQ, CLONE[arch.column], skip_else=4)
    yield _op(_LOAD, _ARGS_AT)
    yield from _when(_JUMP_ANY, _NEW_NAMESPACES, _ERRNO | errno.EPERM)
    yield _op(_RETURN, ALLOW)
    for columns in (SOCKET, SOCKETPAIR):
        yield _op(_JUMP_EQ, columns[arch.column], skip_else=4 + len(_FAMILIES) + 2 * len(_PROTOCOLS))
        yield _op(_LOAD, _ARGS_AT)
        for index, family in enumerate(_FAMILIES):
            yield _op(_JUMP_EQ, family, skip_if=len(_FAMILIES) - index)  # to where protocols are looked at
        yield _op(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
        yield _op(_LOAD, _ARGS_AT + 16)
        for protocol in _PROTOCOLS:
            yield from _when(_JUMP_EQ, protocol, ALLOW)
        yield _op(_RETURN, _ERRNO | errno.EPROTONOSUPPORT)
    yield _op(_JUMP_EQ, IOCTL[arch.column], skip_else=1 + 2 * len(_TERMINAL_INPUT))
    yield _op(_LOAD, _ARGS_AT + 8)
    for request in _TERMINAL_INPUT:
        yield from _when(_JUMP_EQ, request, _ERRNO | errno.EPERM)
    yield _op(_JUMP_EQ, SETSOCKOPT[arch.column], skip_else=3 + len(_LEVELS) + 2 * len(_NETFILTER))
    yield _op(_LOAD, _ARGS_AT + 8)
    for index, level in enumerate(_LEVELS):
        yield _op(_JUMP_EQ, level, skip_if=len(_LEVELS) - index)
    yield _op(_RETURN, ALLOW)
    yield _op(_LOAD, _ARGS_AT + 16)
    for option in _NETFILTER:
        yield from _when(_JUMP_EQ, option, _ERRNO | errno.EPERM)
    yield _op(_RETURN, ALLOW)


def _own(arch: Architecture) -> Iterator[bytes]:
    yield _op(_LOAD, _NUMBER_AT)
    yield from _when(_JUMP_EQ, FORBIDDEN[_NEEDED_BY_FORK_SERVERS][arch.column], _ERRNO | errno.EPERM)
    yield _op(_RETURN, ALLOW)


def _when(jump: int, value: int, answer: int) -> Iterator[bytes]:
    yield _op(jump, value, skip_else=1)
    yield _op(_RETURN, answer)


def _op(code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
    return struct.pack("HBBI", code, skip_if, skip_else, value)
