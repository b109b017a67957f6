"""One backend's pool of sandboxes, and the loop that keeps it as it should be."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import Any

from actors.backends.specs import BackendSpec
from actors.clients.sandboxes import SandboxActors, SandboxClient
from actors.clients.singletons import LimiterClient, QueueClient
from actors.core.pool.demand import DemandEstimator
from actors.core.pool.lifecycle import SlotState
from actors.core.pool.plan import Check, Command, PoolView, Refresh, Replace, Start, Stop, plan
from actors.core.queue.reports import Watched
from actors.core.queue.slots import SlotUse
from actors.core.router import BackendView
from actors.errors import ActorUnavailable, ServiceError
from actors.pools.slot import PoolSlot
from actors.pools.starts import REPORT_S, Starts
from actors.schemas import SandboxStatus
from actors.tasks import Tasks

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""The loop turns when runs wait or a sandbox is in doubt, and at least so often."""
STEP_S = 0.02
"""The loop turns at most so often."""
STOP_TIMEOUT_S = 10.0


class Pool:
    """As many sandboxes of one backend as its load needs, all of them alive, young and of the right BUILD_TAG.

    The queue alone knows which are idle: a sandbox is offered to it when it can serve, and withdrawn before it is
    stopped.
    """

    def __init__(self, spec: BackendSpec, actors: SandboxActors, queue: QueueClient, limiter: LimiterClient) -> None:
        self.spec, self._limits = spec, spec.row.pool
        self._actors, self._queue = actors, queue
        self._starts = Starts(spec, actors, limiter)
        self._slots: dict[str, PoolSlot] = {}
        self._demand = DemandEstimator(time.monotonic)
        self._tasks = Tasks(self._failed)
        self.concurrency = spec.concurrency(cpus=1)
        """Grants that there may be at a time; the supervisor sets it by the size of the cluster."""
        self._told_concurrency = 0
        self._queue_epoch = 0
        self._seen_enqueued = 0
        self._counts = {"reused": 0, "replaced": 0, "stopped": 0}
        self._build_tag = ""
        self.first: asyncio.Future[ServiceError | None] = asyncio.get_running_loop().create_future()
        """How the first start ended: None is well."""

    def begin(self) -> None:
        self._tasks.keep(self._keep_turning, LOOK_S)
        self._tasks.keep(self._keep_reporting, REPORT_S)

    def adopt(self, client: SandboxClient, status: SandboxStatus) -> None:
        """Take over a sandbox that an earlier life of the supervisor made."""
        now = time.monotonic()
        slot = self._slots[client.name] = PoolSlot(client, now, now)
        slot.checked(status, now)
        slot.become(SlotState.IDLE, now)
        self._starts.permits.adopt(client.name)
        self._queue_epoch = 0  # so that all are offered
        self._decide_first(None)

    async def stop(self) -> None:
        """End the loop and every sandbox. Idempotent."""
        self._tasks.cancel()
        await asyncio.gather(*(self._end(slot) for slot in list(self._slots.values())))

    def view(self) -> BackendView:
        """What the router is told."""
        serving = [slot.status for slot in self._slots.values() if slot.serving and slot.status]
        self._build_tag = self._limits.build_tag or (serving[0].build_tag if serving else self._build_tag)
        return BackendView(
            available=bool(self._build_tag),
            healthy=bool(serving),
            image=self.spec.image,
            build_tag=self._build_tag,
            concurrency=self.concurrency,
        )

    def health(self) -> dict[str, Any]:
        serving = sum(slot.state.serving for slot in self._slots.values())
        error = self._starts.last_error
        status = "ok" if serving >= max(1, self._limits.min_size) else "degraded" if error else "starting"
        return {"status": status, "sandboxes": serving, "detail": str(error) if error and status != "ok" else ""}

    def metrics(self) -> dict[str, Any]:
        states = [slot.state.value for slot in self._slots.values()]
        statuses = [slot.status for slot in self._slots.values() if slot.status]
        return {
            "pool_size": sum(slot.state.alive for slot in self._slots.values()),
            "states": {state: states.count(state) for state in sorted(set(states))},
            "created": self._starts.succeeded,
            "errors": self._starts.failed,
            **self._counts,
            "demand": round(self._demand.concurrency, 3),
            "concurrency": self.concurrency,
            "health_score": round(self._starts.health, 3),
            "generations": sum(status.generation for status in statuses),
            "backend": self.spec.name,
            "isolation": statuses[0].isolation if statuses else "",
            "build_tag": statuses[0].build_tag if statuses else "",
        }

    async def _keep_turning(self) -> None:
        while True:
            try:
                await self.turn()
            except ServiceError as error:
                log.warning("the loop will try again", extra={"backend": self.spec.name, "error": str(error)})
                await asyncio.sleep(LOOK_S / 5)
            await asyncio.sleep(STEP_S)

    async def turn(self) -> None:
        """Look once, and do what follows from what is seen."""
        watched = await self._queue.watch(self.spec.name, LOOK_S)
        if watched.epoch != self._queue_epoch:
            await self._introduce(watched.epoch)
        else:
            self._take_in(watched)
        if self.concurrency != self._told_concurrency:
            told = self.concurrency
            await self._queue.resize(self.spec.name, told)
            self._told_concurrency = told
        for command in plan(self._view(watched), self._limits):
            self._perform(command)

    async def _keep_reporting(self) -> None:
        while True:
            try:
                await self.report()
            except ServiceError as error:
                log.warning("the limiter is away", extra={"backend": self.spec.name, "error": str(error)})
            await asyncio.sleep(REPORT_S)

    async def report(self) -> None:
        """Tell the limiter how starts went, and learn how well the backend does."""
        await self._starts.report()

    async def _introduce(self, epoch: int) -> None:
        """Tell a queue that knows nothing yet, being new to us or restarted, what there is."""
        self._told_concurrency = self._seen_enqueued = 0
        for slot in list(self._slots.values()):
            if slot.serving and slot.status:
                await self._queue.offer(self.spec.name, slot.sandbox_id, slot.status.generation)
        self._queue_epoch = epoch

    def _take_in(self, watched: Watched) -> None:
        """Learn from the queue how much there is to do, which sandboxes are leased, and which are in doubt."""
        now, demand = time.monotonic(), watched.demand
        arrived = max(0, demand.enqueued - self._seen_enqueued)
        self._seen_enqueued = demand.enqueued
        self._demand.arrived(arrived)
        if arrived:
            self._demand.served(arrived * demand.service_s, arrived)
            self._counts["reused"] += arrived
        known = {report.sandbox_id: report for report in watched.slots}
        for slot in self._slots.values():
            report = known.get(slot.sandbox_id)
            slot.busy = report is not None and report.use is SlotUse.LEASED
            slot.suspected = report is not None and report.use is SlotUse.SUSPECT
            if slot.serving and report is not None:
                slot.become(SlotState.LEASED if slot.busy or report.pinned_to else SlotState.IDLE, now)

    def _view(self, watched: Watched) -> PoolView:
        now = time.monotonic()
        return PoolView(
            slots=tuple(slot.view(now) for slot in self._slots.values()),
            waiting=watched.demand.startable,
            concurrency=self._demand.concurrency,
            build_tag=self._limits.build_tag,
            start_failures=self._starts.backoff.failures,
            start_wait_s=self._starts.backoff.wait_s,
            health=self._starts.health,
        )

    def _perform(self, command: Command) -> None:
        match command:
            case Start():
                self._start()
            case Stop(sandbox_id, reason):
                self._retire(self._slots[sandbox_id], reason)
            case Replace(sandbox_id, reason):
                self._counts["replaced"] += 1
                self._retire(self._slots[sandbox_id], reason)
                self._start()
            case Refresh(sandbox_id, reason):
                slot = self._slots[sandbox_id]
                log.info("a sandbox is renewed", extra={"sandbox_id": sandbox_id, "reason": reason})
                self._examine(slot, slot.client.renew(self._limits.start_timeout_s))
            case Check(sandbox_id):
                slot = self._slots[sandbox_id]
                self._examine(slot, slot.client.check(self._limits.health_timeout_s))

    def _start(self) -> None:
        now = time.monotonic()
        slot = PoolSlot(self._actors.client(f"{self.spec.name}-{uuid.uuid4().hex[:12]}"), now, now)
        self._slots[slot.sandbox_id] = slot
        self._tasks.spawn(self._bring_up(slot))

    async def _bring_up(self, slot: PoolSlot) -> None:
        try:
            status = await self._starts.bring_up(slot.client)
        except ServiceError as error:
            log.error("a sandbox did not start", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
            self._decide_first(error)
            await self._end(slot)
            return
        slot.checked(status, time.monotonic())
        slot.become(SlotState.IDLE, slot.checked_at)
        self._decide_first(None)
        await self._offer(slot)

    def _examine(self, slot: PoolSlot, asking: Coroutine[Any, Any, SandboxStatus]) -> None:
        slot.examining, slot.checked_at = True, time.monotonic()
        self._tasks.spawn(self._examined(slot, asking))

    async def _examined(self, slot: PoolSlot, asking: Coroutine[Any, Any, SandboxStatus]) -> None:
        """Offer a sandbox again if it is well; one that is not goes."""
        try:
            slot.checked(await asking, time.monotonic())
        except ServiceError as error:
            log.warning("a sandbox is lost", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
            self._starts.note_failure()
            await self._give_up(slot)
            return
        finally:
            slot.examining = False
        expected = self._limits.build_tag
        if expected and slot.status and slot.status.build_tag != expected:
            # Else a template that is wrong for good would be started and replaced without end.
            self._starts.backoff.failed(self._starts.health)
        await self._offer(slot)

    async def _offer(self, slot: PoolSlot) -> None:
        if slot.serving and slot.status:
            try:
                await self._queue.offer(self.spec.name, slot.sandbox_id, slot.status.generation)
            except ServiceError as error:
                # The next check offers it again, and a queue that was restarted is told of all.
                log.warning("not offered", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})

    async def _give_up(self, slot: PoolSlot) -> None:
        """Let nobody have a sandbox that does not answer; the next turn stops it."""
        if slot.serving:
            slot.become(SlotState.SUSPECT, time.monotonic())
        try:
            await self._queue.withdraw(self.spec.name, slot.sandbox_id)
        except ServiceError as error:
            log.warning("not withdrawn yet", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})

    def _retire(self, slot: PoolSlot, reason: str) -> None:
        log.info("a sandbox goes", extra={"sandbox_id": slot.sandbox_id, "reason": reason})
        slot.stopping = True
        self._tasks.spawn(self._withdraw_and_end(slot))

    async def _withdraw_and_end(self, slot: PoolSlot) -> None:
        try:
            leased = await self._queue.withdraw(self.spec.name, slot.sandbox_id)
        except ServiceError as error:
            log.warning("to be withdrawn again", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
            slot.stopping = False
            return
        if leased and slot.state.serving:
            slot.busy = True
            slot.become(SlotState.RETIRING, time.monotonic())
            slot.stopping = False
            return
        await self._end(slot)

    async def _end(self, slot: PoolSlot) -> None:
        """Stop the actor, gently if it answers."""
        if self._slots.pop(slot.sandbox_id, None) is None:
            return
        self._counts["stopped"] += 1
        slot.state = SlotState.STOPPED  # whatever it was: nothing is asked of it any more
        try:
            await slot.client.stop(STOP_TIMEOUT_S)
        except ActorUnavailable as error:
            log.info("a sandbox did not stop by itself", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
        self._actors.kill(slot.sandbox_id)
        self._starts.permits.give_up(slot.sandbox_id)

    def _decide_first(self, error: ServiceError | None) -> None:
        if not self.first.done():
            self.first.set_result(error)

    def _failed(self, error: BaseException) -> None:
        """A bug must not leave a backend without its pool: the loop goes on, and the log has the traceback."""
        log.error("the pool's work failed", exc_info=error, extra={"backend": self.spec.name})
