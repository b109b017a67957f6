"""Evaluates a few statements of Python: the language of the fake backend's programs."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Generator
from typing import Any

from actors.backends.fake.expressions import Expressions
from actors.backends.fake.modules import File, Pause, Unsupported, World
from actors.backends.fake.output import Output

Pauses = Generator[float, None, None]
_TURNS = 256  # of a loop, before others on the event loop have theirs


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Interpreter(Expressions):
    """Evaluate programs one after another; names and files stay from one to the next.

    ``run`` yields pauses in seconds: 0 lets others have their turn, infinity never ends. Then ``value`` is that of
    the last expression. Python's own errors come out as they are, and a ``Stop`` for whatever else ends the program.
    """

    def __init__(self, memory_bytes: int) -> None:
        super().__init__(memory_bytes)
        self.world = World()
        self.line = 0
        self.value: Any = None
        self._builtins |= self.world.builtins
        self._turns = 0

    def run(self, code: str, output: Output, stdin: bytes | None) -> Pauses:
        self.world.connect(output, stdin)
        self._allocated, self.line, self.value = 0, 0, None
        body = ast.parse(code).body
        yield from self._block(body)
        if body and not isinstance(body[-1], ast.Expr):
            self.value = None

    def _block(self, body: list[ast.stmt]) -> Pauses:
        for statement in body:
            self.line = statement.lineno
            if isinstance(statement, ast.Expr):
                self.value = self.evaluate(statement.value)
                if isinstance(self.value, Pause):
                    seconds, self.value = self.value.seconds, None
                    yield seconds
            elif (simple := _SIMPLE.get(type(statement))) is not None:
                simple(self, statement)
            elif (compound := _COMPOUND.get(type(statement))) is not None:
                yield from compound(self, statement)
            else:
                raise Unsupported(f"{type(statement).__name__} in line {statement.lineno}")

    def _pass(self, _: ast.Pass) -> None:
        pass

    def _break(self, _: ast.Break) -> None:
        raise _Break

    def _continue(self, _: ast.Continue) -> None:
        raise _Continue

    def _assign(self, node: ast.Assign) -> None:
        value = self.evaluate(node.value)
        for target in node.targets:
            self.assign(target, value)

    def _augment(self, node: ast.AugAssign) -> None:
        self.assign(node.target, self.binary(node.op, self.evaluate(node.target), self.evaluate(node.value)))

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = self.world.module(alias.name)

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = self.world.module(node.module or "")
        for alias in node.names:
            self.names[alias.asname or alias.name] = self.attribute(module, alias.name)

    def _raise(self, node: ast.Raise) -> None:
        if node.exc is None:
            raise Unsupported(f"a bare raise in line {node.lineno}")
        error = self.evaluate(node.exc)
        if not isinstance(error, Exception) and not (isinstance(error, type) and issubclass(error, Exception)):
            raise Unsupported(f"raising anything but an Exception in line {node.lineno}")
        raise error

    def _assert(self, node: ast.Assert) -> None:
        if not self.evaluate(node.test):
            raise AssertionError(*([self.evaluate(node.msg)] if node.msg else []))

    def _if(self, node: ast.If) -> Pauses:
        yield from self._block(node.body if self.evaluate(node.test) else node.orelse)

    def _while(self, node: ast.While) -> Pauses:
        if isinstance(node.test, ast.Constant) and node.test.value and isinstance(node.body[0], ast.Pass):
            yield math.inf
        while self.evaluate(node.test):
            try:
                yield from self._turn(node.body)
            except _Break:
                return
        yield from self._block(node.orelse)

    def _for(self, node: ast.For) -> Pauses:
        for item in self.evaluate(node.iter):
            self.assign(node.target, item)
            try:
                yield from self._turn(node.body)
            except _Break:
                return
        yield from self._block(node.orelse)

    def _turn(self, body: list[ast.stmt]) -> Pauses:
        self._turns += 1
        if self._turns % _TURNS == 0:
            yield 0.0
        try:
            yield from self._block(body)
        except _Continue:
            return

    def _with(self, node: ast.With) -> Pauses:
        for item in node.items:
            value = self.evaluate(item.context_expr)
            if not isinstance(value, File):
                raise Unsupported(f"with, of anything but a file, in line {node.lineno}")
            if item.optional_vars is not None:
                self.assign(item.optional_vars, value)
        yield from self._block(node.body)

    def _try(self, node: ast.Try) -> Pauses:
        if node.finalbody:
            raise Unsupported(f"finally in line {node.lineno}")
        try:
            yield from self._block(node.body)
        except (_Break, _Continue):
            raise
        except Exception as error:
            for handler in node.handlers:
                if handler.type is None or isinstance(error, self.evaluate(handler.type)):
                    break
            else:
                raise
            if handler.name:
                self.names[handler.name] = error
            yield from self._block(handler.body)
        else:
            yield from self._block(node.orelse)


_SIMPLE: dict[type[ast.stmt], Callable[[Interpreter, Any], None]] = {
    ast.Pass: Interpreter._pass,
    ast.Break: Interpreter._break,
    ast.Continue: Interpreter._continue,
    ast.Assign: Interpreter._assign,
    ast.AugAssign: Interpreter._augment,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import_from,
    ast.Raise: Interpreter._raise,
    ast.Assert: Interpreter._assert,
}
_COMPOUND: dict[type[ast.stmt], Callable[[Interpreter, Any], Pauses]] = {
    ast.If: Interpreter._if,
    ast.While: Interpreter._while,
    ast.For: Interpreter._for,
    ast.With: Interpreter._with,
    ast.Try: Interpreter._try,
}
