"""What can be done in a session besides running programs, and what comes of it.

An *action* is one of the messages below. ``perform`` carries one out and gives its answer; those that go on for a while
are *followed* instead: their events come as they happen. Paths are inside the sandbox, absolute or relative to the
workspace; they and links lead no further than a program of the session gets itself.
"""

from __future__ import annotations

import signal
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from actors.errors import invalid
from actors.schemas.message import Message
from actors.schemas.request import MAX_CODE_BYTES, MAX_TIMEOUT_S, EnvVars, Language
from actors.schemas.result import Outcome

CHUNK_BYTES = 2**20
"""Size of the parts in which a file is read or written, unless a call says otherwise."""
MAX_CHUNK_BYTES = 8 * 2**20
DEFAULT_CONTEXT = "default"

SandboxPath = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
ContextName = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Action(Message):
    """Base of the actions: what can be done in a session besides running programs."""


class ReadFile(Action):
    """Read a part of a file; answered by a ``FileChunk``, which is empty at the end."""

    kind: Literal["read_file"] = "read_file"
    path: SandboxPath
    offset: NonNegativeInt = 0
    size: Annotated[int, Field(gt=0, le=MAX_CHUNK_BYTES)] = CHUNK_BYTES


class WriteFile(Action):
    """Write a part of a file; answered by its ``FileEntry``.

    At offset 0 the file is made anew, with the directories above it; a link in its place is refused.
    """

    kind: Literal["write_file"] = "write_file"
    path: SandboxPath
    data: Annotated[bytes, Field(max_length=MAX_CHUNK_BYTES)]
    offset: NonNegativeInt = 0
    mode: Annotated[int, Field(ge=0, le=0o777)] | None = None


class ListDirectory(Action):
    """List a directory, and below it as deep as ``depth``; answered by ``FileEntry`` after ``FileEntry``, by name."""

    kind: Literal["list_directory"] = "list_directory"
    path: SandboxPath = "."
    depth: Annotated[int, Field(ge=1, le=64)] = 1


class StatFile(Action):
    """Look at a file, directory or link; answered by its ``FileEntry``."""

    kind: Literal["stat_file"] = "stat_file"
    path: SandboxPath


class MakeDirectory(Action):
    """Make a directory and those above it; one that is there is no error. Answered by its ``FileEntry``."""

    kind: Literal["make_directory"] = "make_directory"
    path: SandboxPath


class RemoveFile(Action):
    """Remove a file or link, or a directory with all that is in it."""

    kind: Literal["remove_file"] = "remove_file"
    path: SandboxPath


class RenameFile(Action):
    """Move a file or directory, in place of a file that is there; answered by its new ``FileEntry``."""

    kind: Literal["rename_file"] = "rename_file"
    path: SandboxPath
    to: SandboxPath


class WatchDirectory(Action):
    """Followed: a ``FileChange`` for whatever is made, changed or removed, until the follower goes away."""

    kind: Literal["watch_directory"] = "watch_directory"
    path: SandboxPath = "."
    recursive: bool = False


class Terminal(Message):
    """The size of a terminal, in characters."""

    rows: Annotated[int, Field(ge=1, le=1000)] = 24
    cols: Annotated[int, Field(ge=1, le=1000)] = 80


class StartCommand(Action):
    """Run a shell command line.

    Followed: ``CommandEvent`` after ``CommandEvent``, the last with its ``CommandResult``; a follower that goes away
    ends it. Performed: it runs in the background until it ends, is signalled or the session is closed; answered by its
    ``CommandInfo``, and ``FollowCommand`` follows it.
    """

    kind: Literal["start_command"] = "start_command"
    command: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CODE_BYTES, pattern=r"^[^\x00]+$")]
    cwd: SandboxPath = "."
    env: EnvVars = Field(default_factory=dict)
    timeout_s: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)] | None = 60.0
    """It is killed after so long; None lets it run as long as its session."""
    stdin: bool = False
    """Keep its standard input open for ``SendInput``; else there is nothing on it."""
    pty: Terminal | None = None
    """Run it on a terminal of this size, which merges its streams into one."""


class FollowCommand(Action):
    """Followed: what a running command has put out so far, as far as it was kept, and then what it does."""

    kind: Literal["follow_command"] = "follow_command"
    pid: PositiveInt


class ListCommands(Action):
    """Answered by the ``CommandInfo`` of each command that runs."""

    kind: Literal["list_commands"] = "list_commands"


class SendInput(Action):
    """Put bytes on the standard input, or terminal, of a command; ``end`` closes it after them."""

    kind: Literal["send_input"] = "send_input"
    pid: PositiveInt
    data: Annotated[bytes, Field(max_length=2**20)] = b""
    end: bool = False


class SignalCommand(Action):
    """Send a command, and the processes that it started, a signal."""

    kind: Literal["signal_command"] = "signal_command"
    pid: PositiveInt
    signal: int = int(signal.SIGKILL)

    @field_validator("signal", mode="before")
    @classmethod
    def _by_name_too(cls, value: Any) -> Any:
        if isinstance(value, str):
            name = value.upper() if value.upper().startswith("SIG") else f"SIG{value.upper()}"
            if name not in signal.Signals.__members__:
                raise ValueError(f"{value!r} is no signal")
            return int(signal.Signals[name])
        if isinstance(value, int) and value not in set(signal.Signals):
            raise ValueError(f"{value} is no signal")
        return value


