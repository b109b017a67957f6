"""The clock of a program: which time is up, and what was waited for a core and so does not count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from actors.backends.jail.host.run_clock import RunClock
from actors.backends.jail.host.usage import UsageMeter
from actors.schemas import Limits, Program


class Meter(UsageMeter):
    """Says what it is told to."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.used_s = self.kept_waiting_s = 0.0

    def begin_waits(self) -> None:
        self.kept_waiting_s = 0.0

    def waited_s(self) -> float:
        return self.kept_waiting_s

    def cpu_s(self) -> float:
        return self.used_s


def clock_of(meter: Meter, timeout_s: float, cpu_wait_s: float | None = None) -> RunClock:
    program = Program(run_id="r", code="", timeout_s=timeout_s, limits=Limits(cpu_wait_s=cpu_wait_s))
    return RunClock(program, meter)


async def ends_after(clock: RunClock, looks: Callable[[], object]) -> float:
    """Have a program run for ever, which is looked at as told; return when its wall time was up."""

    async def run() -> None:
        async with clock.start():
            looks()
            await asyncio.Event().wait()

    loop = asyncio.get_running_loop()
    began_at = loop.time()
    with pytest.raises(TimeoutError):
        await run()
    return loop.time() - began_at


async def test_what_was_waited_for_a_core_is_given_back_as_far_as_it_may_be() -> None:
    meter = Meter()
    clock = clock_of(meter, 0.05, cpu_wait_s=0.2)

    def waits(seconds: float) -> Callable[[], None]:
        def look() -> None:
            meter.kept_waiting_s = seconds
            assert clock.look(cpu_s=1.0) is None

        return look

    assert 0.15 <= await ends_after(clock, waits(0.1)) < 0.24
    assert clock.waited_s == 0.1
    assert clock.wall_time_is_up() == (
        "still running after 0.05 s of wall time, beside 0.1 s that it waited for a core, and was stopped;"
        " ask for a longer timeout_s"
    )
    assert 0.25 <= await ends_after(clock, waits(5.0)) < 0.4


async def test_nothing_is_given_back_to_who_computed_as_long_as_it_may_take() -> None:
    meter = Meter()
    clock = clock_of(meter, 0.05, cpu_wait_s=5.0)

    def look() -> None:
        meter.kept_waiting_s, meter.used_s = 5.0, 0.06
        assert clock.look(cpu_s=1.0) is None

    assert await ends_after(clock, look) < 0.15


async def test_who_asks_for_nothing_back_has_the_wall_time_that_was_said() -> None:
    meter = Meter()
    clock = clock_of(meter, 0.05)
    meter.kept_waiting_s = 5.0
    assert await ends_after(clock, lambda: clock.look(cpu_s=1.0)) < 0.15
    assert clock.waited_s is None
    assert clock.wall_time_is_up() == (
        "still running after 0.05 s of wall time, and was stopped; ask for a longer timeout_s"
    )


async def test_cpu_time_is_limited_by_itself() -> None:
    meter = Meter()
    clock = clock_of(meter, 30.0, cpu_wait_s=60.0)
    async with clock.start():
        meter.used_s = 2.0
        assert clock.look(cpu_s=2.0) is None
        meter.used_s = 2.01
        assert clock.look(cpu_s=2.0) == (
            "used more than 2 s of CPU time, and was stopped; ask for a higher limits.cpu_s"
        )


def test_a_short_time_is_looked_at_more_often_where_waits_are_given_back() -> None:
    assert clock_of(Meter(), 1.0, cpu_wait_s=1.0).look_s == 0.05
    assert clock_of(Meter(), 1.0).look_s == clock_of(Meter(), 60.0, cpu_wait_s=1.0).look_s == 0.25
