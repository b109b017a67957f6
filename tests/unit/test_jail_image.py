"""What a jail server is told of its image, and how images are told apart."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from actors.backends import jail
from actors.backends.jail.host import image
from actors.backends.jail.kernel import bwrap
from actors.config import ImageSettings, JailSettings

JAIL = Path(jail.__file__).parent


def test_no_secret_is_among_the_words_or_files() -> None:
    described = image.describe(JailSettings(), ImageSettings())
    assert "API_KEY" not in json.dumps(described)
    words = bwrap.walls("/usr/bin/bwrap", described["prefixes"], described["links"], [], "tag", 1000, 1000).arguments
    assert str(Path.home() / ".ssh") not in " ".join(words)


def test_the_build_tag_names_the_packages() -> None:
    def tag(*preload: str) -> str:
        return image.build_tag(JailSettings(preload=preload), ImageSettings())

    assert tag("numpy") == tag("numpy")
    assert tag("numpy") != tag("numpy", "pandas")


def test_an_image_is_named_once_since_every_new_jail_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = JailSettings(preload=("numpy", "scipy"))
    first = image.build_tag(settings, ImageSettings())
    monkeypatch.setattr(metadata, "version", lambda _: pytest.fail("looked up again"))
    assert image.build_tag(settings, ImageSettings()) == first


def test_another_configuration_has_another_jail_server() -> None:
    one, other = (
        image.describe(JailSettings(), ImageSettings()),
        image.describe(JailSettings(preload=("json",)), ImageSettings()),
    )
    assert image.fingerprint(one) == image.fingerprint(dict(one))
    assert image.fingerprint(one) != image.fingerprint(other)


@pytest.mark.parametrize("room", ["", "host", "spawn", "inside", "kernel"])
def test_other_code_in_any_room_has_another_jail_server(monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    config = image.describe(JailSettings(), ImageSettings())
    before, read = image.fingerprint(config), Path.read_bytes
    changed = JAIL / room / "__init__.py"
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == changed))
    assert image.fingerprint(config) != before
