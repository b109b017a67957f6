"""A supervisor's side of one cell: its life, and the births and deaths of those who live there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from actors.backends.jail import client, messages
from actors.backends.jail.accounts import Meter
from actors.backends.jail.inmate import Inmate, ignore
from actors.errors import SandboxLost, SandboxStartFailed

READY_S = 20.0
DIES_S = 10.0
_CELL_ENDED = {"killed": True}


class Cell:
    """A place where one interpreter after another lives; in a session's, others beside the first."""

    def __init__(self, kind: str, control: socket.socket, pidfd: int) -> None:
        self.kind = kind
        self._control, self._pidfd = control, pidfd
        self._loop = asyncio.get_running_loop()
        self.meter = Meter(-1)
        self._lives = 0
        self._inmates: dict[int, Inmate] = {}
        self._shared = False
        self._resized: asyncio.Future[None] | None = None
        self.cleared = self._loop.create_future()
        """Done when nothing is left of the interpreter before."""
        self.cleared.set_result(None)
        self.gone = asyncio.Event()
        self._control.setblocking(False)

    async def open(self) -> None:
        """Wait until the cell itself stands.

        Raises:
            SandboxStartFailed: it does not.
        """
        try:
            async with asyncio.timeout(READY_S):
                word, fds = await client.receive(self._control)
        except TimeoutError:
            raise SandboxStartFailed("a cell was not made in time") from None
        finally:
            # Not before: its end would close the socket under whoever waits for its first word.
            self._loop.add_reader(self._pidfd, self._end)
        if word is None or "cell" not in word:
            raise SandboxStartFailed(f"no cell was made: {(word or {}).get('failed', 'it ended at once')}")
        self.meter = Meter(fds[0])
        self._loop.add_reader(self._control, self._read_control)

    @property
    def interpreter(self) -> Inmate:
        """The first that was born since ``renew``."""
        return next(iter(self._inmates.values()))

    def retire(self) -> None:
        """The interpreter's work is over; what it left counts until ``renew`` has cleared it away."""
        self.cleared = self._loop.create_future()

    async def renew(self, disk_mib: int) -> None:
        """Have a new interpreter where the old one, with all that it left, is no more.

        Raises:
            SandboxStartFailed: there is none.
        """
        for inmate in self._inmates.values():
            inmate.leave()
        self._inmates.clear()
        interpreter = await self._bear({"op": "birth", "disk_mib": disk_mib})
        self.meter.restart(interpreter.pid)

    def share(self) -> None:
        """From now on what the first interpreter has started outlives it, and others may join."""
        self._shared = True
        self._notify({"op": "share"})

    async def join(self, role: int) -> Inmate:
        """Have another inmate in a shared cell, as ``births`` names them.

        Raises:
            SandboxStartFailed: there is none.
        """
        try:
            return await self._bear({"op": "join", "role": role})
        except BaseException:
            inmate = self._inmates.pop(self._lives)
            self._punish(inmate)
            inmate.leave()
            raise

    async def dismiss(self, inmate: Inmate) -> None:
        """End one inmate, with the processes that it started and that have not detached themselves.

        Raises:
            SandboxLost: it does not end.
        """
        if not inmate.ended:
            self._notify({"op": "end", "life": inmate.life})
        try:
            async with asyncio.timeout(DIES_S):
                while not inmate.ended:
                    inmate.changed.clear()
                    await inmate.changed.wait()
        except TimeoutError:
            raise SandboxLost("a killed process does not end") from None
        self._inmates.pop(inmate.life, None)
        inmate.leave()

    def interrupt(self, inmate: Inmate) -> None:
        """Raise KeyboardInterrupt in its program."""
        self._notify({"op": "interrupt", "life": inmate.life})

    def freeze(self) -> None:
        """Stop every process in the cell where it is."""
        self._notify({"op": "freeze"})

    def thaw(self) -> None:
        """Let frozen processes go on."""
        self._notify({"op": "thaw"})

    async def resize(self, disk_mib: int) -> None:
        """Change how much its inmates may write."""
        if not self.gone.is_set():
            self._resized = self._loop.create_future()
            self._notify({"op": "resize", "disk_mib": disk_mib})
            await self._resized

    def kill(self) -> None:
        """End the cell and all in it, at once. Idempotent."""
        if not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Kill it and return when nothing of it runs any more.

        Raises:
            SandboxLost: it does not die; the kernel holds on to one of its processes.
        """
        self.kill()
        try:
            async with asyncio.timeout(DIES_S):
                await self.gone.wait()
        except TimeoutError:
            raise SandboxLost("a killed cell does not end") from None

    async def _bear(self, order: dict[str, Any]) -> Inmate:
        """Have an inmate, and wait until it says that it is ready."""
        self._lives += 1
        inmate = self._inmates[self._lives] = Inmate(self._lives, self._punish)
        said: list[bytes] = []
        ready: list[bool] = []
        inmate.on_output = lambda _, data: said.append(data)
        inmate.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        self._notify({**order, "life": inmate.life}, inmate.files)
        inmate.hand_over()
        if self.gone.is_set():
            inmate.end(_CELL_ENDED)
        try:
            async with asyncio.timeout(READY_S):
                await inmate.until(lambda: bool(ready))
        except TimeoutError:
            raise SandboxStartFailed("an inmate was not ready in time") from None
        inmate.on_output = inmate.on_message = ignore
        if not ready:
            reason = (inmate.last_word or {}).get("failed") or b"".join(said)[-500:].decode(errors="replace")
            raise SandboxStartFailed(f"an inmate died before it was ready: {reason}")
        return inmate

    def _punish(self, inmate: Inmate) -> None:
        """End one that broke the protocol."""
        if self._shared:
            self._notify({"op": "end", "life": inmate.life})
        else:
            self.kill()

    def _notify(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        """Tell process 1 something; a cell that has ended is no error."""
        if not self.gone.is_set():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                messages.send(self._control, message, fds)

    def _read_control(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while (word := messages.receive(self._control)[0]) is not None:
                if "resized" in word:
                    self._set(self._resized)
                    continue
                inmate = self._inmates.get(word["life"])
                if inmate is None:
                    continue  # one that is forgotten
                if "cleared" in word:
                    self._set(self.cleared)
                elif "born" in word:
                    inmate.pid = word["born"]
                else:
                    inmate.end(word)
            self._loop.remove_reader(self._control)

    def _end(self) -> None:
        """The kernel says that process 1, and so all of them, are gone."""
        self._read_control()
        self.gone.set()
        for inmate in self._inmates.values():
            inmate.end(_CELL_ENDED)
            inmate.leave()
        self._loop.remove_reader(self._control)
        self._loop.remove_reader(self._pidfd)
        self._control.close()
        os.close(self._pidfd)
        self.meter.close()
        self._set(self.cleared)
        self._set(self._resized)

    def _set(self, future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)
