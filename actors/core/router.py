"""Which backend serves a run, and why."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from actors.core.determinism.verdict import MAX_CHARACTERS, parse
from actors.errors import InvalidRequest, Rejected

Policy = Literal["e2b", "local", "auto"]
RETRY_S = 1.0
"""A backend that has no sandbox yet is asked again after so long."""
HEAVY = 0.6
"""From this complexity on, a program is sent to the cloud by the policy ``auto``."""
HEAVY_MODULES = frozenset(
    {"torch", "tensorflow", "jax", "keras", "transformers", "sklearn", "xgboost", "lightgbm", "cv2", "dask", "pyspark"}
    | {"polars", "numba", "statsmodels", "spacy", "nltk", "gensim", "multiprocessing"}
)
NETWORK_MODULES = frozenset(
    {"requests", "httpx", "aiohttp", "urllib3", "socket", "ftplib", "smtplib", "imaplib", "poplib", "websocket"}
    | {"websockets", "yfinance", "boto3", "openai", "anthropic", "paramiko", "selenium", "playwright", "feedparser"}
)
NETWORK_SUBMODULES = ("urllib.request", "http.client", "xmlrpc.client")
LOCAL_MODULES = sys.stdlib_module_names | {
    "numpy", "numpy_financial", "pandas", "scipy", "sympy", "mpmath", "matplotlib", "mpl_toolkits", "dateutil",
    "pytz", "six", "PIL", "IPython",
}  # fmt: skip
"""What programs can import in the embedded sandbox."""


@dataclass(frozen=True, slots=True)
class BackendView:
    """What is known of one backend."""

    available: bool = True
    """Whether it has had a sandbox, so that its BUILD_TAG is known."""
    healthy: bool = True
    """Whether a sandbox of it serves now."""
    image: str | None = None
    """What its sandboxes are made from, if that has a name."""
    build_tag: str = ""
    concurrency: int = 1
    """Programs that it runs at a time."""


@dataclass(frozen=True, slots=True)
class Complexity:
    """How much a program is likely to need: 0 is trivial, 1 is all that one machine has."""

    score: float
    needs_network: bool = False
    missing: tuple[str, ...] = ()
    """Modules that the embedded sandbox does not have."""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    backend: str
    fallbacks: tuple[str, ...]
    """Where to go next, in this order, while the backend fails."""
    why: str


def route(
    code: str,
    *,
    policy: Policy,
    requested: str | None,
    available: Mapping[str, BackendView],
    image: str | None = None,
    local: str = "jail",
    cloud: str = "e2b",
    needs_network: bool = False,
) -> Route:
    """Choose a backend, in one sentence that says why.

    ``available`` has every backend of the deployment; ``local`` and ``cloud`` are those that serve whoever names none.
    A backend that was asked for has no fallback: whoever names one wants that one. Otherwise the healthy come first,
    and one that is made from another image than was asked for never comes.

    Raises:
        InvalidRequest: the deployment has no such backend, or none that is made from such an image.
        Rejected: the backend has not had a sandbox yet.
    """
    if requested is not None:
        name = local if requested == "local" else requested
        _check_request(name, image, available)
        return Route(name, (), f"{name}: asked for")
    known = _made_from(image, available) if image is not None else (local, cloud)
    wanted, why = _preferred(code, policy, local, cloud, needs_network, _is_there(cloud, available))
    if image is not None and wanted not in known:
        wanted, why = known[0], f"it is made from image {image}"
    candidates = [name for name in dict.fromkeys((wanted, *known)) if _is_there(name, available)]
    if not candidates:
        raise Rejected("no backend is available yet", retry_after_s=RETRY_S)
    candidates.sort(key=lambda name: not available[name].healthy)  # stable: the preferred stays first among equals
    first, *fallbacks = candidates
    if first != wanted:
        state = "unhealthy" if wanted in candidates else "unavailable"
        why = f"{wanted} was preferred ({why}) but is {state}"
    return Route(first, tuple(fallbacks), f"{first}: {why}")


def _is_there(name: str, available: Mapping[str, BackendView]) -> bool:
    return name in available and available[name].available


def _check_request(name: str, image: str | None, available: Mapping[str, BackendView]) -> None:
    view = available.get(name)
    if view is None:
        raise InvalidRequest("backend", f"there is no backend {name!r}; there are {', '.join(sorted(available))}")
    if image not in (None, view.image):
        made = f"made from image {view.image!r}" if view.image else "not made from a named image"
        raise InvalidRequest("image", f"backend {name!r} is {made}, so it is none for {image!r}")
    if not view.available:
        raise Rejected(f"backend {name!r} has no sandbox yet", retry_after_s=RETRY_S)


def _made_from(image: str, available: Mapping[str, BackendView]) -> list[str]:
    found = [name for name, view in available.items() if view.image == image]
    if not found:
        images = sorted({view.image for view in available.values() if view.image})
        there = f"there are {', '.join(images)}" if images else "no backend here is made from a named image"
        raise InvalidRequest("image", f"no backend is made from image {image!r}; {there}")
    return found


def _preferred(
    code: str, policy: Policy, local: str, cloud: str, needs_network: bool, cloud_is_there: bool
) -> tuple[str, str]:
    if policy == "e2b":
        return cloud, "the policy is e2b"
    if policy == "local":
        return local, "the policy is local"
    if not cloud_is_there:
        return local, f"{cloud} is not available"
    found = complexity(code)
    if needs_network or found.needs_network:
        return cloud, "the program needs the network"
    if found.missing:
        return cloud, f"the embedded sandbox lacks {', '.join(found.missing)}"
    if found.score >= HEAVY:
        return cloud, f"the program is heavy ({', '.join(found.reasons)})"
    return local, "the program is light"


def complexity(code: str) -> Complexity:
    """Estimate from the syntax alone what a program needs. Never raises; what cannot be read is left to run locally.

    Each nested loop counts a quarter, a heavy library the whole threshold, and 400 statements half of it.
    """
    # Asked here, so that no such text is kept in the cache.
    return Complexity(0.0, reasons=("too long to read",)) if len(code) > MAX_CHARACTERS else _complexity(code)


@lru_cache(maxsize=256)
def _complexity(code: str) -> Complexity:
    tree = parse(code)
    if isinstance(tree, str):
        return Complexity(0.0, reasons=(tree,))
    imports = _imports(tree)
    tops = {name.split(".")[0] for name in imports}
    heavy = tuple(sorted(tops & HEAVY_MODULES))
    network = bool(tops & NETWORK_MODULES) or any(name.startswith(NETWORK_SUBMODULES) for name in imports)
    missing = tuple(sorted(tops - LOCAL_MODULES - _guarded(tree)))
    loops, statements = _loop_depth(tree), sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    reasons = [f"imports {name}" for name in heavy]
    if loops > 2:
        reasons.append(f"loops nested {loops} deep")
    if statements > 100:
        reasons.append(f"{statements} statements")
    score = HEAVY * bool(heavy) + 0.25 * max(loops - 1, 0) + min(0.3, 0.3 * statements / 400)
    return Complexity(min(1.0, score), network, missing, tuple(reasons))


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _guarded(tree: ast.AST) -> set[str]:
    """Modules that the program does without, since it catches their absence."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    caught = [node for node in tries if any(_catches_import(handler) for handler in node.handlers)]
    return {name.split(".")[0] for node in caught for part in node.body for name in _imports(part)}


def _catches_import(handler: ast.ExceptHandler) -> bool:
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else None
    return names is None or bool(names & {"ImportError", "ModuleNotFoundError", "Exception"})


def _loop_depth(tree: ast.AST) -> int:
    deepest = 0
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, ast.For | ast.AsyncFor | ast.While | ast.comprehension):
            depth += 1
            deepest = max(deepest, depth)
        waiting += [(child, depth) for child in ast.iter_child_nodes(node)]
    return deepest
