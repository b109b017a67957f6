"""Languages that a machine has not, or has in a version that is too old."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from actors.backends.jail import JailBackend
from actors.backends.jail.host import languages
from actors.config import JailSettings, RunLimits
from actors.errors import InvalidRequest
from tests.backends import program


def node(directory: Path, version: str) -> str:
    """Make a program that says that it is Node.js of some version."""
    directory.mkdir()
    path = directory / "node"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "able"), [("v22.15.0", True), ("v24.1.0", True), ("v22.14.9", False), ("what?", False)]
)
def test_typescript_needs_a_node_that_knows_of_types(tmp_path: Path, version: str, able: bool) -> None:
    programs = {"javascript": node(tmp_path / "bin", version)}
    languages.check("javascript", programs)
    if able:
        languages.check("typescript", programs)
        return
    with pytest.raises(InvalidRequest, match=r"22\.15.*pip install"):
        languages.check("typescript", programs)


@pytest.mark.parametrize("language", ["javascript", "typescript"])
async def test_a_language_that_is_missing_says_how_to_add_it(monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setattr(languages, "installed", lambda *_: {"bash": "/bin/bash"})
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    await backend.start()
    try:
        sandbox = await backend.create()
        with pytest.raises(InvalidRequest, match=r"Node\.js.*pip install"):
            await sandbox.execute(program("1", language=language))
        assert (await sandbox.execute(program("echo yes", language="bash"))).stdout == "yes\n"
    finally:
        await backend.close()


@pytest.mark.parametrize(
    ("code", "printed", "text"),
    [
        ("if (require.main === module) console.log('main');\n[1, 2]", "main\n", "[ 1, 2 ]"),
        ("import path from 'node:path';\nconsole.log(typeof require);\npath.sep", "undefined\n", "'/'"),
        ("await Promise.resolve('waited')", "", "'waited'"),
        (
            "const { Worker, isMainThread } = require('worker_threads');\n"
            "if (isMainThread) new Worker(__filename);\nconsole.log(isMainThread);\nisMainThread",
            "true\nfalse\n",
            "true",
        ),
    ],
)
async def test_an_older_node_of_the_machine_runs_javascript(
    monkeypatch: pytest.MonkeyPatch, code: str, printed: str, text: str
) -> None:
    older = shutil.which("node", path="/usr/local/bin:/usr/bin:/bin")
    if older is None or languages.version(older) >= languages.TYPES_SINCE:
        pytest.skip("needs a Node.js of the machine that is older than the packaged one")
    monkeypatch.setattr(languages, "installed", lambda *_: {"javascript": older})
    backend = JailBackend(JailSettings(preload=()), RunLimits())
    await backend.start()
    try:
        report = await (await backend.create()).execute(program(code, language="javascript"))
    finally:
        await backend.close()
    assert (report.stdout, report.text, report.error) == (printed, text, None)
