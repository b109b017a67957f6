"""What the names of a program may stand for, followed wherever they are bound.

Without regard to order or scope: a name that is *anywhere* bound to ``time.time`` is the clock *everywhere*.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict

from actors.core.determinism.purity import (
    BUFFERS,
    BUILTINS,
    DOT_OR_END,
    GENERATORS,
    LAZY,
    OBJECT,
    RANDOM_MODULES,
    SET,
    SET_METHODS,
)

MAX_ROUNDS, MAX_FACTS = 10, 32  # of following names, and of what one name may be


class Bindings:
    """What every name of a program may be, and who calls whom."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._parents: dict[ast.AST, ast.AST] = {}
        self._nodes = list(ast.walk(tree))  # ast.walk keeps its own stack: depth costs no recursion
        for node in self._nodes:
            for child in ast.iter_child_nodes(node):
                self._parents[child] = node
        self._imports: list[str] = []
        self._stars: list[str] = []
        self._facts: dict[str, set[str]] = defaultdict(set)
        self._bound: Counter[str] = Counter()
        self._values: list[tuple[str, ast.expr]] = []
        self._constants = {
            target.id: part.value
            for part in tree.body
            if isinstance(part, ast.Assign) and isinstance(part.value, ast.Constant)
            for target in part.targets
            if isinstance(target, ast.Name)
        }
        self._remembered: dict[ast.expr, set[str]] = {}
        self._functions: dict[str, list[ast.arg]] = {}
        self._opaque_classes: set[str] = set()  # whose instances show their address
        for node in self._nodes:
            self._declare(node)
        for node in self._nodes:
            self._bind(node)
        self._modules = RANDOM_MODULES | {
            module[: dot.start()] for module in self._imports for dot in DOT_OR_END.finditer(module)
        }
        self._values_of: dict[str, list[ast.expr]] = defaultdict(list)
        for name, value in self._values:
            self._values_of[name].append(value)
        self._settled = self._settle()

    def _declare(self, node: ast.AST) -> None:
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                self._bound[node.id] += 1
            case ast.arg():
                self._bound[node.arg] += 1
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self._bound[name] += 1
            case ast.MatchMapping(rest=str(name)):
                self._bound[name] += 1
            case ast.Import():
                for alias in node.names:
                    self._imports.append(alias.name)
                    path = alias.name if alias.asname else alias.name.split(".")[0]
                    self._bound[alias.asname or path] += 1
                    self._facts[alias.asname or path].add(path)
            case ast.ImportFrom():
                module = "." * node.level + (node.module or "")
                self._imports.append(module)
                for alias in node.names:
                    if alias.name == "*":
                        self._stars.append(module)
                    else:
                        self._bound[alias.asname or alias.name] += 1
                        self._facts[alias.asname or alias.name].add(f"{module}.{alias.name}")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._bound[node.name] += 1
                self._facts[node.name].add(OBJECT)
                self._functions[node.name] = [*node.args.posonlyargs, *node.args.args]
            case ast.ClassDef():
                self._bound[node.name] += 1
                shown = {part.name for part in node.body if isinstance(part, ast.FunctionDef)} & {
                    "__repr__",
                    "__str__",
                }
                bases = {ast.unparse(base) for base in node.bases}
                opaque = all(base in ("object", "ABC") or base in self._opaque_classes for base in bases)
                if opaque and not shown and not node.decorator_list:
                    self._opaque_classes.add(node.name)

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Assign():
                for target in node.targets:
                    self._assign(target, node.value)
            case ast.AnnAssign(value=ast.expr() as value) | ast.AugAssign(value=value) | ast.NamedExpr(value=value):
                self._assign(node.target, value)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                positional = [*node.args.posonlyargs, *node.args.args]
                pairs = [
                    *zip(reversed(positional), reversed(node.args.defaults), strict=False),
                    *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True),
                ]
                self._values += [(arg.arg, value) for arg, value in pairs if value is not None]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in self._functions:
                arguments = self._functions[name][isinstance(node.func, ast.Attribute) :]
                self._values += [(arg.arg, value) for arg, value in zip(arguments, node.args, strict=False)]
                self._values += [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg]
            case ast.Return(value=ast.expr() as value):
                self._values.append((f"{self._function_of(node)}()", value))

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target, value:
            case ast.Name(), _:
                self._values.append((target.id, value))
            case ast.Attribute(), _:
                self._values.append((f".{target.attr}", value))
            case (ast.Tuple(), ast.Tuple()) if len(target.elts) == len(value.elts):
                for part, its_value in zip(target.elts, value.elts, strict=True):
                    self._assign(part, its_value)

    def _function_of(self, node: ast.AST) -> str:
        while not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            node = self._parents[node]
        return "" if isinstance(node, ast.Module) else node.name

    def _settle(self) -> bool:
        """Follow names through each other until nothing is learnt any more; say whether that came to an end."""
        for _ in range(MAX_ROUNDS):
            learnt = False
            self._remembered.clear()
            for name, value in self._values:
                new = self.facts(value) - self._facts[name]
                self._facts[name] |= new
                learnt = learnt or bool(new)
                if len(self._facts[name]) > MAX_FACTS:
                    return False
            if not learnt:
                return len(self._stars) <= MAX_FACTS and all(len(f) <= MAX_FACTS for f in self._facts.values())
        return False

    def facts(self, node: ast.expr) -> set[str]:
        """Everything that a value may be: dotted paths, ``path()`` for what calling it gave, SET and OBJECT."""
        if node not in self._remembered:
            self._remembered[node] = self._find(node)
        return self._remembered[node]

    def _find(self, node: ast.expr) -> set[str]:
        match node:
            case ast.Name(id=name):
                stars = set() if name in BUILTINS else {f"{module}.{name}" for module in self._stars}
                return stars | self._facts.get(name, set())
            case ast.Attribute(value=base, attr=name):
                return _inside(self.facts(base), name) | self._facts.get(f".{name}", set())
            case ast.Call():
                return self._result(node)
            case ast.Set() | ast.SetComp():
                return set() if self._ordered(node) else {SET}
            case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
                sides = self.facts(node.left) | self.facts(node.right)
                return {SET} if SET in sides or _is_keys(node.left) or _is_keys(node.right) else set()
            case ast.IfExp():
                return self.facts(node.body) | self.facts(node.orelse)
            case ast.BoolOp():
                return set().union(*map(self.facts, node.values))
            case ast.NamedExpr() | ast.Await() | ast.Starred():
                return self.facts(node.value)
            case ast.Lambda() | ast.GeneratorExp():
                return {OBJECT}
        return set()

    def _result(self, call: ast.Call) -> set[str]:
        match call.func, call.args:
            case ast.Name(id="getattr"), [base, ast.Constant(value=str(name)), *_]:
                return _inside(self.facts(base), name)
            case ast.Name(id="set" | "frozenset"), arguments:
                return set() if all(map(self._ordered, arguments)) and arguments else {SET}
            case ast.Name(id=name), _ if name in LAZY or name in self._opaque_classes:
                return {OBJECT}
            case ast.Attribute(value=base, attr=name), _ if name in SET_METHODS and SET in self.facts(base):
                return {SET}
        made = {f"{path}()" for path in self.facts(call.func) if path in BUFFERS | GENERATORS}
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        return made | self._facts.get(f"{name}()", set())

    def _ordered(self, node: ast.expr) -> bool:
        """Whether a set of these has the same order in every run: numbers do, text does not."""
        if isinstance(node, ast.Name) and self._bound[node.id] == 1 and len(self._values_of[node.id]) == 1:
            node = self._values_of[node.id][0]
        match node:
            case ast.List() | ast.Tuple() | ast.Set():
                return bool(node.elts) and all(map(_is_number, node.elts))
            case ast.Call(func=ast.Name(id="range")):
                return True
        return False


def is_path(fact: str) -> bool:
    """Whether a fact is a dotted path, not ``path()`` or another kind."""
    return not fact.endswith((")", ">"))


def _inside(facts: set[str], name: str) -> set[str]:
    # Deeper paths than any library has come from names that are bound to parts of themselves.
    return {f"{fact}.{name}" for fact in facts if is_path(fact) and fact.count(".") < 8}


def _is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _is_number(node: ast.expr) -> bool:
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float)
