"""Images, built for real and used by a deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import actors
from actors.testing import deployed, eventually
from tests.e2e.test_cli import Terminal

LIST = """
[small]
description = "hardly anything"
packages = ["six"]
[other]
packages = ["idna"]
[broken]
packages = ["no-such-package-anywhere"]
"""


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    home = tmp_path_factory.mktemp("images")
    (home / "images.toml").write_text(LIST)
    terminal = Terminal(home)
    terminal.environment |= {
        "ORCHESTRATOR_IMAGES__FILE": str(home / "images.toml"),
        "ORCHESTRATOR_IMAGES__DIRECTORY": str(home / "built"),
    }
    built = terminal.run("image", "build", "small", "--tag", "first", "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["modules"] == {"BUILD_TAG": None, "six": None}
    return terminal


def test_what_is_built_is_listed_and_verified(terminal: Terminal) -> None:
    listed = json.loads(terminal.run("image", "list", "--json").stdout)
    assert [(image["name"], image["tag"]) for image in listed] == [
        ("small", "first"),
        ("other", None),
        ("broken", None),
    ]
    assert "hardly anything" in terminal.run("image", "list").stdout
    verified = terminal.run("image", "verify", "small")
    assert (verified.returncode, "✓ all 2" in verified.stdout) == (0, True)


def test_what_cannot_be_built_says_why_and_leaves_nothing(terminal: Terminal) -> None:
    failed = terminal.run("image", "build", "broken")
    assert failed.returncode == 3
    assert "no-such-package-anywhere" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [path.name for path in (terminal.home / "built").glob("broken-*")] == []
    unknown = terminal.run("image", "build", "smal")
    assert (unknown.returncode, "broken, other, small" in unknown.stderr) == (2, True)
    unbuilt = terminal.run("image", "verify", "broken")
    assert (unbuilt.returncode, "image build broken" in unbuilt.stderr) == (2, True)


def test_a_package_that_is_broken_is_found(terminal: Terminal) -> None:
    [module] = (terminal.home / "built").glob("small-*/lib/python*/site-packages/six.py")
    text = module.read_text()
    try:
        module.write_text("raise ImportError('spoiled')")
        verified = terminal.run("image", "verify", "small", "--json")
        assert verified.returncode == 1
        assert json.loads(verified.stdout)["modules"]["six"] == "ImportError: spoiled"
    finally:
        module.write_text(text)


SHOW = "import os, six\nos.environ['BUILD_TAG'], open('/etc/build-tag').read(), six.__file__.split('/')[-1]"


def test_a_deployment_runs_in_its_image_and_goes_over_to_the_next_build(
    terminal: Terminal, orchestrator_cluster: object
) -> None:
    built = terminal.home / "built"
    sections = {
        "router": {"local": "jail"},
        "images": {"file": terminal.home / "images.toml", "directory": built},
        "jail": {"image": "small"},
        "cache": {"enabled": False},
    }
    with deployed(**sections) as system:
        assert system.run(SHOW).text == "('first', 'first', 'six.py')"
        missing = system.run("import numpy")
        assert missing.error is not None
        assert "e2b-orchestrator image build small" in missing.error.traceback
        session = actors.Session.open(system.orchestrator, user="kept")
        session.run("x = 1")
        again = terminal.run("image", "build", "small", "--tag", "second")
        assert again.returncode == 0, again.stderr
        eventually(lambda: system.run(SHOW).text == "('second', 'second', 'six.py')", 30, "sandboxes are replaced")
        eventually(lambda: system.metrics("pool")["build_tag"] == "second", 30, "the supervisor has seen it")
        session.close()
    left = [path.name for path in built.glob("small-????????")]
    assert len(left) == 2, "the last build is kept for those that still use it"


TAG_AND_PACKAGES = """
import importlib.util, os
os.environ["BUILD_TAG"], [name for name in ("six", "idna") if importlib.util.find_spec(name)]
"""


def test_jails_of_different_images_stand_side_by_side(terminal: Terminal, orchestrator_cluster: object) -> None:
    built = terminal.run("image", "build", "other", "--tag", "another", "--json")
    assert built.returncode == 0, built.stderr
    tag = json.loads(terminal.run("image", "list", "--json").stdout)[0]["tag"]
    here = {"file": terminal.home / "images.toml", "directory": terminal.home / "built"}
    sections = {
        "router": {"local": "jail"},
        "images": here,
        "jail": {"image": "small"},
        "backends": {"tools": {"kind": "jail", "image": "other"}},
        "pool": {"min_size": 1, "target_size": 1, "max_size": 2},
        "cache": {"enabled": False},
    }
    with deployed(**sections) as system:
        small, other = f"('{tag}', ['six'])", "('another', ['idna'])"
        assert system.run(TAG_AND_PACKAGES).text == small
        assert system.run(TAG_AND_PACKAGES, image="small").text == small
        result = system.run(TAG_AND_PACKAGES, image="other")
        assert (result.text, result.backend) == (other, "tools")
        assert system.run(TAG_AND_PACKAGES, backend="tools").text == other
        with actors.Session.open(system.orchestrator, image="other", timeout_s=30.0) as session:
            assert session.run(TAG_AND_PACKAGES).text == other
            assert system.run(TAG_AND_PACKAGES).text == small
        with pytest.raises(actors.InvalidRequest, match="there are other, small"):
            system.run("1", image="broken")


def test_the_command_line_names_an_image(terminal: Terminal) -> None:
    backends = json.dumps({"tools": {"kind": "jail", "image": "other"}})
    ran = terminal.run("run", "-c", TAG_AND_PACKAGES, "--image", "other", "--json", ORCHESTRATOR_BACKENDS=backends)
    result = json.loads(ran.stdout)
    assert (result["results"][0]["text"], result["backend"]) == ("('another', ['idna'])", "tools")
    unknown = terminal.run("run", "-c", "1", "--image", "moon", ORCHESTRATOR_BACKENDS=backends)
    assert (unknown.returncode, "no backend is made from image 'moon'; there are other" in unknown.stderr) == (2, True)
    listed = json.loads(terminal.run("image", "list", "--json", ORCHESTRATOR_BACKENDS=backends).stdout)
    assert [image["name"] for image in listed if image["used"]] == ["other"]


def test_a_deployment_of_an_image_that_was_not_built_does_not_start(terminal: Terminal) -> None:
    refused = terminal.run("run", "-c", "1", ORCHESTRATOR_JAIL__IMAGE="broken")
    assert (refused.returncode, "image build broken" in refused.stderr) == (2, True)
    one_of_two = json.dumps({"tools": {"kind": "jail", "image": "broken"}})
    refused = terminal.run("run", "-c", "1", ORCHESTRATOR_BACKENDS=one_of_two)
    assert (refused.returncode, "image build broken" in refused.stderr) == (2, True)
