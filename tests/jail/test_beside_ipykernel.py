"""Notebooks end cell by cell as in a real ipykernel: what is printed, what is displayed, which error is raised."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jupyter_client.manager import AsyncKernelManager

from actors.backends.jail import JailBackend
from actors.schemas import ProgramReport
from tests.backends import OpenSession

pytestmark = pytest.mark.asyncio(loop_scope="module")
TIMEOUT_S = 30.0
KNOWN = {
    "%no_such_magic": "it failed, so that it is an error, not only words on stderr",
    "%%no_such_cell_magic\nx": "the same",
    'raise ExceptionGroup("many", [ValueError(1), TypeError(2)])': "an error here, and there only words on stderr",
    "print(inspect.getsource(Thing), inspect.getdoc(Thing))": "there it finds sources of functions, and of no classes",
    '__name__, __doc__, "__file__" in globals(), __spec__, __package__': "there it has a text of its own",
}
"""Cells that go otherwise here, and why."""
_FILE = re.compile(r"\([^()]+, line")
"""What a cell is called in errors of syntax."""


@dataclass
class Cell:
    """How a cell ended."""

    stdout: str = ""
    stderr: str = ""
    displayed: list[str] = field(default_factory=list)
    value: str | None = None
    error: tuple[str, str] | None = None


class Kernel:
    """An ipykernel, as notebooks have it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._manager = AsyncKernelManager()

    async def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        env |= {"HOME": str(self._home), "IPYTHONDIR": str(self._home / ".ipython"), "PYTHONWARNINGS": "ignore"}
        self._manager.kernel_cmd = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--colors=nocolor",
        ]
        await self._manager.start_kernel(env=env, cwd=str(self._home))
        self._client = self._manager.client()
        self._client.start_channels()
        await self._client.wait_for_ready(timeout=TIMEOUT_S)

    async def run(self, code: str) -> Cell:
        cell = Cell()

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            match message["msg_type"]:
                case "stream" if content["name"] == "stdout":
                    cell.stdout += content["text"].replace("\r\n", "\n")  # its shell commands have a terminal
                case "stream":
                    cell.stderr += content["text"]
                case "display_data":
                    cell.displayed.append(content["data"].get("text/plain"))
                case "execute_result":
                    cell.value = content["data"].get("text/plain")
                case "error":
                    cell.error = content["ename"], _FILE.sub("(cell, line", content["evalue"])

        await self._client.execute_interactive(code, output_hook=note, allow_stdin=False, timeout=TIMEOUT_S)
        return cell

    async def stop(self) -> None:
        self._client.stop_channels()
        await self._manager.shutdown_kernel(now=True)


def cell_of(report: ProgramReport) -> Cell:
    """Return what a report says of a cell."""
    values = [result.text for result in report.results if result.is_main_result]
    return Cell(
        report.stdout,
        report.stderr,
        [result.text or "" for result in report.results if not result.is_main_result],
        values[0] if values else None,
        (report.error.name, _FILE.sub("(cell, line", report.error.value)) if report.error else None,
    )


def notebooks() -> dict[str, list[str]]:
    """Return the cells of every notebook of the suite."""
    found = {}
    text = Path(__file__).with_name("notebooks.txt").read_text()
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name, _, code = section.partition("\n")
        found[name] = [cell.rstrip("\n") for cell in re.split(r"^---\n", code, flags=re.MULTILINE)]
    return found


NOTEBOOKS = notebooks()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kernel(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("home"))
    await kernel.start()
    yield kernel
    await kernel.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notebook(backend: JailBackend) -> AsyncIterator[OpenSession]:
    """One session for all notebooks, as they share one kernel."""
    sandbox = await backend.create()
    await sandbox.open_session("notebook")
    yield OpenSession(sandbox, "notebook")
    await sandbox.close()


@pytest.mark.parametrize("name", NOTEBOOKS)
async def test_every_cell_ends_as_in_a_notebook(kernel: Kernel, notebook: OpenSession, name: str) -> None:
    different = []
    for code in NOTEBOOKS[name]:
        theirs = await kernel.run(code)
        ours = cell_of(await notebook.run(code, timeout_s=TIMEOUT_S))
        if (ours == theirs) == (code in KNOWN):
            different.append((code, ours, theirs))
    assert not different
