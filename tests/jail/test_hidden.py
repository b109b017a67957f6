"""A jail shows an environment's packages, and none of the credentials that lie beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.backends.images import layout
from actors.backends.jail import JailBackend
from actors.backends.jail.host.hidden import hidden
from actors.config import JailSettings, RunLimits
from tests.backends import program

SECRET = "pass" + "word"
ADDRESS = '{"url": "https://%sgit.example/x.git", "vcs_info": {}}'


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An environment with credentials in many places."""
    place = tmp_path / "env"
    packages = place / "lib" / "packages"
    for path, text in {
        "pip.conf": SECRET,
        ".netrc": SECRET,
        "etc/conda/condarc": SECRET,
        "envs/other/pip.conf": SECRET,
        "lib/packages/fine-1.dist-info/direct_url.json": ADDRESS % "",
        "lib/packages/secret-1.dist-info/direct_url.json": ADDRESS % f"user:{SECRET}@",
        "lib/packages/fine.py": "value = 41",
        "share/data.txt": "data",
    }.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    assert packages.is_dir()
    return place


def test_what_may_hold_credentials_is_hidden_and_nothing_else(prefix: Path) -> None:
    found = hidden([str(prefix)], [str(prefix / "lib" / "packages")])
    names = ["pip.conf", ".netrc", "etc/conda", "envs", "lib/packages/secret-1.dist-info/direct_url.json"]
    assert found == sorted(str(prefix / name) for name in names)


def test_an_environment_within_another_is_shown(prefix: Path) -> None:
    inner = str(prefix / "envs" / "other")
    assert f"{prefix}/envs" not in hidden([str(prefix), inner], [])
    assert f"{inner}/pip.conf" in hidden([str(prefix), inner], [])


def test_of_a_place_that_all_programs_share_only_python_is_shown(prefix: Path) -> None:
    shared = prefix.rename(prefix.with_name(".local"))
    assert str(shared / "share") in hidden([str(shared)], [])
    assert str(shared / "lib") not in hidden([str(shared)], [])


async def test_a_program_finds_packages_and_no_credentials(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = layout.layout()
    found["prefixes"] = [*found["prefixes"], str(prefix)]
    found["sys_path"] = [*found["sys_path"], str(prefix / "lib" / "packages")]
    monkeypatch.setattr(layout, "layout", lambda: found)
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    await backend.start()
    sandbox = await backend.create()
    code = f"""
import os, fine
seen = []
for directory, _, names in os.walk({str(prefix)!r}):
    for name in names:
        try: seen.append(open(os.path.join(directory, name)).read())
        except OSError: pass
print(fine.value, any({SECRET!r} in text for text in seen), 'data' in seen, os.listdir({str(prefix / "envs")!r}))
"""
    try:
        report = await sandbox.execute(program(code))
        assert report.stdout == "41 False True []\n", report.error
        report = await sandbox.execute(program(f"open({str(prefix / 'pip.conf')!r}, 'w')"))
        assert report.error is not None
    finally:
        await sandbox.close()
        await backend.close()
