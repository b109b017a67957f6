"""A backend's pool, with actors that answer as told: what it starts, examines, renews and gives up."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from actors.backends import specs
from actors.config import Settings
from actors.core.limits.health import Outcomes
from actors.core.limits.rate_limits import TokenLease
from actors.core.limits.token_bucket import Decision
from actors.core.queue.reports import Demand, SlotReport, Watched
from actors.core.queue.slots import SlotUse
from actors.errors import ActorUnavailable, SandboxLost, SandboxStartFailed, ServiceError, Throttled
from actors.pools.pool import Pool
from actors.schemas import SandboxStatus


class FakeSandbox:
    """A sandbox actor and its client in one."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self._world = name, world
        self.generation, self.executions, self.build_tag = 1, 0, "fake"
        self.calls: list[str] = []
        self.stopped = False

    def status(self) -> SandboxStatus:
        return SandboxStatus(self.name, "fake", self.generation, self.executions, 0.0, self.build_tag, "", None, 0)

    async def start(self, timeout_s: float) -> SandboxStatus:
        return await self._answer("start")

    async def check(self, timeout_s: float) -> SandboxStatus:
        return await self._answer("check")

    async def renew(self, timeout_s: float) -> SandboxStatus:
        self.generation, self.executions = self.generation + 1, 0
        return await self._answer("renew")

    async def stop(self, timeout_s: float) -> None:
        self.stopped = True

    async def _answer(self, call: str) -> SandboxStatus:
        self.calls.append(call)
        if self._world.hang is not None:
            await self._world.hang.wait()
        if (error := self._world.failing.get(call)) is not None:
            raise error
        return self.status()


class World:
    """Everything around a pool: the queue, the limiter, and the sandboxes that it makes."""

    def __init__(self, plan: str | None = None, **pool: Any) -> None:
        sizes = {"min_size": 1, "target_size": 1, "max_size": 3} | pool
        settings = Settings.load(router={"local": "fake"}, fake={"plan": plan}, pool=sizes)
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.uses: dict[str, SlotUse] = {}
        self.offers: list[tuple[str, int]] = []
        self.killed: list[str] = []
        self.resized: list[int] = []
        self.told: list[Outcomes] = []
        self.places, self.renewed = 0, list[int]()
        self.failing: dict[str, BaseException] = {}
        self.hang: asyncio.Event | None = None
        self.epoch, self.startable, self.health = 1, 0, 1.0
        me: Any = self
        self.pool = Pool(specs.table(settings)["fake"], me, me, me)

    # Sandbox actors
    def client(self, sandbox_id: str) -> FakeSandbox:
        return self.sandboxes.setdefault(sandbox_id, FakeSandbox(sandbox_id, self))

    def create(self, sandbox_id: str, backend: str) -> None:
        assert sandbox_id in self.sandboxes

    def kill(self, sandbox_id: str) -> None:
        self.killed.append(sandbox_id)

    # Queue
    async def watch(self, backend: str, wait_s: float) -> Watched:
        reports = [SlotReport(name, use, None) for name, use in self.uses.items()]
        return Watched(self.epoch, Demand(self.startable, self.startable, 0, 0, 0, 0, 0.0), reports)

    async def offer(self, backend: str, sandbox_id: str, generation: int) -> None:
        self._fail("offer")
        self.offers.append((sandbox_id, generation))
        self.uses[sandbox_id] = SlotUse.IDLE

    async def withdraw(self, backend: str, sandbox_id: str) -> bool:
        self._fail("withdraw")
        return self.uses.pop(sandbox_id, None) is SlotUse.LEASED

    async def resize(self, backend: str, concurrency: int) -> None:
        self.resized.append(concurrency)

    # Limiter
    async def lease(self, holder: str, backend: str, operation: str, wanted: int) -> TokenLease:
        return TokenLease("lease", wanted, 1.0)

    def give_back(self, lease_id: str, unused: int) -> None: ...

    async def reserve(self, holder: str, backend: str) -> Decision:
        admitted = self.places > 0
        self.places -= admitted
        return Decision(admitted, retry_after_s=1.0)

    def release(self, holder: str, backend: str) -> None:
        self.places += 1

    async def renew(self, holder: str, backend: str, held: int) -> None:
        self.renewed.append(held)

    async def report(self, backend: str, operation: str, outcomes: Outcomes) -> float:
        self._fail("report")
        self.told.append(outcomes)
        return self.health

    def _fail(self, call: str) -> None:
        if (error := self.failing.get(call)) is not None:
            raise error

    async def turn(self, times: int = 1) -> None:
        """Let the pool look, and what it then does come to its end, or to where it hangs."""
        for _ in range(times):
            await self.pool.turn()
            for _ in range(20):
                await asyncio.sleep(0)

    async def ready(self) -> FakeSandbox:
        """The only sandbox, once it serves."""
        await self.turn(2)
        (name,) = self.uses
        return self.sandboxes[name]

    def calls(self, call: str) -> int:
        return sum(sandbox.calls.count(call) for sandbox in self.sandboxes.values())


