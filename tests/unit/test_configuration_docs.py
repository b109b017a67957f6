"""``docs/configuration.md`` is made from the settings, and is true."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.cli.main import app
from actors.cli.settings_docs import COMMAND, markdown
from actors.config import Settings

FILE = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(
    r"^\| `(?P<setting>[^`]+)` \| `(?P<variable>[^`]+)` \| .+? \| (?P<default>.+) \| (?P<meaning>.*) \|$", re.MULTILINE
)
ROWS = [row for row in ROW.finditer(markdown()) if ".NAME." not in row["setting"]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ORCHESTRATOR_", "E2B_")):
            monkeypatch.delenv(name)


def test_the_file_is_what_the_command_makes() -> None:
    assert FILE.read_text() == markdown(), f"make it anew: {COMMAND} > docs/configuration.md"


def test_the_command_prints_it() -> None:
    assert CliRunner().invoke(app, ["config", "docs"]).stdout == markdown()


def test_every_setting_is_there_and_nothing_else() -> None:
    listed = {row["setting"] for row in ROWS}
    dumped = Settings.load().model_dump()
    there = {f"{name}.{inner}" for name, section in dumped.items() if isinstance(section, dict) for inner in section}
    assert {name for name in listed if "." in name} == there - {f"backends.{row}" for row in dumped.get("backends", {})}
    assert {name.lower() for name in listed} >= dumped.keys() - {name.partition(".")[0] for name in listed}


def test_every_setting_says_what_it_means() -> None:
    assert [row["setting"] for row in ROW.finditer(markdown()) if not row["meaning"]] == []


def test_every_variable_takes_the_default_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Settings.load()
    told = {row["variable"]: row["default"].strip("`") for row in ROWS if row["default"].startswith("`")}
    for variable, default in told.items():
        value = json.loads(default)
        monkeypatch.setenv(variable, value if isinstance(value, str) else default)
    assert len(told) > 50
    assert Settings.load() == plain


def test_a_row_of_backends_takes_variables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"KIND": "fake", "IMAGE": "small", "CONCURRENCY": "3", "POOL": '{"max_size": 7}'}
    rows = {row["variable"] for row in ROW.finditer(markdown())}
    for name, value in given.items():
        assert f"ORCHESTRATOR_BACKENDS__NAME__{name}" in rows
        monkeypatch.setenv(f"ORCHESTRATOR_BACKENDS__MINE__{name}", value)
    row = Settings.load().backends["mine"]
    assert (row.kind, row.image, row.concurrency, row.pool.max_size) == ("fake", "small", 3, 7)


def test_what_is_shown_is_a_file_that_gives_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORCHESTRATOR_POOL__MAX_SIZE", "20")
    monkeypatch.setenv("E2B_API_KEY", "e2b_secret")
    shown = CliRunner().invoke(app, ["config", "show"]).stdout
    assert "max_size: 20" in shown
    assert "e2b_secret" not in shown
    (tmp_path / "orchestrator.yaml").write_text(shown)
    monkeypatch.delenv("ORCHESTRATOR_POOL__MAX_SIZE")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(tmp_path / "orchestrator.yaml"))
    assert Settings.load().pool.max_size == 20
    assert CliRunner().invoke(app, ["config", "show"]).stdout == shown
    assert json.loads(CliRunner().invoke(app, ["config", "show", "--json"]).stdout)["pool"]["max_size"] == 20
