"""What a type checker knows of the handle, in a user's project that has the package installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

from actors.orchestrator import Orchestrator

HANDLE = Path(__file__).parents[2] / "actors" / "clients" / "handle.pyi"
OWN = {"start", "run_request"}
"""Methods that only the deployment and its front doors call."""
PROGRAM = """
import ray
import actors
from actors import ExecutionResult, OutputEvent, Score

orchestrator = actors.connect()
result: ExecutionResult = ray.get(orchestrator.run.remote("1", user="ann", timeout_s=2.0, limits={"cpu_s": 1}))
results: list[ExecutionResult] = ray.get([orchestrator.run.remote("1"), orchestrator.run.remote("2", priority="low")])
batch: list[ExecutionResult] = ray.get(orchestrator.run_many.remote(["1", {"code": "2", "fresh": True}], cache="off"))
score: Score = ray.get(orchestrator.score.remote("print(1)", [{"expected": "1"}], seed=7))
session: str = ray.get(orchestrator.open_session.remote(user="ann", forkable=True))
for ref in orchestrator.stream.remote("1"):
    item: OutputEvent | ExecutionResult = ray.get(ref)
for index, ended in actors.stream_many(orchestrator, ["1"], user="ann"):
    done: tuple[int, ExecutionResult] = (index, ended)

async def main() -> ExecutionResult:
    return await orchestrator.run.remote("1", files={"a.txt": b"1", "b.txt": "2"}, outputs=["*.txt"])

wrong: str = ray.get(orchestrator.run.remote("1"))  # assignment
orchestrator.run.remote("1", usr="ann")  # call-arg
orchestrator.run.remote("1", timeout_s="2")  # arg-type
orchestrator.run.remote(1)  # arg-type
orchestrator.run_many.remote(["1"], cache="on")  # arg-type
orchestrator.rnu.remote("1")  # attr-defined
actors.stream(orchestrator, "1", usr="ann")  # call-arg
actors.Session(orchestrator, session).run("1", user="eve")  # call-arg
"""


def test_a_type_checker_knows_calls_options_and_results(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "program.py"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    found = dict(re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", ran.stdout))
    lines = enumerate(PROGRAM.splitlines(), 1)
    wrong = {str(number): line.partition("  # ")[2] for number, line in lines if "  # " in line}
    assert (ran.returncode, found) == (1, wrong), ran.stdout + ran.stderr


def test_every_method_of_the_orchestrator_is_in_the_handle() -> None:
    [handle] = [
        node
        for node in ast.parse(HANDLE.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "OrchestratorHandle"
    ]
    declared = {ast.unparse(node.targets[0]) for node in handle.body if isinstance(node, ast.Assign)}
    assert declared == {name for name in vars(Orchestrator) if not name.startswith("_")} - OWN
