"""Every setting, its default and where it is read from.

``Settings()`` reads, strongest first: arguments, the environment (``ORCHESTRATOR_POOL__MAX_SIZE=20``), one YAML file
(named by ``ORCHESTRATOR_CONFIG``), the defaults below. Unknown keys, in the file or in the environment, are errors.
``wiring.py`` builds it once and hands each actor its own section; nothing else reads the environment.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from actors.errors import ConfigurationError, faults

PREFIX = "ORCHESTRATOR_"
CONFIG_FILE_VARIABLE = "ORCHESTRATOR_CONFIG"
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RunLimits(Section):
    """What a run may use when it does not say."""

    memory_mib: PositiveInt = 1024
    cpu_s: PositiveFloat = 300.0
    processes: PositiveInt = 128
    disk_mib: PositiveInt = 256
    output_bytes: PositiveInt = 1_000_000
    network: bool = False


Wall = Literal[
    "seccomp", "landlock", "capabilities", "network", "read_only", "disk", "process_limits", "control_group", "watch"
]


class ImageSettings(Section):
    """What sandboxes contain; ``e2b-orchestrator image`` builds it."""

    file: Path | None = None
    """The list of images; None is the one that comes with this package."""
    directory: Path | None = None
    """Where they are built; None is below the user's data directory."""


class JailSettings(Section):
    """The embedded backend: bubblewrap around forked interpreters."""

    image: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None
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
    """Pristine interpreters kept ready in each jail."""
    kill_grace_s: NonNegativeFloat = 0.3
    """Between interrupting a run that is out of time and killing it."""


class E2BSettings(Section):
    """E2B's cloud; the key and the template come from ``E2B_API_KEY`` and ``E2B_TEMPLATE_ID``."""

    plan: Literal["hobby", "pro"] = "hobby"


class FakeSettings(Section):
    """A backend that runs nothing and behaves as told; for tests and benchmarks."""

    create_s: NonNegativeFloat = 0.0
    execute_s: NonNegativeFloat = 0.0
    failure_rate: Fraction = 0.0
    """Of executions, that end as ``infra``."""
    build_tag: str | None = None
    """What its sandboxes say of themselves; None repeats the expected tag."""


class RouterSettings(Section):
    policy: Literal["e2b", "local", "auto"] = "local"
    local: Literal["jail", "fake"] = "jail"
    """Which embedded backend ``local`` means."""


class PoolSettings(Section):
    min_size: NonNegativeInt = 2
    target_size: PositiveInt = 3
    max_size: PositiveInt = 10
    max_starting: PositiveInt = 4
    max_executions: PositiveInt = 50
    """After so many runs a sandbox is replaced."""
    max_age_s: PositiveFloat = 3600.0
    maintenance_interval_s: PositiveFloat = 30.0
    start_timeout_s: PositiveFloat = 60.0
    health_timeout_s: PositiveFloat = 5.0
    idle_shrink_s: PositiveFloat = 120.0
    """How long a sandbox above the target must be idle before it is stopped."""
    orphan_s: PositiveFloat = 60.0
    """An actor that has not heard from its owner for so long ends itself."""
    build_tag: str | None = None
    """Expected of every sandbox; None derives it from the image."""

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> PoolSettings:
        if not self.min_size <= self.target_size <= self.max_size:
            raise ValueError("min_size ≤ target_size ≤ max_size must hold")
        return self


class QueueSettings(Section):
    global_concurrency: PositiveInt | None = None
    """Grants at a time; None is 6 for E2B and twice the cores (at least 4) for a local backend."""
    per_user_concurrency: PositiveInt = 2
    lone_user_may_use_idle: bool = True
    """Whether a user whom nobody waits behind may exceed the cap of a local backend."""
    max_depth: PositiveInt = 10_000
    max_depth_per_user: PositiveInt = 5_000
    max_wait_s: PositiveFloat = 300.0
    aging_s: PositiveFloat = 30.0
    """Waiting so long raises a run by one band of priority."""
    quantum_s: PositiveFloat = 0.25
    """Sandbox-seconds of one user served in a turn."""
    switch_cost_s: NonNegativeFloat = 0.02
    """Added to a run's cost when its sandbox must be replaced because it served another user."""
    default_cost_s: PositiveFloat = 0.05
    retain_s: NonNegativeFloat = 0.02
    """How long a grant that nobody else wants is kept for the same user's next run."""
    lease_margin_s: PositiveFloat = 15.0
    """A grant expires so long after its run's timeout."""


