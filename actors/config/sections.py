"""The sections of the settings, each with what there is to set and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""What backends and images are called by."""
HostName = Annotated[str, StringConstraints(pattern=r"^(\*|(\*\.)?[A-Za-z0-9._:-]+)$")]
"""A name or an address that a server goes by."""


class Section(BaseModel):
    """Some settings that belong together; an unknown one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunLimits(Section):
    """What a run may use when it does not say."""

    memory_mib: PositiveInt = 1024
    """Memory of the program and all its children."""
    cpu_s: PositiveFloat = 300.0
    """CPU time of the program and all its children."""
    processes: PositiveInt = 128
    """Processes and threads together."""
    disk_mib: PositiveInt = 256
    """What fits into the workspace, and into ``/tmp``."""
    output_bytes: PositiveInt = 1_000_000
    """What is kept of stdout, and of stderr."""
    network: bool = False
    """Whether programs reach the network; the jail has none, and refuses those that may."""


class MaxLimits(Section):
    """The most that a run or session may name as its own limits; more is refused before anything runs.

    None is four times what ``limits`` give by default; memory and disk together are at most half of the machine's
    memory, unless the defaults are more.
    """

    LEAST_TIMEOUT_S: ClassVar[float] = 30.0

    memory_mib: PositiveInt | None = None
    """Memory of the program and all its children."""
    cpu_s: PositiveFloat | None = None
    """CPU time of the program and all its children."""
    cpu_wait_s: PositiveFloat | None = None
    """Waiting for a core beyond ``timeout_s``; None is twenty times the longest ``timeout_s``."""
    processes: PositiveInt | None = None
    """Processes and threads together."""
    disk_mib: PositiveInt | None = None
    """The workspace, and ``/tmp``, each; both are in memory."""
    output_bytes: PositiveInt | None = None
    """What is kept of stdout, and of stderr."""
    timeout_s: Annotated[float, Field(ge=LEAST_TIMEOUT_S)] | None = None
    """The timeout of a run; None is as ``cpu_s``. At least that of who names none."""


class ImageSettings(Section):
    """Where images are listed and built; ``e2b-orchestrator image`` builds them."""

    file: Path | None = None
    """The list of images; None is the one that comes with this package."""
    directory: Path | None = None
    """Where they are built; None is below the user's data directory."""


Wall = Literal[
    "seccomp",
    "landlock",
    "capabilities",
    "network",
    "read_only",
    "disk",
    "process_limits",
    "control_group",
    "watch",
    "identity",
    "executable",
]


class JailSettings(Section):
    """The embedded backend: bubblewrap around forked interpreters."""

    image: Name | None = None
    """The image that sandboxes are made from, once it is built; None is the environment that this runs in."""
    without: tuple[Wall, ...] = ()
    """Walls to leave out where a machine cannot have them; each makes escapes easier, and every result names it."""
    preload: tuple[str, ...] = (
        "numpy",
        "numpy_financial",
        "pandas",
        "scipy",
        "matplotlib.pyplot",
    )
    """Modules already imported where a program names a package; those not installed are left out."""
    spares: PositiveInt = 2
    """Pristine interpreters kept ready in each jail, with the preloaded modules and without, each so many."""
    cores: PositiveFloat | None = None
    """Most cores that the programs of one sandbox keep busy, where control groups share out CPU time; None is all."""
    kill_grace_s: Annotated[float, Field(ge=0, le=2.5, allow_inf_nan=False)] = 2.0
    """Time between interrupting a program that is out of time and killing it, in which its ``finally`` can clean up."""


class FakeSettings(Section):
    """A backend that runs nothing and behaves as told; for tests and benchmarks."""

    create_s: NonNegativeFloat = 0.0
    """How long making a sandbox takes."""
    execute_s: NonNegativeFloat = 0.0
    """How long running any program takes."""
    failure_rate: Fraction = 0.0
    """Share of runs that end as ``infra``."""
    build_tag: str | None = None
    """What its sandboxes say of themselves; None repeats the expected tag."""
    plan: Literal["hobby", "pro"] | None = None
    """The plan of a cloud that it stands for, with that cloud's quota; None stands for a local backend."""


