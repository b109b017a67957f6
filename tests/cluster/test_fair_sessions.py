"""One user opens all the sessions that it can get; others have sessions and runs all the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import ray

from actors.errors import PoolExhausted, UnknownSession
from actors.testing import Deployment

Start = Callable[..., Deployment]
ASSURED_S = 4.0
AT_ONCE_S = 2.0
"""Far less than the 30 s that ``open_session`` may wait."""


def opened(deployment: Deployment, user: str) -> str:
    session: str = ray.get(deployment.orchestrator.open_session.remote(user=user), timeout=40)
    return session


def opened_when_told(deployment: Deployment, user: str) -> str:
    """Come back whenever the refusal says that it is worth it."""
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        try:
            return opened(deployment, user)
        except PoolExhausted as refused:
            wait_s = refused.retry_after_s
        assert 0 < wait_s <= ASSURED_S
        time.sleep(wait_s)
    raise AssertionError("never")


def test_whoever_comes_first_cannot_have_all_sandboxes_for_as_long_as_it_likes(deployment: Start) -> None:
    shared = deployment(
        pool={"min_size": 2, "target_size": 5, "max_size": 5, "maintenance_interval_s": 1.0},
        sessions={"assured_s": ASSURED_S},
    )
    greedy = [opened(shared, "mallory") for _ in range(3)]
    since = time.monotonic()
    with pytest.raises(PoolExhausted, match=f"user mallory has 3 of the 4 .* close one first, as session {greedy[0]}"):
        opened(shared, "mallory")
    assert time.monotonic() - since < AT_ONCE_S

    # She keeps all of hers busy; a run and a newcomer's session have a place at once.
    keep_busy = {"user": "mallory", "timeout_s": 90.0}
    busy = [shared.orchestrator.run.remote("# fake: slow=60", session=name, **keep_busy) for name in greedy]
    assert shared.run("print(1)", user="carol", cache="off").stdout == "1\n"
    first = opened(shared, "bob")

    # He may have as many as she, once hers have had their time: one of hers makes way.
    second = opened_when_told(shared, "bob")
    held = {info.session: info.user for info in ray.get(shared.orchestrator.list_sessions.remote(), timeout=10)}
    assert sorted(held.values()) == ["bob", "bob", "mallory", "mallory"]
    assert {first, second} < held.keys()
    with pytest.raises(PoolExhausted, match="that 2 users' sessions share"):
        opened(shared, "bob")
    [gone] = set(greedy) - held.keys()
    result = shared.run("1", user="mallory", session=gone)
    assert (result.outcome, result.error_code) == ("rejected", UnknownSession.code)
    assert shared.run("print(2)", user="bob", session=second).stdout == "2\n"
    assert shared.run("print(3)", user="carol", cache="off").stdout == "3\n"
    for ref in busy:
        ray.cancel(ref)
