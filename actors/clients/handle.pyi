"""The Orchestrator's handle as type checkers and editors see it: its calls have the signatures of its methods."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from ray import ObjectRef

from actors.orchestrator import Orchestrator

P = ParamSpec("P")
T = TypeVar("T")

class RefStream(Protocol[T]):
    """References to what a streaming method yields, as it comes; ``ray.cancel`` ends it early."""

    def __iter__(self) -> Iterator[ObjectRef[T]]: ...
    def __aiter__(self) -> AsyncIterator[ObjectRef[T]]: ...

class RemoteMethod(Generic[P, T]):
    """A method that answers once: ``ray.get(method.remote(…))``, or ``await method.remote(…)``."""

    def __init__(self, method: Callable[Concatenate[Orchestrator, P], Coroutine[Any, Any, T]]) -> None: ...
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[T]: ...
    def options(self, **options: Any) -> Self: ...

class StreamingMethod(Generic[P, T]):
    """A method that yields: ``for ref in method.remote(…): ray.get(ref)``."""

    def __init__(self, method: Callable[Concatenate[Orchestrator, P], AsyncIterator[T]]) -> None: ...
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> RefStream[T]: ...
    def options(self, **options: Any) -> Self: ...

class OrchestratorHandle:
    """The handle that ``actors.connect`` returns."""

    run = RemoteMethod(Orchestrator.run)
    run_many = RemoteMethod(Orchestrator.run_many)
    stream = StreamingMethod(Orchestrator.stream)
    stream_many = StreamingMethod(Orchestrator.stream_many)
    score = RemoteMethod(Orchestrator.score)
    score_many = RemoteMethod(Orchestrator.score_many)
    open_session = RemoteMethod(Orchestrator.open_session)
    fork_session = RemoteMethod(Orchestrator.fork_session)
    list_sessions = RemoteMethod(Orchestrator.list_sessions)
    perform = RemoteMethod(Orchestrator.perform)
    follow = StreamingMethod(Orchestrator.follow)
    close_session = RemoteMethod(Orchestrator.close_session)
    get_metrics = RemoteMethod(Orchestrator.get_metrics)
    health = RemoteMethod(Orchestrator.health)
    drain = RemoteMethod(Orchestrator.drain)
    shutdown = RemoteMethod(Orchestrator.shutdown)
