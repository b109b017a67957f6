"""Sessions opened, used, closed and lost, with sandboxes and a queue that answer as told."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from actors.config import Settings
from actors.errors import (
    ActionFailed,
    ActorUnavailable,
    ContextLost,
    PoolExhausted,
    Rejected,
    SandboxLost,
    ServiceError,
    StaleGrant,
    UnknownSession,
)
from actors.runs.grants import HeldGrant
from actors.runs.session_table import SessionTable
from actors.schemas import ExecutionResult, Grant, GrantRequest, Outcome
from actors.schemas.action import PauseSession, StartCommand, StatFile, WatchDirectory
from tests.unit.clock import FakeClock


class Impatient(random.Random):
    """Jitter that is never a wait."""

    def uniform(self, a: float, b: float) -> float:
        return a


class Fakes:
    """The grants, the queue and every sandbox at once; remembers what it was told."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.pinned: list[str] = []
        self.unpinned: list[str] = []
        self.unhealthy: list[str] = []
        self.given_back: list[tuple[str, bool]] = []
        self.performed: list[Any] = []
        self.failing: dict[str, ServiceError] = {}
        self.time_passes = lambda: None
        self.granting = asyncio.Event()
        self.granting.set()

    async def acquire(self, wanted: GrantRequest) -> HeldGrant:
        await self.granting.wait()
        number = len(self.given_back) + len(self.opened)
        return HeldGrant(Grant(f"g{number}", f"s{number}", wanted.backend, wanted.user, 1, 60.0), 60.0)

    def give_back(self, held: HeldGrant, healthy: bool = True) -> None:
        self.given_back.append((held.grant.sandbox_id, healthy))

    def __getitem__(self, sandbox_id: str) -> Fakes:
        return self

    async def open_session(self, _use: object, session: str, _forkable: bool, _limits: object) -> None:
        self._fail("open")
        self.opened.append(session)

    async def fork_session(self, _session: str, forks: list[str]) -> None:
        self._fail("fork")
        self.opened.extend(forks)

    async def close_session(self, session: str) -> None:
        self._fail("close")
        self.closed.append(session)

    async def perform(self, _session: str, action: Any) -> None:
        self._fail("perform")
        self.performed.append(action)

    async def follow(self, _session: str, _action: Any) -> Any:
        self._fail("follow")
        while True:
            yield None

    async def pin(self, _backend: str, sandbox_id: str, _user: str) -> None:
        self._fail("pin")
        self.pinned.append(sandbox_id)

    def unpin(self, _backend: str, sandbox_id: str, healthy: bool = True) -> None:
        self.unpinned.append(sandbox_id)
        self.unhealthy += [] if healthy else [sandbox_id]

    def _fail(self, what: str) -> None:
        if what in self.failing:
            error = self.failing[what]
            self.time_passes()
            raise error


def made(clock: FakeClock | None = None, **settings: Any) -> tuple[SessionTable, Fakes]:
    fakes = Fakes()
    parts = cast(Any, (fakes, fakes, fakes))
    return SessionTable(
        Settings.load(router={"local": "fake"}, **settings), *parts, clock or FakeClock(), Impatient()
    ), fakes


def ended(outcome: Outcome, **fields: Any) -> ExecutionResult:
    return ExecutionResult(outcome=outcome, run_id="r", user="ann", **fields)


async def test_a_session_is_used_by_its_user_alone() -> None:
    sessions, fakes = made()
    session = await sessions.open("ann", "fake", 5.0)
    async with sessions.use("ann", session, 5.0) as used:
        assert fakes.pinned == [used.sandbox_id]
    with pytest.raises(UnknownSession):
        async with sessions.use("bob", session, 5.0):
            pass
    with pytest.raises(UnknownSession):
        await sessions.perform("bob", session, StatFile(path="a"))
    with pytest.raises(UnknownSession):
        await anext(sessions.follow("bob", session, WatchDirectory()))
    assert [info.session for info in sessions.infos("ann")] == [session]
    assert sessions.infos("bob") == []
    assert fakes.given_back == [(used.sandbox_id, True)]
    assert fakes.performed == []


async def test_programs_of_one_session_take_turns() -> None:
    sessions, _ = made()
    session = await sessions.open("ann", "fake", 5.0)
    inside: list[int] = []

    async def one(number: int) -> None:
        async with sessions.use("ann", session, 5.0):
            inside.append(number)
            assert len(inside) == 1
            await asyncio.sleep(0)
            inside.remove(number)

    await asyncio.gather(*(one(number) for number in range(5)))


