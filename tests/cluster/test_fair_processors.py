"""One user's programs that keep every core busy hardly slow down what another runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray

from actors.backends.jail.kernel import cgroup
from actors.testing import Deployment, deployed

SLOTS = 4
SPIN = "import os\nfor _ in range(2): os.fork()\nwhile True: pass"
_GROUPS = cgroup.find()


@pytest.fixture(scope="module")
def jailed(orchestrator_cluster: None) -> Iterator[Deployment]:
    pool = {"min_size": SLOTS, "target_size": SLOTS, "max_size": SLOTS}
    with deployed(router={"local": "jail"}, jail={"preload": ()}, pool=pool) as running:
        yield running


def p99_s(jailed: Deployment, seconds: float = 6.0) -> float:
    """Of runs one after another, for so many seconds; at least forty."""
    took_s: list[float] = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at or len(took_s) < 40:
        began_at = time.monotonic()
        assert jailed.run(f"print({began_at})", user="light", cache="off").ok
        took_s.append(time.monotonic() - began_at)
        time.sleep(0.02)
    return sorted(took_s)[int(len(took_s) * 0.99)]


@pytest.mark.skipif(_GROUPS is None or _GROUPS.cpu is None, reason="no control group shares out processors here")
def test_with_a_spinner_in_every_other_slot_a_light_user_is_served_soon(jailed: Deployment) -> None:
    p99_s(jailed, 1.0)
    alone_s = p99_s(jailed)
    spinning = [
        jailed.orchestrator.run.remote(SPIN, user="heavy", timeout_s=12.0, cache="off") for _ in range(SLOTS - 1)
    ]
    time.sleep(2.0)
    beside_s = p99_s(jailed)
    ray.get(spinning, timeout=60)
    print(f"p99 alone {alone_s * 1e3:.1f} ms, beside {SLOTS - 1} spinners {beside_s * 1e3:.1f} ms")
    # Three times is what it is to be; twice that leaves room for what else this machine does meanwhile.
    assert beside_s < max(6 * alone_s, 0.1)
