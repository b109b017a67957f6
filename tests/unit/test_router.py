from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.router import BackendView, Policy, complexity, route
from actors.errors import InvalidRequest, Rejected

UP, DOWN, SICK = BackendView(), BackendView(available=False), BackendView(healthy=False)
BOTH = {"jail": UP, "e2b": UP}
LIGHT, HEAVY, NETWORK, MISSING = "print(1)", "import torch", "import requests", "import somebodys_package"


@pytest.mark.parametrize(
    ("code", "policy", "available", "backend", "fallbacks"),
    [
        (LIGHT, "local", BOTH, "jail", ("e2b",)),
        (HEAVY, "local", BOTH, "jail", ("e2b",)),
        (LIGHT, "e2b", BOTH, "e2b", ("jail",)),
        (LIGHT, "auto", BOTH, "jail", ("e2b",)),
        (HEAVY, "auto", BOTH, "e2b", ("jail",)),
        (NETWORK, "auto", BOTH, "e2b", ("jail",)),
        (MISSING, "auto", BOTH, "e2b", ("jail",)),
        ("def broken(:", "auto", BOTH, "jail", ("e2b",)),
        (HEAVY, "auto", {"jail": UP}, "jail", ()),
        (HEAVY, "auto", {"jail": UP, "e2b": DOWN}, "jail", ()),
        (HEAVY, "auto", {"jail": UP, "e2b": SICK}, "jail", ("e2b",)),
        (LIGHT, "auto", {"jail": SICK, "e2b": UP}, "e2b", ("jail",)),
        (LIGHT, "auto", {"jail": SICK, "e2b": SICK}, "jail", ("e2b",)),
        (LIGHT, "e2b", {"jail": UP}, "jail", ()),
        (LIGHT, "e2b", {"jail": UP, "e2b": SICK}, "jail", ("e2b",)),
        (LIGHT, "local", {"e2b": UP}, "e2b", ()),
        (LIGHT, "local", {"jail": SICK}, "jail", ()),
    ],
)
def test_the_policy_the_program_and_what_is_there_decide(
    code: str, policy: Policy, available: dict[str, BackendView], backend: str, fallbacks: tuple[str, ...]
) -> None:
    chosen = route(code, policy=policy, requested=None, available=available)
    assert (chosen.backend, chosen.fallbacks) == (backend, fallbacks)
    assert chosen.why.startswith(f"{backend}: ")


@pytest.mark.parametrize(
    ("code", "available", "why"),
    [
        (LIGHT, BOTH, "jail: the program is light"),
        (NETWORK, BOTH, "e2b: the program needs the network"),
        (MISSING, BOTH, "e2b: the embedded sandbox lacks somebodys_package"),
        (HEAVY, {"jail": UP}, "jail: e2b is not available"),
        (
            NETWORK,
            {"jail": UP, "e2b": SICK},
            "jail: e2b was preferred (the program needs the network) but is unhealthy",
        ),
    ],
)
def test_the_reason_is_one_plain_sentence(code: str, available: dict[str, BackendView], why: str) -> None:
    assert route(code, policy="auto", requested=None, available=available).why == why


def test_a_run_that_was_granted_the_network_goes_to_the_cloud() -> None:
    assert route(LIGHT, policy="auto", requested=None, available=BOTH, needs_network=True).backend == "e2b"


def test_a_requested_backend_is_taken_as_it_is_and_without_fallback() -> None:
    chosen = route(LIGHT, policy="local", requested="e2b", available={"jail": UP, "e2b": SICK})
    assert (chosen.backend, chosen.fallbacks, chosen.why) == ("e2b", (), "e2b: asked for")


def test_local_means_the_embedded_backend_of_this_deployment() -> None:
    available = {"fake": UP, "e2b": UP}
    assert route(LIGHT, policy="e2b", requested="local", available=available, local="fake").backend == "fake"
    assert route(LIGHT, policy="local", requested=None, available=available, local="fake").backend == "fake"


@pytest.mark.parametrize("requested", ["unheard_of", ""])
def test_an_unknown_backend_is_refused_with_those_there_are(requested: str) -> None:
    with pytest.raises(InvalidRequest, match=r"backend: there is no backend .*; there are e2b, fake, jail"):
        route(LIGHT, policy="auto", requested=requested, available={"jail": UP, "fake": UP, "e2b": DOWN})


def test_a_backend_that_has_no_sandbox_yet_is_asked_again_later() -> None:
    with pytest.raises(Rejected, match="'e2b' has no sandbox yet") as caught:
        route(LIGHT, policy="auto", requested="e2b", available={"jail": UP, "e2b": DOWN})
    assert caught.value.retry_after_s > 0


HEAVY_WHY = "cloud: the program is heavy (imports multiprocessing)"
IMAGES = {
    "jail": UP,
    "science": BackendView(image="science"),
    "genomics": BackendView(image="genomics"),
    "cloud": BackendView(image="genomics"),
}


