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
JAIL = "actors.backends.jail"
IMPURE = frozenset(
    {
        *("asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "ray", "selectors", "shutil"),
        *("signal", "socket", "sqlite3", "subprocess", "tempfile", "threading"),
    }
)
CALLS_ACTORS = {
    "actors.clients": "the typed faces of actors and of sessions, and the creation of sandboxes",
    "actors.deployment.creation": "creates the singletons, waits until they are ready and ends them",
    "actors.cli": "holds a raw handle, as a user's script does",
    "actors.testing": "holds one too, as a user's test does",
}
"""The only places that may say ``.remote(…)``, and why."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {"serve_app": ROOT / "serve_app.py"}
    for path in (ROOT / "actors").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ACTORS = frozenset(
    f"actors.{name}"
    for name in (
        *("circuit_breaker", "fair_queue", "orchestrator", "pool_supervisor"),
        *("rate_limiter", "result_cache", "sandbox"),
    )
)
FOUNDATION = ("actors.errors", "actors.config", "actors.directories", "actors.schemas", "actors.tasks")
ROOMS: dict[str, tuple[str, ...]] = {
    "actors.errors": (),
    "actors.directories": (),
    "actors.tasks": (),
    "actors.telemetry": (),
    "actors.config": ("actors.errors",),
    "actors.schemas": ("actors.errors",),
    "actors.core": FOUNDATION,
    "actors.backends": FOUNDATION,
    "actors.api": FOUNDATION,
    "actors.clients": (*FOUNDATION, "actors.core"),
    "actors.runs": (*FOUNDATION, "actors.core", "actors.backends.base", "actors.clients"),
    "actors.pools": (*FOUNDATION, "actors.core", "actors.backends", "actors.clients"),
    **dict.fromkeys(
        ACTORS,
        (
            *(*FOUNDATION, "actors.core", "actors.backends", "actors.clients"),
            *("actors.runs", "actors.pools", "actors.telemetry"),
        ),
    ),
    "actors.deployment": (*FOUNDATION, "actors.backends", "actors.clients", "actors.runs", *ACTORS),
    "actors.cli": (*FOUNDATION, "actors.backends", "actors.clients", "actors.deployment"),
    "actors.testing": (*FOUNDATION, "actors.clients", "actors.deployment"),
    "serve_app": (*FOUNDATION, "actors.api", "actors.clients", "actors.deployment"),
}
"""Which rooms each room may import. None of them leads back, so that a reader who goes down never comes up again."""
EXCEPTIONS = {"actors.pool_supervisor": {"actors.sandbox"}}
"""The supervisor creates the sandbox actors. Actors know each other only by their clients otherwise."""
JAIL_ROOMS: dict[str, tuple[str, ...]] = {
    "kernel": (),
    "inside": ("kernel",),
    "spawn": ("kernel", "inside"),
    "host": ("kernel",),
}
"""The same inside the jail, where a room is a process; modules beside the rooms serve both sides of a wall."""


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


def room_of(module: str) -> str:
    return max((room for room in ROOMS if within(module, room)), key=len)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"actors"}))
def test_imports_lead_to_the_rooms_below(module: str) -> None:
    room = room_of(module)
    allowed = (room, *ROOMS[room], *EXCEPTIONS.get(module, ()))
    assert not {name for name in ours(module) if name != "actors" and not within(name, *allowed)}


@pytest.mark.parametrize("module", named("actors.core"))
def test_a_core_does_no_input_or_output(module: str) -> None:
    tops = {name.partition(".")[0] for name in imports(module)}
    assert not tops & IMPURE
    assert tops <= sys.stdlib_module_names | {"cachetools", "actors"}


@pytest.mark.parametrize("module", [*named("actors.backends"), *named("actors.api")])
def test_backends_and_routes_know_nothing_of_ray(module: str) -> None:
    assert not {name for name in imports(module) if within(name, "ray")}


@pytest.mark.parametrize("module", [name for name in named(JAIL) if name != JAIL])
def test_a_room_of_the_jail_imports_no_process_with_other_rights(module: str) -> None:
    room = module.removeprefix(f"{JAIL}.").partition(".")[0]
    shared = {name for name in named(JAIL) if name.count(".") == JAIL.count(".") + 1} - {
        f"{JAIL}.{other}" for other in JAIL_ROOMS
    }
    reachable = (*shared, *(f"{JAIL}.{other}" for other in (room, *JAIL_ROOMS.get(room, ()))))
    assert not {name for name in ours(module) if within(name, JAIL) and not within(name, *reachable)}


@pytest.mark.parametrize("module", [name for name in named(JAIL) if not within(name, JAIL + ".host", JAIL + ".kinds")])
def test_what_is_forked_needs_only_what_an_image_holds(module: str) -> None:
    # Neither pydantic nor anything else of ours is in a jail.
    if module != JAIL:
        assert ours(module) <= set(named(JAIL))


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
        if not within(module, *CALLS_ACTORS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote"
    }
    assert not callers, f"use a client instead: {sorted(callers)}"


def test_the_plugin_for_pytest_imports_nothing_heavy() -> None:
    # Every run of pytest of everybody who has this package installed pays for it.
    tops = {name.partition(".")[0] for name in imports("actors.testing", late=False)}
    assert tops <= sys.stdlib_module_names | {"pytest"}
