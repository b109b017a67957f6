"""The command line, as a person types it: real processes, a real local deployment, real jails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "actors.cli"]


class Terminal:
    """Runs the command with a state and runtime directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        own = {"XDG_RUNTIME_DIR": str(home / "run"), "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "120"}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORCHESTRATOR_", "RAY_"))} | own
        (home / "run").mkdir(mode=0o700)

    def run(self, *arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=self.home,
            env=self.environment | variables,
            check=False,
        )


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    home = tmp_path_factory.mktemp("cli")
    terminal = Terminal(home)
    started = terminal.run("up", "--json")
    assert started.returncode == 0, started.stderr
    yield terminal
    pid = json.loads(started.stdout)["pid"]
    assert terminal.run("down").returncode == 0
    assert not Path(f"/proc/{pid}").exists()
    assert list((home / "run").glob("*.json")) == []


def test_a_program_prints_and_shows_its_last_value(terminal: Terminal) -> None:
    done = terminal.run("run", "-c", "print('hi')\n6 * 7")
    assert (done.returncode, done.stdout) == (0, "hi\n42\n")


def test_a_program_can_come_from_a_file_or_from_standard_input(terminal: Terminal) -> None:
    (terminal.home / "program.py").write_text("print('from a file')")
    assert terminal.run("run", "program.py").stdout == "from a file\n"
    assert terminal.run("run", "-", stdin="print('from stdin')").stdout == "from stdin\n"


def test_env_files_and_stdin_reach_the_program(terminal: Terminal) -> None:
    (terminal.home / "data.txt").write_text("a file")
    (terminal.home / "in.txt").write_text("a line\n")
    code = "import os; print(os.environ['NAME'], open('there.txt').read(), input())"
    arguments = ["--env", "NAME=value", "--file", "data.txt:there.txt", "--stdin", "in.txt"]
    done = terminal.run("run", "-c", code, *arguments)
    assert done.stdout == "value a file a line\n", done.stderr


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("1/0", 1, "ZeroDivisionError"),
        ("while True: pass", 124, "timeout"),
        ("import os; os._exit(3)", 139, "crashed"),
        ("", 2, "code:"),
    ],
)
def test_the_exit_code_says_how_it_ended(terminal: Terminal, code: str, status: int, said: str) -> None:
    done = terminal.run("run", "--timeout", "1", "-c", code)
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "ray" not in done.stderr.lower()


def test_json_is_one_object_and_nothing_else(terminal: Terminal) -> None:
    done = terminal.run("run", "--json", "-c", "print(1)")
    result = json.loads(done.stdout)
    assert (result["outcome"], result["stdout"], result["backend"]) == ("ok", "1\n", "jail")


def test_pictures_are_saved(terminal: Terminal) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    done = terminal.run("run", "-c", code, "--output-dir", "pictures")
    assert done.returncode == 0, done.stderr
    assert (terminal.home / "pictures" / "result.png").read_bytes().startswith(b"\x89PNG")


def test_a_batch_gives_a_line_a_program_with_its_number_and_id(terminal: Terminal) -> None:
    lines = [
        '"print(1)"',
        json.dumps({"id": "second", "code": "1/0"}),
        json.dumps({"code": "print(3)", "timeout_s": -1}),
    ]
    (terminal.home / "programs.jsonl").write_text("\n".join(lines))
    done = terminal.run("batch", "programs.jsonl")
    results = {entry["line"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert [results[line]["outcome"] for line in (1, 2, 3)] == ["ok", "error", "rejected"]
    assert results[2]["id"] == "second"
    assert done.returncode == 3, "a masked run must be noticed"


def test_a_malformed_batch_is_named_before_anything_runs(terminal: Terminal) -> None:
    (terminal.home / "broken.jsonl").write_text('"print(1)"\n{"kode": 1}\n')
    done = terminal.run("batch", "broken.jsonl")
    assert done.returncode == 2
    assert "broken.jsonl:2:" in done.stderr


def test_status_shows_health_and_every_section(terminal: Terminal) -> None:
    status = json.loads(terminal.run("status", "--json").stdout)
    assert status["health"]["status"] == "ok"
    sections = {"orchestrator", "pool", "queue", "circuit_breaker", "cache", "rate_limiter"}
    assert sections <= status["metrics"].keys()


def test_up_again_says_that_it_is_up(terminal: Terminal) -> None:
    assert json.loads(terminal.run("up", "--json").stdout)["started"] is False


def test_without_a_deployment_status_says_what_to_do(terminal: Terminal) -> None:
    done = terminal.run("status", ORCHESTRATOR_NAMESPACE="another")
    assert done.returncode == 3
    assert "e2b-orchestrator up" in done.stderr


def test_an_unknown_variable_is_a_clear_error(terminal: Terminal) -> None:
    done = terminal.run("status", ORCHESTRATOR_PULL__MAX_SIZE="3")
    assert done.returncode == 2
    assert "ORCHESTRATOR_PULL__MAX_SIZE" in done.stderr


def test_help_answers_without_starting_anything(terminal: Terminal) -> None:
    done = terminal.run("--help")
    assert done.returncode == 0
    for command in ("run", "batch", "demo", "status", "up", "down", "doctor"):
        assert command in done.stdout


def test_doctor_finds_this_machine_able(terminal: Terminal) -> None:
    done = terminal.run("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["able"], [check for check in found["checks"] if not check["ok"]]


def test_an_interrupted_program_leaves_nothing_running(terminal: Terminal) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "-c", "print('started', flush=True)\nwhile True: pass"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=terminal.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
    deadline = time.monotonic() + 10
    while json.loads(terminal.run("status", "--json").stdout)["health"]["in_flight"]:
        assert time.monotonic() < deadline
