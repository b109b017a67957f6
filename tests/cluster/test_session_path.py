"""A session holds its sandbox: its runs ask nobody else, and nobody else's run comes there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray

from actors.clients import registry
from actors.testing import Deployment, eventually, pid_of

Start = Callable[..., Deployment]


@pytest.fixture
def small(deployment: Start) -> Deployment:
    return deployment(pool={"min_size": 2, "target_size": 3, "max_size": 4, "maintenance_interval_s": 1.0})


def ask(deployment: Deployment, method: str, *args: Any, **options: Any) -> Any:
    return ray.get(getattr(deployment.orchestrator, method).remote(*args, **options), timeout=30)


@contextmanager
def opened(deployment: Deployment, user: str = "ann") -> Iterator[str]:
    session = ask(deployment, "open_session", user=user)
    yield session
    ask(deployment, "close_session", session, user=user)


def sandbox_of(deployment: Deployment, session: str) -> str:
    [info] = [info for info in ask(deployment, "list_sessions") if info.session == session]
    return str(info.sandbox_id)


def statuses(deployment: Deployment) -> list[Any]:
    namespace = deployment.namespace
    handles = [ray.get_actor(name, namespace=namespace) for name in registry.sandbox_names(namespace)]
    return ray.get([handle.status.remote() for handle in handles], timeout=10)


def test_a_run_in_a_session_asks_the_queue_for_nothing(small: Deployment) -> None:
    with opened(small) as session:
        before = ask(small, "get_metrics")["queue"]["granted"]
        for number in range(10):
            assert ask(small, "run", f"print({number})", user="ann", session=session).stdout == f"{number}\n"
        assert ask(small, "get_metrics")["queue"]["granted"] == before


def test_neither_stateless_nor_fresh_runs_of_its_user_touch_a_session(small: Deployment) -> None:
    with opened(small) as session:
        ask(small, "run", "x = 41", user="ann", session=session)
        mine = sandbox_of(small, session)
        others = [small.orchestrator.run.remote("print(1)", user="ann", cache="off") for _ in range(12)]
        others += [small.orchestrator.run.remote("print(1)", user="ann", fresh=True) for _ in range(6)]
        inside = [small.orchestrator.run.remote("print(x)", user="ann", session=session) for _ in range(6)]
        results = ray.get(others, timeout=60)
        assert {result.outcome for result in results} == {"ok"}
        assert mine not in {result.sandbox_id for result in results}
        assert {(result.stdout, result.sandbox_id) for result in ray.get(inside, timeout=60)} == {("41\n", mine)}


def test_a_session_whose_sandbox_died_is_unknown_and_its_place_is_filled(small: Deployment) -> None:
    session = ask(small, "open_session", user="ann")
    pid = pid_of(small.namespace, sandbox_of(small, session))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not ask(small, "list_sessions"), 20)
    result = ask(small, "run", "1", user="ann", session=session)
    assert (result.outcome, result.error_code, result.may_have_run) == ("rejected", "unknown_session", False)
    with opened(small) as again:
        assert ask(small, "run", "print(1)", user="ann", session=again).ok


def test_a_lost_orchestrator_leaves_no_session_behind(small: Deployment) -> None:
    session = ask(small, "open_session", user="ann")
    ask(small, "run", "x = 1", user="ann", session=session)
    assert sum(status.sessions for status in statuses(small)) == 1
    ray.kill(small.orchestrator, no_restart=False)

    def runs_again() -> bool:
        try:
            return bool(ask(small, "run", "print(1)", user="ann", cache="off").ok)
        except ray.exceptions.RayError:
            return False  # it is not back yet

    eventually(runs_again, 20)
    eventually(lambda: sum(status.sessions for status in statuses(small)) == 0, 20)
    assert ask(small, "run", "print(x)", user="ann", session=session).error_code == "unknown_session"


def test_a_restarted_queue_gives_a_sessions_sandbox_to_nobody(small: Deployment) -> None:
    with opened(small) as session:
        ask(small, "run", "x = 1", user="ann", session=session)
        mine = sandbox_of(small, session)
        ray.kill(ray.get_actor("FairQueue", namespace=small.namespace), no_restart=False)
        others = [small.orchestrator.run.remote("print(2)", user="ann", cache="off") for _ in range(12)]
        assert ask(small, "run", "print(x)", user="ann", session=session).stdout == "1\n"
        results = ray.get(others, timeout=60)
        assert {result.outcome for result in results} == {"ok"}
        assert mine not in {result.sandbox_id for result in results}
        assert ask(small, "run", "print(x)", user="ann", session=session).stdout == "1\n"