class RouterSettings(Section):
    """Which backend serves a run that names none."""

    policy: Literal["e2b", "local", "auto"] = "local"
    """``e2b`` and ``local`` prefer that one; ``auto`` sends heavy programs, and those that need the network, to E2B."""
    local: Name = "jail"
    """The backend that ``local`` means: a row of ``backends``, or a kind that then is a row by itself."""
    cloud: Name = "e2b"
    """The backend that ``e2b`` means; where there is none of this name, the local one serves."""


class PoolSettings(Section):
    """How many sandboxes of a backend there are, and how long each serves."""

    min_size: NonNegativeInt = 2
    """Sandboxes that must serve for health to be ``ok``."""
    target_size: PositiveInt = 3
    """Sandboxes kept while nothing runs."""
    max_size: PositiveInt = 10
    """Sandboxes at most, however much waits."""
    max_starting: PositiveInt = 4
    """Sandboxes started at a time; fewer while the backend is in bad health."""
    max_executions: PositiveInt = 50
    """After so many runs a sandbox is replaced, unless it holds a session."""
    max_age_s: PositiveFloat = 3600.0
    """After so long a sandbox is replaced, unless it holds a session."""
    maintenance_interval_s: PositiveFloat = 30.0
    """Every sandbox is checked at least so often."""
    start_timeout_s: PositiveFloat = 60.0
    """A sandbox that is not ready after so long is given up."""
    slow_start_s: PositiveFloat = 20.0
    """A start that takes so long counts against the backend's health as one that failed."""
    health_timeout_s: PositiveFloat = 5.0
    """A sandbox that does not answer a check within this time is taken for lost."""
    idle_shrink_s: PositiveFloat = 120.0
    """How long a sandbox above the target must be idle before it is stopped."""
    orphan_s: PositiveFloat = 60.0
    """A sandbox that no supervisor has checked for so long, and for two maintenance intervals, ends itself."""
    build_tag: str | None = None
    """The BUILD_TAG expected of every sandbox; None expects its image's."""

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> PoolSettings:
        if not self.min_size <= self.target_size <= self.max_size:
            raise ValueError("min_size ≤ target_size ≤ max_size must hold")
        return self


class QueueSettings(Section):
    """Who waits, for how long, and how many run at a time."""

    global_concurrency: PositiveInt | None = None
    """Grants of a backend at a time; None is twice the cluster's CPUs, but at least 4, and 6 for a cloud."""
    per_user_concurrency: PositiveInt = 2
    """Grants of one user at a time."""
    lone_user_may_use_idle: bool = True
    """Whether a user whom nobody waits behind may exceed the cap of a local backend."""
    max_depth: PositiveInt = 10_000
    """Runs that may wait for a backend."""
    max_depth_per_user: PositiveInt = 5_000
    """Runs of one user that may wait for a backend."""
    max_wait_s: PositiveFloat = 300.0
    """A run that waited so long is rejected, and one that would have to wait longer at once."""
    aging_s: PositiveFloat = 30.0
    """Waiting so long raises a run by one band of priority."""
    quantum_s: PositiveFloat = 0.25
    """Sandbox-seconds of one user served in a turn."""
    switch_cost_s: NonNegativeFloat = 0.02
    """Added to a run's cost when its sandbox must be replaced because it served another user."""
    default_cost_s: PositiveFloat = 0.05
    """What a program is taken to cost before any has ended."""
    retain_s: NonNegativeFloat = 0.02
    """How long a grant that nobody else wants is kept for the same user's next run."""
    lease_margin_s: PositiveFloat = 15.0
    """How much longer a grant lasts than its run may take; a queue that was restarted waits so long for its holders."""


