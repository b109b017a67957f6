"""The path of a run with real small services: every way in which it can end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from actors.backends.base import OUTPUTS_S, PREPARE_S
from actors.clients.singletons import Claim
from actors.config import LedgerSettings, Settings
from actors.core.breakers import CallPermit
from actors.core.result_cache import Follow, Hit, Lead
from actors.core.router import BackendView
from actors.errors import (
    ActorUnavailable,
    BreakerOpen,
    InvalidRequest,
    QueueFull,
    RateLimited,
    SandboxLost,
    SandboxStartFailed,
    ServiceError,
    StaleGrant,
    Throttled,
)
from actors.runs.grants import HeldGrant
from actors.runs.keyed_runs import KeyedRuns
from actors.runs.ledger import Ledger
from actors.runs.path import RequestPath
from actors.runs.run import Run
from actors.runs.services import Services
from actors.runs.session_table import SessionTable
from actors.schemas import (
    ExecutionRequest,
    ExecutionResult,
    Grant,
    GrantRequest,
    GrantTicket,
    Outcome,
    OutputEvent,
    Program,
    ProgramReport,
    SandboxAnswer,
)

Answer = SandboxAnswer | BaseException


def answer(stdout: str = "", outcome: Outcome = Outcome.OK, may_have_run: bool = True) -> SandboxAnswer:
    return SandboxAnswer(ProgramReport(outcome=outcome, stdout=stdout, may_have_run=may_have_run), 1, 0.0, 0.001)


class Impatient(random.Random):
    """Jitter that is never a wait."""

    def uniform(self, a: float, b: float) -> float:
        return a


class World:
    """Every service of a run, in memory: does what ``answers`` say, and records what happened."""

    def __init__(self, ledger: Path = Path("/nonexistent"), **sections: Any) -> None:
        self.in_chunks: dict[int, ServiceError] = {}
        """Instead of an answer, by the number of the program among all that came in chunks."""
        self.chunked = 0
        self.answers: list[Answer] = []
        self.started: list[str] = []
        self.streams_ended = 0
        self.held: set[str] = set()
        self.granted = 0
        self.health: list[bool] = []
        self.reports: list[tuple[str, bool]] = []
        self.permits: list[str] = []
        """The users of whom the breaker was asked."""
        self.throttles: list[str] = []
        self.cached: dict[str, ExecutionResult] = {}
        self.settled: list[Claim] = []
        self.observed: list[bool] = []
        self.refuse: dict[str, ServiceError] = {}
        self.verify = False
        self.block: asyncio.Event | None = None
        self.asked: list[GrantRequest] = []
        self.patience_s: list[float] = []
        self.pinned: list[str] = []
        self.views = {"fake": BackendView(), "e2b": BackendView()}
        settings = Settings.load(router={"local": "fake"}, backends={"e2b": {"kind": "fake"}}, **sections)
        me: Any = self
        self.sessions = SessionTable(settings, me, me, me)
        services = Services(
            cache=me,
            breakers=me,
            grants=me,
            tokens=me,
            sandboxes=me,
            sessions=self.sessions,
            keyed=KeyedRuns(Ledger(LedgerSettings(path=ledger / "ledger.sqlite3"), "test")),
            backends=lambda: self.views,
        )
        self.path = RequestPath(settings, services, Impatient())

    # Cache
    async def lookup(self, key: str, claimant: str, wait_s: float) -> Hit | Lead:
        if "cache" in self.refuse:
            raise self.refuse["cache"]
        return Hit(self.cached[key], 0.0, self.verify) if key in self.cached else Lead(f"claim-{claimant}", 30.0)

    async def lookup_many(self, keys: list[tuple[str, str]]) -> list[Hit | Lead | Follow]:
        return [await self.lookup(key, claimant, 0.0) for key, claimant in keys]

    def settle(self, claims: list[Claim]) -> None:
        self.settled += claims
        self.cached |= {key: result for key, _, result in claims if result is not None}

    def observe(self, key: str, equal: bool) -> None:
        self.observed.append(equal)

    # Breaker
    def permit(self, backend: str, user: str) -> CallPermit:
        self.permits.append(user)
        if backend in self.refuse:
            raise self.refuse[backend]
        return CallPermit(backend, user)

    def confirm(self, permit: CallPermit) -> CallPermit:
        if "opened meanwhile" in self.refuse:
            raise self.refuse["opened meanwhile"]
        return permit

    def report(self, permit: CallPermit, ok: bool, seconds: float) -> None:
        self.reports.append((permit.backend, ok))

    # Grants
    async def acquire(self, request: GrantRequest) -> HeldGrant:
        self.asked.append(request)
        if "queue" in self.refuse:
            raise self.refuse["queue"]
        self.granted += 1
        grant = Grant(f"g{self.granted}", "s1", request.backend, request.user, 1, request.ttl_s)
        self.held.add(grant.grant_id)
        return HeldGrant(grant, request.ttl_s)

    def give_back(self, held: HeldGrant, healthy: bool = True) -> None:
        self.held.remove(held.grant.grant_id)

    async def pin(self, backend: str, sandbox_id: str, user: str) -> None:
        self.pinned.append(sandbox_id)

    def unpin(self, backend: str, sandbox_id: str, healthy: bool = True) -> None:
        self.pinned.remove(sandbox_id)

    def release(self, held: HeldGrant, used_s: float, priority: int, healthy: bool = True, programs: int = 1) -> None:
        self.held.remove(held.grant.grant_id)
        self.health.append(healthy)

    # Tokens
    async def spend(self, backend: str, count: int = 1, within_s: float = 0.0) -> None:
        self.patience_s.append(within_s)
        if "tokens" in self.refuse:
            raise self.refuse["tokens"]

    def throttled(self, backend: str) -> None:
        self.throttles.append(backend)

    # Sandboxes
    def __getitem__(self, sandbox_id: str) -> World:
        return self

    async def execute(self, ticket: GrantTicket, program: Program, fresh: bool) -> SandboxAnswer:
        self.started.append(program.code)
        if self.block is not None:
            await self.block.wait()
        return self._next(program)

    async def execute_many(self, ticket: GrantTicket, programs: list[Program]) -> list[SandboxAnswer | ServiceError]:
        self.started += [program.code for program in programs]
        first, self.chunked = self.chunked, self.chunked + len(programs)
        return [self.in_chunks.get(number) or self._next(program) for number, program in enumerate(programs, first)]

    async def stream(
        self, ticket: GrantTicket, program: Program, fresh: bool
    ) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        self.started.append(program.code)
        try:
            yield OutputEvent(kind="stdout", text="a")
            yield self._next(program)
        finally:
            self.streams_ended += 1

    async def open_session(self, *_: object) -> None: ...

    async def close_session(self, *_: object) -> None: ...

    async def execute_in_session(self, program: Program, ttl_s: float) -> SandboxAnswer:
        self.started.append(program.code)
        if self.block is not None:
            await self.block.wait()
        return self._next(program)

    async def stream_in_session(self, program: Program, ttl_s: float) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        self.started.append(program.code)
        yield OutputEvent(kind="stdout", text="a")
        yield self._next(program)

    def _next(self, program: Program) -> SandboxAnswer:
        found = self.answers.pop(0) if self.answers else answer(f"{program.code}\n")
        if isinstance(found, BaseException):
            raise found
        return found

    async def run(self, code: str = "print(1)", emit: Any = None, **fields: Any) -> ExecutionResult:
        return await self.path.carry(run_of(code, emit, **fields))


def run_of(code: str = "print(1)", emit: Any = None, **fields: Any) -> Run:
    return Run(ExecutionRequest.checked(code=code, **fields), f"run-{code}", emit)


async def settle(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_a_run_says_where_it_was_and_leaves_nothing_held() -> None:
    world = World()
    result = await world.run()
    assert (result.outcome, result.backend, result.sandbox_id, result.cached) == ("ok", "fake", "s1", False)
    assert (world.held, world.health, world.reports) == (set(), [True], [("fake", True)])


async def test_a_second_deterministic_run_is_a_hit() -> None:
    world = World()
    first, second = await world.run(), await world.run()
    assert (first.cached, second.cached, second.stdout) == (False, True, first.stdout)
    assert world.started == ["print(1)"]


@pytest.mark.parametrize("fields", [{"cache": "off"}, {"fresh": True}, {"files": {"m.py": "x = 1"}}])
async def test_what_must_not_be_shared_is_run_each_time(fields: dict[str, Any]) -> None:
    world = World()
    await world.run(**fields)
    await world.run(**fields)
    assert len(world.started) == 2


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CRASHED, Outcome.INFRA, Outcome.OUT_OF_MEMORY])
async def test_only_the_programs_own_ends_are_published(outcome: Outcome) -> None:
    world = World()
    world.answers = [answer(outcome=outcome)]
    await world.run()
    assert [result for _, _, result in world.settled] == [None], "the claim was given up"


async def test_a_memory_address_is_not_published() -> None:
    world = World()
    world.answers = [answer("<object at 0x7f0011223344>")]
    await world.run()
    assert [result for _, _, result in world.settled] == [None]


async def test_a_hit_may_be_run_again_to_see_whether_it_is_the_same() -> None:
    world = World()
    await world.run()
    world.verify, world.answers = True, [answer("other")]
    await world.run()
    assert world.observed == [False]


async def test_a_failing_second_run_says_nothing_against_a_hit() -> None:
    world = World()
    await world.run()
    world.verify, world.answers = True, [answer(outcome=Outcome.INFRA)]
    assert (await world.run()).cached
    assert world.observed == []


async def test_an_absent_cache_stops_nobody() -> None:
    world = World()
    world.refuse["cache"] = ActorUnavailable("ResultCache", "is gone")
    assert (await world.run()).ok


async def test_an_open_breaker_is_a_rejection_that_says_when() -> None:
    world = World()
    world.refuse["fake"] = BreakerOpen("failing", 3.0)
    result = await world.run(backend="fake")
    assert (result.outcome, result.error_code, result.retry_after_s) == ("rejected", "breaker_open", 3.0)
    assert world.started == []


async def test_an_open_breaker_sends_the_run_to_the_next_backend() -> None:
    world = World()
    world.refuse["fake"] = BreakerOpen("failing", 3.0)
    assert (await world.run()).backend == "e2b"


async def test_a_call_asks_the_breaker_once() -> None:
    world = World()
    await world.run(user="ann")
    assert world.permits == ["ann"]


async def test_what_waits_while_the_breaker_opens_is_refused_and_frees_its_grant() -> None:
    world = World()
    world.refuse["opened meanwhile"] = BreakerOpen("failing", 3.0)
    result = await world.run(backend="fake")
    assert (result.outcome, result.error_code) == ("rejected", "breaker_open")
    assert (world.started, world.held, world.reports) == ([], set(), [])


@pytest.mark.parametrize(("stage", "error"), [("queue", QueueFull("full")), ("tokens", RateLimited("used up", 2.0))])
async def test_a_rejection_frees_what_was_held_and_blames_no_backend(stage: str, error: ServiceError) -> None:
    world = World()
    world.refuse[stage] = error
    result = await world.run()
    assert (result.outcome, result.error_code, result.may_have_run) == ("rejected", error.code, False)
    assert (world.held, world.reports) == (set(), [])


async def test_what_never_started_is_tried_again() -> None:
    world = World()
    world.answers = [SandboxStartFailed("no"), StaleGrant("busy")]
    assert (await world.run(cache="off")).ok
    assert world.health == [False, False, True]
    assert world.reports == [("fake", False), ("fake", True)], "a stale grant is no failure of the backend"


async def test_a_throttled_call_is_told_to_the_limiter_and_blames_neither_backend_nor_sandbox() -> None:
    world = World()
    world.answers = [Throttled("too many")]
    assert (await world.run(cache="off")).ok
    assert (world.throttles, world.health) == (["fake"], [True, True])
    assert world.reports == [("fake", True)]


async def test_trying_again_has_an_end() -> None:
    world = World()
    world.answers = [SandboxStartFailed("no")] * 9
    result = await world.run(cache="off")
    assert (result.outcome, result.retryable, len(world.started)) == ("infra", True, 3)


async def test_a_run_that_may_have_run_is_not_run_again() -> None:
    world = World()
    world.answers = [SandboxLost("gone", may_have_run=True)]
    result = await world.run(cache="off")
    assert (result.outcome, result.may_have_run, result.retryable) == ("infra", True, False)
    assert (len(world.started), world.health) == (1, [False])


async def test_an_idempotent_run_is_run_again() -> None:
    world = World()
    world.answers = [SandboxLost("gone", may_have_run=True)]
    assert (await world.run(cache="off", idempotent=True)).ok


async def test_cancelling_frees_the_grant_and_gives_the_claim_up() -> None:
    world = World()
    world.block = asyncio.Event()
    task = asyncio.ensure_future(world.run())
    await settle(lambda: bool(world.started))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (world.held, world.reports) == (set(), [])
    assert [result for _, _, result in world.settled] == [None]


async def test_a_stream_emits_before_it_ends() -> None:
    world, events = World(), list[OutputEvent]()
    assert (await world.run(emit=events.append)).ok
    assert [event.text for event in events] == ["a"]
    assert world.streams_ended == 1, "and nothing of it is left to run later"


async def test_a_backend_that_is_not_there_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest):
        await World().run(backend="jail")


async def test_a_fallbacks_result_is_not_kept_as_the_first_backends() -> None:
    world = World()
    world.refuse["fake"] = BreakerOpen("failing", 3.0)
    assert (await world.run()).backend == "e2b"
    assert [result for _, _, result in world.settled] == [None]
    del world.refuse["fake"]
    again = await world.run()
    assert (again.cached, again.backend) == (False, "fake")


async def test_no_wait_and_no_retry_is_given_more_than_what_is_left() -> None:
    world = World(queue={"max_wait_s": 100.0})
    world.answers = [SandboxStartFailed("no")] * 2
    assert (await world.run(cache="off")).ok
    given = [request.deadline_s for request in world.asked]
    assert len(given) == 3
    assert 100.0 > given[0] > given[1] > given[2] > 90.0
    assert all(earlier > later for earlier, later in zip(given, world.patience_s, strict=True))


async def test_a_caller_may_have_less_patience_than_the_deployment_but_not_more() -> None:
    world = World(queue={"max_wait_s": 100.0})
    await world.run(cache="off", max_wait_s=5.0)
    await world.run(cache="off", max_wait_s=500.0)
    assert [round(request.deadline_s) for request in world.asked] == [5, 100]


async def test_a_demand_for_a_fresh_sandbox_cannot_end_a_session() -> None:
    world = World()
    session = await world.sessions.open("ann", "fake", 5.0)
    with pytest.raises(InvalidRequest, match="fresh"):
        await world.run(user="ann", session=session, fresh=True)
    assert (await world.run(user="ann", session=session)).ok


async def test_a_run_that_cannot_begin_in_time_is_rejected_whatever_it_waited_for() -> None:
    world = World()
    world.answers = [SandboxStartFailed("no")] * 9
    run = run_of(cache="off")
    run.begin_within(0.0)
    result = await world.path.carry(run)
    assert (result.outcome, result.error_code, world.started) == ("rejected", "deadline", [])


async def test_what_may_have_run_is_said_to_whatever_ended_a_later_attempt() -> None:
    world = World()
    world.answers = [SandboxLost("gone", may_have_run=True)]

    def lose(*_: object) -> None:
        world.refuse["queue"] = QueueFull("full")

    world.release, release = (lambda *args: (lose(), release(*args))), world.release  # type: ignore[method-assign,assignment]
    result = await world.run(cache="off", idempotent=True)
    assert (result.outcome, result.error_code, result.may_have_run) == ("rejected", "queue_full", True)


async def test_a_session_asks_its_sandbox_and_nobody_else() -> None:
    world = World()
    session = await world.sessions.open("ann", "fake", 5.0, env={"A": "1"})
    world.granted = 0
    world.asked.clear()
    world.refuse["queue"] = world.refuse["cache"] = QueueFull("nobody may ask")
    for _ in range(3):
        result = await world.run(user="ann", session=session)
        assert (result.outcome, result.backend, result.sandbox_id) == ("ok", "fake", "s1")
    assert (world.asked, world.health, world.settled) == ([], [], [])
    assert world.reports == [("fake", True)] * 3


async def test_a_sessions_program_streams() -> None:
    world, events = World(), list[OutputEvent]()
    session = await world.sessions.open("ann", "fake", 5.0)
    assert (await world.run(emit=events.append, user="ann", session=session)).ok
    assert [event.text for event in events] == ["a"]


async def test_a_session_is_on_one_backend() -> None:
    world = World()
    session = await world.sessions.open("ann", "fake", 5.0)
    assert (await world.run(user="ann", session=session, backend="local")).ok
    with pytest.raises(InvalidRequest, match="'fake'"):
        await world.run(user="ann", session=session, backend="e2b")


async def test_a_session_is_lost_with_its_sandbox_and_not_tried_elsewhere() -> None:
    world = World()
    session = await world.sessions.open("ann", "fake", 5.0)
    world.answers = [SandboxLost("gone", may_have_run=True)]
    lost = await world.run(user="ann", session=session, idempotent=True)
    assert (lost.outcome, lost.may_have_run, len(world.started)) == ("infra", True, 1)
    assert (await world.run(user="ann", session=session)).error_code == "unknown_session"
    assert world.pinned == []


@pytest.mark.parametrize(("ended", "expected"), [(Outcome.CRASHED, "infra"), (Outcome.OK, "ok")])
async def test_a_program_that_ends_because_its_session_makes_way_is_masked(ended: Outcome, expected: str) -> None:
    pool = {"min_size": 1, "target_size": 1, "max_size": 3}
    world = World(pool=pool, sessions={"assured_s": 1e-6})
    sandboxes = iter("abc")
    world.acquire = lambda request: held_in(next(sandboxes), request)  # type: ignore[method-assign]
    world.give_back = lambda *_: None  # type: ignore[method-assign]
    mine, _ = [await world.sessions.open("ann", "fake", 5.0) for _ in range(2)]
    world.block, world.answers = asyncio.Event(), [answer(outcome=ended)]
    running = [asyncio.ensure_future(world.run(user="ann", session=mine))]
    await settle(lambda: bool(world.started))
    for record in world.sessions._records.values():
        record.uses = 1  # whichever makes way, it is in use
    await world.sessions.open("bob", "fake", 5.0)
    assert {info.user for info in world.sessions.infos(None)} == {"ann", "bob"}
    world.block.set()
    [result] = await asyncio.gather(*running)
    assert (result.outcome, result.mask) == (expected, expected == "infra")
    assert world.reports == [("fake", True)], "the backend has not failed"


async def held_in(sandbox_id: str, request: GrantRequest) -> HeldGrant:
    return HeldGrant(Grant(sandbox_id, sandbox_id, request.backend, request.user, 1, request.ttl_s), request.ttl_s)


async def test_programs_that_wait_for_their_turn_in_a_session_have_a_deadline() -> None:
    world = World(queue={"max_wait_s": 0.01})
    session = await world.sessions.open("ann", "fake", 5.0)
    world.block = asyncio.Event()
    first = asyncio.ensure_future(world.run("1", user="ann", session=session))
    await settle(lambda: bool(world.started))
    second = await world.run("2", user="ann", session=session)
    assert (second.outcome, second.error_code) == ("rejected", "deadline")
    world.block.set()
    assert (await first).ok


async def test_a_key_that_was_refused_may_be_used_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(InvalidRequest):
        await world.run(backend="jail", idempotency_key="k")
    world.refuse["queue"] = QueueFull("full")
    assert (await world.run(backend="fake", idempotency_key="k")).error_code == "queue_full"
    del world.refuse["queue"]
    first = await world.run("print(2)", idempotency_key="k", cache="off")
    again = await world.run("print(2)", idempotency_key="k", cache="off")
    assert (first.ok, again.run_id == first.run_id, world.started) == (True, True, ["print(2)"])
    world.path.services.keyed.close()


async def test_a_key_given_up_before_its_program_started_is_free_and_afterwards_is_answered(tmp_path: Path) -> None:
    world = World(tmp_path)
    waiting: asyncio.Future[HeldGrant] = asyncio.get_running_loop().create_future()
    acquire, world.acquire = world.acquire, lambda _: waiting  # type: ignore[method-assign,assignment,return-value]
    early = asyncio.ensure_future(world.run(idempotency_key="k", cache="off"))
    for _ in range(1000):
        await asyncio.sleep(0)
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    world.acquire, world.block = acquire, asyncio.Event()  # type: ignore[method-assign]
    late = asyncio.ensure_future(world.run(idempotency_key="k", cache="off"))
    await settle(lambda: bool(world.started))
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    world.block.set()
    again = await world.run(idempotency_key="k", cache="off")
    assert (again.outcome, again.may_have_run, again.retryable) == ("cancelled", True, False)
    assert len(world.started) == 1
    world.path.services.keyed.close()


async def test_draining_refuses_what_comes() -> None:
    world = World()
    session = await world.sessions.open("ann", "fake", 5.0)
    world.path.draining = True
    for fields in ({}, {"user": "ann", "session": session}):
        assert (await world.run(**fields)).error_code == "draining"


async def test_a_lease_covers_all_that_a_program_can_take() -> None:
    world = World()
    await world.run(timeout_s=2.0, cache="off")
    await world.run(timeout_s=2.0, files={"a": "b"}, outputs=["*"], cache="off")
    plain, with_files = (request.ttl_s for request in world.asked)
    assert plain > 2.0
    assert with_files == plain + PREPARE_S + OUTPUTS_S