async def test_a_closed_session_is_unknown_and_its_sandbox_free() -> None:
    sessions, fakes = made()
    session = await sessions.open("ann", "fake", 5.0)
    await sessions.close("bob", session)
    assert fakes.closed == []
    await sessions.close("ann", session)
    await sessions.close("ann", session)
    assert (fakes.closed, fakes.unpinned, len(sessions)) == ([session], fakes.pinned, 0)


async def test_closing_one_whose_sandbox_is_gone_is_no_error() -> None:
    sessions, fakes = made()
    session = await sessions.open("ann", "fake", 5.0)
    fakes.failing["close"] = ActorUnavailable("Sandbox", "is gone")
    await sessions.close("ann", session)
    assert len(sessions) == 0


async def test_a_user_has_no_more_than_the_limit_even_if_all_come_at_once() -> None:
    sessions, fakes = made(sessions={"max_per_user": 3})
    fakes.granting.clear()
    opening = [asyncio.ensure_future(sessions.open("ann", "fake", 5.0)) for _ in range(10)]
    await asyncio.sleep(0)
    fakes.granting.set()
    outcomes = await asyncio.gather(*opening, sessions.open("bob", "fake", 5.0), return_exceptions=True)
    assert sum(isinstance(outcome, Rejected) for outcome in outcomes) == 7
    assert len(sessions) == 4


@pytest.mark.parametrize("step", ["open", "pin"])
async def test_one_that_does_not_open_takes_no_place(step: str) -> None:
    sessions, fakes = made(sessions={"max_per_user": 1})
    fakes.failing[step] = SandboxLost("gone", may_have_run=False)
    with pytest.raises(SandboxLost):
        await sessions.open("ann", "fake", 5.0)
    assert [healthy for _, healthy in fakes.given_back] == [False] * 3
    assert fakes.closed == fakes.opened
    fakes.failing.clear()
    assert await sessions.open("ann", "fake", 5.0)


async def test_one_that_is_given_up_while_it_opens_takes_no_place() -> None:
    sessions, fakes = made(sessions={"max_per_user": 1})
    fakes.granting.clear()
    opening = asyncio.ensure_future(sessions.open("ann", "fake", 5.0))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    fakes.granting.set()
    assert await sessions.open("ann", "fake", 5.0)


@pytest.mark.parametrize(
    ("result", "lasts"),
    [
        (ended(Outcome.OK), True),
        (ended(Outcome.ERROR, may_have_run=True), True),
        (ended(Outcome.TIMEOUT, may_have_run=True), True),
        (ended(Outcome.TIMEOUT, may_have_run=True, sandbox_spent=True), False),
        (ended(Outcome.CRASHED, may_have_run=True), True),
        (ended(Outcome.OUT_OF_MEMORY, may_have_run=True), True),
        (ended(Outcome.CRASHED, may_have_run=True, sandbox_spent=True), False),
        (ended(Outcome.INFRA, may_have_run=True), False),
        (ended(Outcome.INFRA, may_have_run=False), True),
        (ended(Outcome.REJECTED, may_have_run=False, error_code=UnknownSession.code), False),
        (ended(Outcome.REJECTED, may_have_run=False, error_code=ContextLost.code), True),
    ],
)
async def test_a_session_lasts_as_long_as_its_sandbox_whatever_becomes_of_its_interpreters(
    result: ExecutionResult, lasts: bool
) -> None:
    sessions, fakes = made()
    session = await sessions.open("ann", "fake", 5.0)
    sessions.note(session, result)
    assert len(sessions) == lasts
    assert (fakes.unpinned == []) == lasts
    # What may be wrong with the sandbox is found out before anybody else has it.
    assert (fakes.unhealthy == fakes.unpinned) == (lasts or result.may_have_run)


async def test_only_those_that_idle_are_closed() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, sessions={"idle_s": 60.0})
    idle, used, busy = [await sessions.open("ann", "fake", 5.0) for _ in range(3)]
    async with sessions.use("ann", busy, 5.0):
        clock.advance(50)
        async with sessions.use("ann", used, 5.0):
            pass
        clock.advance(20)
        await sessions.close_idle()
    assert fakes.closed == [idle]


