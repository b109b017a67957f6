"""The modules, streams and files that a fake program meets. All made up: none touches the host."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

from actors.backends.fake.output import Output, Stream


class Stop(BaseException):
    """Root of what ends a program beyond its control. Not an ``Exception``, so that no program catches it."""


class Exited(Stop):
    """The program called ``os._exit``."""


class Unsupported(Stop):
    """The program uses what only a real backend has."""


class Module(SimpleNamespace):
    """A made-up module or object; a program may use and change its attributes."""


class Pause:
    """The value of ``time.sleep``: the statement that holds it lasts so long."""

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self.seconds = seconds


class World:
    """What one interpreter sees around it: standard streams, environment, files, and modules that share them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.environ: dict[str, str] = {}
        self._output = Output(0, None)
        self._stdin: list[bytes] = []
        stdin = Module(read=self._read_stdin, readline=self._read_line)
        self._modules = {
            "sys": Module(__name__="sys", stdin=stdin, stdout=self._stream("stdout"), stderr=self._stream("stderr")),
            "os": Module(__name__="os", environ=self.environ, _exit=_exit),
            "time": Module(__name__="time", sleep=Pause),
            "math": Module(__name__="math", pi=math.pi, e=math.e, sqrt=math.sqrt, floor=math.floor, ceil=math.ceil),
        }
        self.builtins: dict[str, Callable[..., Any]] = {"print": self._print, "input": self._input, "open": self._open}

    def connect(self, output: Output, stdin: bytes | None) -> None:
        """Give the next program its streams."""
        self._output, self._stdin = output, (stdin or b"").splitlines(keepends=True)

    def module(self, name: str) -> Module:
        if name in self._modules:
            return self._modules[name]
        if name.split(".")[0] in sys.stdlib_module_names:
            raise Unsupported(f"module {name!r}")
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def _stream(self, stream: Stream) -> Module:
        def write(text: str) -> int:
            self._output.write(stream, text.encode(errors="backslashreplace"))
            return len(text)

        def write_bytes(data: bytes) -> int:
            self._output.write(stream, data)
            return len(data)

        return Module(write=write, flush=lambda: None, buffer=Module(write=write_bytes, flush=lambda: None))

    def _print(self, *values: Any, sep: str = " ", end: str = "\n", file: Any = None, flush: bool = False) -> None:
        (file or self._modules["sys"].stdout).write(sep.join(map(str, values)) + end)
        if flush:
            self._output.flush()

    def _input(self, prompt: str = "") -> str:
        self._output.write("stdout", prompt.encode())
        if not self._stdin:
            raise EOFError("EOF when reading a line")
        return self._read_line().rstrip("\n")

    def _read_line(self) -> str:
        return self._stdin.pop(0).decode() if self._stdin else ""

    def _read_stdin(self) -> str:
        data, self._stdin = b"".join(self._stdin), []
        return data.decode()

    def _open(self, name: str, mode: str = "r") -> File:
        return File(self.files, name, mode)


class File(Module):
    """An open file of the workspace."""

    def __init__(self, files: dict[str, bytes], name: str, mode: str) -> None:
        kind = mode.replace("b", "").replace("t", "")
        if kind not in ("r", "w", "a"):
            raise Unsupported(f"open mode {mode!r}")
        if kind == "r" and name not in files:
            raise FileNotFoundError(2, "No such file or directory", name)
        if kind == "w" or name not in files:
            files[name] = b""

        def read() -> str | bytes:
            return files[name] if "b" in mode else files[name].decode()

        def write(data: str | bytes) -> int:
            files[name] += data.encode() if isinstance(data, str) else data
            return len(data)

        super().__init__(read=read, write=write, close=lambda: None)


def _exit(_: int) -> NoReturn:
    raise Exited