class ResizeTerminal(Action):
    """Tell a command on a terminal its new size."""

    kind: Literal["resize_terminal"] = "resize_terminal"
    pid: PositiveInt
    rows: Annotated[int, Field(ge=1, le=1000)]
    cols: Annotated[int, Field(ge=1, le=1000)]


class OpenContext(Action):
    """Start another interpreter in the session, with names of its own; answered by its ``ContextInfo``."""

    kind: Literal["open_context"] = "open_context"
    context: ContextName
    language: Language = "python"
    cwd: SandboxPath = "."


class CloseContext(Action):
    """End an interpreter and the processes that it started; one that is gone is no error."""

    kind: Literal["close_context"] = "close_context"
    context: ContextName


class RestartContext(Action):
    """End an interpreter, whatever it does, and start it anew, without its names; files stay."""

    kind: Literal["restart_context"] = "restart_context"
    context: ContextName = DEFAULT_CONTEXT


class ListContexts(Action):
    """Answered by the ``ContextInfo`` of each interpreter of the session."""

    kind: Literal["list_contexts"] = "list_contexts"


class Interrupt(Action):
    """Raise ``KeyboardInterrupt`` in the program that runs; what the interpreter knows, it keeps."""

    kind: Literal["interrupt"] = "interrupt"
    context: ContextName = DEFAULT_CONTEXT


class PauseSession(Action):
    """Freeze every process of the session: it keeps its memory and files and takes no CPU time.

    Whatever is asked of it next has it resume by itself. It stays on its node and is lost with it.
    """

    kind: Literal["pause_session"] = "pause_session"


class ResumeSession(Action):
    """Let a paused session go on."""

    kind: Literal["resume_session"] = "resume_session"


FileAction = ReadFile | WriteFile | ListDirectory | StatFile | MakeDirectory | RemoveFile | RenameFile
CommandAction = StartCommand | ListCommands | SendInput | SignalCommand | ResizeTerminal
ContextAction = OpenContext | CloseContext | RestartContext | ListContexts | Interrupt
Performed = FileAction | CommandAction | ContextAction | PauseSession | ResumeSession
Followed = StartCommand | FollowCommand | WatchDirectory


class FileChunk(Message):
    """A part of a file."""

    data: bytes
    size: Annotated[int, Field(ge=0, lt=2**63)]
    """The bytes of the whole file."""


class FileEntry(Message):
    """A file, directory or link."""

    name: str
    path: str
    """Absolute."""
    type: Literal["file", "directory", "link", "other"]
    size: Annotated[int, Field(ge=0, lt=2**63)]
    mode: Annotated[int, Field(ge=0, le=0o7777)]
    modified_at: Annotated[float, Field(allow_inf_nan=False)]
    """Seconds since 1970, by the sandbox's clock."""
    target: str | None = None
    """Where a link leads."""


class FileChange(Message):
    """Something that happened below a watched directory. ``overflow`` says that changes came too fast: look again."""

    kind: Literal["created", "modified", "removed", "overflow"]
    path: str


class CommandInfo(Message):
    """A running command."""

    pid: int
    command: str
    cwd: str
    pty: bool
    running_s: float


class CommandResult(Message):
    """How a command ended."""

    outcome: Outcome
    """``ok`` for exit code 0, ``error`` for another, or what ended it."""
    exit_code: int
    """128 and the signal's number where a signal ended it, as a shell says it."""
    stdout: str = ""
    """As far as it was kept; ends with a marker and the true size where there was more. On a terminal, all output."""
    stderr: str = ""
    wall_s: float = 0.0
    message: str | None = None

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


class CommandEvent(Message):
    """Something that a followed command did."""

    kind: Literal["started", "stdout", "stderr", "pty", "ended"]
    pid: int
    text: str = ""
    """What came on ``stdout`` or ``stderr``."""
    data: bytes = b""
    """What came from the terminal."""
    result: CommandResult | None = None
    """How it ended, once it has."""


class ContextInfo(Message):
    """An interpreter of a session."""

    context: str
    language: str
    cwd: str
    alive: bool
    """False after it crashed or was killed: ``RestartContext`` starts it anew."""


class SessionInfo(Message):
    """An open session."""

    session: str
    user: str
    backend: str
    sandbox_id: str
    open_s: float
    idle_s: float
    state: Literal["running", "paused"] = "running"


Answer = (
    FileChunk | FileEntry | CommandInfo | ContextInfo | list[FileEntry] | list[CommandInfo] | list[ContextInfo] | None
)
Event = CommandEvent | FileChange
_PERFORMED: TypeAdapter[Performed] = TypeAdapter(Annotated[Performed, Field(discriminator="kind")])
_FOLLOWED: TypeAdapter[Followed] = TypeAdapter(Annotated[Followed, Field(discriminator="kind")])


def performed(action: Any) -> Performed:
    """Check an action, or a dict of its fields, that is to be performed.

    Raises:
        InvalidRequest: it is none, or names the field that breaks a rule.
    """
    checked: Performed = _checked(_PERFORMED, action)
    return checked


def followed(action: Any) -> Followed:
    """Check an action, or a dict of its fields, that is to be followed.

    Raises:
        InvalidRequest: as ``performed``.
    """
    checked: Followed = _checked(_FOLLOWED, action)
    return checked


def _checked(adapter: TypeAdapter[Any], action: Any) -> Any:
    try:
        return adapter.validate_python(action)
    except ValidationError as error:
        # The first part is the kind, by which the others were chosen.
        raise invalid(error, skip=1, whole="action") from None
