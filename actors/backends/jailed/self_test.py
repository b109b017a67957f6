"""The attacks that a jail must withstand before it is trusted."""

from __future__ import annotations

from actors.backends.base import BackendSandbox
from actors.errors import IsolationUnavailable


async def prove_isolation(sandbox: BackendSandbox) -> None:
    return None
