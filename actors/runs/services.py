"""What the path of a run has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actors.clients.sandboxes import SandboxClients
from actors.core.router import BackendView
from actors.runs.breaker_view import BreakerView
from actors.runs.grants import GrantKeeper
from actors.runs.keyed_runs import KeyedRuns
from actors.runs.near_cache import NearCache
from actors.runs.session_table import SessionTable
from actors.runs.token_leases import TokenLeases


@dataclass(frozen=True, slots=True)
class Services:
    """The Orchestrator's side of every other actor, and what it keeps itself."""

    cache: NearCache
    breakers: BreakerView
    grants: GrantKeeper
    tokens: TokenLeases
    sandboxes: SandboxClients
    sessions: SessionTable
    keyed: KeyedRuns
    backends: Callable[[], Mapping[str, BackendView]]