class BreakerSettings(Section):
    window_s: PositiveFloat = 30.0
    min_calls: PositiveInt = 10
    failure_rate: Fraction = 0.5
    slow_rate: Fraction = 0.8
    slow_call_s: PositiveFloat = 20.0
    """Of the service's own time in a call, the program's excluded."""
    open_s: PositiveFloat = 5.0
    open_max_s: PositiveFloat = 60.0
    ramp: tuple[Fraction, ...] = (0.05, 0.1, 0.25, 0.5, 1.0)
    ramp_calls: PositiveInt = 5


class CacheSettings(Section):
    enabled: bool = True
    max_entries: PositiveInt = 1000
    max_bytes: PositiveInt = 256 * 2**20
    ttl_s: PositiveFloat = 300.0
    error_ttl_s: NonNegativeFloat = 30.0
    """How long a deterministic program's own error is kept; 0 is not at all."""
    verify_rate: Fraction = 0.01
    """Share of hits that are run again to catch a program wrongly thought deterministic."""
    shared: bool = False
    """Whether users share entries."""


class RateLimitSettings(Section):
    creation_per_s: PositiveFloat | None = None
    """None takes the plan's (1 Hobby, 5 Pro) for E2B and is unlimited for a local backend."""
    operations: PositiveInt | None = None
    """Programs per window; None takes the plan's 40,000 for E2B and is unlimited for a local backend."""
    operations_window_s: PositiveFloat = 60.0
    lifecycle: PositiveInt | None = None
    """Sandboxes listed, paused or ended per window; None takes the plan's 20,000 for E2B, unlimited as above."""
    lifecycle_window_s: PositiveFloat = 30.0
    lease_ttl_s: PositiveFloat = 1.0


class RetrySettings(Section):
    max_attempts: PositiveInt = 3
    base_s: PositiveFloat = 0.05
    max_s: PositiveFloat = 2.0


class SessionSettings(Section):
    max_per_user: PositiveInt = 8
    max_forks_per_user: PositiveInt = 64
    """Of sessions, beside these; they live in the sandbox of the session that they were forked from."""
    idle_s: PositiveFloat = 900.0
    """A session that nobody used for so long is closed."""
    paused_s: PositiveFloat = 86_400.0
    """A paused one after so long."""


class LedgerSettings(Section):
    path: Path | None = None
    """SQLite file of the idempotency keys; None puts it under the user's state directory when first needed."""
    ttl_s: PositiveFloat = 86_400.0


class Settings(BaseSettings):
    """The whole configuration of one deployment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "e2b-orchestrator"
    """Names the deployment: one cluster may hold several."""
    router: RouterSettings = RouterSettings()
    limits: RunLimits = RunLimits()
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of every program and command; those of a session and of a run come before them."""
    images: ImageSettings = ImageSettings()
    jail: JailSettings = JailSettings()
    e2b: E2BSettings = E2BSettings()
    fake: FakeSettings = FakeSettings()
    pool: PoolSettings = PoolSettings()
    queue: QueueSettings = QueueSettings()
    breaker: BreakerSettings = BreakerSettings()
    cache: CacheSettings = CacheSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    retry: RetrySettings = RetrySettings()
    sessions: SessionSettings = SessionSettings()
    ledger: LedgerSettings = LedgerSettings()
    e2b_api_key: SecretStr | None = Field(default=None, validation_alias="E2B_API_KEY", exclude=True)
    e2b_template_id: str | None = Field(default=None, validation_alias="E2B_TEMPLATE_ID")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get(CONFIG_FILE_VARIABLE)
        if not file:
            return init_settings, env_settings
        if not Path(file).is_file():
            raise ConfigurationError(f"{CONFIG_FILE_VARIABLE} names {file}, which is not a file")
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=file)

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the settings; every mistake is named by its key.

        Raises:
            ConfigurationError: an unknown key or variable, or a value out of its bounds.
        """
        unknown = sorted(
            name
            for name in os.environ
            if name.startswith(PREFIX)
            and name != CONFIG_FILE_VARIABLE
            and name.removeprefix(PREFIX).split("__")[0].lower() not in cls.model_fields
        )
        if unknown:
            raise ConfigurationError(f"unknown variables {', '.join(unknown)}; see the README's configuration table")
        try:
            return cls(**overrides)
        except ValidationError as error:
            lines = (f"{'.'.join(place)}: {rule}" for place, rule in faults(error))
            raise ConfigurationError("; ".join(lines)) from None

    def fingerprint(self) -> str:
        """Equal for equal configurations, whatever the keys; compared when a driver joins a deployment."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
