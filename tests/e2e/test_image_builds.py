"""Images, built for real and used by a deployment."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import actors
from actors.testing import deployed, eventually
from tests.e2e.test_cli import Terminal

LIST = (
    '[small]\ndescription = "hardly anything"\npackages = ["six"]\n[broken]\npackages = ["no-such-package-anywhere"]\n'
)


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
    assert [(image["name"], image["tag"]) for image in listed] == [("small", "first"), ("broken", None)]
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
    assert (unknown.returncode, "broken, small" in unknown.stderr) == (2, True)
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


def test_a_deployment_of_an_image_that_was_not_built_does_not_start(terminal: Terminal) -> None:
    refused = terminal.run("run", "-c", "1", ORCHESTRATOR_JAIL__IMAGE="broken")
    assert (refused.returncode, "image build broken" in refused.stderr) == (2, True)
