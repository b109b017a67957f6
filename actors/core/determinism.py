"""How surely a program prints the same every time, judged from its syntax alone.

The judgement is by allow-list: what is not known to be pure lowers the score, so an error costs a repeated run and not
a wrong answer. Names are followed wherever they are bound, without regard to order or scope: one that is *anywhere*
bound to ``time.time`` is the clock *everywhere*. What syntax cannot show (a hash order hidden in a data structure) is
left to ``shows_address`` and to the cache's verification.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

CACHEABLE = 0.9
"""From this score on, a result may be served again."""
MAX_CHARACTERS, MAX_NODES = 50_000, 20_000
MAX_ROUNDS, MAX_FACTS = 10, 32  # of following names, and of what one name may be
_TOO_LONG = f"more than {MAX_CHARACTERS:,} characters"
# Factors of the score. One effect is enough to fail; the others are doubts.
EFFECT, UNSEEDED, DOUBT = 0.0, 0.2, 0.6


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = _words(
    "__future__ abc array ast base64 binascii bisect calendar cmath collections contextlib copy csv "
    "dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq html itertools "
    "json keyword math matplotlib mpmath numbers numpy numpy_financial operator pandas pprint random re "
    "scipy statistics string struct sympy textwrap typing typing_extensions unicodedata warnings zlib "
    "zoneinfo"
)
# A figure becomes a PNG, whose bytes depend on fonts and versions only, which BUILD_TAG names.
PARTLY_PURE = {
    "io": frozenset({"StringIO", "BytesIO"}),
    "sys": _words(
        "setrecursionlimit getrecursionlimit maxsize float_info int_info exit stdout stderr version_info "
        "byteorder maxunicode set_int_max_str_digits"
    ),
    "time": frozenset({"sleep", "strptime", "struct_time"}),
}
IMPURE_PATHS = _words(
    "numpy.load numpy.save numpy.savez numpy.savez_compressed numpy.loadtxt numpy.savetxt "
    "numpy.genfromtxt numpy.memmap numpy.fromfile numpy.lib numpy.show_config numpy.show_runtime "
    "numpy.empty numpy.empty_like numpy.testing numpy.core pandas.io pandas.core pandas.util pandas.test "
    "pandas.testing pandas.show_versions pandas.ExcelWriter pandas.ExcelFile pandas.HDFStore "
    "pandas.compat scipy.io scipy.datasets scipy.show_config sympy.preview sympy.testing matplotlib.image "
    "matplotlib.pyplot.imread matplotlib.pyplot.imsave random.SystemRandom decimal.threading"
)
IMPURE_PARTS = _words(
    "os sys subprocess socket ctypes ctypeslib importlib builtins shutil pathlib tempfile f2py threading "
    "multiprocessing urllib http inspect gc weakref pickle uuid secrets asyncio distutils"
)
RANDOM_PATHS = _words(
    "scipy.stats.bootstrap scipy.stats.permutation_test scipy.stats.monte_carlo_test scipy.stats.qmc "
    "scipy.optimize.differential_evolution scipy.optimize.dual_annealing scipy.optimize.basinhopping "
    "scipy.cluster.vq.kmeans scipy.cluster.vq.kmeans2 scipy.sparse.linalg.eigs scipy.sparse.linalg.eigsh "
    "scipy.sparse.linalg.svds sympy.stats.sample"
)
RANDOM_MODULES = frozenset({"random", "numpy.random"})
SEEDS = {"random.seed": "random", "numpy.random.seed": "numpy"}
GENERATORS = frozenset(
    {"random.Random"}
    | {f"numpy.random.{name}" for name in _words("default_rng RandomState SeedSequence PCG64 MT19937 Philox SFC64")}
)
BUFFERS = frozenset({"io.StringIO", "io.BytesIO"})
IMPURE_BUILTINS = _words("eval exec compile open input id hash globals locals vars breakpoint help copyright")
DISPLAYED = frozenset({"display"})  # a name that every interpreter of ours starts with
CLOCK_METHODS = frozenset({"now", "utcnow", "today"})
FILE_METHODS = _words(
    "to_excel to_parquet to_pickle to_hdf to_feather to_sql to_stata to_clipboard to_gbq to_orc to_xml "
    "tofile write_text write_bytes read_text read_bytes"
)
TEXT_METHODS = _words("to_csv to_json to_html to_string to_markdown to_latex")  # a file only if told one
RANDOM_METHODS = frozenset({"rvs", "sample", "samples"})
INNER_NAMES = _words(
    "__globals__ __builtins__ __subclasses__ __base__ __bases__ __mro__ mro __loader__ __spec__ "
    "__import__ __hash__ __code__ __closure__ __reduce__ __reduce_ex__ __getattribute__ __self__ "
    "__module__ __func__ __wrapped__ __file__ __sizeof__ __traceback__ tb_frame f_globals f_builtins "
    "f_back gi_frame __build_class__"
)
# Facts about a value besides the dotted path it may be.
SET, OBJECT = "<set>", "<object>"
SET_METHODS = _words("union intersection difference symmetric_difference copy")
ORDER_FREE = _words("len sorted min max sum any all set frozenset isinstance bool type")
ORDER_FREE_METHODS = SET_METHODS | _words(
    "add update append issubset issuperset isdisjoint discard remove intersection_update difference_update"
)
SHOWS = _words("print str repr format ascii display")
LAZY = _words("map filter zip reversed enumerate iter object")
_BUILTINS = frozenset(dir(builtins))
_DOT_OR_END = re.compile(r"\.|$")
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{4,}")


@dataclass(frozen=True, slots=True)
class Determinism:
    """1.0 is certainly the same every time; ``reasons`` say what lowered it."""

    score: float
    reasons: tuple[str, ...] = ()


def score(code: str, files: Iterable[str] = ()) -> Determinism:
    """Judge a program, and whether ``files`` beside it could replace a module that it imports.

    Never raises, and works on a bounded number of syntax nodes: what is too large or too deep scores 0.
    """
    if any(name.endswith((".py", ".pyc", ".so", ".pth")) for name in files):
        return Determinism(EFFECT, ("its files may replace modules",))
    if len(code) > MAX_CHARACTERS:  # asked here, so that no such text is kept in a cache
        return Determinism(EFFECT, (_TOO_LONG,))
    return _score(code)


def shows_address(text: str) -> bool:
    """Whether a program's output holds a memory address, as in ``<object at 0x7f…>``, that differs in every run."""
    return _ADDRESS.search(text) is not None


