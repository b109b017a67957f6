"""The guest agent: a process in a session's container that does all but run programs: files, commands, watches.

It is a fork of a fork server and has the rights of the session's programs, so whatever a name or a link leads to is
theirs anyway. It can be trusted no more than they can, and the host does not.
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from actors.backends.jail import frames
from actors.backends.jail.inside import files, lockdown
from actors.backends.jail.inside.commands import RunningCommand
from actors.backends.jail.kernel import inotify

_READ_BYTES = 2**20
MAX_COMMANDS, MAX_WATCHES = 64, 64


def serve(channel: socket.socket, answers: int) -> None:
    """Carry out what the host asks for until it closes the socket."""
    signal.signal(signal.SIGINT, lambda *_: None)  # not ignored, which its commands would inherit
    _GuestAgent(channel, answers).serve()


class _GuestAgent:
    def __init__(self, channel: socket.socket, answers: int) -> None:
        self._channel, self._answers = channel, answers
        self._decoder = frames.Decoder(trusting=True)
        self._commands: dict[int, RunningCommand] = {}
        self._over: list[RunningCommand] = []
        """Commands that have ended, but whose streams other processes still hold open."""
        self._watches: dict[int, inotify.Watch] = {}
        self._actions: dict[str, Callable[[dict[str, Any]], Any]] = {
            "limits": lambda action: lockdown.limit(**action["limits"], reserves=True),
            "start_command": self._start,
            "list_commands": lambda _: [command.describe() for command in self._commands.values()],
            "send_input": lambda action: self._command(action).write(base64.b64decode(action["data"]), action["end"]),
            "signal_command": lambda action: self._command(action).signal(action["signal"]),
            "resize_terminal": lambda action: self._command(action).resize(action["rows"], action["cols"]),
            "watch_directory": self._watch,
            "end_watch": self._end_watch,
        }
        self._send({"kind": "ready"})

    def serve(self) -> None:
        while True:
            self._take_turn()

    def _take_turn(self) -> None:
        """Wait for whatever comes next, and handle it."""
        self._over = [command for command in self._over if command.streams]
        # Asked before which streams are listened to: one whose rest ended in between would be in neither.
        rests = [rest_s for command in (*self._commands.values(), *self._over) if (rest_s := command.rest_s) > 0]
        poll, handlers = select.poll(), {}
        for fd, mask, handle in self._wanted():
            poll.register(fd, mask)
            handlers[fd] = handle
        for fd, _ in poll.poll(max(1, 1000 * min(rests)) if rests else None):
            handlers[fd]()

    def _wanted(self) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """Yield each descriptor to wait for, what for, and what to do then."""
        yield self._channel.fileno(), select.POLLIN, self._receive
        for command in (*self._commands.values(), *self._over):
            for fd in command.listened_to:
                yield fd, select.POLLIN, functools.partial(command.read, fd)
            if command.stdin is not None and command.wants_to_write:
                yield command.stdin, select.POLLOUT, command.feed
        # After their streams, so that what a command wrote last is read before its end.
        for command in self._commands.values():
            yield command.pidfd, select.POLLIN, functools.partial(self._end, command)
        for number, watch in self._watches.items():
            yield watch.fd, select.POLLIN, functools.partial(self._tell_changes, number)

    def _receive(self) -> None:
        data = self._channel.recv(_READ_BYTES)
        if not data:
            os._exit(0)
        for request, _ in self._decoder.feed(data):
            if request["kind"] == "taken":
                command = self._commands.get(request["command"])
                if command is not None:
                    command.taken(request["count"])
                continue
            action = request["action"]
            self._send(files.answer(request["id"], action, self._actions.get(action["kind"], files.perform)))

    def _start(self, action: dict[str, Any]) -> dict[str, Any]:
        if len(self._commands) == MAX_COMMANDS:
            raise OSError(errno.EAGAIN, f"{MAX_COMMANDS} commands are running; end one first")
        command = RunningCommand(action, self._send)
        self._commands[command.pid] = command
        return command.describe()

    def _end(self, command: RunningCommand) -> None:
        del self._commands[command.pid]
        command.ended()
        self._over.append(command)

    def _command(self, action: dict[str, Any]) -> RunningCommand:
        try:
            return self._commands[action["pid"]]
        except KeyError:
            raise OSError(errno.ESRCH, f"no command {action['pid']} is running") from None

    def _watch(self, action: dict[str, Any]) -> None:
        if len(self._watches) == MAX_WATCHES:
            raise OSError(errno.EAGAIN, f"{MAX_WATCHES} directories are watched; end one first")
        path = files.resolve(action["path"])
        try:
            self._watches[action["watch"]] = inotify.Watch(path, action["recursive"])
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from None

    def _end_watch(self, action: dict[str, Any]) -> None:
        watch = self._watches.pop(action["watch"], None)
        if watch is not None:
            watch.close()

    def _tell_changes(self, number: int) -> None:
        watch = self._watches.get(number)
        changes = watch.changes() if watch is not None else []  # else it was ended in the same turn
        if changes:
            shown = [{"kind": kind, "path": files.shown(path)} for kind, path in changes]
            self._send({"event": "changed", "watch": number, "changes": shown})

    def _send(self, message: dict[str, Any]) -> None:
        frames.write(self._answers, frames.encode(message))
