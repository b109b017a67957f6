"""A seccomp denylist: what a program never needs and a kernel exploit often does.

Denied calls fail with ``EPERM`` or ``ENOSYS``, as on a kernel that does not have them, so that libraries fall back; only
a foreign calling convention (int 0x80, x32), which would go round the numbers, kills. Numbers are of the kernel's
``asm/unistd.h`` for each architecture.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from . import syscalls

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQ, _GE, _RET = 0x20, 0x15, 0x35, 0x06
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; the network namespace confines these, but not vsock or netlink
_NAMESPACE_FLAGS = 0x7E020080  # every CLONE_NEW*

# name: (x86_64, aarch64); None where the architecture lacks it.
_DENIED: dict[int, dict[str, tuple[int | None, int]]] = {
    errno.EPERM: {
        "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
        "process_madvise": (440, 440), "pidfd_getfd": (438, 438), "unshare": (272, 97), "setns": (308, 268),
        "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
        "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
        "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "swapon": (167, 224),
        "swapoff": (168, 225), "reboot": (169, 142), "sethostname": (170, 161), "setdomainname": (171, 162),
        "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
        "kexec_file_load": (320, 294), "acct": (163, 89), "syslog": (103, 116), "quotactl": (179, 60),
        "quotactl_fd": (443, 443), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
        "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "lookup_dcookie": (212, 18),
        "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
        "personality": (135, 92), "vhangup": (153, 58), "iopl": (172, None), "ioperm": (173, None),
        "nfsservctl": (180, 42), "fanotify_init": (300, 262), "mknod": (133, None), "mknodat": (259, 33),
        "move_pages": (279, 239), "mbind": (237, 235), "migrate_pages": (256, 238), "modify_ldt": (154, None),
    },
    errno.ENOSYS: {
        "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
        "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "clone3": (435, 435),
        "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
        "shmctl": (31, 195), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    },
}  # fmt: skip
_SOCKET, _SOCKETPAIR, _CLONE, _IOCTL = (
    {"x86_64": 41, "aarch64": 198},
    {"x86_64": 53, "aarch64": 199},
    {"x86_64": 56, "aarch64": 220},
    {"x86_64": 16, "aarch64": 29},
)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def program(machine: str | None = None) -> bytes:
    """The filter for a machine, as an array of ``struct sock_filter``."""
    machine = machine or platform.machine()
    column = {"x86_64": 0, "aarch64": 1}[machine]
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQ, 1, 0, _ARCH[machine]),
        (_RET, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number
    ]
    if machine == "x86_64":
        lines += [(_GE, 0, 1, _X32_BIT), (_RET, 0, 0, _KILL)]
    for error, calls in _DENIED.items():
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                lines += [(_EQ, 0, 1, number), (_RET, 0, 0, _ERRNO | error)]
    for call in (_SOCKET, _SOCKETPAIR):
        allowed = [(_EQ, len(_FAMILIES) - index, 0, family) for index, family in enumerate(_FAMILIES)]
        body = [(_LOAD, 0, 0, 16), *allowed, (_RET, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (_RET, 0, 0, _ALLOW)]
        lines += [(_EQ, 0, len(body), call[machine]), *body]
    flags = [
        (_LOAD, 0, 0, 16),
        (0x45, 0, 1, _NAMESPACE_FLAGS),
        (_RET, 0, 0, _ERRNO | errno.EPERM),
        (_RET, 0, 0, _ALLOW),
    ]
    lines += [(_EQ, 0, len(flags), _CLONE[machine]), *flags]
    inject = [(_LOAD, 0, 0, 24), (_EQ, 1, 0, _TIOCSTI), (_EQ, 0, 1, _TIOCLINUX), (_RET, 0, 0, _ERRNO | errno.EPERM)]
    lines += [(_EQ, 0, len(inject), _IOCTL[machine]), *inject]
    lines.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def install(code: bytes) -> None:
    """Confine this process and all it starts, for good; needs no_new_privs."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    filter_program = Program(len(code) // 8, code)
    syscalls.prctl(syscalls.PR_SET_SECCOMP, syscalls.SECCOMP_MODE_FILTER, ctypes.byref(filter_program))
