"""Each place where a program does, or may do, something else than compute the same again."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from actors.core.determinism.bindings import Bindings, is_path
from actors.core.determinism.purity import (
    BUFFERS,
    BUILTINS,
    CLOCK_METHODS,
    DISPLAYED,
    FILE_METHODS,
    GENERATORS,
    IMPURE_BUILTINS,
    INNER_NAMES,
    OBJECT,
    ORDER_FREE,
    ORDER_FREE_METHODS,
    PARTLY_PURE,
    PURE,
    RANDOM_METHODS,
    SEEDS,
    SET,
    SHOWS,
    STARS,
    TEXT_METHODS,
    effect_of,
    is_random,
)


class Judgement(Bindings):
    """Goes through a program once its names are known."""

    def reasons(self) -> Iterator[str]:
        """Why the program may do something else another time: nothing, where it is deterministic."""
        for module in self._imports:
            top = module.split(".")[0]
            if top not in PURE and top not in PARTLY_PURE:
                yield f"imports {module}"
            elif why := effect_of(module):
                yield why
        if not self._settled:
            yield "its names are bound too indirectly"
            return
        for node in self._nodes:
            match node:
                case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                    yield from self._judge_mention(node)
                case ast.Attribute():
                    if any(is_path(fact) for fact in self.facts(node.value)):
                        yield f"changes a module ({ast.unparse(node)})"
                case ast.Call():
                    yield from self._judge_call(node)
                case ast.Constant(value=str(text)) if text.strip().lower() in ("now", "today"):
                    if any(module.split(".")[0] in ("numpy", "pandas") for module in self._imports):
                        yield f"reads the clock ({text!r})"
            yield from self._judge_display(node)
        yield from self._judge_randomness()

    def _judge_mention(self, node: ast.Name | ast.Attribute) -> Iterator[str]:
        facts = self.facts(node)
        for path in filter(is_path, facts):
            if why := effect_of(path):
                yield why
            elif path.startswith("pandas.read_") and not self._reads_buffer(node):
                yield f"reads a file ({path})"
            elif path in self._modules and self._escapes(node):
                yield f"passes the module {path} around"
        if isinstance(node, ast.Attribute):
            yield from self._judge_method(node)
        elif node.id in IMPURE_BUILTINS or (node.id in INNER_NAMES and node.id not in self._bound):
            yield f"uses {node.id}"
        elif node.id in ("getattr", "setattr", "delattr") and not self._names_attribute(node):
            yield f"uses {node.id} with a name only known when it runs"
        elif not self._bound[node.id] and node.id not in BUILTINS | DISPLAYED and not self._from_star(node.id):
            yield f"does not define {node.id}"

    def _from_star(self, name: str) -> bool:
        """Whether a star import may bring this name; of packages nobody knows without importing them."""
        return any(module not in STARS or name in STARS[module] for module in self._stars)

    def _judge_method(self, node: ast.Attribute) -> Iterator[str]:
        call = self._call_of(node)
        if node.attr in INNER_NAMES:
            yield f"looks inside the interpreter ({node.attr})"
        elif node.attr in CLOCK_METHODS:
            yield f"reads the clock ({node.attr})"
        elif node.attr in FILE_METHODS:
            yield f"touches files ({node.attr})"
        elif node.attr in TEXT_METHODS:
            if call is None or call.args or any(word.arg in (None, "buf", "path_or_buf") for word in call.keywords):
                yield f"may write a file ({node.attr})"
        elif node.attr == "savefig" and (call is None or not self._draws_png(call)):
            yield "may write a file (savefig)"
        elif node.attr == "__dict__" and any(map(is_path, self.facts(node.value))):
            yield "looks inside a module (__dict__)"
        elif node.attr == "pop" and SET in self.facts(node.value):
            yield "takes from a set in hash order"

    def _judge_call(self, call: ast.Call) -> Iterator[str]:
        paths = self.facts(call.func)
        if paths & {"operator.attrgetter", "operator.methodcaller"}:
            names = [argument.value for argument in call.args[:1] if isinstance(argument, ast.Constant)]
            if not names or "_" in str(names[0])[:1] or "." in str(names[0]) or "rand" in str(names[0]):
                yield "picks attributes by a name only known when it runs"
        match call.func:
            case ast.Name(id=name):
                free = name in ORDER_FREE or name in self._functions
            case ast.Attribute(attr=name):
                free = name in ORDER_FREE_METHODS or name in self._functions
            case _:
                name, free = "", False
        for argument in [*call.args, *(word.value for word in call.keywords)]:
            facts = self.facts(argument)
            if SET in facts and not free:
                yield "uses a set in hash order"
            if OBJECT in facts and name in SHOWS:
                yield "shows an object's address"

    def _judge_display(self, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.For(iter=shown) | ast.Starred(value=shown) | ast.YieldFrom(value=shown):
                pass
            case ast.comprehension(iter=shown) if not isinstance(self._parents[node], ast.SetComp):
                pass
            case ast.Assign(targets=[ast.Tuple() | ast.List()], value=shown) if not isinstance(shown, ast.Tuple):
                pass
            case ast.FormattedValue(value=shown) | ast.BinOp(op=ast.Mod(), right=shown):
                if OBJECT in self.facts(shown):
                    yield "shows an object's address"
            case ast.Expr(value=shown) if self._tree.body and node is self._tree.body[-1]:
                if OBJECT in self.facts(shown):
                    yield "shows an object's address"
            case _:
                return
        if SET in self.facts(shown):
            yield "uses a set in hash order"

    def _judge_randomness(self) -> Iterator[str]:
        """A use is seeded if a constant seed is set at the top level, above it."""
        seeded: dict[str, int] = {}
        somewhere: set[str] = set()
        uses: list[tuple[str, int, str]] = []
        for node in self._nodes:
            if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            call = self._call_of(node)
            for path in filter(is_path, self.facts(node)):
                if path in SEEDS and call is not None and self._is_seeded(call):
                    somewhere.add(SEEDS[path])
                    statement = self._parents[call]
                    if isinstance(statement, ast.Expr) and self._parents[statement] is self._tree:
                        seeded.setdefault(SEEDS[path], node.lineno)
                elif path in GENERATORS:
                    if call is None or not self._is_seeded(call):
                        yield f"random without a seed ({path})"
                elif is_random(path) and not (call is not None and self._is_told_seed(call)):
                    family = "random" if path.split(".")[0] in ("random", "sympy") else "numpy"
                    uses.append((family, node.lineno, path))
            if isinstance(node, ast.Attribute) and node.attr in RANDOM_METHODS and not self._draws_seeded(node, call):
                uses.append(("random" if node.attr == "samples" else "numpy", node.lineno, node.attr))
        for family, line, path in uses:
            if line <= seeded.get(family, line):
                yield f"random {'before' if family in somewhere else 'without'} a seed ({path})"

    def _draws_seeded(self, node: ast.Attribute, call: ast.Call | None) -> bool:
        facts = self.facts(node.value)
        # A path (random.sample) is judged as such; a generator was judged where it was made.
        known = any(is_path(fact) and is_random(f"{fact}.{node.attr}") for fact in facts)
        return known or bool(facts & _MADE_GENERATORS) or (call is not None and self._is_told_seed(call))

    def _is_told_seed(self, call: ast.Call) -> bool:
        return any(
            word.arg in ("random_state", "seed", "rng")
            and (self._is_constant(word.value) or bool(self.facts(word.value) & _MADE_GENERATORS))
            for word in call.keywords
        )

    def _is_seeded(self, call: ast.Call) -> bool:
        arguments = [*call.args, *(word.value for word in call.keywords)]
        return len(arguments) == 1 and self._is_constant(arguments[0])

    def _is_constant(self, node: ast.expr) -> bool:
        match node:
            case ast.Constant(value=int() | str() | bytes()):
                return True
            case ast.Name(id=name) if self._bound[name] == 1:
                value = self._constants.get(name)
                return value is not None and self._is_constant(value)
        return False

    def _call_of(self, node: ast.expr) -> ast.Call | None:
        parent = self._parents[node]
        return parent if isinstance(parent, ast.Call) and parent.func is node else None

    def _reads_buffer(self, node: ast.expr) -> bool:
        call = self._call_of(node)
        facts = self.facts(call.args[0]) if call is not None and call.args else set()
        return bool(facts) and facts <= _MADE_BUFFERS

    def _draws_png(self, call: ast.Call) -> bool:
        facts = self.facts(call.args[0]) if call.args else set()
        vector = any(
            isinstance(word.value, ast.Constant) and word.value.value != "png"
            for word in call.keywords
            if word.arg == "format"
        )
        return bool(facts) and facts <= _MADE_BUFFERS and not vector

    def _names_attribute(self, node: ast.expr) -> bool:
        call = self._call_of(node)
        if call is None or len(call.args) < 2 or not isinstance(call.args[1], ast.Constant):
            return False
        paths = list(filter(is_path, self.facts(call.args[0])))
        name = str(call.args[1].value)
        return name not in INNER_NAMES | CLOCK_METHODS | FILE_METHODS | TEXT_METHODS | RANDOM_METHODS and not paths

    def _escapes(self, node: ast.expr) -> bool:
        """Whether a module gets to where it is not followed: into a container, or into a call that is not ours."""
        match self._parents[node]:
            case ast.Attribute() | ast.Expr():
                return False
            case ast.Assign(targets=targets):
                return not all(isinstance(target, ast.Name) for target in targets)
            case ast.Call(func=ast.Name(id=name)):
                return name not in self._functions
        return True


_MADE_BUFFERS = {f"{path}()" for path in BUFFERS}
_MADE_GENERATORS = {f"{path}()" for path in GENERATORS}
