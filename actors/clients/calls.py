"""Calls of actors: each has a deadline, giving one up cancels it, and Ray's failures become ours.

``asyncio.wait_for`` alone would leave the remote side running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, TaskCancelledError

from actors.errors import ActorUnavailable, ServiceError

CALL_TIMEOUT_S = 10.0
"""For a call that does not wait for anything but the actor itself, which may just be restarting."""
UNHURRIED: dict[str, Any] = {"_generator_backpressure_num_objects": 16}
"""Options of a stream that waits for who takes it, so that what they leave lying does not grow."""


async def answer(ref: Any, timeout_s: float, actor: str) -> Any:
    """Await a remote call.

    Raises:
        ServiceError: what the actor itself raised, or ``ActorUnavailable`` if it is gone or did not answer in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await ref
    except TimeoutError:
        cancel(ref)
        raise ActorUnavailable(actor, f"did not answer within {timeout_s:g} s") from None
    except asyncio.CancelledError:
        cancel(ref)
        raise
    except RayError as error:
        raise translated(error, actor) from None


def translated(error: RayError, actor: str) -> BaseException:
    """Our error for one of Ray's."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, ServiceError):
            return error.cause
        if isinstance(error.cause, TaskCancelledError):
            return asyncio.CancelledError()
        return ActorUnavailable(actor, f"failed inside: {error.cause!r}")
    if isinstance(error, TaskCancelledError):
        return asyncio.CancelledError()
    return ActorUnavailable(actor, "is gone or restarting" if isinstance(error, RayActorError) else repr(error))


def cancel(ref: Any) -> None:
    # A streaming generator is cancelled by the same call.
    ray.cancel(ref)


class ActorClient:
    """A named actor of the deployment, looked up again when its handle fails."""

    name = ""

    def __init__(self, namespace: str, name: str | None = None) -> None:
        self._namespace = namespace
        if name is not None:
            self.name = name
        self._handle: Any = None

    @property
    def actor(self) -> Any:
        """Its handle: of no type, since Ray's own says of every method that it never returns."""
        if self._handle is None:
            try:
                self._handle = ray.get_actor(self.name, namespace=self._namespace)
            except ValueError:
                raise ActorUnavailable(self.name, "is not there (yet)") from None
        return self._handle

    async def call(self, method: str, *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return await self.call_with(method, args, {}, timeout_s)

    async def call_with(
        self, method: str, args: tuple[Any, ...], keywords: dict[str, Any], timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        try:
            return await answer(getattr(self.actor, method).remote(*args, **keywords), timeout_s, self.name)
        except ActorUnavailable:
            self._handle = None
            raise

    async def call_streaming(self, method: str, *args: Any, **options: Any) -> AsyncGenerator[Any]:
        """Call a streaming method with Ray's ``options``, and yield what it yields; closing this ends the call.

        Raises:
            ServiceError: as ``answer``, though nothing is too late here.
        """
        refs = getattr(self.actor, method).options(**options).remote(*args)
        try:
            async for ref in refs:
                yield await ref
        except RayError as error:
            raise translated(error, self.name) from None
        finally:
            cancel(refs)


def was_restarted() -> bool:
    """Whether this is a later life of the actor that it is called in: its memory, and others' trust in it, is gone."""
    return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)
