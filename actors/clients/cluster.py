"""What the Ray cluster has, and has left."""

from __future__ import annotations

import ray

from actors.errors import PoolExhausted

SLOT = "sandbox_slot"
"""The resource that a sandbox actor takes where a cluster defines it: what the autoscaler sees the demand by."""


def cpus() -> int:
    """CPUs of all nodes that are there now."""
    return int(ray.cluster_resources().get("CPU", 1))


def has_slots() -> bool:
    return bool(ray.cluster_resources().get(SLOT, 0))


def no_room() -> PoolExhausted | None:
    """Why a sandbox actor could not be placed, if the cluster's slots are all taken."""
    slots = int(ray.cluster_resources().get(SLOT, 0))
    if slots == 0 or ray.available_resources().get(SLOT, 0) >= 1:
        return None
    return PoolExhausted(f"all {slots} of the cluster's {SLOT} are taken; add nodes, or lower pool.max_size")
