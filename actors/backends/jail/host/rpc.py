"""Remote procedure calls: actions that a process in a container carries out, and its answers.

Hostile code may answer in the place of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.process import ContainerProcess
from actors.backends.jail.host.results import clean
from actors.errors import ActionFailed, NotFound, SandboxLost

ANSWER_S = 30.0
"""How long a process may take to answer."""
_ENDED = "the session's process ended before it answered; try again"
_PROBLEMS = {
    "ENOENT": "not_found",
    "ESRCH": "not_found",
    "EEXIST": "exists",
    "ENOTDIR": "not_a_directory",
    "EISDIR": "is_a_directory",
    "ENOTEMPTY": "not_empty",
    "ENOSPC": "no_space",
    "EDQUOT": "no_space",
    "EFBIG": "no_space",
    "EACCES": "permission",
    "EPERM": "permission",
    "EROFS": "permission",
    "ELOOP": "is_a_link",
    "E2BIG": "too_many",
    "EAGAIN": "busy",
    "EPIPE": "closed",
    "ENOTTY": "no_terminal",
    "ENAMETOOLONG": "invalid",
    "EINVAL": "invalid",
    "ENOMEM": "no_memory",
}


class RpcClient:
    """The caller's side: it numbers each call, and gives each answer to the call that it belongs to."""

    def __init__(self, process: ContainerProcess) -> None:
        self._process = process
        self._waiting: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None] | None]] = {}

    @property
    def waiting(self) -> bool:
        """Whether a call waits for its answer."""
        return bool(self._waiting)

    async def call(
        self, action: dict[str, Any], timeout_s: float = ANSWER_S, on_answer: Callable[[Any], None] | None = None
    ) -> Any:
        """Have one action done and return its answer, which ``on_answer`` gets before any later message is read.

        Raises:
            ActionFailed: it cannot be done.
            SandboxLost: the process ended, or does not answer.
        """
        number, future = self._next_number(), asyncio.get_running_loop().create_future()
        self._waiting[number] = future, on_answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(number, action)
                if await self._process.wait_until(future.done):
                    return future.result()
        except TimeoutError:
            raise SandboxLost(f"the session did not answer within {timeout_s:g} s") from None
        finally:
            del self._waiting[number]
        raise SandboxLost(_ENDED)

    async def notify(self, action: dict[str, Any]) -> None:
        """Have one action done, and do not wait for its answer."""
        await self._send(self._next_number(), action)

    def take_answer(self, message: dict[str, Any]) -> bool:
        """Give a message to the call that it answers; return False if it is no answer.

        Raises:
            ProtocolViolation: it is an answer of the wrong shape, or to nothing that was asked.
        """
        number = message.get("id")
        if not isinstance(number, int):
            return False
        if number not in self._process.unanswered:
            raise ProtocolViolation("an answer that nobody asked for")
        self._process.unanswered.remove(number)
        future, on_answer = self._waiting.get(number, (None, None))
        if future is None or future.done():
            return True  # to a call that was given up
        failed = message.get("failed")
        if failed is None:
            answer = clean(message.get("answer"))
            if on_answer is not None:
                on_answer(answer)
            future.set_result(answer)
        elif isinstance(failed, dict):
            problem = _PROBLEMS.get(str(failed.get("errno")), "io")
            kind = NotFound if problem == "not_found" else ActionFailed
            future.set_exception(kind(problem, clean(str(failed.get("message"))[:1000])))
        else:
            raise ProtocolViolation("a failure of no shape")
        return True

    def require_answer(self, message: dict[str, Any]) -> None:
        """Give a message to the call that it answers.

        Raises:
            ProtocolViolation: it is no answer, or one of the wrong shape.
        """
        if not self.take_answer(message):
            raise ProtocolViolation("a message out of turn")

    def abort(self) -> None:
        """Have every call that waits raise ``SandboxLost``: there will be no answer."""
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(SandboxLost(_ENDED))
                future.exception()  # retrieved here, since the caller may have given up
        self._process.changed.set()

    def _next_number(self) -> int:
        self._process.last_call += 1
        self._process.unanswered.add(self._process.last_call)
        return self._process.last_call

    async def _send(self, number: int, action: dict[str, Any]) -> None:
        await self._process.send({"kind": "action", "id": number, "action": action})
