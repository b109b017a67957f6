"""The channels on which a Node.js that runs one program says what it displays, and reports the error that ends it."""

from __future__ import annotations

import json
import os
import select
import subprocess
from typing import Any

from actors.backends.jail.inside.hosting import READ_BYTES, Send


class Channels:
    """Two pipes: of messages, as JSON lines, and of what Node.js itself writes about the error that ends a program."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._messages, messages_w = os.pipe()
        self._report, report_w = os.pipe()
        self.fds = (messages_w, report_w)
        """What Node.js is to inherit; closed here by ``follow``."""
        self.env = {"NODE_RUN_CHANNELS": f"{messages_w},{report_w}"}
        self._line, self._text = b"", b""
        self._error: dict[str, Any] | None = None

    @property
    def report(self) -> str:
        """What Node.js has reported."""
        return self._text.decode(errors="replace")

    def follow(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Pass on messages until the process has ended, and return the one about its error, if any."""
        for fd in self.fds:
            os.close(fd)
        pidfd = os.pidfd_open(process.pid)
        poll = select.poll()
        for fd in (self._messages, self._report, pidfd):
            poll.register(fd, select.POLLIN)
        running = True
        # What the process has left in the pipes is read too, but not what others write who hold them still.
        while (ready := [fd for fd, _ in poll.poll(None if running else 0)]) or running:
            for fd in ready:
                if fd == pidfd:
                    running = False
                elif data := os.read(fd, READ_BYTES):
                    self._take(fd, data)
                    continue
                poll.unregister(fd)
        for fd in (self._messages, self._report, pidfd):
            os.close(fd)
        return self._error

    def _take(self, fd: int, data: bytes) -> None:
        if fd == self._report:
            self._text += data
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "error":
                self._error = message
            else:
                self._send(message)
