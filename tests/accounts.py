"""Other accounts of the machine, for tests that run as root: what one of them does, and what it is then kept from."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

import pytest

ATTACKER, VICTIM = 61_001, 61_002
"""Of nobody on this machine."""
WITHIN_S = 60.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become two other accounts")
T = TypeVar("T")


def done_by(uid: int, work: Callable[[], T]) -> T:
    """Do something in a process of another account; return what it returned, or raise what it raised."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_do, args=(uid, work, theirs))
    process.start()
    theirs.close()
    with ours:
        assert ours.poll(WITHIN_S), "it does not end"
        outcome: T | BaseException = ours.recv()
    process.join(WITHIN_S)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _do(uid: int, work: Callable[[], T], answer: Connection) -> None:
    become(uid)
    try:
        answer.send(work())
    except BaseException as error:  # noqa: BLE001  # it is raised in the test
        answer.send(error)