async def test_what_is_done_or_followed_in_a_session_keeps_it_from_idling() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, sessions={"idle_s": 60.0})
    idle, used, followed = [await sessions.open("ann", "fake", 5.0) for _ in range(3)]
    following = sessions.follow("ann", followed, WatchDirectory())
    await anext(following)
    clock.advance(50)
    await sessions.perform("ann", used, StatFile(path="a"))
    clock.advance(20)
    await sessions.close_idle()
    assert fakes.closed == [idle]
    await following.aclose()
    clock.advance(61)
    await sessions.close_idle()
    assert set(fakes.closed) == {idle, used, followed}


async def test_a_paused_session_waits_longer_and_any_use_of_it_ends_the_pause() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, sessions={"idle_s": 60.0, "paused_s": 600.0})
    paused, woken = [await sessions.open("ann", "fake", 5.0) for _ in range(2)]
    for session in (paused, woken):
        await sessions.perform("ann", session, PauseSession())
    assert [info.state for info in sessions.infos(None)] == ["paused", "paused"]
    await sessions.perform("ann", woken, StatFile(path="a"))
    assert [info.state for info in sessions.infos(None)] == ["paused", "running"]
    clock.advance(599)
    await sessions.close_idle()
    assert fakes.closed == [woken]
    clock.advance(2)
    await sessions.close_idle()
    assert fakes.closed == [woken, paused]


async def test_a_command_has_the_variables_of_its_deployment_its_session_and_its_own() -> None:
    sessions, fakes = made(env={"A": "deployment", "B": "deployment", "C": "deployment"})
    session = await sessions.open("ann", "fake", 5.0, env={"B": "session", "C": "session"})
    await sessions.perform("ann", session, StartCommand(command="env", env={"C": "own"}))
    assert fakes.performed[0].env == {"A": "deployment", "B": "session", "C": "own"}


async def test_a_session_whose_sandbox_knows_it_no_more_is_forgotten() -> None:
    sessions, fakes = made()
    session = await sessions.open("ann", "fake", 5.0)
    fakes.failing["perform"] = ContextLost("restart it")
    with pytest.raises(ContextLost):
        await sessions.perform("ann", session, StatFile(path="a"))
    assert len(sessions) == 1
    fakes.failing["perform"] = UnknownSession("gone")
    with pytest.raises(UnknownSession):
        await sessions.perform("ann", session, StatFile(path="a"))
    assert (len(sessions), fakes.unpinned) == (0, fakes.pinned)


async def test_forks_keep_their_sandbox_until_the_last_of_them_is_closed() -> None:
    sessions, fakes = made(sessions={"max_per_user": 1, "max_forks_per_user": 3})
    origin = await sessions.open("ann", "fake", 5.0, env={"A": "1"}, forkable=True)
    forks = await sessions.fork("ann", origin, 3)
    assert len({origin, *forks}) == 4
    assert {info.sandbox_id for info in sessions.infos("ann")} == set(fakes.pinned)
    await sessions.perform("ann", forks[0], StartCommand(command="env"))
    assert fakes.performed[0].env == {"A": "1"}
    with pytest.raises(Rejected, match="forks"):
        await sessions.fork("ann", origin, 1)
    with pytest.raises(UnknownSession):
        await sessions.fork("bob", origin, 1)
    for session in (origin, *forks[:2]):
        await sessions.close("ann", session)
    assert fakes.unpinned == []
    await sessions.close("ann", forks[2])
    assert fakes.unpinned == fakes.pinned


async def test_a_fork_that_fails_opens_nothing() -> None:
    sessions, fakes = made()
    origin = await sessions.open("ann", "fake", 5.0)
    fakes.failing["fork"] = ActionFailed("not_forkable", "open it with forkable=True")
    with pytest.raises(ActionFailed):
        await sessions.fork("ann", origin, 2)
    assert len(sessions) == 1


async def test_a_restarted_queue_is_told_what_sessions_hold_and_lost_sandboxes_lose_their_sessions() -> None:
    sessions, _ = made()
    kept, lost = [await sessions.open("ann", "fake", 5.0) for _ in range(2)]
    held = {info.session: info.sandbox_id for info in sessions.infos(None)}
    assert set(sessions.pins()) == {("fake", sandbox_id, "ann") for sandbox_id in held.values()}
    sessions.lose([held[lost], "somebody else's"])
    assert [info.session for info in sessions.infos(None)] == [kept]
    with pytest.raises(UnknownSession):
        await sessions.perform("ann", lost, StatFile(path="a"))


