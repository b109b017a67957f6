"""The command line, as a person types it: real processes, a real local deployment, real jails."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.testing import eventually

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

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run in the background, as the leader of a group of its own, as a shell does."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env=self.environment,
            start_new_session=True,
            # A job in a shell's background is started deaf to interrupts, and so would be what it starts.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )

    def on_terminal(self, *arguments: str) -> str:
        """What a terminal would be sent."""
        ours, its = pty.openpty()
        # As whoever sits there has it: with colours, and wide.
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
        environment = self.environment | {"TERM": "xterm-256color"}
        with subprocess.Popen(
            [*COMMAND, *arguments], stdin=its, stdout=its, stderr=its, cwd=self.home, env=environment
        ) as process:
            os.close(its)
            sent = b""
            with contextlib.suppress(OSError):  # how a terminal says that nobody has it open any more
                while data := os.read(ours, 65536):
                    sent += data
            process.wait(60)
        os.close(ours)
        return sent.decode()

    def in_flight(self) -> int:
        """Runs that the deployment is busy with."""
        count: int = json.loads(self.run("status", "--json").stdout)["health"]["in_flight"]
        return count


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
    # The jail server stays a second for others who may come.
    eventually(lambda: not os.listdir(home / "run"), 10, "nothing is listed as running")


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
        ("import os; os.kill(os.getpid(), 11)", 139, "crashed"),
        ("import os; os._exit(3)", 1, "ExitStatus"),
        ("", 0, ""),
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


HOSTILE = r"""
import sys
print("\x1b]52;c;c3Rkb3V0\x07\x1b]0;title\x07 \x1b[32mgreen\x1b[0m")
print("\x1b[2J\x1b[H\x9b2J\u202e\rcovered\x1b[8m", file=sys.stderr)
for half in "\x1b", "]52;c;aGFsdmVz", "\x07":
    sys.stdout.write(half)
    sys.stdout.flush()
class Value:
    def __repr__(self):
        return "\x1b]52;c;dmFsdWU=\x07\x1b[6n\x1bP$q\x1b\\"
