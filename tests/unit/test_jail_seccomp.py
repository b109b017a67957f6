"""The filters' instructions, run by a small interpreter of the kernel's language; and the table behind them."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backends.jail.kernel import arguments, bpf, system_calls
from actors.backends.jail.kernel.seccomp import ALLOW, ARCHITECTURES, KILL, assemble
from actors.backends.jail.kernel.system_calls import MACHINES, SystemCall, numbered

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CODE = {machine: assemble(machine)[:2] for machine in MACHINES}
NUMBERS = {machine: numbered(machine) for machine in MACHINES}
TABLE = system_calls.table()
UNASSIGNED = {"x86_64": set(range(337, 424)), "aarch64": {*range(244, 260), *range(295, 424)}}
"""Numbers that Linux 6.18 gives to nothing: kept for architectures, and left out so that all agree from 424 on."""
LAST = 469
RULES = ("clone", "socket", "setsockopt", "ioctl", "fcntl", "fadvise", "prctl", "prlimit")
words = st.integers(0, 2**32 - 1)
machines = st.sampled_from(MACHINES)


def refused(number: int) -> int:
    return 0x00050000 | number


def decide(machine: str, number: int, *values: int, audit: int | None = None) -> int:
    """Run both filters on one system call and return the stricter verdict, as the kernel does."""
    verdicts = {run(code, machine, number, *values, audit=audit)[0] for code in CODE[machine]} - {ALLOW}
    return KILL if KILL in verdicts else verdicts.pop() if verdicts else ALLOW


def call(machine: str, name: str, *values: int) -> int:
    return decide(machine, NUMBERS[machine][name], *values)


def run(code: bytes, machine: str, number: int, *values: int, audit: int | None = None) -> tuple[int, int, bool]:
    """Return the verdict, after how many instructions, and whether an argument was looked at."""
    padded = (*values, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number, audit or AUDIT[machine], 0, *padded)
    accumulator = position = steps = 0
    looked = False
    while True:
        operation, skip_if, skip_else, value = struct.unpack_from("<HBBI", code, position * 8)
        position, steps = position + 1, steps + 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
                looked = looked or value >= 16
            case 0x54:
                accumulator &= value
            case 0x05:
                position += value
            case 0x15:
                position += skip_if if accumulator == value else skip_else
            case 0x35:
                position += skip_if if accumulator >= value else skip_else
            case 0x06:
                return value, steps, looked
            case _:
                raise AssertionError(operation)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_table_has_every_number_once(machine: str) -> None:
    column = MACHINES.index(machine)
    found = [number for row in TABLE if (number := row.numbers[column]) is not None]
    assert sorted(found) == sorted(set(range(LAST + 1)) - UNASSIGNED[machine])
    assert len({row.name for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/aarch64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"^#define __NR_(\w+) (\d+)$", Path(header).read_text(), re.MULTILINE)
    known = NUMBERS[machine]
    checked = [name for name, number in found if name in known and known[name] == int(number)]
    wrong = {name: number for name, number in found if name in known and known[name] != int(number)}
    assert not wrong
    assert len(checked) > 200


@pytest.mark.parametrize("row", TABLE, ids=[row.name for row in TABLE])
def test_every_row_says_why_and_holds(row: SystemCall) -> None:
    assert row.verdict == "allow" or row.reason
    word = row.verdict.removeprefix("own:")
    for machine, number in zip(MACHINES, row.numbers, strict=True):
        if number is None or word in RULES:
            continue
        expected = {"allow": ALLOW, "success": refused(0)}.get(word)
        assert decide(machine, number) == (refused(getattr(errno, word)) if expected is None else expected)


def test_fork_servers_keep_what_they_need() -> None:
    for machine in MACHINES:
        inherited, _ = CODE[machine]
        for name, option in (("setns", 0), ("prctl", 22), ("capset", 0), ("landlock_restrict_self", 0)):
            assert run(inherited, machine, NUMBERS[machine][name], option)[0] == ALLOW


def test_interpreters_that_fork_enter_namespaces_and_install_no_filter() -> None:
    for machine in MACHINES:
        forkable = assemble(machine).forkable
        assert run(forkable, machine, NUMBERS[machine]["setns"])[0] == ALLOW
        assert run(forkable, machine, NUMBERS[machine]["prctl"], 22)[0] == refused(errno.EINVAL)


@given(machines, st.integers(LAST + 1, 2**30 - 1))
def test_the_calls_of_newer_kernels_are_missing(machine: str, number: int) -> None:
    assert decide(machine, number) == refused(errno.ENOSYS)


@given(machines, words, words)
def test_another_instruction_set_is_killed(machine: str, audit: int, number: int) -> None:
    if audit not in (0, AUDIT[machine]):
        assert decide(machine, number, audit=audit) == KILL


@given(st.integers(2**30, 2**32 - 1))
def test_the_x32_numbers_are_killed(number: int) -> None:
    assert decide("x86_64", number) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_what_passes_anyhow_is_decided_without_its_arguments(machine: str) -> None:
    """The kernel then remembers that it passes, and asks no filter."""
    column = MACHINES.index(machine)
    for row in TABLE:
        number = row.numbers[column]
        if row.verdict == "allow" and number is not None:
            assert not any(run(code, machine, number)[2] for code in CODE[machine]), row.name


@given(machines, words, st.lists(words, min_size=3, max_size=3))
def test_whatever_is_asked_is_decided_in_few_steps(machine: str, number: int, values: list[int]) -> None:
    for asked in (number, number % (LAST + 1)):
        assert sum(run(code, machine, asked, *values)[1] for code in CODE[machine]) < 45


@given(machines, words, words, words)
def test_sockets_are_local_or_of_the_internet(machine: str, family: int, kind: int, protocol: int) -> None:
    for name in ("socket", "socketpair"):
        assert call(machine, name, family, 1) == (ALLOW if family in (1, 2, 10) else refused(errno.EAFNOSUPPORT))
        assert call(machine, name, 2, kind) == (ALLOW if kind & 0xF in (1, 2, 5) else refused(errno.EPERM))
        expected = ALLOW if protocol in (0, 6, 17) else refused(errno.EPROTONOSUPPORT)
        assert call(machine, name, 2, 1 | 0o2004000, protocol) == expected


@given(machines, words)
def test_clone_makes_children_and_threads_but_no_namespaces(machine: str, flags: int) -> None:
    new = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
    sibling = 0x8000
    assert call(machine, "clone", flags) == (refused(errno.EPERM) if flags & (new | sibling) else ALLOW)


@given(machines, words)
def test_limits_are_those_of_any_process_but_the_init(machine: str, pid: int) -> None:
    assert call(machine, "prlimit64", pid, 7) == (refused(errno.EPERM) if pid & 0xFFFFFFFF == 1 else ALLOW)
    assert call(machine, "prlimit64", 1, 7) == refused(errno.EPERM)


@given(machines, st.sampled_from([0, 1, 6, 17, 41, 282]), words | st.integers(0, 150))
def test_socket_options_are_those_of_the_list(machine: str, level: int, option: int) -> None:
    if level == arguments.SOL_SOCKET and option in arguments.BUFFER_SIZES:
        return
    known = option in arguments.SOCKET_OPTIONS.get(level, {})
    assert call(machine, "setsockopt", 3, level, option) == (ALLOW if known else refused(errno.ENOPROTOOPT))


@pytest.mark.parametrize(
    ("level", "option"),
    [(1, 13), (1, 26), (1, 29), (1, 33), (1, 50), (1, 51), (1, 52), (1, 60), (0, 64), (0, 35), (41, 64), (6, 31)],
)
def test_socket_options_that_reach_the_machine_are_refused(level: int, option: int) -> None:
    assert call("x86_64", "setsockopt", 3, level, option) == refused(errno.ENOPROTOOPT)


@given(machines, words | st.integers(0x5400, 0x5470) | st.integers(0x8900, 0x89FF))
def test_requests_to_devices_are_those_of_the_list(machine: str, request: int) -> None:
    if request != arguments.IOCTL_ETHTOOL:
        expected = ALLOW if request in arguments.IOCTLS else refused(errno.ENOTTY)
        assert call(machine, "ioctl", 0, request) == expected


@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x5423, 0x8914, 0x8906, 0x40086602, 0xFF04, 0xB701])
def test_requests_that_change_what_is_not_the_programs_are_refused(request_: int) -> None:
    assert call("x86_64", "ioctl", 0, request_) == refused(errno.ENOTTY)


@given(machines, words | st.integers(0, 50) | st.integers(1000, 1050), words)
def test_descriptors_are_handled_as_listed_and_pipes_stay_small(machine: str, command: int, value: int) -> None:
    if command == arguments.FCNTL_PIPE_SIZE:
        expected = ALLOW if value <= 2**18 else refused(errno.EPERM)
    else:
        expected = ALLOW if command in arguments.FCNTLS else refused(errno.EINVAL)
    assert call(machine, "fcntl", 0, command, value) == expected


def test_wishes_that_are_not_granted_are_no_errors() -> None:
    for machine in MACHINES:
        assert call(machine, "setsockopt", 3, 1, 7) == call(machine, "setsockopt", 3, 1, 8) == refused(0)
        assert call(machine, "fadvise64", 3, 0, 0, 4) == refused(0)
        assert call(machine, "fadvise64", 3, 0, 0, 2) == ALLOW


def test_pipes_grow_up_to_a_bound() -> None:
    assert call("x86_64", "fcntl", 0, 1031, 2**18) == ALLOW
    assert call("x86_64", "fcntl", 0, 1031, 2**18 + 1) == refused(errno.EPERM)


@given(machines, words | st.integers(0, 80))
def test_a_program_sets_of_itself_what_is_listed_and_no_filter(machine: str, option: int) -> None:
    known = option in arguments.PRCTLS and option != arguments.PRCTL_SECCOMP
    assert call(machine, "prctl", option) == (ALLOW if known else refused(errno.EINVAL))


@given(st.dictionaries(words, st.integers(0, 5)), words)
def test_a_switch_finds_every_case(cases: dict[int, int], value: int) -> None:
    load = bpf.LOAD_NUMBER
    code = load + bpf.switch({case: bpf.end(verdict) for case, verdict in cases.items()}, bpf.end(9))
    for asked in (value, *cases):
        assert run(code, "x86_64", asked)[0] == cases.get(asked, 9)


def test_there_are_numbers_for_every_architecture() -> None:
    assert set(ARCHITECTURES) == set(MACHINES)