@pytest.mark.parametrize(
    ("image", "policy", "code", "why", "fallbacks"),
    [
        ("science", "local", LIGHT, "science: it is made from image science", ()),
        ("genomics", "local", LIGHT, "genomics: it is made from image genomics", ("cloud",)),
        ("genomics", "e2b", LIGHT, "cloud: the policy is e2b", ("genomics",)),
        ("genomics", "auto", "import multiprocessing", HEAVY_WHY, ("genomics",)),
        ("genomics", "auto", LIGHT, "genomics: it is made from image genomics", ("cloud",)),
        (None, "local", LIGHT, "jail: the policy is local", ("cloud",)),
    ],
)
def test_only_what_is_made_from_the_image_asked_for_serves(
    image: str | None, policy: Policy, code: str, why: str, fallbacks: tuple[str, ...]
) -> None:
    chosen = route(code, policy=policy, requested=None, image=image, available=IMAGES, cloud="cloud")
    assert (chosen.why, chosen.fallbacks) == (why, fallbacks)


def test_a_sick_backend_is_left_for_another_of_the_same_image_and_for_no_other() -> None:
    sick = IMAGES | {"genomics": BackendView(image="genomics", healthy=False)}
    assert route(LIGHT, policy="local", requested=None, image="genomics", available=sick).backend == "cloud"
    alone = IMAGES | {"science": BackendView(image="science", healthy=False)}
    chosen = route(LIGHT, policy="local", requested=None, image="science", available=alone)
    assert (chosen.backend, chosen.fallbacks) == ("science", ())


def test_an_unknown_image_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidRequest, match=r"image: .* 'moon'; there are genomics, science"):
        route(LIGHT, policy="auto", requested=None, image="moon", available=IMAGES)
    with pytest.raises(InvalidRequest, match="no backend here is made from a named image"):
        route(LIGHT, policy="auto", requested=None, image="moon", available=BOTH)


def test_a_backend_and_an_image_that_contradict_each_other_are_refused() -> None:
    assert route(LIGHT, policy="auto", requested="genomics", image="genomics", available=IMAGES).backend == "genomics"
    with pytest.raises(InvalidRequest, match="backend 'science' is made from image 'science'"):
        route(LIGHT, policy="auto", requested="science", image="genomics", available=IMAGES)
    with pytest.raises(InvalidRequest, match="backend 'jail' is not made from a named image"):
        route(LIGHT, policy="auto", requested="jail", image="genomics", available=IMAGES)


def test_with_no_backend_at_all_the_run_may_be_tried_again_later() -> None:
    with pytest.raises(Rejected) as caught:
        route(LIGHT, policy="auto", requested=None, available={"jail": DOWN})
    assert caught.value.retry_after_s > 0


@pytest.mark.parametrize(
    ("code", "heavy", "network", "missing"),
    [
        ("import torch.nn as nn", ("torch",), False, ("torch",)),
        ("from sklearn.svm import SVC", ("sklearn",), False, ("sklearn",)),
        ("from urllib.request import urlopen", (), True, ()),
        ("from urllib import request", (), True, ()),
        ("from urllib.parse import quote", (), False, ()),
        ("import http.client", (), True, ()),
        ("import socket", (), True, ()),
        ("import numpy, pandas.io, json", (), False, ()),
        ("from .neighbour import x", (), False, ()),
        ("try:\n    import rare\nexcept ImportError:\n    rare = None", (), False, ()),
        ("try:\n    import rare\nexcept KeyError:\n    rare = None", (), False, ("rare",)),
    ],
)
def test_imports_tell_what_a_program_needs(
    code: str, heavy: tuple[str, ...], network: bool, missing: tuple[str, ...]
) -> None:
    found = complexity(code)
    assert found.reasons == tuple(f"imports {name}" for name in heavy)
    assert (found.needs_network, found.missing) == (network, missing)


def nested(depth: int) -> str:
    return "".join(f"{'  ' * n}for i{n} in range(9):\n" for n in range(depth)) + "  " * depth + "pass"


@given(st.integers(0, 8))
def test_deeper_loops_never_lower_the_complexity(depth: int) -> None:
    assert complexity(nested(depth)).score <= complexity(nested(depth + 1)).score <= 1


def test_deep_loops_are_heavy_and_the_reason_is_said() -> None:
    chosen = route(nested(4), policy="auto", requested=None, available=BOTH)
    assert chosen.backend == "e2b"
    assert "loops nested 4 deep" in chosen.why


@pytest.mark.parametrize("code", ["(" * 9000, "[" * 150 + "]" * 150, "-" * 30_000 + "1", "a" * 200_000, "\0"])
def test_what_cannot_be_read_is_light(code: str) -> None:
    assert complexity(code).score < 0.1


VIEWS = st.dictionaries(st.sampled_from(["jail", "fake", "e2b"]), st.builds(BackendView, st.booleans(), st.booleans()))


@given(
    code=st.sampled_from([LIGHT, HEAVY, NETWORK, MISSING]),
    policy=st.sampled_from(["e2b", "local", "auto"]),
    available=VIEWS,
    local=st.sampled_from(["jail", "fake"]),
)
def test_only_available_backends_are_chosen_and_a_sick_one_only_if_no_well_one_remains(
    code: str, policy: Policy, available: dict[str, BackendView], local: str
) -> None:
    usable = {name: view for name, view in available.items() if view.available and name in (local, "e2b")}
    if not usable:
        with pytest.raises(Rejected):
            route(code, policy=policy, requested=None, available=available, local=local)
        return
    chosen = route(code, policy=policy, requested=None, available=available, local=local)
    assert sorted((chosen.backend, *chosen.fallbacks)) == sorted(usable)
    assert usable[chosen.backend].healthy or not any(view.healthy for view in usable.values())
