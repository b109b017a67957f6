"""Every setting: what there is in ``sections``, rows of backends in ``backends``, where all is read in ``settings``."""

from actors.config.backends import BackendRow, FakeRow, JailRow
from actors.config.sections import (
    BreakerSettings,
    CacheSettings,
    FakeSettings,
    HttpSettings,
    ImageSettings,
    JailSettings,
    LedgerSettings,
    MaxLimits,
    PoolSettings,
    QueueSettings,
    QuotaSettings,
    RateLimitSettings,
    RetrySettings,
    RouterSettings,
    RunLimits,
    SessionSettings,
    Wall,
)
from actors.config.settings import Settings

__all__ = [
    "BackendRow",
    "BreakerSettings",
    "CacheSettings",
    "FakeRow",
    "FakeSettings",
    "HttpSettings",
    "ImageSettings",
    "JailRow",
    "JailSettings",
    "LedgerSettings",
    "MaxLimits",
    "PoolSettings",
    "QueueSettings",
    "QuotaSettings",
    "RateLimitSettings",
    "RetrySettings",
    "RouterSettings",
    "RunLimits",
    "SessionSettings",
    "Settings",
    "Wall",
]
