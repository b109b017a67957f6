"""Instructions of classic BPF, the language of seccomp filters, in pieces that can be put together."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from itertools import groupby

# Of linux/bpf_common.h and linux/seccomp.h.
_LOAD, _AND, _RETURN, _JUMP, _JUMP_EQ, _JUMP_GE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x35
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_FURTHEST = 255  # that a conditional jump can skip
_BYTES = 8  # of an instruction
_HIGHEST = 2**32 - 1

LOAD_NUMBER = struct.pack("HBBI", _LOAD, 0, 0, _NUMBER_AT)
LOAD_ARCHITECTURE = struct.pack("HBBI", _LOAD, 0, 0, _ARCH_AT)


def load_argument(index: int) -> bytes:
    """Load the lower half of an argument; the kernel itself takes no more of those that are looked at."""
    return _instruction(_LOAD, _ARGUMENTS_AT + 8 * index)


def mask(bits: int) -> bytes:
    """Keep only these bits of what is loaded."""
    return _instruction(_AND, bits)


def end(verdict: int) -> bytes:
    return _instruction(_RETURN, verdict)


def if_equal(value: int, then: bytes, other: bytes) -> bytes:
    return _branch(_JUMP_EQ, value, then, other)


def if_at_least(value: int, then: bytes, other: bytes) -> bytes:
    return _branch(_JUMP_GE, value, then, other)


def one_of(values: Collection[int], then: bytes, other: bytes) -> bytes:
    """Do ``then`` where what is loaded is one of ``values``, else ``other``; both must end."""
    return switch(dict.fromkeys(values, then), other)


def switch(cases: Mapping[int, bytes], other: bytes) -> bytes:
    """Do what is listed for the value that is loaded, else ``other``; each must end.

    It is found by halving, so that a filter of hundreds of cases takes about ten steps, and says each thing once for
    neighbours.
    """
    starts = [(0, other)]
    for value in sorted(cases):
        if starts[-1][0] == value:
            starts.pop()
        starts.append((value, cases[value]))
        if value < _HIGHEST:
            starts.append((value + 1, other))
    merged = [next(same) for _, same in groupby(starts, key=lambda start: start[1])]
    return _halve(merged)


def _halve(starts: list[tuple[int, bytes]]) -> bytes:
    if len(starts) == 1:
        return starts[0][1]
    middle = len(starts) // 2
    return if_at_least(starts[middle][0], _halve(starts[middle:]), _halve(starts[:middle]))


def _branch(jump: int, value: int, then: bytes, other: bytes) -> bytes:
    """``other`` comes first and must end, if ``then`` is not to follow it."""
    skipped = len(other) // _BYTES
    if skipped <= _FURTHEST:
        return _instruction(jump, value, skip_if=skipped) + other + then
    return _instruction(jump, value, skip_else=1) + _instruction(_JUMP, skipped) + other + then


def _instruction(code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
    return struct.pack("HBBI", code, skip_if, skip_else, value)
