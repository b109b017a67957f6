"""The language hosts: processes that an interpreter starts to run programs in other languages than Python.

This is the interpreter's side of them; both have the rights of the program. In a session the process is persistent,
with what its programs have defined; where it ends, the interpreter ends too. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

from actors.backends.jail.inside.hosting import (
    READ_BYTES,
    LanguageHostEnded,
    Send,
    discard_signal,
    ended,
    interrupting,
    openable,
)
from actors.backends.jail.inside.javascript.host import JavaScript, TypeScript

__all__ = ["HOSTS", "Bash", "JavaScript", "LanguageHostEnded"]

_SCRIPT = "/tmp/program.sh"  # noqa: S108 - the jail's own
_STATE = "/tmp/.shell-state"  # noqa: S108 - the jail's own
_ERREXIT = (
    "trap '__status=$?; if [[ $- == *e* || -n $__failing ]]; then __failing=1; set +e;"
    " if [[ $BASH_SUBSHELL -gt 0 ]]; then builtin exit $__status;"
    " elif [[ ${#BASH_SOURCE[@]} -gt 0 ]]; then return $__status; fi; fi' ERR; set -E"
)
"""Has a failure under ``set -e`` leave function after function and then the script, where it would end the shell."""
_KEEP_STATE = (
    "__keep() {{ local status=$? flags=$-; set +e; {{ declare -p; declare -f; alias -p; shopt -p; set +o;"
    " printf 'cd %q\\n' \"$PWD\"; [[ $flags == *e* ]] && echo set -e; }} > {state} 2>/dev/null;"
    ' echo "kept $status" >&{fd}; }}; trap __keep EXIT'
)
"""Has a shell that ends all the same, as at an unset variable, write down what it knows for the one that follows it."""


class Bash:
    """The host of shell programs, whose exit status is their outcome."""

    def __init__(self, program: str, send: Send, persistent: bool) -> None:
        signal.signal(signal.SIGINT, discard_signal)
        self._program, self._send = program, send
        self._shell = _PersistentShell(program) if persistent else None

    def run_program(self, request: dict[str, Any], stdin: int | None) -> None:
        """Run one program to its end; a SIGINT of this process interrupts it.

        Raises:
            LanguageHostEnded: the shell has ended with it.
        """
        Path(_SCRIPT).write_text(request["code"])
        if self._shell is None:
            status = self._run_alone(stdin, request["env"])
        else:
            status = self._shell.run_script(_SCRIPT, openable(stdin), request["env"])
        if status != 0:
            name = "Interrupted" if status == 128 + signal.SIGINT else "ExitStatus"
            self._send(ended(name, status))
        if self._shell is not None and self._shell.ended:
            raise LanguageHostEnded

    def _run_alone(self, stdin: int | None, env: dict[str, str]) -> int:
        source = subprocess.DEVNULL if stdin is None else stdin
        process = subprocess.Popen([self._program, _SCRIPT], stdin=source, env=os.environ | env, start_new_session=True)
        with interrupting(lambda: os.killpg(process.pid, signal.SIGINT)):
            status = process.wait()
        return status if status >= 0 else 128 - status


class _PersistentShell:
    """An interactive shell without a terminal.

    Only an interactive one returns to its prompt when it is interrupted, with all that it knows.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._status, self._status_fd = os.pipe()
        self._number = 0
        self._reported = b""
        self.ended = False
        self._start()

    def _start(self) -> None:
        commands_r, self._commands = os.pipe()
        errors = os.dup(2)
        # It complains of having no terminal, which nobody is to see.
        self._process = subprocess.Popen(
            [self._program, "--noprofile", "--norc", "--noediting", "-i"],
            stdin=commands_r,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._status_fd, errors),  # under the same numbers in there
            env=os.environ | {"PS1": "", "PS2": "", "HISTFILE": ""},
            start_new_session=True,
        )
        self._pidfd = os.pidfd_open(self._process.pid)
        os.close(commands_r)
        os.close(errors)
        self._write(f"PS1= PS2= HISTFILE=; set +H; unset HISTFILE; exec 2>&{errors} {errors}>&-")
        self._write(_ERREXIT)
        self._write(_KEEP_STATE.format(state=_STATE, fd=self._status_fd))
        # The shell's own ``exit`` prints that it does.
        self._write(
            f'exit() {{ if [ "$BASHPID" = "$$" ]; then echo "exit ${{1:-$?}}" >&{self._status_fd}; kill -KILL $$;'
            ' else builtin exit "$@"; fi; }'
        )

    def _follow(self) -> None:
        """Start a shell that knows what the last has written down."""
        self._process.wait()
        os.close(self._commands)
        os.close(self._pidfd)
        self._start()
        self._write(f". {_STATE} 2>/dev/null; rm -f {_STATE}")

    def run_script(self, script: str, source: str, env: dict[str, str]) -> int:
        """Run a script in the shell itself and return its exit status."""
        self._number += 1
        before, after = _scoped(env)
        end = f"printf '%d %d\\n' {self._number} $? >&{self._status_fd}"
        after = f"[[ -z $__failing ]] || set -e; {after}"
        self._write(f"{before}__failing=; . {script} < {source}; {end}; {after}")

        def interrupt() -> None:
            os.killpg(self._process.pid, signal.SIGINT)
            # The shell forgets the rest of that line, and so does not report the status.
            self._write(f"printf '%d %d\\n' {self._number} {128 + signal.SIGINT} >&{self._status_fd}; {after}")

        process = self._process
        with interrupting(interrupt):
            status = self._wait()
        if self._process is not process:
            self._write(after)
        return status

    def _wait(self) -> int:
        poll = select.poll()
        poll.register(self._status, select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._status in ready:
                self._reported += os.read(self._status, READ_BYTES)
                while b"\n" in self._reported:
                    line, _, self._reported = self._reported.partition(b"\n")
                    first, _, status = line.decode(errors="replace").partition(" ")
                    if first == "exit":
                        self.ended = True
                        self._process.wait()
                        return int(status) & 255 if status.isdigit() else 2
                    if first == "kept" and status.isdigit():
                        self._follow()
                        return int(status)
                    if first == str(self._number) and status.isdigit():
                        return int(status)
            elif self._pidfd in ready:
                self.ended = True
                status_of_end = self._process.wait()
                return status_of_end if status_of_end >= 0 else 128 - status_of_end

    def _write(self, line: str) -> None:
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


HOSTS: dict[str, type[Bash | JavaScript]] = {"bash": Bash, "javascript": JavaScript, "typescript": TypeScript}