async def test_it_starts_what_is_to_be_kept_and_offers_it() -> None:
    world = World(target_size=2)
    await world.turn(3)
    assert len(world.sandboxes) == len(world.offers) == 2
    assert world.pool.health()["status"] == "ok"
    view = world.pool.view()
    assert (view.available, view.healthy, view.build_tag) == (True, True, "fake")
    assert await world.pool.first is None


async def test_it_has_nothing_to_offer_before_its_first_sandbox() -> None:
    view = World().pool.view()
    assert (view.available, view.healthy) == (False, False)


async def test_a_queue_is_told_how_many_may_run_and_a_new_one_of_all_there_is() -> None:
    world = World()
    await world.ready()
    world.pool.concurrency = 32
    await world.turn(2)
    assert world.resized == [4, 32]
    world.epoch, world.uses = 2, {}
    await world.turn(2)
    assert world.resized == [4, 32, 32]
    assert len(world.offers) == 2, "the sandbox was offered to the new queue too"


async def test_a_sandbox_that_served_its_runs_is_renewed_once_and_offered_as_another() -> None:
    world = World(max_executions=50, maintenance_interval_s=1e-9)
    sandbox = await world.ready()
    sandbox.executions = 50
    await world.turn()  # a check tells of it
    assert sandbox.generation == 1
    await world.turn(2)
    assert (world.calls("renew"), world.offers[-1]) == (1, (sandbox.name, 2))


async def test_a_suspect_is_examined_once_however_often_the_loop_turns() -> None:
    world = World()
    sandbox = await world.ready()
    world.uses[sandbox.name] = SlotUse.SUSPECT
    world.hang = asyncio.Event()
    await world.turn(10)
    assert world.calls("check") == 1
    world.hang.set()
    await world.turn(2)
    assert (world.calls("check"), world.uses[sandbox.name]) == (1, SlotUse.IDLE)


async def test_a_suspect_that_does_not_answer_is_replaced_and_counts_against_health() -> None:
    world = World()
    sandbox = await world.ready()
    world.uses[sandbox.name] = SlotUse.SUSPECT
    world.failing["check"] = SandboxLost("gone")
    await world.turn(3)
    assert (sandbox.stopped, world.killed) == (True, [sandbox.name])
    assert list(world.uses) == [name for name in world.sandboxes if name != sandbox.name], "another serves"
    await world.pool.report()
    assert world.told == [Outcomes(succeeded=2, failed=1)]


async def test_a_stop_that_the_queue_could_not_be_told_of_is_tried_again() -> None:
    world = World()
    sandbox = await world.ready()
    world.uses[sandbox.name] = SlotUse.SUSPECT
    world.failing |= {"check": SandboxLost("gone"), "withdraw": ActorUnavailable("FairQueue", "is restarting")}
    await world.turn(3)
    assert not sandbox.stopped
    del world.failing["withdraw"]
    await world.turn(2)
    assert sandbox.stopped
    assert world.pool.metrics()["pool_size"] == 1


async def test_a_sandbox_that_could_not_be_offered_serves_all_the_same_once_it_can() -> None:
    world = World(maintenance_interval_s=1e-9)
    world.failing["offer"] = ActorUnavailable("FairQueue", "did not answer")
    await world.turn(2)
    assert await world.pool.first is None
    del world.failing["offer"]
    await world.turn(2)
    assert len(world.uses) == 1


