"""What a fake program does by itself: directives, and the few statements of Python that are understood."""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.backends.fake.directives import Directive, read_steps
from actors.schemas import Program, ProgramError

Write = Callable[[Literal["stdout", "stderr"], str], None]
"""Takes the stream and the text."""
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_LARGEST = 2**64
"""Larger numbers are not computed with, so that no program is much work."""


class Unsupported(Exception):
    """The program uses what only a real backend has."""


class _Raised(Exception):
    """The exception that a directive asks for: its name and its value."""


@dataclass(slots=True)
class FakeInterpreter:
    """Names and files, which stay from one program of a session to the next."""

    names: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    alive: bool = True
    value: Any = None
    """The value of the last program, if it ended in an expression."""
    line: int = 1
    """The line that the last program was in last."""

    def run(self, program: Program, write: Write) -> Iterator[Directive]:
        """Carry out a program, and yield what is to befall it where it does.

        Raises:
            InvalidRequest, Unsupported: it is no program for this backend.
            Exception: what it raised; ``describe`` tells it.
        """
        self.value, self.line = None, 1
        for step in read_steps(program.code):
            self.value, self.line = None, step.lineno
            if isinstance(step, ast.stmt):
                self.value = self._carry_out(step, write)
            elif not self._obey(step, program, write):
                yield step

    def describe(self, error: Exception) -> ProgramError:
        """Tell the exception that ended the last program."""
        name, value = error.args if isinstance(error, _Raised) else (type(error).__name__, clean(str(error)))
        traceback = f'Traceback (most recent call last):\n  File "<program>", line {self.line}\n{name}: {value}'
        return ProgramError(name=name, value=value, traceback=traceback)

    def _obey(self, directive: Directive, program: Program, write: Write) -> bool:
        """Do what a directive says, if it is the program's own doing."""
        kind, _, rest = directive.argument.partition(":")
        match directive.name:
            case "output":
                write("stdout", "x" * int(kind))
            case "stderr":
                write("stderr", f"{directive.argument}\n")
            case "show":
                write("stdout", f"{self._given(kind, rest, program)}\n")
            case "write":
                self.files[kind] = rest.encode()
            case "raise":
                raise _Raised(kind, rest)
            case _:
                return False
        return True

    def _given(self, kind: str, name: str, program: Program) -> str:
        if kind == "env":
            return program.env[name]
        if kind == "file" and name not in self.files:
            raise FileNotFoundError(2, "No such file or directory", name)
        data = self.files[name] if kind == "file" else program.stdin or b""
        return data.decode(errors="replace")

    def _carry_out(self, statement: ast.stmt, write: Write) -> Any:
        """Carry out a statement; returns the value of an expression."""
        match statement:
            case ast.Expr(value=ast.Call(func=ast.Name(id="print"), args=values, keywords=options)):
                chosen = {option.arg: self._evaluate(option.value) for option in options}
                if not chosen.keys() <= {"end", "flush"}:  # it is flushed whenever there is a pause
                    raise _unsupported("an option of print", statement)
                write("stdout", " ".join(str(self._evaluate(value)) for value in values) + chosen.get("end", "\n"))
            case ast.Expr(value=expression):
                return self._evaluate(expression)
            case ast.Assign(targets=[ast.Name(id=name)], value=expression):
                self.names[name] = self._evaluate(expression)
            case _:
                raise _unsupported(type(statement).__name__, statement)
        return None

    def _evaluate(self, node: ast.expr) -> Any:
        """Evaluate a name, a literal, or a sum or product of numbers."""
        match node:
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.Name(id=name) if not hasattr(builtins, name):
                raise NameError(f"name {name!r} is not defined")
            case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _ARITHMETIC:
                return _ARITHMETIC[type(kind)](self._number(left), self._number(right))
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise _unsupported(type(node).__name__, node) from None

    def _number(self, node: ast.expr) -> int | float:
        number = self._evaluate(node)
        if not isinstance(number, int | float) or abs(number) > _LARGEST:
            raise _unsupported("computing with this", node)
        return number


def clean(text: str) -> str:
    """Replace what UTF-8 has no bytes for, since a report must survive being sent."""
    return text.encode(errors="backslashreplace").decode()


def _unsupported(what: str, where: ast.stmt | ast.expr) -> Unsupported:
    return Unsupported(f"the fake backend does not understand {what} in line {where.lineno}; run this in a real one")
