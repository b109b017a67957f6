"""Programs install packages where they may write, since the image's own place is read-only."""

from __future__ import annotations

import io
import zipfile

import pytest

from actors.schemas import Outcome
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")
pytest.importorskip("pip")
WHEEL = "greeting-1.0-py3-none-any.whl"
CHILD = "import subprocess, sys\nprint(subprocess.run({}, capture_output=True, text=True).stdout)"


def wheel() -> dict[str, bytes]:
    """A wheel with one module and one script, and its name."""
    about = "greeting-1.0.dist-info"
    parts = {
        "greeting.py": "def main(): print('hello')\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\ngreet=greeting:main\n",
    }
    parts[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in (*parts, f"{about}/RECORD"))
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return {WHEEL: data.getvalue()}


@pytest.mark.parametrize(
    "install",
    [
        f"!pip install {WHEEL}",
        f"%pip install ./{WHEEL}",
        CHILD.format(f"[sys.executable, '-m', 'pip', 'install', './{WHEEL}']"),
    ],
    ids=["!pip", "%pip", "child"],
)
async def test_what_is_installed_is_there_at_once_later_and_for_children(session: OpenSession, install: str) -> None:
    before = await session.run("try: import greeting\nexcept ImportError: print('not yet')", files=wheel())
    assert before.stdout == "not yet\n"
    report = await session.run(f"{install}\nimport greeting\ngreeting.main()", timeout_s=60.0)
    assert report.stdout.endswith("hello\n"), report.stderr
    assert (await session.run("import greeting\ngreeting.main()")).stdout == "hello\n"
    for command in ("[sys.executable, '-c', 'import greeting; greeting.main()']", "['greet']"):
        assert (await session.run(CHILD.format(command))).stdout == "hello\n\n"
    assert (await session.command("greet")).stdout == "hello\n"


async def test_a_run_installs_for_itself_alone(run: Run) -> None:
    report = await run(f"!pip install {WHEEL}\nimport greeting\ngreeting.main()", files=wheel(), timeout_s=60.0)
    assert report.stdout.endswith("hello\n"), report.stderr
    assert (await run("import greeting")).outcome is Outcome.ERROR


async def test_nothing_is_there_before_anything_is_installed(run: Run) -> None:
    assert (await run("import os\nprint(os.listdir())")).stdout == "[]\n"
