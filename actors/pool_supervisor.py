"""The PoolSupervisor actor: desired and actual pool, and the loop that brings them together."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from dataclasses import dataclass
from typing import Any

from actors.clients import registry
from actors.clients.sandboxes import SandboxClients, create_sandbox, no_room
from actors.clients.singletons import LimiterClient, QueueClient
from actors.config import Settings
from actors.core.pool.lifecycle import SlotState, move
from actors.core.pool.plan import (
    Check,
    DemandEstimator,
    PoolView,
    Refresh,
    Replace,
    SlotView,
    Start,
    StartBackoff,
    Stop,
)
from actors.core.pool.plan import plan as plan_pool
from actors.core.queue.reports import Watched
from actors.core.queue.slots import SlotUse
from actors.core.router import BackendView
from actors.errors import ActorUnavailable, ConfigurationError, IsolationUnavailable, RateLimited, ServiceError
from actors.sandbox import Sandbox
from actors.schemas import SandboxStatus
from actors.tasks import Tasks
from actors.telemetry.logs import log_as_json

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""The loop wakes when runs wait or a sandbox is in doubt, and at least so often."""
STEP_S = 0.02
"""And at most so often."""
STOP_TIMEOUT_S = 10.0
FATAL = (IsolationUnavailable, ConfigurationError)
"""What starting again cannot mend."""


@dataclass(slots=True)
class PoolSlot:
    """One sandbox actor, as the supervisor knows it."""

    sandbox_id: str
    state: SlotState
    since: float
    checked_at: float
    status: SandboxStatus | None = None
    busy: bool = False
    stopping: bool = False

    def become(self, state: SlotState, now: float) -> None:
        if state is not self.state:
            self.state, self.since = move(self.state, state), now


