"""A session's face for people and scripts that hold the Orchestrator's handle; blocks until each answer is there."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Unpack

from actors.clients.calls import UNHURRIED
from actors.clients.handle import OrchestratorHandle
from actors.clients.outcomes import value_of
from actors.clients.streams import stream, values_of
from actors.errors import NotFound, SandboxLost, ServiceError
from actors.schemas import ExecutionResult, OutputEvent, SessionRunOptions
from actors.schemas import action as do

PART_BYTES = 4 * 2**20
"""The size of a file's parts on their way; no more of a file is in memory at a time."""
Content = bytes | str | os.PathLike[str] | IO[bytes]
"""What a file is written from: bytes, text, the path of a local file, or an open one."""


class Session:
    """Interpreters, files and processes that stay until it is closed, in a sandbox that is its own.

        with actors.Session.open(orchestrator, user="ada") as session:
            session.files.put("data.csv", Path("local.csv"))
            session.run("import pandas as pd; data = pd.read_csv('data.csv')")
            session.commands.run("ls -l", on_stdout=print)

    Programs run one at a time; files and commands beside them. ``open`` makes one, the constructor attaches to one by
    its id. What the service cannot do is raised as a ``ServiceError``; how a program or command ended is a result.
    """

    def __init__(self, orchestrator: OrchestratorHandle, session: str, user: str = "default") -> None:
        self.id, self.user = session, user
        self._orchestrator = orchestrator
        self.files, self.commands = Files(self), Commands(self)

    @classmethod
    def open(cls, orchestrator: OrchestratorHandle, user: str = "default", **options: Any) -> Session:
        """Open a session; ``options`` are those of ``Orchestrator.open_session``: ``env``, ``limits``,
        ``forkable``, ``backend``, ``image``.

        Raises:
            Rejected: the user has too many, or no sandbox could be had.
        """
        return cls(orchestrator, value_of(orchestrator.open_session.remote(user=user, **options)), user)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.id!r}, user={self.user!r})"

    def run(self, code: str, **options: Unpack[SessionRunOptions]) -> ExecutionResult:
        """Run a program; ``options`` are those of ``Orchestrator.run``."""
        return value_of(self._orchestrator.run.remote(code, user=self.user, session=self.id, **options))

    def stream(self, code: str, **options: Unpack[SessionRunOptions]) -> Generator[OutputEvent | ExecutionResult]:
        """Run a program, and yield its output as it happens and then its result; leaving the loop early stops it."""
        return stream(self._orchestrator, code, user=self.user, session=self.id, **options)

    def open_context(self, context: str | None = None, language: str = "python", cwd: str = ".") -> str:
        """Start another interpreter with names of its own; returns what to give to ``run(context=…)``."""
        context = context or f"context-{uuid.uuid4().hex[:8]}"
        self.perform("open_context", context=context, language=language, cwd=cwd)
        return context

    def close_context(self, context: str) -> None:
        """End an interpreter and the processes that it started."""
        self.perform("close_context", context=context)

    def restart_context(self, context: str = do.DEFAULT_CONTEXT) -> None:
        """End an interpreter, whatever it does, and start it anew; files stay."""
        self.perform("restart_context", context=context)

    def contexts(self) -> list[do.ContextInfo]:
        found: list[do.ContextInfo] = self.perform("list_contexts")
        return found

    def interrupt(self, context: str = do.DEFAULT_CONTEXT) -> None:
        """Raise ``KeyboardInterrupt`` in the program that runs, from another thread; state is kept."""
        self.perform("interrupt", context=context)

    def fork(self, count: int = 1) -> list[Session]:
        """Open sessions that start from the same interpreter and files; this one must have been opened ``forkable``."""
        forks = value_of(self._orchestrator.fork_session.remote(self.id, count, user=self.user))
        return [Session(self._orchestrator, fork, self.user) for fork in forks]

    def pause(self) -> None:
        """Freeze every process: memory and files are kept, no CPU time is used; the next use has it resume."""
        self.perform("pause_session")

    def resume(self) -> None:
        """Let a paused session go on."""
        self.perform("resume_session")

    def close(self) -> None:
        """End it with all that is in it; one that is gone already is no error."""
        value_of(self._orchestrator.close_session.remote(self.id, user=self.user))

    def perform(self, kind: str, **fields: Any) -> Any:
        """Carry out one action of ``actors.schemas.action``, by its kind and fields, and return its answer.

        Raises:
            InvalidRequest: there is no such action, or a field of it breaks a rule.
            ActionFailed: it cannot be done; says why.
            UnknownSession: the session is gone.
        """
        action = do.performed({"kind": kind, **fields})
        return value_of(self._orchestrator.perform.remote(self.id, action, user=self.user))

    def follow(self, kind: str, **fields: Any) -> Generator[Any]:
        """Yield the events of an action as they happen, no faster than they are taken; leaving early ends it.

        Raises:
            InvalidRequest, ActionFailed, UnknownSession: as ``perform``.
        """
        action = do.followed({"kind": kind, **fields})
        return values_of(self._orchestrator.follow.options(**UNHURRIED), self.id, action, user=self.user)


