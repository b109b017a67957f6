"""The language host of JavaScript and TypeScript.

A single program is Node.js's main module, as in ``node program.js``; those of a session run in one console.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from actors.backends.jail.inside.hosting import (
    LanguageHostEnded,
    Send,
    discard_signal,
    ended,
    interrupting,
    openable,
)
from actors.backends.jail.inside.javascript import reports
from actors.backends.jail.inside.javascript.channels import Channels

_SOURCES = {path.name: path.read_bytes() for path in Path(__file__).parent.glob("*.js")}
# Its own parser and its own compiler are among the internals of Node.js.
_FLAGS = {"javascript": ["--expose-internals"], "typescript": ["--expose-internals", "--enable-source-maps"]}
_ENDINGS = {"javascript": ".js", "typescript": ".ts"}


class JavaScript:
    """The host of JavaScript programs."""

    language = "javascript"

    def __init__(self, program: str, send: Send, persistent: bool) -> None:
        signal.signal(signal.SIGINT, discard_signal)
        directory = tempfile.mkdtemp(prefix=reports.DIRECTORY)
        for name, source in _SOURCES.items():
            Path(directory, name).write_bytes(source)
        self._command, self._directory, self._send = [program, *_FLAGS[self.language]], directory, send
        self._console = _Console([*self._command, f"{directory}/console.js"], self.language) if persistent else None

    def run_program(self, request: dict[str, Any], stdin: int | None) -> None:
        """Run one program to its end; a SIGINT of this process interrupts it.

        Raises:
            LanguageHostEnded: a session's Node.js has ended with it.
        """
        if self._console is None:
            self._run_alone(request["code"], request["env"], stdin)
            return
        program = {"code": request["code"], "env": request["env"], "stdin": openable(stdin)}
        status = self._console.run_program(program, self._send)
        if status is not None:
            self._tell_end(status)
            raise LanguageHostEnded

    def _run_alone(self, code: str, env: dict[str, str], stdin: int | None) -> None:
        try:
            program = _place(code, _ENDINGS[self.language])
        except OSError as error:
            self._send({"kind": "error", "name": "Error", "value": str(error), "traceback": f"Error: {error}"})
            return
        channels = Channels(self._send)
        process = subprocess.Popen(
            [*self._command, "--require", f"{self._directory}/program.js", program],
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            env=os.environ | env | channels.env,
            pass_fds=channels.fds,
            start_new_session=True,
        )
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            os.killpg(process.pid, signal.SIGINT)

        with interrupting(interrupt):
            failure = channels.follow(process)
        status = process.wait()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(program)
        if failure is not None:
            moved = failure.pop("moved", None)
            told = reports.traceback(channels.report, program, code if self.language == "javascript" else None, moved)
            self._send({"traceback": told or f"{failure['name']}: {failure['value']}", **failure})
        elif interrupted and status == -signal.SIGINT:
            self._send(ended("Interrupted", 128 + signal.SIGINT))
        else:
            self._tell_end(status)

    def _tell_end(self, status: int) -> None:
        """Say how Node.js has ended, unless all is well; of a signal this process dies too."""
        if status < 0:
            with contextlib.suppress(OSError):  # of SIGKILL, whose effect nobody changes
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        if status > 0:
            self._send(ended("ExitStatus", status))


class TypeScript(JavaScript):
    """The host of TypeScript programs."""

    language = "typescript"


class _Console:
    """A Node.js that runs one program after another, in ``console.js``."""

    def __init__(self, command: list[str], language: str) -> None:
        requests_r, self._requests = os.pipe()
        answers_r, answers_w = os.pipe()
        self._process = subprocess.Popen(
            [*command, str(requests_r), str(answers_w), language],
            stdin=subprocess.DEVNULL,
            pass_fds=(requests_r, answers_w),
            start_new_session=True,
        )
        os.close(requests_r)
        os.close(answers_w)
        self._answers = open(answers_r, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._answers.readline()  # that it is ready; if it has ended instead, its first program says how

    def run_program(self, request: dict[str, Any], send: Send) -> int | None:
        """Run a program and pass on what it displays; return the exit status of Node.js if it has ended too."""
        with contextlib.suppress(BrokenPipeError), open(self._requests, "w", closefd=False) as requests:
            requests.write(json.dumps(request) + "\n")
        with interrupting(lambda: os.killpg(self._process.pid, signal.SIGINT)):
            for answered in self._answers:
                message = json.loads(answered)
                if message["kind"] == "ended":
                    return None
                send(message)
            return self._process.wait()


def _place(code: str, ending: str) -> str:
    """Write a program into its working directory, under a name that is free there, and return the path."""
    paths = (os.path.abspath(f"program{number or ''}{ending}") for number in itertools.count())
    path = next(path for path in paths if not os.path.lexists(path))
    with open(path, "x", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.write(code)
    return path
