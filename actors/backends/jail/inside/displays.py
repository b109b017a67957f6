"""The displays of a program: which of the values that it shows are sent, how many there may be, what replaces what.

Runs in interpreters. The host kills an interpreter that sends more than its bounds; these here are lower, so that an
honest program never meets those: it loses values, and is told of it in a result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from actors.backends.jail.inside import mime_bundle

Send = Callable[[dict[str, Any]], None]
MAX_SHOWN = 900
"""Most values on show at a time; the last expression's comes in any case."""
MAX_SENT = 20_000
MAX_SENT_SIZE = 44_000_000
"""Most messages and characters of JSON that a program sends as it goes on. After that only its last state is sent."""
_MAX_KEPT, _MAX_KEPT_SIZE = 40, 4_000_000
"""Most values, and their size together, that are kept back until a program's end."""
_LAST_SIZE = 12_000_000
"""Room beside these for the value of the last expression."""


class Displays:
    """What one program after another displays. Threads may display at any time, also between programs."""

    def __init__(self, send: Send, flush: Callable[[], None]) -> None:
        self._send, self._flush, self._lock = send, flush, threading.RLock()
        self._running = False
        self._kept: list[tuple[dict[str, Any], int]] = []
        """Messages that wait for the end of the program, or the start of the next, with their sizes."""
        self._start()

    def begin(self) -> None:
        """Begin with a new program; what threads have displayed since the last comes first."""
        kept, self._kept = self._kept, []
        self._start()
        self._running = True
        for message, size in kept:
            self._pass(message, size)

    def finish(self) -> None:
        """Send what was kept back, and how much was left out."""
        with self._lock:
            kept, self._kept = self._kept, []
            if self._kept_clear:
                self._send({"kind": "clear"})
            for message, _ in kept:
                self._send(message)
            if self._left_out:
                what = f"{self._left_out:,} more values were displayed than a result has room for, and left out"
                self._send(_message({"text/plain": f"[… {what}]"}, {"results": what}))
            self._running = False

    def show(
        self, bundle: dict[Any, Any], *, main: bool = False, display_id: str | None = None, update: bool = False
    ) -> None:
        """Show a value by its forms; ``main`` is that of the last expression.

        With ``update`` it takes the place of those shown before by the same ``display_id``.
        """
        if os.getpid() != self._pid:  # a process of the program, which has no channel of its own
            print(bundle.get("text/plain", ""))
            return
        forms, omitted, size = mime_bundle.fit(bundle)
        message = _message(forms, omitted) | {"main": main}
        if display_id is not None:
            message |= {"display_id": str(display_id)[:200], "update": update}
        self._flush()
        with self._lock:
            self._pass(message, size)

    def clear(self, wait: bool) -> None:
        """Take back what this program has shown; with ``wait``, when it shows something next."""
        if os.getpid() != self._pid:
            return
        if wait:
            self._clearing = True
            return
        with self._lock:
            self._clear()

    def forget_threads(self) -> None:
        """Be free again in a fork, whatever threads that it does not have were doing here."""
        self._lock = threading.RLock()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._ids: set[str] = set()
        self._shown = self._sent = self._sent_size = self._left_out = 0
        self._clearing = self._kept_clear = False

    def _clear(self) -> None:
        self._clearing = False
        self._kept = []
        self._shown = 0
        self._ids.clear()
        if self._flows(0):
            self._sent += 1
            self._send({"kind": "clear"})
        else:
            self._kept_clear = True

    def _pass(self, message: dict[str, Any], size: int) -> None:
        if self._clearing:
            self._clear()
        name = message.get("display_id")
        replaces = message.get("update") and name in self._ids
        if not replaces and self._shown >= MAX_SHOWN and not message["main"]:
            self._left_out += 1
            return
        if self._flows(size) or (message["main"] and self._sent_size + size <= MAX_SENT_SIZE + _LAST_SIZE):
            self._sent += 1
            self._sent_size += size
            self._send(message)
        elif not self._keep(message, size):
            self._left_out += 1
            return
        if not replaces:
            self._shown += 1
        if name is not None:
            self._ids.add(name)

    def _flows(self, size: int) -> bool:
        return self._running and self._sent < MAX_SENT and self._sent_size + size <= MAX_SENT_SIZE

    def _keep(self, message: dict[str, Any], size: int) -> bool:
        """Keep a message back, in the place of the one that it replaces; False if there is no room."""
        if message.get("update"):
            self._kept = [old for old in self._kept if old[0].get("display_id") != message["display_id"]]
        if len(self._kept) >= _MAX_KEPT or sum(kept for _, kept in self._kept) + size > _MAX_KEPT_SIZE:
            return False
        self._kept.append((message, size))
        return True


def _message(forms: dict[str, Any], omitted: dict[str, str]) -> dict[str, Any]:
    message = {"kind": "result", "main": False, "formats": forms}
    return message | {"omitted": omitted} if omitted else message