class BreakerSettings(Section):
    """When calls to a backend that fails are stopped, and how they are let back."""

    window_s: PositiveFloat = 30.0
    """Calls older than this are forgotten."""
    min_calls: PositiveInt = 10
    """Fewer calls in the window never open a breaker."""
    min_users: Annotated[int, Field(ge=2)] = 3
    """Fewer users for whom a backend fails never open the breaker that all share; a user's own stops that user."""
    failure_rate: Fraction = 0.5
    """Share of a user's calls that fail, and share of such users, that opens it."""
    slow_rate: Fraction = 0.8
    """The same of slow calls."""
    slow_call_s: PositiveFloat = 20.0
    """A call is slow when the service itself takes so long, the program's own time left out."""
    open_s: PositiveFloat = 5.0
    """The longest that it stays open at first; twice as long each time in a row."""
    open_max_s: PositiveFloat = 60.0
    """It never stays open for longer."""
    ramp: tuple[Fraction, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    """Shares of the calls that are let through while it closes, step by step."""
    ramp_calls: PositiveInt = 5
    """Successful calls to a step."""


class CacheSettings(Section):
    """Results of deterministic programs that are served again."""

    enabled: bool = True
    """Whether results are kept at all."""
    max_entries: PositiveInt = 1000
    """Results kept; the one that nobody asked for the longest makes room."""
    max_bytes: PositiveInt = 256 * 2**20
    """What all results kept may take together."""
    ttl_s: PositiveFloat = 300.0
    """How long a result is served."""
    error_ttl_s: NonNegativeFloat = 30.0
    """How long a deterministic program's own error is kept; 0 is not at all."""
    verify_rate: Fraction = 0.01
    """Share of hits that are run again to catch a program wrongly thought deterministic."""
    shared: bool = False
    """Whether users share entries."""


class QuotaSettings(Section):
    """What may be asked of a backend. None is what its plan allows, which for a local one is without limit."""

    creation_per_s: PositiveFloat | None = None
    """Sandboxes created a second."""
    operations: PositiveInt | None = None
    """Programs run in a window."""
    operations_window_s: PositiveFloat = 60.0
    """The window that programs are counted in."""
    lifecycle: PositiveInt | None = None
    """Sandboxes listed, paused or ended in a window."""
    lifecycle_window_s: PositiveFloat = 30.0
    """The window that those are counted in."""


class RateLimitSettings(QuotaSettings):
    """What may be asked of a backend, and how leave to ask is given out.

    None is what a backend's plan allows, which for a local one is without limit.
    """

    lease_ttl_s: PositiveFloat = 1.0
    """How long tokens that were leased in advance may be spent."""


class RetrySettings(Section):
    """Attempts at what certainly did not start."""

    max_attempts: PositiveInt = 3
    """Attempts in all, the first one counted."""
    base_s: PositiveFloat = 0.05
    """The longest wait after the first attempt; twice as long after each that follows."""
    max_s: PositiveFloat = 2.0
    """No wait is longer."""


class SessionSettings(Section):
    """How many sessions a user may have, and for how long.

    Users who have or want sessions share the sandboxes that sessions may have: whoever has its share is refused more,
    and a user who is alone leaves some for others.
    """

    max_per_user: PositiveInt = 8
    """Sessions that were opened, forks not counted."""
    max_forks_per_user: PositiveInt = 64
    """Forks of sessions; they live in the sandbox of the session that they were forked from."""
    reserve: PositiveInt | None = None
    """Sandboxes of each backend that sessions never take, so that runs have some; None is a quarter, but at least 1."""
    assured_s: PositiveFloat = 300.0
    """So long no session has to make way; then one beyond its user's share does for a user who has less."""
    idle_s: PositiveFloat = 900.0
    """A session that nobody used for so long is closed."""
    paused_s: PositiveFloat = 86_400.0
    """A paused session that nobody used for so long is closed."""


class LedgerSettings(Section):
    """Where idempotency keys are remembered."""

    path: Path | None = None
    """Their SQLite file; None puts it under the user's state directory when first needed."""
    ttl_s: PositiveFloat = 86_400.0
    """How long a key is remembered."""


class HttpSettings(Section):
    """Whom the HTTP front door takes requests from."""

    hosts: tuple[HostName, ...] = ()
    """What it goes by beside ``localhost`` and its address: a proxy's name, ``*.name`` for all below it, ``*`` for any.
    Pages of hosts that are named may use it, others not."""
