"""Programs in other languages, each run by a process that the interpreter starts. Standard library only.

In a session that process stays, with what its programs have defined; where it ends, the interpreter is at its end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Say = Callable[[dict[str, Any]], None]
_HOST = Path(__file__).with_name("javascript_host.js").read_text()
_SCRIPT = "/tmp/program.sh"  # noqa: S108 - the jail's own
_READ_BYTES = 2**16


class GuestEnded(Exception):
    """The process of a session's language is over, and so is what its programs had defined."""


class Bash:
    """Shell programs. Their exit status is their outcome."""

    def __init__(self, program: str, say: Say, stays: bool) -> None:
        signal.signal(signal.SIGINT, _ignore)
        self._program, self._say = program, say
        self._shell = _StayingShell(program) if stays else None

    def run(self, request: dict[str, Any], stdin: int | None) -> None:
        """Run one program to its end, in which ``interrupt`` may hasten it.

        Raises:
            GuestEnded: the shell has ended with it.
        """
        Path(_SCRIPT).write_text(request["code"])
        if self._shell is None:
            status = self._run_alone(stdin, request["env"])
        else:
            with _openable(stdin) as source:
                status = self._shell.run(_SCRIPT, source, request["env"])
        if status != 0:
            name = "Interrupted" if status == 128 + signal.SIGINT else "ExitStatus"
            self._say({"kind": "error", "name": name, "value": str(status), "traceback": f"{name}: {status}"})
        if self._shell is not None and self._shell.ended:
            raise GuestEnded

    def _run_alone(self, stdin: int | None, env: dict[str, str]) -> int:
        source = subprocess.DEVNULL if stdin is None else stdin
        process = subprocess.Popen([self._program, _SCRIPT], stdin=source, env=os.environ | env, start_new_session=True)
        with _interrupting(lambda: os.killpg(process.pid, signal.SIGINT)):
            status = process.wait()
        return status if status >= 0 else 128 - status


class _StayingShell:
    """An interactive shell without a terminal: it alone returns to its prompt, all it knows kept, when interrupted."""

    def __init__(self, program: str) -> None:
        commands_r, self._commands = os.pipe()
        self._status, status_w = os.pipe()
        # What it says of having no terminal goes nowhere.
        self._process = subprocess.Popen(
            [program, "--noprofile", "--norc", "--noediting", "-i"],
            stdin=commands_r,
            stderr=subprocess.DEVNULL,
            pass_fds=(status_w, 2),
            env=os.environ | {"PS1": "", "PS2": "", "HISTFILE": ""},
            start_new_session=True,
        )
        self._status_fd = status_w  # its number in there too
        self._pidfd = os.pidfd_open(self._process.pid)
        errors = os.dup(2)
        os.close(commands_r)
        self._number = 0
        self._said = b""
        self.ended = False
        self._order(f"PS1= PS2= HISTFILE=; set +H; unset HISTFILE; exec 2>/proc/{os.getpid()}/fd/{errors}")
        # An interactive shell's own says so aloud.
        self._order(
            f'exit() {{ if [ "$BASHPID" = "$$" ]; then echo "exit ${{1:-$?}}" >&{status_w}; kill -KILL $$;'
            ' else builtin exit "$@"; fi; }'
        )

    def run(self, script: str, source: str, env: dict[str, str]) -> int:
        self._number += 1
        before, after = _scoped(env)
        end = f"printf '%d %d\\n' {self._number} $? >&{self._status_fd}"
        self._order(f"{before}. {script} < {source}; {end}; {after}")

        def interrupt() -> None:
            os.killpg(self._process.pid, signal.SIGINT)
            # The rest of that line is forgotten.
            self._order(f"printf '%d %d\\n' {self._number} {128 + signal.SIGINT} >&{self._status_fd}; {after}")

        with _interrupting(interrupt):
            return self._wait()

    def _wait(self) -> int:
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._status in ready:
                self._said += os.read(self._status, _READ_BYTES)
                while b"\n" in self._said:
                    line, _, self._said = self._said.partition(b"\n")
                    first, _, status = line.decode(errors="replace").partition(" ")
                    if first == "exit":
                        self.ended = True
                        self._process.wait()
                        return int(status) & 255 if status.isdigit() else 2
                    if first == str(self._number) and status.isdigit():
                        return int(status)
            elif self._pidfd in ready:
                self.ended = True
                status_of_end = self._process.wait()
                return status_of_end if status_of_end >= 0 else 128 - status_of_end

    def _order(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._commands, f"{line}\n".encode())


