"""The filter's instructions, run by a small interpreter of the kernel's language."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.jail.kernel import seccomp
from actors.backends.jail.kernel.seccomp import ALLOW, ARCHITECTURES, FORBIDDEN, KILL, MISSING, assemble

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(ARCHITECTURES)
machines = st.sampled_from(MACHINES)


def refused(number: int) -> int:
    return 0x00050000 | number


def decide(machine: str, number: int, *arguments: int, audit: int | None = None) -> int:
    """Run both filters on one system call and return the stricter verdict, as the kernel does."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, audit or AUDIT[machine], 0, *padded)
    verdicts = {run(code, data) for code in assemble(machine)} - {ALLOW}
    return KILL if KILL in verdicts else verdicts.pop() if verdicts else ALLOW


def run(code: bytes, data: bytes) -> int:
    accumulator = position = 0
    while True:
        operation, skip_if, skip_else, value = struct.unpack_from("<HBBI", code, position * 8)
        position += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                position += skip_if if accumulator == value else skip_else
            case 0x35:
                position += skip_if if accumulator >= value else skip_else
            case 0x45:
                position += skip_if if accumulator & value else skip_else
            case 0x06:
                return value


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", [*FORBIDDEN, *MISSING])
def test_every_listed_call_is_refused(machine: str, name: str) -> None:
    number = {**FORBIDDEN, **MISSING}[name][ARCHITECTURES[machine].column]
    if number >= 0:
        expected = errno.EPERM if name in FORBIDDEN else errno.ENOSYS
        assert decide(machine, number) == refused(expected)


@given(machines, st.integers(0, 2**30 - 1))
def test_every_other_call_is_allowed(machine: str, number: int) -> None:
    column = ARCHITECTURES[machine].column
    special = {columns[column] for columns in (*FORBIDDEN.values(), *MISSING.values(), seccomp.SOCKET)}
    special |= {seccomp.SOCKETPAIR[column]}
    if number not in special:
        assert decide(machine, number) == ALLOW


@given(machines, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_another_instruction_set_is_killed(machine: str, audit: int, number: int) -> None:
    if audit not in (0, AUDIT[machine]):
        assert decide(machine, number, audit=audit) == KILL


@given(st.integers(2**30, 2**32 - 1))
def test_the_x32_numbers_are_killed(number: int) -> None:
    assert decide("x86_64", number) == KILL


@given(machines, st.integers(0, 2**32 - 1))
def test_only_local_and_internet_sockets_are_allowed(machine: str, family: int) -> None:
    column = ARCHITECTURES[machine].column
    for call in (seccomp.SOCKET, seccomp.SOCKETPAIR):
        expected = ALLOW if family in (1, 2, 10) else refused(errno.EAFNOSUPPORT)
        assert decide(machine, call[column], family) == expected


@given(machines, st.integers(0, 2**32 - 1))
def test_clone_makes_processes_and_threads_but_no_namespaces(machine: str, flags: int) -> None:
    new = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
    number = seccomp.CLONE[ARCHITECTURES[machine].column]
    assert decide(machine, number, flags) == (refused(errno.EPERM) if flags & new else ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
def test_nothing_can_be_typed_into_a_terminal(machine: str) -> None:
    number = seccomp.IOCTL[ARCHITECTURES[machine].column]
    assert decide(machine, number, 0, 0x5412) == refused(errno.EPERM)
    assert decide(machine, number, 0, 0x5401) == ALLOW
