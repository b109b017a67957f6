"""The names that a deployment's actors have in Ray's register, and how they are ended."""

from __future__ import annotations

import ray

# In the order in which they are needed, the front last: whoever finds it finds all of them.
SINGLETONS = ("ResultCache", "RateLimiter", "CircuitBreaker", "FairQueue", "PoolSupervisor", "Orchestrator")


def actor_names(namespace: str) -> list[str]:
    """Names of a deployment's actors that exist."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == namespace]


def sandbox_names(namespace: str) -> list[str]:
    """Names of the sandbox actors that exist, whoever made them."""
    return [name for name in actor_names(namespace) if name not in SINGLETONS]


def kill(name: str, namespace: str) -> None:
    """End an actor at once; one that is gone already is not an error."""
    try:
        ray.kill(ray.get_actor(name, namespace=namespace))
    except ValueError:
        return


def kill_sandboxes(namespace: str) -> None:
    """Kill every sandbox actor of a deployment; the kernel ends their jails with them."""
    for name in sandbox_names(namespace):
        kill(name, namespace)


def kill_singletons(namespace: str) -> None:
    for name in SINGLETONS:
        kill(name, namespace)
