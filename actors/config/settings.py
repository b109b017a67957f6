"""The settings of a deployment, and where they are read from.

``Settings()`` reads, strongest first: arguments, the environment (``ORCHESTRATOR_POOL__MAX_SIZE=20``), one YAML file
(named by ``ORCHESTRATOR_CONFIG``), the defaults. Unknown keys, in the file or in the environment, are errors. Whoever
starts a deployment builds it once and hands it to every actor, which takes what it needs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    FieldSerializationInfo,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from actors.config.backends import TAKEN_OVER, Row, completed, said
from actors.config.sections import (
    BreakerSettings,
    CacheSettings,
    FakeSettings,
    HttpSettings,
    ImageSettings,
    JailSettings,
    LedgerSettings,
    MaxLimits,
    Name,
    PoolSettings,
    QueueSettings,
    RateLimitSettings,
    RetrySettings,
    RouterSettings,
    RunLimits,
    SessionSettings,
)
from actors.errors import ConfigurationError, InvalidRequest, faults

PREFIX = "ORCHESTRATOR_"
CONFIG_FILE_VARIABLE = "ORCHESTRATOR_CONFIG"


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
    max_limits: MaxLimits = MaxLimits()
    env: dict[str, str] = Field(default_factory=dict)
    """Variables of every program and command; those of a session and of a run come before them."""
    images: ImageSettings = ImageSettings()
    jail: JailSettings = JailSettings()
    fake: FakeSettings = FakeSettings()
    pool: PoolSettings = PoolSettings()
    queue: QueueSettings = QueueSettings()
    breaker: BreakerSettings = BreakerSettings()
    cache: CacheSettings = CacheSettings()
    rate_limit: RateLimitSettings = RateLimitSettings()
    retry: RetrySettings = RetrySettings()
    sessions: SessionSettings = SessionSettings()
    ledger: LedgerSettings = LedgerSettings()
    http: HttpSettings = HttpSettings()
    backends: Annotated[dict[Name, Row], Field(validate_default=True)] = Field(default_factory=dict)
    """Backends by name, beside the one that ``router.local`` names: ``{genomics: {kind: jail, image: genomics}}``.

    A row takes ``concurrency``, and whatever the sections ``pool``, ``limits`` and ``rate_limit`` and that of its kind
    take; the deployment's hold where it says nothing.
    """
    e2b_api_key: SecretStr | None = Field(default=None, validation_alias="E2B_API_KEY", exclude=True)
    """The key of the account at E2B; it is read on the node that needs it, and never shown or sent."""
    e2b_template_id: str | None = Field(default=None, validation_alias="E2B_TEMPLATE_ID")
    """The template that sandboxes at E2B are made from."""

    @field_validator("backends", mode="before")
    @classmethod
    def _rows_are_complete(cls, rows: Any, info: ValidationInfo) -> Any:
        if not info.data.keys() >= set(TAKEN_OVER):
            return {}  # what is wrong in one of these is told once, there
        return completed(rows, info.data) if isinstance(rows, Mapping) else rows

    @field_serializer("backends")
    def _rows_as_written(self, rows: dict[str, Row], info: FieldSerializationInfo) -> dict[str, Any]:
        # Else a file that is made of these settings would have rows that no longer follow the deployment.
        return said(rows, {name: getattr(self, name) for name in TAKEN_OVER}, info.mode)

    @model_validator(mode="after")
    def _local_is_a_backend(self) -> Settings:
        if "local" in self.backends:
            raise InvalidRequest("backends.local", "is the name of whichever backend router.local names; take another")
        if self.router.local not in self.backends:
            raise InvalidRequest("router.local", f"there is no such backend; there are {', '.join(self.backends)}")
        return self

    @model_validator(mode="after")
    def _nobody_gets_more_than_the_most(self) -> Settings:
        for name in RunLimits.model_fields.keys() & MaxLimits.model_fields.keys():
            most = getattr(self.max_limits, name)
            needed = max(getattr(limits, name) for limits in self.default_limits)
            if most is not None and most < needed:
                raise InvalidRequest(f"max_limits.{name}", f"must be at least {needed:,}, which runs have by default")
        return self

    @property
    def default_limits(self) -> list[RunLimits]:
        """What runs have that say nothing, on each backend."""
        return [row.limits for row in self.backends.values()]

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
            lines = (f"{_key(place)}: {rule}" for place, rule in faults(error))
            raise ConfigurationError("; ".join(lines)) from None

    def fingerprint(self) -> str:
        """Equal for equal configurations, whatever the keys; compared when a driver joins a deployment."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def _key(place: tuple[str, ...]) -> str:
    """Where a setting is written; pydantic has a row's kind for a part of the way."""
    return ".".join((*place[:2], *place[3:]) if place[0] == "backends" and len(place) > 3 else place)
