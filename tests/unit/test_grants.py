"""Grants kept, handed on and given back, with a queue that is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from actors.config import QueueSettings
from actors.errors import ActorUnavailable, QueueFull, ServiceError
from actors.runs.grants import GrantKeeper, HeldGrant
from actors.schemas import Grant, GrantRelease, GrantRequest, Priority
from tests.unit.clock import FakeClock


class ListQueue:
    """Answers as told, remembers what it was told, and grants when ``grant`` is called."""

    def __init__(self) -> None:
        self.asked: list[tuple[GrantRequest, asyncio.Future[Grant]]] = []
        self.released: list[GrantRelease] = []
        self.absences = 0

    async def acquire(self, wanted: GrantRequest, releases: list[GrantRelease], timeout_s: float) -> Grant:
        if self.absences:
            self.absences -= 1
            raise ActorUnavailable("FairQueue", "is restarting")
        self.released += releases
        answer: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.asked.append((wanted, answer))
        return await answer

    def release(self, releases: list[GrantRelease]) -> None:
        self.released += releases

    def grant(self, index: int, ttl_s: float | None = None) -> None:
        wanted, answer = self.asked[index]
        lasts_s = wanted.ttl_s if ttl_s is None else ttl_s
        answer.set_result(Grant(f"g{index}", f"s{index}", wanted.backend, wanted.user, 1, lasts_s))

    def refuse(self, index: int, error: ServiceError) -> None:
        self.asked[index][1].set_exception(error)


def wanted(user: str = "ann", ttl_s: float = 10.0) -> GrantRequest:
    return GrantRequest("fake", user, Priority.NORMAL, 60.0, ttl_s)


def keeper_of(queue: ListQueue, clock: FakeClock | None = None, retain_s: float = 60.0) -> GrantKeeper:
    return GrantKeeper(queue, QueueSettings(retain_s=retain_s), clock or FakeClock(), absence_poll_s=0.0)


async def settle(holds: Callable[[], bool]) -> None:
    """Let tasks and timers go on until something holds."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def held_by(keeper: GrantKeeper, queue: ListQueue, user: str = "ann") -> HeldGrant:
    index = len(queue.asked)
    task = asyncio.ensure_future(keeper.acquire(wanted(user)))
    await settle(lambda: len(queue.asked) > index)
    queue.grant(index)
    return await task


async def test_a_kept_grant_serves_the_next_run_without_a_call() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    first = await held_by(keeper, queue)
    keeper.release(first, 0.1, Priority.NORMAL)
    assert await keeper.acquire(wanted()) is first
    assert (len(queue.asked), keeper.saved) == (1, 1)


async def test_a_release_hands_the_grant_to_whoever_waits_in_the_lane() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    first = await held_by(keeper, queue)
    second = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 2)
    keeper.release(first, 0.1, Priority.NORMAL)
    assert await second is first


async def test_what_another_user_waits_for_goes_back_at_once() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    first = await held_by(keeper, queue)
    keeper.release(first, 0.1, Priority.NORMAL)
    keeper.contention({"fake": ("bob",)})
    await settle(lambda: [release.grant_id for release in queue.released] == ["g0"])
    assert keeper.in_hand() == []


async def test_a_grant_that_lasts_too_short_is_exchanged() -> None:
    queue, clock = ListQueue(), FakeClock()
    keeper = keeper_of(queue, clock)
    first = await held_by(keeper, queue)
    keeper.release(first, 0.1, Priority.NORMAL)
    clock.advance(first.grant.ttl_s - 1)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 2)
    assert [release.grant_id for release in queue.released] == ["g0"], "it rode along with the next request"
    queue.grant(1)
    assert (await task).grant.grant_id == "g1"


async def test_an_unhealthy_sandbox_is_never_kept() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    keeper.release(await held_by(keeper, queue), 0.1, Priority.NORMAL, healthy=False)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 2)
    assert [release.healthy for release in queue.released] == [False]
    task.cancel()


async def test_a_cancelled_waiter_withdraws_its_request() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 1)
    task.cancel()
    await settle(lambda: queue.asked[0][1].cancelled())
    await settle(lambda: keeper.lanes == 0)


async def test_a_grant_that_comes_in_the_moment_of_cancelling_is_not_lost() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue, retain_s=0.0)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 1)
    queue.grant(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle(lambda: [release.grant_id for release in queue.released] == ["g0"])
    assert not keeper.in_hand()


async def test_a_refusal_reaches_one_waiter() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    first, second = (asyncio.ensure_future(keeper.acquire(wanted())) for _ in range(2))
    await settle(lambda: len(queue.asked) == 2)
    queue.refuse(0, QueueFull("full"))
    with pytest.raises(QueueFull):
        await first
    queue.grant(1)
    assert (await second).grant.grant_id == "g1"


async def test_an_absent_queue_is_waited_for() -> None:
    queue = ListQueue()
    queue.absences = 1
    keeper = keeper_of(queue)
    assert (await held_by(keeper, queue)).grant.grant_id == "g0"


async def test_a_queue_that_stays_away_is_an_error() -> None:
    queue, clock = ListQueue(), FakeClock()
    queue.absences = 10**6
    keeper = keeper_of(queue, clock)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: queue.absences < 10**6)
    clock.advance(60)
    with pytest.raises(ActorUnavailable):
        await task


async def test_everything_in_hand_is_registered_with_what_is_left_of_it() -> None:
    queue, clock = ListQueue(), FakeClock()
    keeper = keeper_of(queue, clock)
    used, kept = await held_by(keeper, queue), await held_by(keeper, queue, "bob")
    keeper.release(kept, 0.1, Priority.NORMAL)
    clock.advance(4)
    assert [(grant.grant_id, grant.ttl_s) for grant in keeper.in_hand()] == [
        ("g0", used.grant.ttl_s - 4),
        ("g1", kept.grant.ttl_s - 4),
    ]


async def test_nothing_starts_on_a_revoked_grant() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue)
    used, kept = await held_by(keeper, queue), await held_by(keeper, queue)
    keeper.release(kept, 0.1, Priority.NORMAL)
    keeper.revoke(["g0", "g1"])
    keeper.release(used, 0.1, Priority.NORMAL)
    task = asyncio.ensure_future(keeper.acquire(wanted()))
    await settle(lambda: len(queue.asked) == 3)
    task.cancel()


async def test_users_who_left_take_no_room() -> None:
    queue = ListQueue()
    keeper = keeper_of(queue, retain_s=0.0)
    for number in range(20):
        keeper.release(await held_by(keeper, queue, f"user{number}"), 0.1, Priority.NORMAL)
    await settle(lambda: keeper.lanes == 0)
    assert not keeper.in_hand()


async def test_every_use_of_a_grant_has_its_own_number() -> None:
    held = HeldGrant(Grant("g", "s", "fake", "ann", 7, 10.0), 10.0)
    assert [held.next_ticket(1.0).use for _ in range(3)] == [1, 2, 3]
