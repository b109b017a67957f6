"""The process that owns a long-lived deployment of this machine: ``python -m actors.deployment.daemon NAMESPACE``."""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from collections.abc import Iterator

from actors.config import Settings
from actors.deployment import join_file
from actors.deployment.creation import create_deployment, end_deployment
from actors.deployment.join_file import LocalDeployment
from actors.deployment.local_ray import LocalCluster
from actors.errors import NoDeployment, ServiceError

FAILED = 3
STOP_POLL_S = 0.2
"""How soon it heeds a signal that one of Ray's threads was given."""


def own_deployment(namespace: str) -> int:
    """Start Ray and the deployment, say so, wait to be told to end, leave nothing; returns the exit status."""
    settings = Settings.load(namespace=namespace)
    stop = False

    def on_signal(_number: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    cluster = LocalCluster.start()
    try:
        create_deployment(settings)
        # After Ray, which sets handlers of its own.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        with _published(namespace, cluster.describe()):
            while not stop:
                time.sleep(STOP_POLL_S)
            end_deployment(namespace)
    except ServiceError as error:
        # The last line of the log, which `up` shows.
        print(error, file=sys.stderr)
        return FAILED
    finally:
        cluster.stop()
    return 0


@contextlib.contextmanager
def _published(namespace: str, deployment: LocalDeployment) -> Iterator[None]:
    """Let others find this process.

    Raises:
        NoDeployment: the ``up`` that started it was killed, so that another may be starting one, or has.
    """
    if _hung_up(sys.stdin.fileno()) or join_file.read(namespace) is not None:
        raise NoDeployment("nobody waits for it any more")
    join_file.write(namespace, deployment)
    try:
        yield
    finally:
        join_file.remove(namespace)


def _hung_up(pipe: int) -> bool:
    """Whether a pipe's writing end is closed; False for what is no pipe."""
    poll = select.poll()
    poll.register(pipe, select.POLLHUP)
    return bool(poll.poll(0))


if __name__ == "__main__":
    sys.exit(own_deployment(sys.argv[1]))
