"""The guest agent's turns: it wakes up for whatever it left alone."""

from __future__ import annotations

import os
import socket
import threading
import time

from actors.backends.jail import frames
from actors.backends.jail.inside import guest_agent


class Resting:
    """A command whose rest is over between two looks at it."""

    pid, stdin, wants_to_write = 7, None, False

    def __init__(self, stream: int, pidfd: int) -> None:
        self.streams, self.pidfd, self._looks, self.was_read = {stream: "stdout"}, pidfd, 0, False

    @property
    def rest_s(self) -> float:
        self._looks += 1
        return 0.001 if self._looks == 1 else 0.0

    @property
    def listened_to(self) -> list[int]:
        return [] if self.rest_s > 0 else list(self.streams)

    def read(self, _: int) -> None:
        self.was_read = True

    def taken(self, count: int) -> None:
        """Take note of nothing."""


def test_a_stream_whose_rest_ends_meanwhile_is_not_forgotten() -> None:
    ours, theirs = socket.socketpair()
    (answers_r, answers_w), (stream, written), (never, end) = os.pipe(), os.pipe(), os.pipe()
    agent = guest_agent._GuestAgent(theirs, answers_w)
    command = Resting(stream, never)
    agent._commands[command.pid] = command  # type: ignore[assignment]
    os.write(written, b"x")
    wake = frames.encode({"kind": "taken", "command": command.pid, "count": 0})
    alarm = threading.Timer(3.0, ours.send, [wake])  # else a turn that sleeps for good would keep this test
    alarm.start()
    since_s = time.monotonic()
    while not command.was_read and time.monotonic() - since_s < 2:
        agent._take_turn()
    alarm.cancel()
    assert command.was_read
    assert time.monotonic() - since_s < 2
    for fd in (answers_r, answers_w, stream, written, never, end):
        os.close(fd)
    ours.close()
    theirs.close()
