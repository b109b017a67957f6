"""The expressions of Python that a fake program may use, evaluated from tables.

Nothing of the host can be reached: names, attributes, modules and files exist only if this module has them. What is
missing is ``Unsupported``, which is the backend's shortcoming and never reported as the program's.
"""

from __future__ import annotations

import ast
import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

from actors.backends.fake.modules import Module, Stop, Unsupported

_BIG_BYTES = 2**20  # smaller values are not counted against the memory limit
_MAX_BITS = 10**7  # of an integer
_MAX_RANGE = 10**7
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    *(abs, all, any, bool, dict, enumerate, float, int, len, list, max, min, repr, reversed, round, set, sorted),
    *(str, sum, tuple, zip),
)
_ERRORS = {
    name: value
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, Exception) and not issubclass(value, Warning)
}
BUILTINS: dict[str, Any] = {function.__name__: function for function in _FUNCTIONS} | _ERRORS
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        ["join", "upper", "lower", "strip", "split", "splitlines", "startswith", "endswith", "replace", "encode"]
    ),
    bytes: frozenset({"decode"}),
    list: frozenset(["append", "extend", "pop", "sort", "index", "count"]),
    dict: frozenset(["get", "keys", "values", "items", "pop", "update"]),
}


class OutOfMemory(Stop):
    """The program wants more memory than its limit."""


class Expressions:
    """Evaluate expressions over ``names``; big values count against ``memory_bytes`` and are never given back."""

    def __init__(self, memory_bytes: int) -> None:
        self.names: dict[str, Any] = {}
        self._builtins = BUILTINS | {"range": _range, "bytearray": self._bytearray, "BaseException": BaseException}
        self._memory_bytes = memory_bytes
        self._allocated = 0

    def evaluate(self, node: ast.expr) -> Any:
        method = _EXPRESSIONS.get(type(node))
        if method is None:
            raise Unsupported(f"{type(node).__name__} in line {node.lineno}")
        return method(self, node)

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Subscript):
            self.evaluate(target.value)[self.evaluate(target.slice)] = value
        elif isinstance(target, ast.Attribute) and isinstance(owner := self.evaluate(target.value), Module):
            vars(owner)[target.attr] = value
        elif isinstance(target, ast.Tuple | ast.List):
            values = list(value)
            if len(values) != len(target.elts):
                raise ValueError(f"cannot unpack {len(values)} values into {len(target.elts)} names")
            for part, item in zip(target.elts, values, strict=True):
                self.assign(part, item)
        else:
            raise Unsupported(f"assignment to {type(target).__name__} in line {target.lineno}")

    def binary(self, kind: ast.operator, left: Any, right: Any) -> Any:
        """Compute, unless the value would not fit."""
        if isinstance(kind, ast.Mult | ast.Add):
            self._allocate(_size(kind, left, right))
        if isinstance(kind, ast.Pow) and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > _MAX_BITS:
                raise OutOfMemory
        elif type(kind) not in _OPERATORS:
            raise Unsupported(type(kind).__name__)
        return _OPERATORS[type(kind)](left, right)

    def attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Module) and name in vars(owner):
            return vars(owner)[name]
        if name in _METHODS.get(type(owner), ()):
            return getattr(owner, name)
        real = sys.modules.get(vars(owner).get("__name__", "")) if isinstance(owner, Module) else owner
        if real is not None and not name.startswith("_") and not hasattr(real, name):
            raise AttributeError(f"{type(owner).__name__.lower()!r} object has no attribute {name!r}")
        raise Unsupported(f"attribute {name!r} of {type(owner).__name__}")

    def _allocate(self, size: int) -> None:
        if size >= _BIG_BYTES:
            self._allocated += size
        if self._allocated > self._memory_bytes:
            raise OutOfMemory

    def _bytearray(self, size: int) -> bytearray:
        self._allocate(size)
        return bytearray(size)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            return self.names[node.id]
        if node.id in self._builtins:
            return self._builtins[node.id]
        if node.id in vars(builtins):
            raise Unsupported(f"{node.id} in line {node.lineno}")
        raise NameError(f"name {node.id!r} is not defined", name=node.id)

    def _binary(self, node: ast.BinOp) -> Any:
        return self.binary(node.op, self.evaluate(node.left), self.evaluate(node.right))

    def _unary(self, node: ast.UnaryOp) -> Any:
        if type(node.op) not in _OPERATORS:
            raise Unsupported(type(node.op).__name__)
        return _OPERATORS[type(node.op)](self.evaluate(node.operand))

    def _boolean(self, node: ast.BoolOp) -> Any:
        stop_at = isinstance(node.op, ast.Or)
        value = None
        for part in node.values:
            value = self.evaluate(part)
            if bool(value) is stop_at:
                break
        return value

    def _compare(self, node: ast.Compare) -> Any:
        left = self.evaluate(node.left)
        for kind, other in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(other)
            if not _OPERATORS[type(kind)](left, right):
                return False
            left = right
        return True

    def _conditional(self, node: ast.IfExp) -> Any:
        return self.evaluate(node.body if self.evaluate(node.test) else node.orelse)

    def _list(self, node: ast.List) -> Any:
        return [self.evaluate(item) for item in node.elts]

    def _tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.evaluate(item) for item in node.elts)

    def _set(self, node: ast.Set) -> Any:
        return {self.evaluate(item) for item in node.elts}

    def _dict(self, node: ast.Dict) -> Any:
        pairs = zip(node.keys, node.values, strict=True)
        return {self.evaluate(key): self.evaluate(value) for key, value in pairs if key is not None}

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> Any:
        outer = dict(self.names)
        items = [self.evaluate(node.elt) for _ in self._rounds(node.generators)]
        self.names.clear()
        self.names.update(outer)
        return items

    def _rounds(self, generators: list[ast.comprehension]) -> Iterator[None]:
        if not generators:
            yield
            return
        for item in self.evaluate(generators[0].iter):
            self.assign(generators[0].target, item)
            if all(self.evaluate(test) for test in generators[0].ifs):
                yield from self._rounds(generators[1:])

    def _subscript(self, node: ast.Subscript) -> Any:
        return self.evaluate(node.value)[self.evaluate(node.slice)]

    def _slice(self, node: ast.Slice) -> Any:
        return slice(*(self.evaluate(part) if part else None for part in (node.lower, node.upper, node.step)))

    def _attribute(self, node: ast.Attribute) -> Any:
        return self.attribute(self.evaluate(node.value), node.attr)

    def _call(self, node: ast.Call) -> Any:
        if any(isinstance(item, ast.Starred) for item in node.args) or any(not word.arg for word in node.keywords):
            raise Unsupported(f"starred arguments in line {node.lineno}")
        function = self.evaluate(node.func)
        arguments = [self.evaluate(argument) for argument in node.args]
        return function(*arguments, **{str(word.arg): self.evaluate(word.value) for word in node.keywords})

    def _text(self, node: ast.JoinedStr) -> Any:
        return "".join(str(self.evaluate(part)) for part in node.values)

    def _formatted(self, node: ast.FormattedValue) -> Any:
        value = self.evaluate(node.value)
        if node.conversion == ord("r"):
            value = repr(value)
        return format(value, self.evaluate(node.format_spec) if node.format_spec else "")


