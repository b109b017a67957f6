"""The verdict of the self-test: one wall that does not hold is enough to refuse."""

from __future__ import annotations

import pytest

from actors.backends.jail.host import self_test
from actors.errors import IsolationUnavailable

GOOD = {
    **dict.fromkeys(self_test.MUST_RAISE, "OSError"),
    "processes": 2,
    "capabilities": "0000000000000000",
    "killed_first": "1000",
}


def test_a_jail_whose_every_wall_held_is_trusted() -> None:
    self_test.require(self_test.judge(GOOD))


@pytest.mark.parametrize(
    "broken",
    [
        *({name: "succeeded"} for name in GOOD if GOOD[name] == "OSError"),
        {"processes": 80},
        {"capabilities": "a"},
        {"killed_first": "0"},
    ],
)
def test_one_broken_wall_is_enough_to_refuse(broken: dict[str, object]) -> None:
    with pytest.raises(IsolationUnavailable, match=next(iter(broken))):
        self_test.require(self_test.judge({**GOOD, **broken}))


def test_a_wall_that_is_left_out_on_purpose_is_excused_and_no_other() -> None:
    open_network = self_test.judge({**GOOD, "tcp": "connected"})
    self_test.require(open_network, without=("network",))
    with pytest.raises(IsolationUnavailable, match="tcp"):
        self_test.require(open_network, without=("seccomp",))
