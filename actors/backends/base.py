"""What a backend is: the one protocol that every kind of them fulfils, proven by ``tests/contract``.

A *backend* makes *backend sandboxes*. A ``Sandbox`` actor holds a backend of its own and one of its sandboxes, and may
have the next one made meanwhile. Nothing here knows Ray; everything runs on one event loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Protocol

from actors.schemas import Limits, OutputEvent, Program, ProgramReport
from actors.schemas.action import Answer, Event, Followed, Performed

PREPARE_S, OUTPUTS_S = 5.0, 15.0
"""How long a backend may take to put a program's files in place, and to bring its output files back."""
_DEFAULT_LIMITS = Limits()
Emit = Callable[[OutputEvent], None]
"""Takes output as it happens. Never blocks; called on the event loop, in order."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend's sandboxes give, on this machine."""

    isolation: str
    """Named in every result, strongest form first: for example ``bwrap+seccomp, memory by cgroup``."""
    build_tag: str = ""
    """The BUILD_TAG that every sandbox should have; empty where anything will do."""


class BackendSandbox(Protocol):
    """One isolated place, serving one user in its whole life.

    Whoever holds it lets one program run at a time; ``perform`` and ``follow`` go on beside it.
    """

    @property
    def sandbox_id(self) -> str: ...

    async def execute(self, program: Program, emit: Emit | None = None) -> ProgramReport:
        """Run one program to its end and say how it ended; user code failing is a report, never an exception.

        Without ``program.session`` it starts from a pristine interpreter and workspace. Stops and kills the program
        within ``timeout_s`` of its beginning, the backend's grace for what it has to clean up, and 1 s, and when this
        coroutine is cancelled: afterwards nothing of it runs.

        Raises:
            SandboxLost: the sandbox failed, the program may have run.
            SandboxStartFailed: the program certainly never started; ``Throttled``: its provider would not have it now.
            UnknownSession: no such session in this sandbox; ``ContextLost``: no such interpreter in it any more.
            InvalidRequest: that interpreter is of another language.
        """
        ...

    async def open_session(self, session: str, forkable: bool = False, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Start an interpreter that keeps state and files between the programs that name it.

        Only one that is ``forkable`` can be forked. ``limits`` are those of its commands; programs bring their own.
        """
        ...

    async def fork_session(self, session: str, forks: list[str]) -> None:
        """Open sessions that start from what a forkable one has now: the memory of its interpreter, and its files.

        Raises:
            UnknownSession, ActionFailed, SandboxLost: as ``perform``.
            SessionBusy: a program is running in it.
            SandboxStartFailed: it does not fork; there are no new sessions.
        """
        ...

    async def perform(self, session: str, action: Performed) -> Answer:
        """Do something else in a session: with its files, commands or interpreters, also while a program runs there.

        Raises:
            UnknownSession: no such session in this sandbox.
            ActionFailed: it cannot be done; says why.
            SandboxLost: the session did not answer.
        """
        ...

    def follow(self, session: str, action: Followed) -> AsyncGenerator[Event]:
        """Yield what comes of an action as it happens, no faster than it is taken; closing it ends that.

        Raises:
            UnknownSession, ActionFailed, SandboxLost: as ``perform``.
        """
        ...

    async def close_session(self, session: str) -> None:
        """End it with all its processes and files; unknown names are ignored."""
        ...

    async def check(self) -> str:
        """Return the BUILD_TAG that the sandbox itself reads; proves that it is alive.

        Raises:
            SandboxLost: it does not answer.
        """
        ...

    async def close(self) -> None:
        """End everything in it. Idempotent; leaves no process, mount or file behind."""
        ...


class Backend(Protocol):
    """Makes sandboxes of one kind."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def start(self) -> None:
        """Make ready and prove that isolation holds here.

        Raises:
            IsolationUnavailable: this machine cannot isolate; says why and what to do.
            ConfigurationError: what its sandboxes are to be made from is not there.
        """
        ...

    async def create(self) -> BackendSandbox:
        """Make one sandbox, pristine and not yet anybody's.

        Raises:
            SandboxStartFailed: it could not be made; nothing is left of it. ``Throttled``: not now.
        """
        ...

    async def close(self) -> None:
        """End every sandbox that this object made, and what it keeps itself. Idempotent."""
        ...