_EXPRESSIONS: dict[type[ast.expr], Callable[[Expressions, Any], Any]] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.BinOp: Expressions._binary,
    ast.UnaryOp: Expressions._unary,
    ast.BoolOp: Expressions._boolean,
    ast.Compare: Expressions._compare,
    ast.IfExp: Expressions._conditional,
    ast.List: Expressions._list,
    ast.Tuple: Expressions._tuple,
    ast.Set: Expressions._set,
    ast.Dict: Expressions._dict,
    ast.ListComp: Expressions._comprehension,
    ast.GeneratorExp: Expressions._comprehension,
    ast.Subscript: Expressions._subscript,
    ast.Slice: Expressions._slice,
    ast.Attribute: Expressions._attribute,
    ast.Call: Expressions._call,
    ast.JoinedStr: Expressions._text,
    ast.FormattedValue: Expressions._formatted,
}


def _range(*arguments: int) -> range:
    numbers = range(*arguments)
    if len(numbers) > _MAX_RANGE:
        raise Unsupported(f"a range of {len(numbers)} numbers")
    return numbers


def _size(kind: ast.operator, left: Any, right: Any) -> int:
    """Bytes of the sum or product of a sequence; 0 if neither is one."""
    if isinstance(kind, ast.Add):
        return sys.getsizeof(left) + sys.getsizeof(right) if hasattr(left, "__len__") else 0
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) // 8
    sequence, times = (left, right) if hasattr(left, "__len__") else (right, left)
    return sys.getsizeof(sequence) * max(times, 0) if hasattr(sequence, "__len__") and isinstance(times, int) else 0
