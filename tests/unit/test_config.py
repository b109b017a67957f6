"""Settings from arguments, environment and file; mistakes are named, keys are not shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.config import Settings
from actors.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ORCHESTRATOR_", "E2B_")):
            monkeypatch.delenv(name)


def test_the_environment_reaches_nested_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_POOL__MAX_SIZE", "20")
    assert Settings.load().pool.max_size == 20


def test_arguments_beat_the_environment_which_beats_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("pool: {max_size: 30, target_size: 5}\nqueue: {max_depth: 7}\n")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(file))
    monkeypatch.setenv("ORCHESTRATOR_POOL__MAX_SIZE", "20")
    settings = Settings.load(queue={"max_depth": 9})
    assert (settings.pool.max_size, settings.pool.target_size, settings.queue.max_depth) == (20, 5, 9)


def test_a_key_of_the_file_that_is_unknown_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("pool: {colour: red}\n")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(file))
    with pytest.raises(ConfigurationError, match=r"pool\.colour"):
        Settings.load()


def test_a_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", "/nowhere.yaml")
    with pytest.raises(ConfigurationError, match=r"/nowhere\.yaml"):
        Settings.load()


@pytest.mark.parametrize("name", ["ORCHESTRATOR_POOOL__MAX_SIZE", "ORCHESTRATOR_POOL__MAXSIZE"])
def test_a_variable_that_is_unknown_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "20")
    with pytest.raises(ConfigurationError, match=r"(?i)pooo?l"):
        Settings.load()


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="min_size ≤ target_size ≤ max_size"):
        Settings.load(pool={"min_size": 5, "target_size": 3})


def test_the_key_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_secret")
    settings = Settings.load()
    assert settings.e2b_api_key
    assert settings.e2b_api_key.get_secret_value() == "e2b_secret"
    assert "e2b_secret" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_fingerprint_tells_configurations_apart_and_not_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Settings.load().fingerprint()
    assert Settings.load(pool={"max_size": 11}).fingerprint() != plain
    monkeypatch.setenv("E2B_API_KEY", "e2b_secret")
    assert Settings.load().fingerprint() == plain