async def test_a_sandbox_lost_before_the_session_could_have_it_is_not_the_callers_business() -> None:
    sessions, fakes = made()
    fakes.failing["pin"] = StaleGrant("lost before the session could have it")
    fakes.time_passes = fakes.failing.clear
    assert await sessions.open("ann", "fake", 5.0)
    assert [healthy for _, healthy in fakes.given_back] == [False, True]
    assert len(fakes.closed) == 1


async def test_who_has_its_share_is_refused_at_once_and_nothing_is_tried() -> None:
    sessions, fakes = made(pool={"max_size": 3, "target_size": 2})
    first, _ = [await sessions.open("ann", "fake", 5.0) for _ in range(2)]
    with pytest.raises(
        PoolExhausted, match=f"user ann has 2 of the 2 sandboxes .* close one first, as session {first}"
    ):
        await sessions.open("ann", "fake", 5.0)
    assert len(fakes.opened) == 2
    await sessions.close("ann", first)
    assert await sessions.open("ann", "fake", 5.0)


async def test_who_is_refused_is_told_when_to_come_back() -> None:
    clock = FakeClock()
    sessions, _ = made(clock, pool={"max_size": 2, "target_size": 2}, sessions={"idle_s": 100.0, "assured_s": 1000.0})
    await sessions.open("ann", "fake", 5.0)
    clock.advance(40.0)
    with pytest.raises(PoolExhausted) as refused:
        await sessions.open("bob", "fake", 5.0)
    assert refused.value.retry_after_s == pytest.approx(60.0)
    clock.advance(60.1)
    await sessions.close_idle()
    assert await sessions.open("bob", "fake", 5.0)


async def test_what_is_beyond_a_share_makes_way_for_who_has_less_the_longest_unused_first() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, pool={"max_size": 5}, sessions={"assured_s": 100.0})
    held = [await sessions.open("ann", "fake", 5.0, forkable=True) for _ in range(3)]
    [fork] = await sessions.fork("ann", held[1], 1)
    await sessions.open("bob", "fake", 5.0)
    with pytest.raises(PoolExhausted) as refused:
        await sessions.open("bob", "fake", 5.0)
    assert refused.value.retry_after_s == pytest.approx(100.0)
    clock.advance(100.0)
    for session in (held[0], held[2]):
        async with sessions.use("ann", session, 5.0):
            pass
    await sessions.open("bob", "fake", 5.0)
    assert {info.session for info in sessions.infos("ann")} == {held[0], held[2]}
    assert set(fakes.closed) == {held[1], fork}
    with pytest.raises(UnknownSession, match="had to make way"):
        await sessions.perform("ann", held[1], StatFile(path="a"))
    with pytest.raises(PoolExhausted, match="2 users' sessions share"):
        await sessions.open("bob", "fake", 5.0)


async def test_one_sandbox_is_yielded_once_however_many_ask() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, pool={"max_size": 5}, sessions={"assured_s": 1.0})
    for _ in range(3):
        await sessions.open("ann", "fake", 5.0)
    await sessions.open("bob", "fake", 5.0)
    clock.advance(1.0)
    fakes.granting.clear()
    asking = [asyncio.ensure_future(sessions.open(user, "fake", 5.0)) for user in ("cyd", "dan", "eve", "fay")]
    await asyncio.sleep(0)
    fakes.granting.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(outcome, PoolExhausted) for outcome in outcomes] == [False, False, True, True]
    assert len(sessions) == 4


async def test_what_was_not_yielded_after_all_counts_again() -> None:
    clock = FakeClock()
    sessions, fakes = made(clock, pool={"max_size": 5}, sessions={"assured_s": 1.0})
    for _ in range(3):
        await sessions.open("ann", "fake", 5.0)
    await sessions.open("bob", "fake", 5.0)
    clock.advance(1.0)
    fakes.granting.clear()
    asking = asyncio.ensure_future(sessions.open("cyd", "fake", 5.0))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    fakes.granting.set()
    for user in ("cyd", "dan"):
        await sessions.open(user, "fake", 5.0)
    assert len({info.sandbox_id for info in sessions.infos(None)}) == 4


async def test_who_waits_for_a_turn_in_a_session_that_is_closed_meanwhile_is_told() -> None:
    sessions, _ = made()
    session = await sessions.open("ann", "fake", 5.0)
    async with sessions.use("ann", session, 5.0):
        waiting = asyncio.ensure_future(sessions.use("ann", session, 5.0).__aenter__())
        await asyncio.sleep(0)
        await sessions.close("ann", session)
    with pytest.raises(UnknownSession):
        await waiting
