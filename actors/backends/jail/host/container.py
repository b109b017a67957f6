"""The host's side of one container: it controls the container's init, and holds the ends of the processes in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from actors.backends.jail import fork_protocol, messages
from actors.backends.jail.host.jail_server_client import receive
from actors.backends.jail.host.process import ContainerProcess, discard
from actors.backends.jail.host.usage import UsageMeter
from actors.errors import SandboxLost, SandboxStartFailed

READY_S = 20.0
FORKED_S = 5.0
DIES_S = 10.0
_CONTAINER_ENDED = {"killed": True}


class Container:
    """A place where one interpreter after another runs; in a session's, further processes beside the first."""

    def __init__(self, kind: str, control: socket.socket, pidfd: int, *, shared: bool = False) -> None:
        self.kind = kind
        self._control, self._pidfd = control, pidfd
        self._loop = asyncio.get_running_loop()
        self.meter = UsageMeter(-1)
        self._last_number = 0
        self._processes: dict[int, ContainerProcess] = {}
        self._shared = shared
        self._resized: asyncio.Future[None] | None = None
        self._nested: asyncio.Future[int] | None = None
        self._spaces: list[int] = []
        """The namespaces of a nested container, for the interpreter that forks itself into it."""
        self.cleared = self._loop.create_future()
        """Done when nothing is left of the last interpreter."""
        self.cleared.set_result(None)
        self.gone = asyncio.Event()
        self._control.setblocking(False)

    async def open(self) -> None:
        """Wait until the container has been made.

        Raises:
            SandboxStartFailed: it could not be.
        """
        try:
            async with asyncio.timeout(READY_S):
                event, fds = await receive(self._control)
        except TimeoutError:
            raise SandboxStartFailed("a container was not made in time") from None
        finally:
            # Not before: the init's end would close the socket that is waited on.
            self._loop.add_reader(self._pidfd, self._on_gone)
        if event is None or "made" not in event:
            raise SandboxStartFailed(f"no container was made: {(event or {}).get('failed', 'it ended at once')}")
        self.meter, self._spaces = UsageMeter(fds[0]), fds[1:]
        self._loop.add_reader(self._control, self._read_control)

    @property
    def interpreter(self) -> ContainerProcess:
        """The first process since ``renew``."""
        return next(iter(self._processes.values()))

    def retire(self) -> None:
        """Take note that the interpreter is of no more use; until ``renew`` has cleared it away, ``cleared`` waits."""
        self.cleared = self._loop.create_future()

    async def renew(self, disk_mib: int, role: int = fork_protocol.INTERPRETER) -> None:
        """Replace the interpreter, and all that it left, by a new one.

        Raises:
            SandboxStartFailed: there is none.
        """
        for process in self._processes.values():
            process.close()
        self._processes.clear()
        interpreter = self._new_process()
        await self._start(interpreter, {"op": "renew", "role": role, "disk_mib": disk_mib})
        self.meter.restart(interpreter.pid)

    def share(self) -> None:
        """From now on have what the first interpreter starts outlive it, and let further processes be started."""
        self._shared = True
        self._send({"op": "share"})

    async def start_process(self, role: int) -> ContainerProcess:
        """Start a further process in a shared container; ``role`` is one of ``fork_protocol``.

        Raises:
            SandboxStartFailed: it does not start.
        """
        process = self._new_process()
        try:
            await self._start(process, {"op": "start", "role": role})
        except BaseException:
            del self._processes[process.number]
            self._end_violator(process)
            process.close()
            raise
        return process

    async def fork(self, interpreter: ContainerProcess, disk_mib: int) -> Container:
        """Make a container nested in this one, with a copy of its files, and have a forkable interpreter fork into it.

        Raises:
            SandboxStartFailed: it could not be made, or what came into it is not to be trusted.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._nested = self._loop.create_future()
        with theirs:
            self._send({"op": "nest", "disk_mib": disk_mib}, [theirs.fileno()])
        try:
            async with asyncio.timeout(READY_S):
                pidfd = await self._nested
        except TimeoutError:
            ours.close()
            raise SandboxStartFailed("no container was made for a fork") from None
        nested = Container(self.kind, ours, pidfd, shared=True)
        try:
            await nested.open()
            await nested._adopt_fork_of(interpreter)
        except BaseException:
            await nested.close()
            raise
        return nested

    async def _adopt_fork_of(self, parent: ContainerProcess) -> None:
        """Have an interpreter of the outer container fork itself into this one, and have the init examine the fork."""
        process = self._new_process()
        ready: list[bool] = []
        said: list[bytes] = []
        process.on_output = lambda _, data: said.append(data)
        process.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        answered: list[bool] = []
        parent.on_message = lambda message, _: answered.append(message.get("kind") == "forked")
        try:
            await parent.send({"kind": "fork"}, [*self._spaces, *process.remote_ends])
        finally:
            process.close_remote_ends()
            for fd in self._spaces:
                os.close(fd)
            self._spaces = []
        with contextlib.suppress(TimeoutError):  # what went wrong is said below
            async with asyncio.timeout(FORKED_S):
                await process.wait_until(lambda: bool(ready))
                self._send({"op": "adopt", "number": process.number})
                await process.wait_until(lambda: process.pid != 0)
                await parent.wait_until(lambda: bool(answered))
        process.on_output = process.on_message = parent.on_message = discard
        if not process.pid or not answered:
            raise SandboxStartFailed(f"the interpreter did not fork: {_reason(process, said) or 'it does not answer'}")
        self.meter.restart(process.pid)

    def kill_outer(self) -> None:
        """Kill every process here except those in containers nested in this one."""
        self._send({"op": "kill_outer"})

    async def kill_process(self, process: ContainerProcess) -> None:
        """Kill one process with all that it started and that has not detached itself; wait for its end.

        Raises:
            SandboxLost: it does not end.
        """
        if not process.ended:
            self._send({"op": "kill", "number": process.number})
        try:
            async with asyncio.timeout(DIES_S):
                while not process.ended:
                    process.changed.clear()
                    await process.changed.wait()
        except TimeoutError:
            raise SandboxLost("a killed process does not end") from None
        self._processes.pop(process.number, None)
        process.close()

    def interrupt(self, process: ContainerProcess) -> None:
        """Raise KeyboardInterrupt in the program of an interpreter."""
        self._send({"op": "interrupt", "number": process.number})

    def freeze(self) -> None:
        """Stop every process in the container where it is."""
        self._send({"op": "freeze"})

    def thaw(self) -> None:
        """Let frozen processes go on."""
        self._send({"op": "thaw"})

    async def resize(self, disk_mib: int) -> None:
        """Change the size of the places to write."""
        if not self.gone.is_set():
            self._resized = self._loop.create_future()
            self._send({"op": "resize", "disk_mib": disk_mib})
            await self._resized

    def kill(self) -> None:
        """End the container and all in it at once. Idempotent."""
        if not self.gone.is_set():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def close(self) -> None:
        """Kill the container, and wait until nothing in it runs any more.

        Raises:
            SandboxLost: it does not die; the kernel holds on to one of its processes.
        """
        self.kill()
        try:
            async with asyncio.timeout(DIES_S):
                await self.gone.wait()
        except TimeoutError:
            raise SandboxLost("a killed container does not end") from None

    def _new_process(self) -> ContainerProcess:
        self._last_number += 1
        process = ContainerProcess(self._last_number, self._end_violator)
        self._processes[process.number] = process
        return process

    async def _start(self, process: ContainerProcess, request: dict[str, Any]) -> None:
        """Have the init start a process, and wait until that says that it is ready."""
        said: list[bytes] = []
        ready: list[bool] = []
        process.on_output = lambda _, data: said.append(data)
        process.on_message = lambda message, _: ready.append(message.get("kind") == "ready")
        self._send({**request, "number": process.number}, process.remote_ends)
        process.close_remote_ends()
        if self.gone.is_set():
            process.record_end(_CONTAINER_ENDED)
        try:
            async with asyncio.timeout(READY_S):
                await process.wait_until(lambda: bool(ready))
        except TimeoutError:
            raise SandboxStartFailed("a process was not ready in time") from None
        process.on_output = process.on_message = discard
        if not ready:
            raise SandboxStartFailed(f"a process died before it was ready: {_reason(process, said)}")

    def _end_violator(self, process: ContainerProcess) -> None:
        """End a process that broke the protocol."""
        if self._shared:
            self._send({"op": "kill", "number": process.number})
        else:
            self.kill()

    def _send(self, request: dict[str, Any], fds: list[int] | None = None) -> None:
        """Send the init a request; that the container has ended is no error."""
        if not self.gone.is_set():
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                messages.send(self._control, request, fds)

    def _read_control(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                event, fds = messages.receive(self._control)
                if event is None:
                    break
                self._take_event(event, fds)
            self._loop.remove_reader(self._control)

    def _take_event(self, event: dict[str, Any], fds: list[int]) -> None:
        match event:
            case {"resized": _}:
                _resolve(self._resized)
            case {"nested": _}:
                if self._nested is not None and not self._nested.done():
                    self._nested.set_result(fds[0])
            case {"number": int(number)}:
                process = self._processes.get(number)
                if process is None:
                    pass  # of a process that was closed
                elif "cleared" in event:
                    _resolve(self.cleared)
                elif "started" in event:
                    process.pid = event["started"]
                    process.changed.set()
                else:
                    process.record_end(event)
            case {"failed": _}:  # the init itself, and every process with it
                for process in self._processes.values():
                    process.record_end(event)

    def _on_gone(self) -> None:
        """Take note that the init, and so every process, is gone: its pidfd has become readable."""
        self._read_control()
        self.gone.set()
        for process in self._processes.values():
            process.record_end(_CONTAINER_ENDED)
            process.close()
        self._loop.remove_reader(self._control)
        self._loop.remove_reader(self._pidfd)
        self._control.close()
        os.close(self._pidfd)
        self.meter.close()
        _resolve(self.cleared)
        _resolve(self._resized)
        if self._nested is not None and not self._nested.done():
            self._nested.cancel()


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _reason(process: ContainerProcess, said: list[bytes]) -> str:
    """Return why a process failed to start, by the init's event or else by what the process wrote."""
    return str((process.end_event or {}).get("failed") or b"".join(said)[-500:].decode(errors="replace"))