async def test_failed_starts_are_told_and_waited_after() -> None:
    world = World()
    world.failing["start"] = SandboxStartFailed("no template")
    await world.turn(5)
    assert world.calls("start") == 1, "the second waits"
    assert isinstance(await world.pool.first, SandboxStartFailed)
    assert world.pool.health() == {"status": "degraded", "sandboxes": 0, "detail": "no template"}
    world.health = 0.25
    await world.pool.report()
    assert (world.told, world.pool.metrics()["health_score"]) == ([Outcomes(failed=1)], 0.25)


async def test_bad_health_lets_fewer_start_at_a_time() -> None:
    world = World(target_size=3, max_starting=3)
    world.health, world.hang = 0.4, asyncio.Event()
    await world.pool.report()
    await world.turn(3)
    assert world.calls("start") == 1
    world.hang.set()
    await world.turn(6)
    assert len(world.uses) == 3


@pytest.mark.parametrize(
    ("error", "told"),
    [(Throttled("too many"), Outcomes(throttled=1)), (SandboxStartFailed("no"), Outcomes(failed=1))],
)
async def test_a_start_that_was_throttled_is_told_as_that(error: ServiceError, told: Outcomes) -> None:
    world = World()
    world.failing["start"] = error
    await world.turn(2)
    await world.pool.report()
    assert world.told == [told]


async def test_a_slow_start_counts_as_a_failed_one() -> None:
    world = World(slow_start_s=1e-9)
    await world.ready()
    await world.pool.report()
    assert world.told == [Outcomes(failed=1)]


async def test_what_the_limiter_could_not_be_told_it_is_told_later() -> None:
    world = World()
    await world.ready()
    world.failing["report"] = ActorUnavailable("RateLimiter", "is restarting")
    with pytest.raises(ActorUnavailable):
        await world.pool.report()
    del world.failing["report"]
    await world.pool.report()
    assert world.told == [Outcomes(succeeded=1)]


async def test_no_more_start_than_the_plan_allows_at_a_time() -> None:
    world = World(plan="hobby", min_size=3, target_size=3)
    world.places = 2
    await world.turn(4)
    await world.pool.report()
    assert (len(world.uses), world.calls("start"), world.renewed) == (2, 2, [2])
    assert world.told == [Outcomes(succeeded=2)], "a plan that is used up is no failure of the backend"
    assert "all 20 sandboxes of fake" in world.pool.health()["detail"]


async def test_a_place_is_left_by_whatever_ends_and_told_of_by_what_was_adopted() -> None:
    world = World(plan="hobby")
    sandbox: Any = world.client("fake-old")
    world.pool.adopt(sandbox, sandbox.status())
    await world.pool.report()
    await world.pool.stop()
    await world.pool.report()
    assert (world.renewed, world.places) == ([1, 0], 1)


async def test_a_backend_without_a_quota_asks_for_no_place() -> None:
    world = World()
    await world.ready()
    await world.pool.report()
    assert (world.renewed, world.places) == ([], 0)


async def test_what_was_adopted_is_offered_and_nothing_started_in_its_place() -> None:
    world = World()
    sandbox: Any = world.client("fake-old")
    world.pool.adopt(sandbox, sandbox.status())
    await world.turn(2)
    assert (world.offers, list(world.sandboxes)) == ([("fake-old", 1)], ["fake-old"])
    assert await world.pool.first is None


async def test_a_bug_is_logged_and_the_sandbox_that_it_befell_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    sandbox = await world.ready()
    world.uses[sandbox.name] = SlotUse.SUSPECT
    world.failing["check"] = ZeroDivisionError("a bug")
    with caplog.at_level(logging.ERROR, "actors"):
        await world.turn()
    assert "a bug" in caplog.text
    world.failing.clear()
    await world.turn(2)
    assert world.uses[sandbox.name] is SlotUse.IDLE


async def test_stopping_ends_every_sandbox() -> None:
    world = World(target_size=3)
    await world.turn(4)
    await world.pool.stop()
    assert len(world.killed) == 3
    assert all(sandbox.stopped for sandbox in world.sandboxes.values())
