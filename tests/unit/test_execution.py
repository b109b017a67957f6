"""The path of a run with real small services: every way in which it can end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from actors.config import Settings
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
)
from actors.runs.batch import Batch, Chunk
from actors.runs.grants import HeldGrant
from actors.runs.path import RequestPath
from actors.runs.run import Claim, Run, Services
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

    def __init__(self, **sections: Any) -> None:
        self.answers: list[Answer] = []
        self.started: list[str] = []
        self.held: set[str] = set()
        self.granted = 0
        self.health: list[bool] = []
        self.reports: list[tuple[str, bool]] = []
        self.cached: dict[str, ExecutionResult] = {}
        self.settled: list[Claim] = []
        self.observed: list[bool] = []
        self.refuse: dict[str, ServiceError] = {}
        self.verify = False
        self.block: asyncio.Event | None = None
        self.views = {"fake": BackendView(), "e2b": BackendView()}
        settings = Settings.load(router={"local": "fake"}, **sections)
        services = Services(self, self, self, self, self, lambda: self.views, lambda _: "tag")  # type: ignore[arg-type]
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
    def permit(self, backend: str) -> int:
        if backend in self.refuse:
            raise self.refuse[backend]
        return 1

    def report(self, backend: str, generation: int, ok: bool, seconds: float) -> None:
        self.reports.append((backend, ok))

    # Grants
    async def acquire(self, wanted: GrantRequest) -> HeldGrant:
        if "queue" in self.refuse:
            raise self.refuse["queue"]
        self.granted += 1
        grant = Grant(f"g{self.granted}", "s1", wanted.backend, wanted.user, 1, wanted.ttl_s)
        self.held.add(grant.grant_id)
        return HeldGrant(grant, wanted.ttl_s)

    def release(self, held: HeldGrant, used_s: float, priority: int, healthy: bool = True, programs: int = 1) -> None:
        self.held.remove(held.grant.grant_id)
        self.health.append(healthy)

    # Tokens
    async def spend(self, backend: str, count: int = 1) -> None:
        if "tokens" in self.refuse:
            raise self.refuse["tokens"]

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
        return [self._next(program) for program in programs]

    async def stream(
        self, ticket: GrantTicket, program: Program, fresh: bool
    ) -> AsyncIterator[OutputEvent | SandboxAnswer]:
        self.started.append(program.code)
        yield OutputEvent(kind="stdout", text="a")
        yield self._next(program)

    def _next(self, program: Program) -> SandboxAnswer:
        found = self.answers.pop(0) if self.answers else answer(f"{program.code}\n")
        if isinstance(found, BaseException):
            raise found
        return found

    async def run(self, code: str = "print(1)", emit: Any = None, **fields: Any) -> ExecutionResult:
        return await self.path.execute(run_of(code, emit, **fields))


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


async def test_a_backend_that_is_not_there_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest):
        await World().run(backend="jail")


async def batch(world: World, runs: list[Run]) -> list[ExecutionResult]:
    found = [item async for item in Batch(world.path, {"fake": 2, "e2b": 2}).execute(list(enumerate(runs)))]
    return [result for _, result in sorted(found, key=lambda item: item[0])]


async def test_a_batch_gives_each_program_its_own_result() -> None:
    world = World()
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(100)])
    assert [result.stdout for result in results] == [f"print({n})\n" for n in range(100)]
    assert world.granted < 60, "programs share grants"
    assert world.held == set()


async def test_a_batch_has_a_result_for_what_cannot_be_routed() -> None:
    results = await batch(World(), [run_of(backend="jail"), run_of(backend="jail", fresh=True), run_of()])
    assert [result.outcome for result in results] == ["rejected", "rejected", "ok"]


async def test_after_a_lost_chunk_only_what_is_in_doubt_fails() -> None:
    world = World()
    world.answers = [SandboxLost("gone", may_have_run=True)]
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(10)])
    assert [result.outcome for result in results].count("infra") == 1
    world.answers = [SandboxStartFailed("no")]
    results = await batch(world, [run_of(f"print({n})", cache="off") for n in range(10)])
    assert {result.outcome for result in results} == {"ok"}


async def test_a_bug_on_the_way_ends_a_batch_instead_of_hanging_it() -> None:
    world = World()
    world.answers = [RuntimeError("a bug")]
    with pytest.raises(RuntimeError):
        await batch(world, [run_of(cache="off"), run_of("print(2)", cache="off")])
    assert world.held == set()


def test_a_chunk_grows_by_doubling_and_shrinks_at_once() -> None:
    chunk = Chunk()
    sizes = []
    for _ in range(8):
        chunk.learn(chunk.size, 1e-6)
        sizes.append(chunk.size)
    assert sizes == [2, 4, 8, 16, 32, 64, 64, 64]
    chunk.learn(64, 64.0)
    assert chunk.size == 1
