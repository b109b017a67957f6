"""Imports point one way, and each layer keeps to what it is for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND_LINE = ("actors.cli", "actors.demo", "actors.render", "actors.service")
WIRING = frozenset({"actors.wiring", "actors.local"})
IMPURE = frozenset(
    {
        *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "ray", "selectors", "shutil"),
        *("signal", "socket", "sqlite3", "subprocess", "tempfile", "threading"),
    }
)
CALLS_ACTORS = {
    "actors.clients": "the typed faces of actors, and the creation of sandboxes",
    "actors.wiring": "creates the singletons and waits until they are ready",
    "actors.outcomes": "helps callers that hold a raw handle",
    "actors.session": "gives them a session's face",
    "actors.cli": "is such a caller",
    "actors.cli_connection": "is such a caller's part",
}
"""The only modules that may say ``.remote(…)``, and why."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {"serve_app": ROOT / "serve_app.py"}
    for path in (ROOT / "actors").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
FOUNDATION = frozenset({"actors.errors", "actors.config", *(m for m in MODULES if m.startswith("actors.schemas"))})
DOORS = frozenset({"serve_app", "actors.testing", *COMMAND_LINE, *(m for m in MODULES if m.startswith("actors.cli_"))})
"""What people and programs come in by; nothing behind them may know of them."""


@cache
def imports(module: str, late: bool = True) -> frozenset[str]:
    """What it imports, in dotted names; without ``late``, only what it needs to be imported itself."""
    return frozenset(_imports(module, ast.parse(MODULES[module].read_text()), late))


def _imports(module: str, tree: ast.AST, late: bool) -> Iterator[str]:
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            # ``from package import module`` imports the module too.
            submodules = {f"{source}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from submodules
            if len(submodules) < len(node.names):
                yield source
        elif late or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(module, node, late)


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if within(name, "actors", "serve_app")}


def named(package: str) -> list[str]:
    return sorted(module for module in MODULES if within(module, package))


@pytest.mark.parametrize("module", named("actors.core"))
def test_a_core_does_no_input_or_output_and_knows_nothing_of_actors(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(module)}
    assert not tops & IMPURE
    assert tops <= sys.stdlib_module_names | {"cachetools", "actors"}
    assert {name for name in ours(module) if not within(name, "actors.core")} <= FOUNDATION


@pytest.mark.parametrize("module", named("actors.backends"))
def test_a_backend_knows_nothing_of_ray_and_of_those_who_use_it(module: str) -> None:
    assert not {name for name in imports(module) if within(name, "ray")}
    assert {name for name in ours(module) if not within(name, "actors.backends")} <= FOUNDATION


@pytest.mark.parametrize("module", named("actors.api"))
def test_an_http_route_knows_only_what_is_said_and_not_who_answers(module: str) -> None:
    assert not {name for name in imports(module) if within(name, "ray")}
    assert {name for name in ours(module) if not within(name, "actors.api")} <= FOUNDATION


@pytest.mark.parametrize("module", sorted(FOUNDATION))
def test_the_foundation_rests_on_nothing_of_ours_but_itself(module: str) -> None:
    assert ours(module) <= FOUNDATION


@pytest.mark.parametrize("module", sorted(MODULES.keys() - DOORS - WIRING - {"actors"}))
def test_nothing_behind_the_doors_imports_the_wiring_or_a_door(module: str) -> None:
    assert not ours(module) & (DOORS | WIRING)


@pytest.mark.parametrize("module", sorted(WIRING))
def test_the_wiring_does_not_import_a_door(module: str) -> None:
    assert not ours(module) & DOORS


def test_imports_make_no_circle() -> None:
    # A package is imported before its modules, and may import them; that is not a circle of anybody's making.
    graph = {
        module: {name for name in imports(module, late=False) if name in MODULES and not within(module, name)}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_actors_are_called_only_where_it_is_allowed() -> None:
    callers = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote"
    }
    assert callers <= CALLS_ACTORS.keys(), f"use a client instead: {sorted(callers - CALLS_ACTORS.keys())}"


def test_the_plugin_for_pytest_imports_nothing_heavy() -> None:
    # Every run of pytest of everybody who has this package installed pays for it.
    tops = {name.partition(".")[0] for name in imports("actors.testing", late=False)}
    assert tops <= sys.stdlib_module_names | {"pytest"}
