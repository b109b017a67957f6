"""The table of backends: a row for each that the deployment has. Nothing else lists them, or knows their kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from actors.backends.base import Backend
from actors.config import BackendRow, FakeRow, JailRow, QuotaSettings, Settings

CLOUD_CONCURRENCY = 6
"""Grants at a time where nothing else is said: sandboxes of a cloud cost money while they wait."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What may be asked of a backend; None is without limit."""

    creation_per_s: float | None = None
    """Sandboxes created a second."""
    operations: int | None = None
    """Programs run within ``rate_limit.operations_window_s``."""
    lifecycle: int | None = None
    """Sandboxes listed, paused or ended within ``rate_limit.lifecycle_window_s``."""
    sandboxes: int | None = None
    """Sandboxes at a time."""


PLANS = {
    "hobby": Quota(1.0, 40_000, 20_000, 20),
    "pro": Quota(5.0, 40_000, 20_000, 100),
}
"""What E2B's plans allow. Source: E2B's documentation, "Rate limits"."""


@dataclass(frozen=True, slots=True)
class BackendSpec:
    """One backend of the deployment, and how it is made."""

    name: str
    row: BackendRow
    local: bool
    """Whether its sandboxes are on the cluster's own machines: they cost no money, and its CPUs bound them."""
    quota: Quota
    make: Callable[[], Backend]
    """Builds the backend without starting it. Imports are late, since each drags in what it depends on."""

    @property
    def image(self) -> str | None:
        """What its sandboxes are made from, if that has a name."""
        return self.row.image

    def concurrency(self, cpus: int) -> int:
        """How many grants there may be at a time in a cluster of so many CPUs."""
        if self.row.concurrency is not None:
            return self.row.concurrency
        return max(4, 2 * cpus) if self.local else CLOUD_CONCURRENCY


def table(settings: Settings) -> dict[str, BackendSpec]:
    """Every backend of a deployment by its name, in the order in which they are written down."""
    return {name: _spec(name, row, settings) for name, row in settings.backends.items()}


def _spec(name: str, row: BackendRow, settings: Settings) -> BackendSpec:
    """What a kind means: here, and nowhere else."""
    match row:
        case JailRow():
            return BackendSpec(name, row, True, _quota(Quota(), row.rate_limit), partial(_jail, row, settings))
        case FakeRow():
            plan = Quota() if row.plan is None else PLANS[row.plan]
            return BackendSpec(name, row, row.plan is None, _quota(plan, row.rate_limit), partial(_fake, row))
    raise TypeError(f"no backend is made of a {type(row).__name__}")


def _jail(row: JailRow, settings: Settings) -> Backend:
    from actors.backends.jail import JailBackend

    return JailBackend(row, row.limits, settings.images)


def _fake(row: FakeRow) -> Backend:
    from actors.backends.fake.backend import FakeBackend

    return FakeBackend(row, build_tag=row.pool.build_tag or row.image or "fake")


def _quota(plan: Quota, own: QuotaSettings) -> Quota:
    """What a plan allows, unless the settings say otherwise."""
    return Quota(
        own.creation_per_s or plan.creation_per_s,
        own.operations or plan.operations,
        own.lifecycle or plan.lifecycle,
        plan.sandboxes,
    )