class Files:
    """The files of a session. Paths are absolute, or relative to the workspace."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def put(self, path: str, content: Content, mode: int | None = None) -> do.FileEntry:
        """Write a file, and the directories above it; large ones go in parts and appear when they are whole."""
        with _opened(content) as source:
            part = source.read(PART_BYTES)
            following = source.read(PART_BYTES)
            if not following:
                return self._write(path, part, 0, mode)
            # Under another name until it is whole, so that nobody reads half of it.
            unfinished = f"{path}.part-{uuid.uuid4().hex[:8]}"
            try:
                offset = 0
                while part:
                    self._write(unfinished, part, offset, mode)
                    offset += len(part)
                    part, following = following, source.read(PART_BYTES) if following else b""
                return self.rename(unfinished, path)
            except BaseException:
                with contextlib.suppress(ServiceError):
                    self.remove(unfinished)
                raise

    def get(self, path: str) -> bytes:
        """The content of a file, whole in memory; ``download`` is for large ones."""
        return b"".join(self.parts(path))

    def text(self, path: str) -> str:
        return self.get(path).decode()

    def parts(self, path: str) -> Iterator[bytes]:
        """The content of a file, part after part."""
        offset = 0
        while part := self._session.perform("read_file", path=path, offset=offset, size=PART_BYTES).data:
            yield part
            offset += len(part)

    def download(self, path: str, to: str | os.PathLike[str]) -> Path:
        """Copy a file to this machine; it appears there when it is whole."""
        target = Path(to)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            try:
                for part in self.parts(path):
                    file.write(part)
                file.close()
                shutil.move(file.name, target)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        return target

    def list(self, path: str = ".", depth: int = 1) -> list[do.FileEntry]:
        """What is in a directory, and in those below it as deep as ``depth``."""
        found: list[do.FileEntry] = self._session.perform("list_directory", path=path, depth=depth)
        return found

    def stat(self, path: str) -> do.FileEntry:
        found: do.FileEntry = self._session.perform("stat_file", path=path)
        return found

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except NotFound:
            return False
        return True

    def make_directory(self, path: str) -> do.FileEntry:
        """Make a directory and those above it; one that is there is no error."""
        made: do.FileEntry = self._session.perform("make_directory", path=path)
        return made

    def rename(self, path: str, to: str) -> do.FileEntry:
        """Move a file or directory, in place of a file that is there."""
        moved: do.FileEntry = self._session.perform("rename_file", path=path, to=to)
        return moved

    def remove(self, path: str) -> None:
        """Remove a file, or a directory with all that is in it."""
        self._session.perform("remove_file", path=path)

    def watch(self, path: str = ".", recursive: bool = False) -> Generator[do.FileChange]:
        """Yield what is made, changed or removed in a directory, until the loop is left."""
        return self._session.follow("watch_directory", path=path, recursive=recursive)

    def _write(self, path: str, data: bytes, offset: int, mode: int | None) -> do.FileEntry:
        written: do.FileEntry = self._session.perform("write_file", path=path, data=data, offset=offset, mode=mode)
        return written


class Commands:
    """The shell commands of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(
        self,
        command: str,
        *,
        stdin: bytes | str | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Any,
    ) -> do.CommandResult:
        """Run a command line to its end; interrupting this ends it too.

        ``options`` are those of ``StartCommand``: ``cwd``, ``env``, ``timeout_s`` (60; None is without). What it puts
        out comes to the callbacks as it happens, and is in the result, up to the deployment's ``output_bytes``.
        """
        events = self._session.follow("start_command", command=command, stdin=stdin is not None, **options)
        try:
            for event in events:
                if event.kind == "started" and stdin is not None:
                    data = stdin.encode() if isinstance(stdin, str) else stdin
                    Command(self._session, event.pid).send(data, end=True)
                elif event.kind == "stdout" and on_stdout is not None:
                    on_stdout(event.text)
                elif event.kind == "stderr" and on_stderr is not None:
                    on_stderr(event.text)
                elif event.kind == "ended":
                    result: do.CommandResult = event.result
                    return result
        finally:
            events.close()
        raise SandboxLost("the command's events ended without its result")

    def start(self, command: str, **options: Any) -> Command:
        """Start a command line that runs on by itself; ``options`` as ``run``, and ``stdin=True`` or ``pty=…``.

        Without a ``timeout_s`` it runs as long as the session.
        """
        started = self._session.perform("start_command", **{"command": command, "timeout_s": None, **options})
        return Command(self._session, started.pid)

    def list(self) -> list[do.CommandInfo]:
        """Those that are running."""
        found: list[do.CommandInfo] = self._session.perform("list_commands")
        return found