class PoolSupervisor:
    """Keep as many sandbox actors as the load needs, all of them alive, young and of the right BUILD_TAG.

    In memory only. A restart finds the live sandbox actors in Ray's register and adopts them; those that do not answer
    are killed. While it is away nothing is scaled or replaced, but runs go on.
    """

    def __init__(self, settings: Settings) -> None:
        log_as_json()
        self._settings, self._limits = settings, settings.pool
        self._backend = settings.router.local
        self._queue = QueueClient(settings.namespace)
        self._limiter = LimiterClient(settings.namespace)
        self._sandboxes = SandboxClients(settings.namespace)
        self._slots: dict[str, PoolSlot] = {}
        self._estimator = DemandEstimator(time.monotonic)
        self._backoff = StartBackoff(time.monotonic, random.Random())
        self._queue_epoch = 0
        self._seen_enqueued = 0
        self._counts = {"created": 0, "reused": 0, "errors": 0, "replaced": 0, "stopped": 0}
        self._tasks = Tasks(lambda error: log.error("supervision failed", exc_info=error))
        self._first_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._last_error: ServiceError | None = None
        self._build_tag = ""
        self._stopping = False
        self._tasks.keep(self._supervise, LOOK_S)

    async def ready(self) -> None:
        """Return when the first sandbox can serve.

        Raises:
            IsolationUnavailable, ActorUnavailable: the first start failed, and says why.
        """
        await asyncio.shield(self._first_ready)

    async def backends(self) -> dict[str, tuple[BackendView, str]]:
        """What the router may choose from, each with its BUILD_TAG; nothing until a sandbox has told its tag."""
        serving = [slot.status for slot in self._slots.values() if slot.state.serving and slot.status]
        self._build_tag = self._limits.build_tag or (serving[0].build_tag if serving else self._build_tag)
        if not self._build_tag:
            return {}
        return {self._backend: (BackendView(available=True, healthy=bool(serving)), self._build_tag)}

    async def health(self) -> dict[str, Any]:
        serving = sum(slot.state.serving for slot in self._slots.values())
        status = "ok" if serving >= max(1, self._limits.min_size) else "degraded" if self._last_error else "starting"
        detail = str(self._last_error) if self._last_error and status != "ok" else ""
        return {"status": status, "sandboxes": serving, "detail": detail}

    async def metrics(self) -> dict[str, Any]:
        states = [slot.state.value for slot in self._slots.values()]
        statuses = [slot.status for slot in self._slots.values() if slot.status]
        return {
            "pool_size": sum(slot.state.alive for slot in self._slots.values()),
            "states": {state: states.count(state) for state in sorted(set(states))},
            **self._counts,
            "concurrency": round(self._estimator.concurrency, 3),
            "backend": self._backend,
            "isolation": statuses[0].isolation if statuses else "",
            "build_tag": statuses[0].build_tag if statuses else "",
            "generations": sum(status.generation for status in statuses),
        }

    async def stop(self) -> None:
        """Withdraw and stop every sandbox, then end the loop. Idempotent."""
        self._stopping = True
        self._tasks.cancel()
        await asyncio.gather(*(self._end(slot) for slot in list(self._slots.values())))
        registry.kill_sandboxes(self._settings.namespace)

    async def _supervise(self) -> None:
        await self._adopt()
        while True:
            try:
                watched = await self._queue.watch(self._backend, LOOK_S)
                await self._reconcile(watched)
                for command in plan_pool(self._view(watched), self._limits):
                    self._perform(command)
            except ServiceError as error:
                log.warning("the loop will try again", extra={"error": str(error)})
                await asyncio.sleep(LOOK_S / 5)
            except Exception:
                # A bug here must not leave the deployment without a supervisor; it is logged, with its traceback.
                log.exception("the supervisor's loop failed and goes on")
                await asyncio.sleep(LOOK_S)
            await asyncio.sleep(STEP_S)

    async def _adopt(self) -> None:
        """Take over the sandbox actors that an earlier life of this actor made."""
        for sandbox_id in registry.sandbox_names(self._settings.namespace):
            now = time.monotonic()
            slot = PoolSlot(sandbox_id, SlotState.STARTING, now, now)
            try:
                slot.status = await self._sandboxes[sandbox_id].check(self._limits.health_timeout_s)
            except ServiceError as error:
                log.warning("an orphan was killed", extra={"sandbox_id": sandbox_id, "error": str(error)})
                registry.kill(sandbox_id, self._settings.namespace)
                continue
            slot.become(SlotState.IDLE, now)
            self._slots[sandbox_id] = slot
            self._queue_epoch = 0

    async def _reconcile(self, watched: Watched) -> None:
        """Take in what the queue knows: which sandboxes are leased, and which are in doubt."""
        now = time.monotonic()
        if watched.epoch != self._queue_epoch:
            self._queue_epoch = watched.epoch
            for slot in self._slots.values():
                if slot.state.serving and slot.status:
                    await self._queue.offer(self._backend, slot.sandbox_id, slot.status.generation)
            self._seen_enqueued = 0
            return
        arrived = max(0, watched.demand.enqueued - self._seen_enqueued)
        self._seen_enqueued = watched.demand.enqueued
        self._estimator.arrived(arrived)
        if arrived:
            self._estimator.served(arrived * watched.demand.service_s, arrived)
            self._counts["reused"] += arrived
        known = {view.sandbox_id: view for view in watched.slots}
        for slot in self._slots.values():
            view = known.get(slot.sandbox_id)
            slot.busy = view is not None and view.use is SlotUse.LEASED
            if slot.state.serving and not slot.stopping and view is not None:
                if view.use is SlotUse.SUSPECT:
                    self._tasks.spawn(self._examine(slot))
                slot.become(SlotState.LEASED if slot.busy or view.pinned_to else SlotState.IDLE, now)

    def _view(self, watched: Watched) -> PoolView:
        now = time.monotonic()
        slots = tuple(
            SlotView(
                sandbox_id=slot.sandbox_id,
                state=slot.state,
                in_state_s=now - slot.since,
                unchecked_s=now - slot.checked_at,
                age_s=slot.status.age_s + now - slot.checked_at if slot.status else 0.0,
                executions=slot.status.executions if slot.status else 0,
                sessions=slot.status.sessions if slot.status else 0,
                build_tag=slot.status.build_tag if slot.status else None,
                busy=slot.busy,
                stopping=slot.stopping,
            )
            for slot in self._slots.values()
        )
        return PoolView(
            slots=slots,
            waiting=watched.demand.startable,
            concurrency=self._estimator.concurrency,
            build_tag=self._limits.build_tag,
            start_failures=self._backoff.failures,
            start_wait_s=self._backoff.wait_s,
        )

    def _perform(self, command: Start | Stop | Replace | Refresh | Check) -> None:
        now = time.monotonic()
        match command:
            case Start():
                self._start()
            case Stop(sandbox_id, reason):
                self._retire(self._slots[sandbox_id], reason)
            case Replace(sandbox_id, reason):
                self._counts["replaced"] += 1
                self._retire(self._slots[sandbox_id], reason)
                self._start()
            case Refresh(sandbox_id) | Check(sandbox_id):
                slot = self._slots[sandbox_id]
                slot.checked_at = now
                self._tasks.spawn(self._examine(slot))

    def _start(self) -> None:
        now = time.monotonic()
        slot = PoolSlot(f"{self._backend}-{uuid.uuid4().hex[:12]}", SlotState.STARTING, now, now)
        self._slots[slot.sandbox_id] = slot
        self._tasks.spawn(self._bring_up(slot))

    async def _bring_up(self, slot: PoolSlot) -> None:
        sandbox_id = slot.sandbox_id
        try:
            await self._creation_token()
            create_sandbox(Sandbox, self._settings, sandbox_id, self._backend)
            slot.status = await self._sandboxes[sandbox_id].start(self._limits.start_timeout_s)
        except ServiceError as failed:
            error = no_room() or failed if isinstance(failed, ActorUnavailable) else failed
            self._counts["errors"] += 1
            self._backoff.failed()
            self._last_error = error
            log.error("a sandbox did not start", extra={"sandbox_id": sandbox_id, "error": str(error)})
            await self._end(slot)
            if not self._first_ready.done():
                self._first_ready.set_exception(error)
                self._first_ready.exception()  # looked at here, since nobody may be waiting
            return
        self._counts["created"] += 1
        self._backoff.succeeded()
        self._last_error = None
        slot.checked_at = time.monotonic()
        slot.become(SlotState.IDLE, slot.checked_at)
        await self._queue.offer(self._backend, sandbox_id, slot.status.generation)
        if not self._first_ready.done():
            self._first_ready.set_result(None)

    async def _creation_token(self) -> None:
        """Wait for leave to create; the plan's rate holds for all creations of the account."""
        deadline = time.monotonic() + self._limits.start_timeout_s
        while (lease := await self._limiter.lease("supervisor", self._backend, "creation", 1)).granted < 1:
            if time.monotonic() + lease.retry_after_s > deadline:
                raise RateLimited("no sandbox may be created yet", lease.retry_after_s)
            await asyncio.sleep(max(lease.retry_after_s, STEP_S))
        # Spent at once: a lease that is still out would keep the next token from being issued.
        self._limiter.give_back(lease.lease_id, 0)

    async def _examine(self, slot: PoolSlot) -> None:
        """Ask whether it is well: offered again if so, else replaced."""
        slot.checked_at = time.monotonic()
        try:
            slot.status = await self._sandboxes[slot.sandbox_id].check(self._limits.health_timeout_s)
        except ServiceError as error:
            log.warning("a sandbox is lost", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
            await self._queue.withdraw(self._backend, slot.sandbox_id)
            if slot.state.serving and not slot.stopping:
                slot.become(SlotState.SUSPECT, time.monotonic())
            return
        expected = self._limits.build_tag
        if expected and slot.status.build_tag != expected:
            # Else a template that is wrong for good would be started and replaced without end.
            self._backoff.failed()
        if slot.state.serving and not slot.stopping:
            await self._queue.offer(self._backend, slot.sandbox_id, slot.status.generation)

    def _retire(self, slot: PoolSlot, reason: str) -> None:
        log.info("a sandbox goes", extra={"sandbox_id": slot.sandbox_id, "reason": reason})
        slot.stopping = True
        self._tasks.spawn(self._withdraw_and_end(slot))

    async def _withdraw_and_end(self, slot: PoolSlot) -> None:
        leased = await self._queue.withdraw(self._backend, slot.sandbox_id)
        now = time.monotonic()
        if leased and slot.state.serving:
            slot.busy = True
            slot.become(SlotState.RETIRING, now)
            slot.stopping = False
            return
        await self._end(slot)

    async def _end(self, slot: PoolSlot) -> None:
        """Stop the actor, gently if it answers."""
        if self._slots.pop(slot.sandbox_id, None) is None:
            return
        self._counts["stopped"] += 1
        slot.state = SlotState.STOPPED
        try:
            await self._sandboxes[slot.sandbox_id].stop(STOP_TIMEOUT_S)
        except ActorUnavailable as error:
            log.info("a sandbox did not stop by itself", extra={"sandbox_id": slot.sandbox_id, "error": str(error)})
        registry.kill(slot.sandbox_id, self._settings.namespace)
        self._sandboxes.forget(slot.sandbox_id)
