"""What is said of a machine's counting: the more it has, the less is left out."""

from __future__ import annotations

from pathlib import Path

from actors.backends.jail.host.coverage import Coverage
from actors.backends.jail.kernel.cgroup import Parents

MEMORY = Path("/memory")


def test_with_every_controller_and_ids_nothing_is_left_out() -> None:
    full = Coverage.of(Parents(MEMORY, MEMORY, unified=True, cpu=MEMORY), own_id=True)
    assert full.uncounted == ()
    assert str(full) == "memory by cgroup, CPU by cgroup"


def test_without_the_controller_processors_are_shared_out_by_niceness() -> None:
    assert Coverage.of(Parents(MEMORY, MEMORY, unified=True), own_id=True).processors == "niceness"


def test_without_groups_it_is_said_what_is_only_bounded() -> None:
    text = str(Coverage.of(None, own_id=True))
    assert "not counted: contents of files" in text
    assert "in flight" not in text


def test_without_ids_it_is_said_what_jails_have_together() -> None:
    assert "in flight" in str(Coverage.of(Parents(MEMORY, MEMORY, unified=True, cpu=MEMORY), own_id=False))