class Command:
    """One command that was started."""

    def __init__(self, session: Session, pid: int) -> None:
        self._session, self.pid = session, pid

    def __repr__(self) -> str:
        return f"Command(pid={self.pid})"

    def events(self) -> Generator[do.CommandEvent]:
        """What it has put out so far, then what it does, last its result; leaving the loop leaves it running."""
        return self._session.follow("follow_command", pid=self.pid)

    def wait(self) -> do.CommandResult:
        """Wait for its end."""
        for event in self.events():
            if event.result is not None:
                return event.result
        raise SandboxLost("the command's events ended without its result")

    def send(self, data: bytes | str, end: bool = False) -> None:
        """Put data on its standard input, or type it on its terminal; ``end`` closes it after them."""
        raw = data.encode() if isinstance(data, str) else data
        parts = [raw[at : at + _INPUT_BYTES] for at in range(0, len(raw), _INPUT_BYTES)] or [b""]
        for number, part in enumerate(parts, 1):
            self._session.perform("send_input", pid=self.pid, data=part, end=end and number == len(parts))

    def resize(self, rows: int, cols: int) -> None:
        """Tell it the new size of its terminal."""
        self._session.perform("resize_terminal", pid=self.pid, rows=rows, cols=cols)

    def signal(self, signal: int | str) -> None:
        """Send it and what it started a signal, by number or name."""
        self._session.perform("signal_command", pid=self.pid, signal=signal)

    def kill(self) -> None:
        self.signal("KILL")


_INPUT_BYTES = 2**18


@contextlib.contextmanager
def _opened(content: Content) -> Iterator[IO[bytes]]:
    if isinstance(content, bytes | str):
        yield io.BytesIO(content.encode() if isinstance(content, str) else content)
    elif isinstance(content, os.PathLike):
        with open(content, "rb") as source:
            yield source
    else:
        yield content