display(Value())
class Error(Exception): pass
Error.__name__ = Error.__qualname__ = "\x1b]52;c;bmFtZQ==\x07"
raise Error("\x1b]52;c;ZXJyb3I=\x07\x1b]8;;http://evil.example\x1b\\link")
"""


def test_a_terminal_is_shown_nothing_that_it_would_obey(terminal: Terminal) -> None:
    shown = terminal.on_terminal("run", "-c", HOSTILE, "--no-cache", "--get", "\u202ename")
    ours = re.sub(r"\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\x1b\[[0-9;]*m|\r", "", shown)  # rich's own, of a status line
    assert not re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ours)
    for said in ("c3Rkb3V0", "aGFsdmVz", "dmFsdWU=", "bmFtZQ==", "ZXJyb3I=", "title", "name"):
        assert said in ours, "it is shown as text"
    assert "\x1b[32mgreen" in shown
    assert shown.rindex("\x1b[8m") < shown.rindex("\x1b[0m"), "what comes after is not hidden"


def test_pictures_are_saved(terminal: Terminal) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    done = terminal.run("run", "-c", code, "--output-dir", "pictures")
    assert done.returncode == 0, done.stderr
    assert (terminal.home / "pictures" / "result.png").read_bytes().startswith(b"\x89PNG")


def test_a_batch_gives_a_line_a_program_with_its_number_and_id(terminal: Terminal) -> None:
    lines = ['"print(1)"', json.dumps({"id": "second", "code": "1/0"}), '""', json.dumps({"code": "a\0b"})]
    (terminal.home / "programs.jsonl").write_text("\n".join(lines))
    done = terminal.run("batch", "programs.jsonl")
    results = {entry["line"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    assert [results[line]["outcome"] for line in (1, 2, 3, 4)] == ["ok", "error", "ok", "error"]
    assert results[2]["id"] == "second"
    assert done.returncode == 0, "programs failed, the service did not"


def test_a_wrong_option_of_a_line_is_named_before_anything_runs(terminal: Terminal) -> None:
    (terminal.home / "wrong.jsonl").write_text('"print(1)"\n\n{"code": "1", "timeout": 3}\n')
    done = terminal.run("batch", "wrong.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "wrong.jsonl:3: timeout: is not permitted; did you mean timeout_s?" in done.stderr
    assert terminal.run("batch", "wrong.jsonl", "--timeout", "-1").stderr.startswith("error: timeout_s:")


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
    with terminal.start("run", "-c", "print('started', flush=True)\nwhile True: pass") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        # To the whole group, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert "Traceback" not in process.stderr.read()
    deadline = time.monotonic() + 10
    while terminal.in_flight():
        assert time.monotonic() < deadline


def test_an_interrupted_batch_keeps_what_was_finished_and_stops_the_rest(terminal: Terminal) -> None:
    lines = ["print(1)", *["while True: pass"] * 3]
    (terminal.home / "endless.jsonl").write_text("\n".join(map(json.dumps, lines)))
    written = terminal.home / "finished.jsonl"
    with terminal.start("batch", "endless.jsonl", "--output", "finished.jsonl") as process:
        deadline = time.monotonic() + 30
        while not (written.exists() and written.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
    assert json.loads(written.read_text())["line"] == 1
    deadline = time.monotonic() + 10
    while terminal.in_flight():
        assert time.monotonic() < deadline


def test_blank_lines_keep_the_numbers_of_a_batch_true(terminal: Terminal) -> None:
    (terminal.home / "gaps.jsonl").write_text('\n"1"\n\n"print(\'a\\u2028b\')"\n')
    done = terminal.run("batch", "gaps.jsonl", "--output", "gaps.out")
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 programs" in done.stderr
    results = map(json.loads, (terminal.home / "gaps.out").read_text().splitlines())
    assert sorted((entry["line"], entry["text"] if "text" in entry else entry["stdout"]) for entry in results) == [
        (2, ""),
        (4, "a\u2028b\n"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "FILE"),
        (["run", "missing.py"], "missing.py: No such file"),
        (["run", "latin1.py"], "latin1.py: is not UTF-8"),
        (["run", "-c", "1", "--env", "NAME"], "--env takes NAME=VALUE"),
        (["run", "-c", "1", "--file", "missing.txt:there"], "missing.txt: No such file"),
        (["run", "-c", "1", "--memory", "1"], "limits.memory_mib"),
        (["run", "-c", "1", "--memory", "1048576"], "max_limits.memory_mib sets it"),
        (["run", "-c", "1", "--timeout", "86400"], "max_limits.timeout_s sets it"),
        (["run", "-c", "1", "--timeout", "0"], "timeout_s"),
        (["batch", "missing.jsonl"], "missing.jsonl: No such file"),
        (["batch", "empty.jsonl"], "holds no program"),
        (["batch", "one.jsonl", "--output", "no/such/place"], "no/such/place: No such file"),
        (["batch", "one.jsonl", "--user", ""], "user"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(
    terminal: Terminal, arguments: list[str], said: str
) -> None:
    (terminal.home / "latin1.py").write_bytes("é = 1".encode("latin-1"))
    (terminal.home / "empty.jsonl").write_text("\n\n")
    (terminal.home / "one.jsonl").write_text('"1"')
    done = terminal.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_session_remembers_and_ends(terminal: Terminal) -> None:
    session = terminal.run("session", "open").stdout.strip()
    assert terminal.run("run", "-c", "x = 41", "--session", session).returncode == 0
    assert terminal.run("run", "-c", "x + 1", "--session", session).stdout == "42\n"
    assert terminal.run("session", "close", session).returncode == 0
    done = terminal.run("run", "-c", "x", "--session", session)
    assert done.returncode == 3
    assert "session" in done.stderr


def test_an_error_is_an_object_too_for_a_machine(terminal: Terminal) -> None:
    done = terminal.run("status", "--json", ORCHESTRATOR_NAMESPACE="another")
    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["code"] == "no_deployment"
    assert done.stderr == ""
    done = terminal.run("run", "--json", "-c", "1", "--timeout", "-1")
    assert done.returncode == 2
    assert "timeout_s" in json.loads(done.stdout)["error"]["message"]


def test_a_ray_address_where_nothing_is_is_a_failing_service(terminal: Terminal) -> None:
    # Port 1 of the loopback interface: nobody listens.
    done = terminal.run("status", RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_draws_its_chart_and_shows_the_cache(terminal: Terminal) -> None:
    done = terminal.run("demo", "--output", "charts/loan.png")
    assert done.returncode == 0, done.stderr
    for said in ("Payment: 1,389.58", "its chart is in charts/loan.png", "execute", "the result comes from the cache"):
        assert said in done.stdout
    assert (terminal.home / "charts" / "loan.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stderr == ""


def test_without_a_deployment_a_run_brings_its_own_and_leaves_nothing(terminal: Terminal) -> None:
    # Short, since unix sockets lie under it.
    with tempfile.TemporaryDirectory(prefix="e2bo-cli-", dir="/tmp") as directory:
        own = {"ORCHESTRATOR_NAMESPACE": "alone", "ORCHESTRATOR_ROUTER__LOCAL": "fake", "TMPDIR": directory}
        done = terminal.run("run", "-c", "1 + 1", **own)
        assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
        assert "ray" not in done.stderr.lower()
        deadline = time.monotonic() + 10
        while left := list(Path(directory).glob("e2bo-*")):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_down_where_nothing_is_up_says_so(terminal: Terminal) -> None:
    done = terminal.run("down", "--json", ORCHESTRATOR_NAMESPACE="another")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ended": False})
