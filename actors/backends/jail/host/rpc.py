"""Questions to an inmate and its answers, which may come from hostile code in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from actors.backends.jail.frames import ProtocolViolation
from actors.backends.jail.host.process import Inmate
from actors.backends.jail.host.results import clean
from actors.errors import ActionFailed, NotFound, SandboxLost

ANSWER_S = 30.0
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


class Questions:
    """Numbers each question, and hands its answer to who asked."""

    def __init__(self, inmate: Inmate) -> None:
        self._inmate = inmate
        self._asked = 0
        self._waiting: dict[int, tuple[asyncio.Future[Any], Callable[[Any], None] | None]] = {}

    async def ask(
        self, action: dict[str, Any], timeout_s: float = ANSWER_S, on_answer: Callable[[Any], None] | None = None
    ) -> Any:
        """Have one action done and return its answer, which ``on_answer`` sees before anything said later is read.

        Raises:
            ActionFailed: it cannot be done.
            SandboxLost: the inmate ended, or does not answer.
        """
        self._asked += 1
        number, future = self._asked, asyncio.get_running_loop().create_future()
        self._waiting[number] = future, on_answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._inmate.send({"kind": "action", "id": number, "action": action})
                if self._inmate.ended or self._inmate.violation is not None:
                    self.lose()
                return await future
        except TimeoutError:
            raise SandboxLost(f"the session did not answer within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    def answered(self, message: dict[str, Any]) -> bool:
        """Take in a message if it is an answer.

        Raises:
            ProtocolViolation: it has no proper shape.
        """
        number = message.get("id")
        if not isinstance(number, int):
            return False
        future, on_answer = self._waiting.get(number, (None, None))
        if future is None or future.done():
            return True  # nobody waits for it any more
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

    def expect(self, message: dict[str, Any]) -> None:
        """Take in an answer.

        Raises:
            ProtocolViolation: it is something else.
        """
        if not self.answered(message):
            raise ProtocolViolation("a message out of turn")

    def lose(self) -> None:
        """Let everybody go who waits: there will be no answer."""
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(SandboxLost("the session's process ended before it answered; ask again"))
                future.exception()  # looked at here, since whoever asked may have given up