def _scoped(env: dict[str, str]) -> tuple[str, str]:
    """Return shell code that sets variables, and code that puts back what was there before."""
    before = after = ""
    for name, value in env.items():
        kept = f"__before_{name}"
        # A line break would end the line that the shell is to forget when it is interrupted.
        quoted = (
            "$'" + "".join(_escaped(character) for character in value) + "'" if "\n" in value else shlex.quote(value)
        )
        before += f'[ -n "${{{name}+x}}" ] && {kept}="${name}"; export {name}={quoted}; '
        after += f'if [ -n "${{{kept}+x}}" ]; then export {name}="${kept}"; unset {kept}; else unset {name}; fi; '
    return before, after or ":"


def _escaped(character: str) -> str:
    return {"\n": "\\n", "'": "\\'", "\\": "\\\\"}.get(character, character)


class JavaScript:
    """JavaScript and TypeScript programs, in a Node.js of the interpreter's own."""

    def __init__(self, program: str, say: Say, stays: bool) -> None:
        signal.signal(signal.SIGINT, _ignore)
        self._say, self._stays = say, stays
        requests_r, self._requests = os.pipe()
        answers_r, answers_w = os.pipe()
        self._process = subprocess.Popen(
            [program, "-e", _HOST, str(requests_r), str(answers_w)],
            stdin=subprocess.DEVNULL,
            pass_fds=(requests_r, answers_w),
            start_new_session=True,
        )
        os.close(requests_r)
        os.close(answers_w)
        self._answers = open(answers_r, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._ended = json.loads(self._answers.readline() or "{}").get("kind") != "ready"

    def run(self, request: dict[str, Any], stdin: int | None) -> None:
        """Run one program to its end, in which ``interrupt`` may hasten it.

        Raises:
            GuestEnded: Node.js has ended with it.
        """
        fields = {name: request[name] for name in ("code", "language", "env")}
        with _openable(stdin) as source:
            self._run({**fields, "stdin": source, "stays": self._stays})

    def _run(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError), open(self._requests, "w", closefd=False) as requests:
            requests.write(json.dumps(request) + "\n")
        with _interrupting(lambda: os.killpg(self._process.pid, signal.SIGINT)):
            for answered in self._answers:
                message = json.loads(answered)
                if message["kind"] == "ended":
                    return
                self._say(message)
            status = self._process.wait()
        if status < 0:
            # So that the interpreter ends as it did.
            with contextlib.suppress(OSError):  # of SIGKILL, whose effect nobody changes
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        if status != 0:
            self._say(
                {"kind": "error", "name": "ExitStatus", "value": str(status), "traceback": f"ExitStatus: {status}"}
            )
        raise GuestEnded


@contextlib.contextmanager
def _openable(stdin: int | None) -> Iterator[str]:
    """Give what is to be read from a descriptor, or nothing, a path by which other processes of this user can open it.

    The pipe itself is its maker's.
    """
    if stdin is None:
        yield os.devnull
        return
    with tempfile.TemporaryFile(buffering=0) as copy:
        while data := os.read(stdin, _READ_BYTES):
            copy.write(data)
        yield f"/proc/{os.getpid()}/fd/{copy.fileno()}"


@contextlib.contextmanager
def _interrupting(interrupt: Callable[[], None]) -> Iterator[None]:
    """While a program runs, have a SIGINT interrupt it instead of this process."""

    def handle(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            interrupt()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _ignore)


def _ignore(*_: object) -> None:
    """Let go by; a signal that is ignored for good stays so in every program that is started."""


GUESTS: dict[str, type[Bash | JavaScript]] = {"bash": Bash, "javascript": JavaScript, "typescript": JavaScript}
