"""How a process comes to a deployment: which Ray it joins, and whether it starts one."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import RayActorError

from actors.clients.handle import OrchestratorHandle
from actors.config import Settings
from actors.deployment import join_file, local_ray
from actors.deployment.creation import DRAIN_S, create_deployment, end_deployment, fingerprint_of, require_same
from actors.errors import NoDeployment

_local: local_ray.LocalCluster | None = None
"""The Ray that this process started, if it did."""


def connect(settings: Settings | None = None) -> OrchestratorHandle:
    """Join the deployment of this cluster, or start one; returns the Orchestrator's handle.

    Uses the Ray that this process is connected to; else the cluster that ``RAY_ADDRESS`` names; else the long-lived
    deployment that ``e2b-orchestrator up`` left on this machine; else a Ray of its own, which ends with this process.

    Raises:
        ConfigurationError: ``settings`` are wrong, or are not those of the deployment that is running.
        IsolationUnavailable: a local deployment cannot isolate programs on this machine.
        ActorUnavailable: the deployment does not become ready.
    """
    asked = settings or Settings.load()
    join_ray(asked.namespace)
    return join_deployment(asked.namespace, settings) or create_deployment(asked)


def join_ray(namespace: str, start_local: bool = True) -> None:
    """Connect this process to the Ray that ``connect`` names, unless it is connected already.

    Raises:
        NoDeployment: there is no Ray to join and ``start_local`` is false.
    """
    global _local
    if ray.is_initialized():
        return
    if address := os.environ.get("RAY_ADDRESS"):
        local_ray.join_cluster(address)
    elif (found := join_file.read(namespace)) is not None:
        local_ray.join(found)
    elif start_local:
        _local = local_ray.LocalCluster.start()
    else:
        raise NoDeployment("no deployment is running on this machine; start one with `e2b-orchestrator up`")


def join_deployment(namespace: str, settings: Settings | None = None) -> OrchestratorHandle | None:
    """The running deployment's Orchestrator, or None.

    Raises:
        ConfigurationError: it runs with another configuration than ``settings``.
        ActorUnavailable: it is there and does not become ready.
    """
    try:
        handle: Any = ray.get_actor("Orchestrator", namespace=namespace)
    except ValueError:
        return None
    try:
        running = fingerprint_of(handle)
    except RayActorError:
        return None  # it is just being shut down
    if settings is not None:
        require_same(settings, running)
    orchestrator: OrchestratorHandle = handle
    return orchestrator


def shutdown(namespace: str = "e2b-orchestrator", timeout_s: float = DRAIN_S) -> None:
    """Drain and end the deployment, and the local Ray if this process started one. Idempotent."""
    global _local
    if ray.is_initialized():
        end_deployment(namespace, timeout_s)
    if _local is not None:
        _local.stop()
        _local = None
