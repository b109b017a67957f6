"""The command line's side of a deployment: finding or starting one, and runs whose results come as they finish."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

from actors.cli.failures import SERVICE, err, fail
from actors.cli.terminal import Screen
from actors.config import Settings
from actors.errors import ActorUnavailable
from actors.schemas import ExecutionResult

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0
"""For a question about the deployment; a run has its own timeout, and may wait in the queue besides."""


def cluster_address() -> str:
    """The cluster that this shell is told to use, if it is; all of Ray heeds the same variable."""
    return os.environ.get("RAY_ADDRESS", "")


def connected(start: bool = True, as_json: bool = False) -> Any:
    """The deployment to talk to: the running one, else one that lasts as long as this command, or as its cluster."""
    settings = Settings.load()
    orchestrator = joined(settings, start_ray=start) or (started(settings) if start else None)
    if orchestrator is None:
        fail("no deployment is running; start one with: e2b-orchestrator up", SERVICE, "no_deployment", as_json)
    return orchestrator


def joined(settings: Settings, start_ray: bool) -> Any:
    """The handle of the running deployment, None where there is none.

    Raises:
        NoDeployment: there is not even a Ray, and it is not to be started.
    """
    with err.status("Loading Ray") as status:
        from actors.deployment import connect, join_file

        found = join_file.read(settings.namespace)
        address = cluster_address() or (found.address if found else "")
        status.update("Joining the deployment" if address or not start_ray else "Starting Ray on this machine")
        _check_reachable(address)
        connect.join_ray(settings.namespace, start_local=start_ray)
        return connect.join_deployment(settings.namespace)


def started(settings: Settings) -> Any:
    """The handle of a new deployment, in the Ray that was joined or started."""
    from actors.deployment.creation import create_deployment

    with err.status("Starting the actors and the first sandboxes"):
        return create_deployment(settings)


def asked(refs: Any) -> Any:
    """What one call, or each of several, answers."""
    import ray

    return ray.get(refs, timeout=ANSWER_TIMEOUT_S)


def completed(orchestrator: Any, code: str, options: dict[str, Any]) -> ExecutionResult:
    """Run one program; an interrupt stops it."""
    import ray

    ref = orchestrator.run.remote(code, **options)
    try:
        result: ExecutionResult = ray.get(ref)
    except BaseException:
        ray.cancel(ref)
        raise
    return result


def streamed(orchestrator: Any, code: str, options: dict[str, Any]) -> ExecutionResult:
    """Run one program, showing its output as it comes."""
    from actors.clients.streams import stream

    with Screen(sys.stdout) as stdout, Screen(sys.stderr) as stderr:
        screens = {"stdout": stdout, "stderr": stderr}
        for item in stream(orchestrator, code, **options):
            if isinstance(item, ExecutionResult):
                return item
            if item.kind in screens:
                screens[item.kind].write(item.text)
    raise ActorUnavailable("Orchestrator", "ended the stream without a result")


def batched(
    orchestrator: Any, programs: list[str | dict[str, Any]], options: dict[str, Any]
) -> Iterator[tuple[int, ExecutionResult]]:
    """Run many programs, and yield index and result as they finish. Leaving the loop early stops the rest."""
    from actors.clients.streams import stream_many

    return stream_many(orchestrator, programs, **options)


def _check_reachable(address: str) -> None:
    """Tell an address where nobody listens from one that can be joined: Ray would end this process over it.

    Raises:
        ActorUnavailable: nobody listens.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        return  # ``auto``, ``local``, ``ray://…``: Ray looks these up itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ActorUnavailable("Ray", f"cannot be joined at {address}: {error.strerror or error}") from None
