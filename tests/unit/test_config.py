"""Settings from arguments, environment and file; mistakes are named, keys are not shown."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Literal

import pytest

from actors.config import JailRow, Settings
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


def test_a_row_takes_over_what_it_does_not_say_from_the_deployment_and_its_kind() -> None:
    row = {"kind": "jail", "image": "genomics", "pool": {"max_size": 4}, "limits": {"memory_mib": 8192}}
    settings = Settings.load(
        pool={"max_size": 7, "target_size": 2}, jail={"spares": 5}, limits={"processes": 9}, backends={"genomics": row}
    )
    genomics = settings.backends["genomics"]
    assert isinstance(genomics, JailRow)
    assert (genomics.image, genomics.spares) == ("genomics", 5)
    assert (genomics.pool.max_size, genomics.pool.target_size) == (4, 2)
    assert (genomics.limits.memory_mib, genomics.limits.processes) == (8192, 9)
    assert settings.backends["jail"].pool == settings.pool


def test_rows_are_read_from_the_environment_and_from_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("backends: {genomics: {kind: jail, image: genomics}, other: {kind: fake}}\n")
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(file))
    monkeypatch.setenv("ORCHESTRATOR_BACKENDS__GENOMICS__POOL__MAX_SIZE", "5")
    backends = Settings.load().backends
    assert {name: (row.kind, row.image, row.pool.max_size) for name, row in backends.items()} == {
        "jail": ("jail", None, 10),
        "genomics": ("jail", "genomics", 5),
        "other": ("fake", None, 10),
    }


def test_settings_with_rows_survive_the_way_to_an_actor() -> None:
    settings = Settings.load(backends={"blue": {"kind": "fake", "image": "blue"}})
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.fingerprint() == settings.fingerprint()
    assert Settings.load(backends=settings.backends).backends == settings.backends
    assert settings.fingerprint() != Settings.load().fingerprint()


@pytest.mark.parametrize("mode", ["python", "json"])
def test_settings_are_written_as_rows_that_still_follow_the_deployment(mode: Literal["python", "json"]) -> None:
    genomics = {"kind": "jail", "image": "genomics", "pool": {"max_size": 4}}
    settings = Settings.load(backends={"genomics": genomics, "other": {"kind": "fake"}})
    written = settings.model_dump(mode=mode, exclude={"e2b_api_key", "e2b_template_id"})
    assert written["backends"] == {"genomics": genomics, "other": {"kind": "fake"}}
    assert Settings.load(**written) == settings
    written["pool"]["target_size"] = 4
    assert {row.pool.target_size for row in Settings.load(**written).backends.values()} == {4}


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"backends": {"x": {}}}, r"^backends\.x\.kind: must be one of jail, fake$"),
        ({"backends": {"x": {"kind": "moon"}}}, r"^backends\.x\.kind: must be one of"),
        ({"backends": {"x": "y"}}, r"^backends\.x: input should be a valid dictionary"),
        ({"backends": "x"}, "^backends: input should be a valid dictionary$"),
        ({"backends": {"X y": {"kind": "fake"}}}, r"^backends\.X y: .*pattern"),
        ({"backends": {"x": {"kind": "jail", "colour": 1}}}, r"^backends\.x\.colour: extra"),
        ({"backends": {"x": {"kind": "fake", "preload": []}}}, r"^backends\.x\.preload: extra"),
        ({"backends": {"x": {"kind": "jail", "pool": 3}}}, r"^backends\.x\.pool: input should be"),
        ({"backends": {"x": {"kind": "jail", "pool": {"max_size": 1}}}}, r"^backends\.x\.pool: min_size"),
        (
            {"backends": {"x": {"kind": "jail", "rate_limit": {"lease_ttl_s": 1}}}},
            r"^backends\.x\.rate_limit\.lease_ttl_s",
        ),
        ({"backends": {"local": {"kind": "jail"}}}, r"^backends\.local: is the name of whichever"),
        ({"router": {"local": "jial"}, "backends": {"x": {"kind": "fake"}}}, r"^router\.local: .* there are x$"),
        ({"pool": {"colour": 1}}, r"^pool\.colour: extra inputs are not permitted$"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_once_and_where(sections: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Settings.load(**sections)
