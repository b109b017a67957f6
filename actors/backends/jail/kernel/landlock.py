"""Landlock rules: a second wall around what a program may write, should a mount ever be missed.

Reading is left to the mounts. Numbers are from linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

from actors.backends.jail.kernel.namespaces import check, libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_WRITE_FILE = 1 << 1
_CHANGE_TREE = 0x1FF0  # REMOVE_DIR to MAKE_SYM
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # of versions 2 and 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3  # of version 6

_restrict_self = ctypes.PyDLL(None, use_errno=True).syscall
_restrict_self.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_uint]


def supported_version() -> int:
    """Return the version of the kernel's Landlock; below 1 where it has none."""
    flag = ctypes.c_uint32(_VERSION_FLAG)
    return int(libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), flag))


def writing(anywhere_below: tuple[str, ...], files_below: tuple[str, ...], *, scoped: bool = True) -> int:
    """Return a descriptor of rules, which the kernel must support, for ``restrict`` in whatever process.

    They allow to change anything below ``anywhere_below`` and to write existing files below ``files_below``. ``scoped``
    keeps signals and abstract sockets among the restricted process and its descendants, where the kernel knows how.
    """
    version = supported_version()
    rights = _WRITE_FILE | _CHANGE_TREE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    scope = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 and scoped else 0
    attributes = struct.pack("QQQ", rights, 0, scope)[: 24 if version >= 6 else 8]
    ruleset = check(
        libc.syscall(ctypes.c_long(_CREATE_RULESET), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)),
        "landlock_create_ruleset",
    )
    for path in anywhere_below:
        _allow(ruleset, path, rights)
    for path in files_below:
        _allow(ruleset, path, rights & (_WRITE_FILE | _TRUNCATE))
    return ruleset


def restrict(ruleset: int) -> None:
    """Put this process and all that it will start under these rules; this cannot be undone."""
    check(_restrict_self(_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, fd)
        check(
            libc.syscall(
                ctypes.c_long(_ADD_RULE),
                ctypes.c_int(ruleset),
                ctypes.c_int(_PATH_BENEATH),
                rule,
                ctypes.c_uint32(0),
            ),
            "landlock_add_rule",
        )
    finally:
        os.close(fd)
