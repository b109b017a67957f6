"""Ids of the machine for jails, one each: much is counted by id, wherever in the system a process is.

Were it one id for all, a program could take descriptors in flight, pages of pipes and watches of epoll from the
programs of other jails. Only root can hand out ids: it makes a user namespace with a range of them, in which the
unprivileged user that goes on has every capability, and each jail's own user namespace then has one id of the range.
"""

from __future__ import annotations

import os
from contextlib import suppress

from actors.backends.jail.kernel import namespaces

_FIRST, _COUNT = 2_000_000_000, 2**26
"""A range that no account of a machine gets, nor a container by the habits of systemd, shadow or Docker; large enough
for jails to take from it by chance, so that their numbers tell nothing of each other."""


def reserve(owner: int) -> int | None:
    """Return the user namespace of the range, which ``owner`` may enter, for root; None where it has no such ids.

    Raises:
        OSError: user namespaces cannot be made here.
    """
    made_r, made_w = os.pipe()
    end_r, end_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end_w)
            os.setgroups([])
            os.setresgid(owner, owner, owner)
            os.setresuid(owner, owner, owner)
            namespaces.unshare(namespaces.CLONE_NEWUSER)
            os.write(made_w, b".")
            os.read(end_r, 1)
        finally:
            os._exit(0)  # on any failure: its silence is the answer
    for fd in (made_w, end_r):
        os.close(fd)
    try:
        if not os.read(made_r, 1):
            raise OSError("no user namespace could be made for the ids of jails")
        return _fill(pid, owner)
    finally:
        for fd in (made_r, end_w):
            os.close(fd)
        os.waitpid(pid, 0)


def _fill(pid: int, owner: int) -> int | None:
    ids = f"0 {owner} 1\n1 {_FIRST} {_COUNT}\n"
    with suppress(PermissionError):  # in a container without these ids
        for name, text in (("setgroups", "deny"), ("uid_map", ids), ("gid_map", ids)):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(text)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    return None


def take() -> int:
    """Take an id of one's own, from within the namespace of the range; return it."""
    number = 1 + int.from_bytes(os.urandom(8)) % _COUNT
    _become(number, number)
    return number


def has_own(pid: int) -> bool:
    """Tell whether a process has an id of the range."""
    with suppress(FileNotFoundError), open(f"/proc/{pid}/status") as file:
        return int(file.read().partition("\nUid:")[2].split(maxsplit=1)[0]) >= _FIRST
    return False


def assume(uid: int, gid: int) -> None:
    """Become the user of a jail that was entered from outside, by the names of the ids there."""
    _become(uid, gid)


def _become(uid: int, gid: int) -> None:
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    namespaces.die_with_parent()  # the kernel forgets it with a change of ids