def parse(code: str) -> ast.Module | str:
    """The program's syntax tree, or why there is none. The tree is shared: do not change it."""
    return _TOO_LONG if len(code) > MAX_CHARACTERS else _parse(code)


@lru_cache(maxsize=1)  # the router has just asked for the same program
def _parse(code: str) -> ast.Module | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a program is no concern of this process
            tree = ast.parse(code)
        if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
            return f"more than {MAX_NODES:,} syntax nodes"
    except (SyntaxError, ValueError):
        return "not plain Python"
    except (RecursionError, MemoryError):
        return "nested too deeply"
    return tree


@lru_cache(maxsize=256)
def _score(code: str) -> Determinism:
    tree = parse(code)
    if isinstance(tree, str):
        return Determinism(EFFECT, (tree,))
    try:
        found = dict.fromkeys(_Program(tree).judge())
    except RecursionError:
        return Determinism(EFFECT, ("nested too deeply",))
    return Determinism(math.prod((factor for factor, _ in found), start=1.0), tuple(reason for _, reason in found))


class _Program:
    """The facts about one program's names, then a judgement of each place where one is mentioned."""

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
            module[: dot.start()] for module in self._imports for dot in _DOT_OR_END.finditer(module)
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
                stars = set() if name in _BUILTINS else {f"{module}.{name}" for module in self._stars}
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

    def judge(self) -> Iterator[tuple[float, str]]:
        """Each factor of the score that is below 1, with its reason."""
        for module in self._imports:
            top = module.split(".")[0]
            if top not in PURE and top not in PARTLY_PURE:
                yield EFFECT, f"imports {module}"
            elif effect := _effect(module):
                yield EFFECT, effect
        if not self._settled:
            yield EFFECT, "its names are bound too indirectly"
            return
        for node in self._nodes:
            match node:
                case ast.Name(ctx=ast.Load()) | ast.Attribute(ctx=ast.Load()):
                    yield from self._judge_mention(node)
                case ast.Attribute():
                    if any(_is_path(fact) for fact in self.facts(node.value)):
                        yield EFFECT, f"changes a module ({ast.unparse(node)})"
                case ast.Call():
                    yield from self._judge_call(node)
                case ast.Constant(value=str(text)) if text.strip().lower() in ("now", "today"):
                    if any(module.split(".")[0] in ("numpy", "pandas") for module in self._imports):
                        yield EFFECT, f"reads the clock ({text!r})"
            yield from self._judge_display(node)
        yield from self._judge_randomness()

    def _judge_mention(self, node: ast.Name | ast.Attribute) -> Iterator[tuple[float, str]]:
        facts = self.facts(node)
        for path in filter(_is_path, facts):
            if effect := _effect(path):
                yield EFFECT, effect
            elif path.startswith("pandas.read_") and not self._reads_buffer(node):
                yield EFFECT, f"reads a file ({path})"
            elif path in self._modules and self._escapes(node):
                yield EFFECT, f"passes the module {path} around"
        if isinstance(node, ast.Attribute):
            yield from self._judge_method(node)
        elif node.id in IMPURE_BUILTINS or (node.id in INNER_NAMES and node.id not in self._bound):
            yield EFFECT, f"uses {node.id}"
        elif node.id in ("getattr", "setattr", "delattr") and not self._names_attribute(node):
            yield EFFECT, f"uses {node.id} with a name only known when it runs"
        elif not self._bound[node.id] and node.id not in _BUILTINS | DISPLAYED and not self._stars:
            yield DOUBT, f"does not define {node.id}"

    def _judge_method(self, node: ast.Attribute) -> Iterator[tuple[float, str]]:
        call = self._call_of(node)
        if node.attr in INNER_NAMES:
            yield EFFECT, f"looks inside the interpreter ({node.attr})"
        elif node.attr in CLOCK_METHODS:
            yield EFFECT, f"reads the clock ({node.attr})"
        elif node.attr in FILE_METHODS:
            yield EFFECT, f"touches files ({node.attr})"
        elif node.attr in TEXT_METHODS:
            if call is None or call.args or any(word.arg in (None, "buf", "path_or_buf") for word in call.keywords):
                yield EFFECT, f"may write a file ({node.attr})"
        elif node.attr == "savefig" and (call is None or not self._draws_png(call)):
            yield EFFECT, "may write a file (savefig)"
        elif node.attr == "__dict__" and any(map(_is_path, self.facts(node.value))):
            yield EFFECT, "looks inside a module (__dict__)"
        elif node.attr == "pop" and SET in self.facts(node.value):
            yield DOUBT, "takes from a set in hash order"

    def _judge_call(self, call: ast.Call) -> Iterator[tuple[float, str]]:
        paths = self.facts(call.func)
        if paths & {"operator.attrgetter", "operator.methodcaller"}:
            names = [argument.value for argument in call.args[:1] if isinstance(argument, ast.Constant)]
            if not names or "_" in str(names[0])[:1] or "." in str(names[0]) or "rand" in str(names[0]):
                yield EFFECT, "picks attributes by a name only known when it runs"
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
                yield DOUBT, "uses a set in hash order"
            if OBJECT in facts and name in SHOWS:
                yield DOUBT, "shows an object's address"

    def _judge_display(self, node: ast.AST) -> Iterator[tuple[float, str]]:
        match node:
            case ast.For(iter=shown) | ast.Starred(value=shown) | ast.YieldFrom(value=shown):
                pass
            case ast.comprehension(iter=shown) if not isinstance(self._parents[node], ast.SetComp):
                pass
            case ast.Assign(targets=[ast.Tuple() | ast.List()], value=shown) if not isinstance(shown, ast.Tuple):
                pass
            case ast.FormattedValue(value=shown) | ast.BinOp(op=ast.Mod(), right=shown):
                if OBJECT in self.facts(shown):
                    yield DOUBT, "shows an object's address"
            case ast.Expr(value=shown) if self._tree.body and node is self._tree.body[-1]:
                if OBJECT in self.facts(shown):
                    yield DOUBT, "shows an object's address"
            case _:
                return
        if SET in self.facts(shown):
            yield DOUBT, "uses a set in hash order"

    def _judge_randomness(self) -> Iterator[tuple[float, str]]:
        """A use is seeded if a constant seed is set at the top level, above it."""
        seeded: dict[str, int] = {}
        somewhere: set[str] = set()
        uses: list[tuple[str, int, str]] = []
        for node in self._nodes:
            if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            call = self._call_of(node)
            for path in filter(_is_path, self.facts(node)):
                if path in SEEDS and call is not None and self._is_seeded(call):
                    somewhere.add(SEEDS[path])
                    statement = self._parents[call]
                    if isinstance(statement, ast.Expr) and self._parents[statement] is self._tree:
                        seeded.setdefault(SEEDS[path], node.lineno)
                elif path in GENERATORS:
                    if call is None or not self._is_seeded(call):
                        yield UNSEEDED, f"random without a seed ({path})"
                elif _is_random(path) and not (call is not None and self._is_told_seed(call)):
                    family = "random" if path.split(".")[0] in ("random", "sympy") else "numpy"
                    uses.append((family, node.lineno, path))
            if isinstance(node, ast.Attribute) and node.attr in RANDOM_METHODS and not self._draws_seeded(node, call):
                uses.append(("random" if node.attr == "samples" else "numpy", node.lineno, node.attr))
        for family, line, path in uses:
            if line <= seeded.get(family, line):
                factor = DOUBT if family in somewhere else UNSEEDED
                yield factor, f"random {'before' if family in somewhere else 'without'} a seed ({path})"

    def _draws_seeded(self, node: ast.Attribute, call: ast.Call | None) -> bool:
        facts = self.facts(node.value)
        # A path (random.sample) is judged as such; a generator was judged where it was made.
        known = any(_is_path(fact) and _is_random(f"{fact}.{node.attr}") for fact in facts)
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
        paths = list(filter(_is_path, self.facts(call.args[0])))
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


def _is_path(fact: str) -> bool:
    return not fact.endswith((")", ">"))


def _inside(facts: set[str], name: str) -> set[str]:
    # Deeper paths than any library has come from names that are bound to parts of themselves.
    return {f"{fact}.{name}" for fact in facts if _is_path(fact) and fact.count(".") < 8}


def _effect(path: str) -> str | None:
    top, *rest = path.split(".")
    if top in PARTLY_PURE:
        return f"uses {path}" if rest and rest[0] not in PARTLY_PURE[top] else None
    prefixes = {path[: dot.start()] for dot in _DOT_OR_END.finditer(path)}
    private = any(part.startswith("_") and part not in ("__name__", "__version__", "__doc__") for part in rest)
    return f"uses {path}" if private or prefixes & IMPURE_PATHS or IMPURE_PARTS & set(rest) else None


def _is_random(path: str) -> bool:
    if path in RANDOM_MODULES or path in SEEDS or path == "numpy.random.Generator":
        return path in SEEDS
    return path.startswith("random.") or path in RANDOM_PATHS or any(p.startswith("rand") for p in path.split(".")[1:])


def _is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _is_number(node: ast.expr) -> bool:
    value = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(value, ast.Constant) and isinstance(value.value, int | float)
