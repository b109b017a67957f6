"""A supervisor's side of one cell: its life, and the births and deaths of those who live there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from actors.backends.jail import fork_protocol, messages
from actors.backends.jail.host import jail_server_client
from actors.backends.jail.host.process import Inmate, ignore
from actors.backends.jail.host.usage import Meter
from actors.errors import SandboxLost, SandboxStartFailed

READY_S = 20.0
FORKED_S = 5.0
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
        self._nested: asyncio.Future[int] | None = None
        self._spaces: list[int] = []
        """Of a cell within another, for the interpreter that forks itself into it."""
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
                word, fds = await jail_server_client.receive(self._control)
        except TimeoutError:
            raise SandboxStartFailed("a cell was not made in time") from None
        finally:
            # Not before: its end would close the socket under whoever waits for its first word.
            self._loop.add_reader(self._pidfd, self._end)
        if word is None or "cell" not in word:
            raise SandboxStartFailed(f"no cell was made: {(word or {}).get('failed', 'it ended at once')}")
        self.meter, self._spaces = Meter(fds[0]), fds[1:]
        self._loop.add_reader(self._control, self._read_control)

    @property
    def interpreter(self) -> Inmate:
        """The first that was born since ``renew``."""
        return next(iter(self._inmates.values()))

    def retire(self) -> None:
        """The interpreter's work is over; what it left counts until ``renew`` has cleared it away."""
        self.cleared = self._loop.create_future()

    async def renew(self, disk_mib: int, role: int = fork_protocol.INTERPRETER) -> None:
        """Have a new interpreter where the old one, with all that it left, is no more.

        Raises:
            SandboxStartFailed: there is none.
        """
        for inmate in self._inmates.values():
            inmate.leave()
        self._inmates.clear()
        interpreter = await self._bear({"op": "birth", "role": role, "disk_mib": disk_mib})
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

    async def fork(self, interpreter: Inmate, disk_mib: int) -> Cell:
        """Make a cell within this one, with a copy of its files, into which a forkable interpreter forks itself.

        Raises:
            SandboxStartFailed: it could not be made, or what came into it is not to be trusted.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._nested = self._loop.create_future()
        with theirs:
            self._notify({"op": "nest", "disk_mib": disk_mib}, [theirs.fileno()])
        try:
            async with asyncio.timeout(READY_S):
                pidfd = await self._nested
        except TimeoutError:
            ours.close()
            raise SandboxStartFailed("no cell was made for a fork") from None
        cell = Cell(self.kind, ours, pidfd)
        cell._shared = True
        try:
            await cell.open()
            await cell._adopt(interpreter)
        except BaseException:
            await cell.close()
            raise
        return cell

    async def _adopt(self, parent: Inmate) -> None:
        """Have an interpreter of the cell around fork itself into this one, and see what came."""
        self._lives += 1
        inmate = self._inmates[self._lives] = Inmate(self._lives, self._punish)
        ready: list[bool] = []
        said: list[bytes] = []
        inmate.on_output = lambda _, data: said.append(data)
        inmate.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        answered: list[bool] = []
        parent.on_message = lambda message, _: answered.append(message.get("kind") == "forked")
        try:
            await parent.send({"kind": "fork"}, [*self._spaces, *inmate.files])
        finally:
            inmate.hand_over()
            for fd in self._spaces:
                os.close(fd)
            self._spaces = []
        try:
            async with asyncio.timeout(FORKED_S):
                await inmate.until(lambda: bool(ready))
                self._notify({"op": "adopt", "life": inmate.life})
                await inmate.until(lambda: inmate.pid != 0)
                await parent.until(lambda: bool(answered))
        except TimeoutError:
            pass  # what there is to say is said below
        inmate.on_output = inmate.on_message = parent.on_message = ignore
        if not inmate.pid or not answered:
            reason = (inmate.last_word or {}).get("failed") or b"".join(said)[-500:].decode(errors="replace")
            raise SandboxStartFailed(f"the interpreter did not fork: {reason or 'it does not answer'}")
        self.meter.restart(inmate.pid)

    def leave_to_nested(self) -> None:
        """End all that lives here but what is in cells within this one."""
        self._notify({"op": "leave"})

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
            while True:
                word, fds = messages.receive(self._control)
                if word is None:
                    break
                self._hear(word, fds)
            self._loop.remove_reader(self._control)

    def _hear(self, word: dict[str, Any], fds: list[int]) -> None:
        match word:
            case {"resized": _}:
                self._set(self._resized)
            case {"nested": _}:
                if self._nested is not None and not self._nested.done():
                    self._nested.set_result(fds[0])
            case {"life": int(life)}:
                inmate = self._inmates.get(life)
                if inmate is None:
                    pass  # one that is forgotten
                elif "cleared" in word:
                    self._set(self.cleared)
                elif "born" in word:
                    inmate.pid = word["born"]
                    inmate.changed.set()
                else:
                    inmate.end(word)
            case {"failed": _}:  # process 1 itself, and everyone with it
                for inmate in self._inmates.values():
                    inmate.end(word)

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
        if self._nested is not None and not self._nested.done():
            self._nested.cancel()

    def _set(self, future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)
