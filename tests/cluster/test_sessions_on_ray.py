"""Sessions on Ray and real jails, as a script uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

import actors
from actors.errors import ActionFailed, InvalidRequest, NotFound, UnknownSession
from actors.schemas.action import CommandEvent
from actors.testing import Deployment, deployed, eventually, pid_of


@pytest.fixture(scope="module")
def system(orchestrator_cluster: None) -> Iterator[Deployment]:
    sections = {"router": {"local": "jail"}, "env": {"LEVEL": "deployment", "DEPLOYED": "yes"}}
    pool = {"min_size": 2, "target_size": 3, "max_size": 5}
    with deployed(**sections, pool=pool, limits={"disk_mib": 512}) as running:
        yield running


def processes_of(system: Deployment, *names: str) -> list[psutil.Process]:
    """The processes of these actors."""
    pids = [pid_of(system.namespace, name) for name in names]
    return [psutil.Process(pid) for pid in pids if pid is not None]


@pytest.fixture
def session(system: Deployment) -> Iterator[actors.Session]:
    with actors.Session.open(system.orchestrator, user="ann", env={"LEVEL": "session"}) as session:
        yield session


def test_state_files_and_commands_meet_in_a_session(session: actors.Session) -> None:
    session.files.put("data/numbers.csv", "n\n1\n2\n")
    result = session.run("import pandas as pd\ndata = pd.read_csv('data/numbers.csv')\nint(data.n.sum())")
    assert result.text == "3"
    session.run("data.to_csv('data/out.csv', index=False)")
    assert session.files.text("data/out.csv") == "n\n1\n2\n"
    heard: list[str] = []
    done = session.commands.run("wc -l < data/out.csv; echo oops >&2; exit 4", on_stdout=heard.append)
    assert (done.exit_code, done.stdout.strip(), done.stderr, "".join(heard).strip()) == (4, "3", "oops\n", "3")
    assert [entry.name for entry in session.files.list("data")] == ["numbers.csv", "out.csv"]
    session.files.rename("data/out.csv", "moved.csv")
    assert session.files.exists("moved.csv")
    session.files.remove("data")
    assert not session.files.exists("data")
    with pytest.raises(NotFound):
        session.files.get("data/out.csv")
    with pytest.raises(InvalidRequest, match="path"):
        session.files.get("")


def test_a_timeout_and_an_interrupt_leave_a_session_its_state(session: actors.Session) -> None:
    session.run("x = 7")
    assert session.run("import time\ntime.sleep(60)", timeout_s=0.5).outcome == "timeout"
    assert session.run("x").text == "7"
    threading.Timer(0.5, session.interrupt).start()
    result = session.run("time.sleep(60)")
    assert result.error is not None
    assert result.error.name == "KeyboardInterrupt"
    assert session.run("x").text == "7"


def test_a_crash_costs_an_interpreter_and_not_the_session(session: actors.Session) -> None:
    session.files.put("kept", "1")
    assert session.run("import os\nos.kill(os.getpid(), 11)").outcome == "crashed"
    assert session.run("1").error_code == "context_lost"
    session.restart_context()
    assert session.run("open('kept').read()").text == "'1'"


def test_variables_of_deployment_session_and_run(system: Deployment, session: actors.Session) -> None:
    show = "import os\nos.environ['LEVEL'], os.environ['DEPLOYED']"
    assert system.run(show).text == "('deployment', 'yes')"
    assert session.run(show).text == "('session', 'yes')"
    assert session.run(show, env={"LEVEL": "run"}).text == "('run', 'yes')"
    assert session.run(show).text == "('session', 'yes')"
    assert session.commands.run("echo $LEVEL $DEPLOYED").stdout == "session yes\n"
    assert session.commands.run("echo $LEVEL", env={"LEVEL": "command"}).stdout == "command\n"


def test_contexts_and_languages(session: actors.Session) -> None:
    shell = session.open_context("shell", language="bash")
    script = session.open_context(language="javascript", cwd="js")
    session.run("greeting=hi; cd /tmp", context=shell, language="bash")
    assert session.run("echo $greeting from $PWD", context=shell, language="bash").stdout == "hi from /tmp\n"
    session.run("const answer = 42", context=script, language="javascript")
    assert (
        session.run("[answer, process.cwd()]", context=script, language="javascript").text == "[ 42, '/home/user/js' ]"
    )
    assert [context.language for context in session.contexts()] == ["python", "bash", "javascript"]
    session.close_context(shell)
    assert session.run("1", context=shell, language="bash").error_code == "context_lost"


def test_a_paused_session_is_listed_as_such_and_wakes_when_it_is_used(
    system: Deployment, session: actors.Session
) -> None:
    session.run("x = 1")
    session.pause()
    [info] = ray.get(system.orchestrator.list_sessions.remote(user="ann"))
    assert (info.session, info.state, info.backend) == (session.id, "paused", "jail")
    assert session.run("x").text == "1"
    [info] = ray.get(system.orchestrator.list_sessions.remote(user="ann"))
    assert info.state == "running"
    assert ray.get(system.orchestrator.list_sessions.remote(user="eve")) == []


def test_another_user_cannot_touch_a_session(system: Deployment, session: actors.Session) -> None:
    stranger = actors.Session(system.orchestrator, session.id, user="eve")
    for use in (
        stranger.contexts,
        stranger.files.list,
        stranger.pause,
        lambda: stranger.commands.run("id"),
        stranger.fork,
    ):
        with pytest.raises(UnknownSession):
            use()
    stranger.close()
    assert session.run("1").text == "1"


def test_rollouts_start_from_one_preparation(system: Deployment) -> None:
    with actors.Session.open(system.orchestrator, user="trainer", forkable=True) as prepared:
        prepared.run("import pandas as pd\nframe = pd.DataFrame({'a': range(10)})\nopen('log', 'w').write('start')")
        rollouts = prepared.fork(8)
    try:
        refs = [
            system.orchestrator.run.remote(
                f"frame['a'] += {number}\nopen('log', 'a').write(' {number}')\nint(frame.a.sum()), open('log').read()",
                user="trainer",
                session=rollout.id,
            )
            for number, rollout in enumerate(rollouts)
        ]
        found = [result.text for result in ray.get(refs)]
        assert found == [f"({45 + 10 * number}, 'start {number}')" for number in range(8)]
        assert len({info.sandbox_id for info in ray.get(system.orchestrator.list_sessions.remote(user="trainer"))}) == 1
    finally:
        for rollout in rollouts:
            rollout.close()
    assert ray.get(system.orchestrator.list_sessions.remote(user="trainer")) == []
    with pytest.raises(InvalidRequest):
        ray.get(system.orchestrator.fork_session.remote("any", 0))


def test_a_command_in_the_background_with_input_and_signals(session: actors.Session) -> None:
    started = session.commands.start("cat; echo bye", stdin=True)
    started.send("one\n")
    events = started.events()
    assert [next(events).kind for _ in range(2)] == ["started", "stdout"]
    events.close()
    started.send("two\n", end=True)
    assert started.wait().stdout == "one\ntwo\nbye\n"
    sleeper = session.commands.start("sleep 60")
    assert [info.pid for info in session.commands.list()] == [sleeper.pid]
    sleeper.signal("TERM")
    assert sleeper.wait().exit_code == 143
    assert session.commands.run("sort", stdin="b\na\n").stdout == "a\nb\n"


def test_who_follows_no_more_ends_the_command(session: actors.Session) -> None:
    events = session.follow("start_command", command="sleep 4761")
    assert next(events).kind == "started"
    assert len(session.commands.list()) == 1
    events.close()
    eventually(lambda: not session.commands.list(), 5, "the command has ended")


def test_100_mib_go_through_in_bounded_memory(system: Deployment, session: actors.Session, tmp_path: Path) -> None:
    local, back = tmp_path / "large", tmp_path / "back"

    def fill() -> None:
        for name in "abcdef":
            session.files.put(f"/tmp/{name}", local)

    with open(local, "wb") as file:
        for part in range(100):
            file.write(bytes([part]) * 2**20)
    [info] = ray.get(system.orchestrator.list_sessions.remote(user="ann"))
    processes = processes_of(system, "Orchestrator", info.sandbox_id)
    before = [process.memory_full_info().uss for process in processes]
    most = [0, 0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for number, process in enumerate(processes):
                most[number] = max(most[number], process.memory_full_info().uss - before[number])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        session.files.put("/tmp/large", local)
        assert session.files.stat("/tmp/large").size == 100 * 2**20
        session.files.download("/tmp/large", back)
    finally:
        stop.set()
        watching.join()
    assert back.read_bytes() == local.read_bytes()
    assert max(most) < 60 * 2**20, most
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"
    with pytest.raises(ActionFailed, match="no_space"):
        fill()
    assert not [entry for entry in session.files.list("/tmp") if ".part-" in entry.name]


def test_a_listener_that_stops_reading_holds_the_command_up(session: actors.Session) -> None:
    events = session.follow(
        "start_command", command="head -c 60000000 /dev/zero | tr '\\0' x; touch /tmp/written", timeout_s=None
    )
    for _ in range(3):
        assert isinstance(next(events), CommandEvent)
    time.sleep(2)
    assert not session.files.exists("/tmp/written")
    events.close()


def test_changes_are_watched(session: actors.Session) -> None:
    threading.Timer(0.3, lambda: session.files.put("seen.txt", "1")).start()
    for change in session.files.watch():
        if change.kind == "modified":
            assert change.path == "/home/user/seen.txt"
            break


def test_files_in_and_out_of_a_single_run(system: Deployment) -> None:
    result = system.run(
        "open('out.txt', 'w').write(open('in.txt').read().upper())", files={"in.txt": "abc"}, outputs=["*.txt", "no"]
    )
    assert (result.files, result.files_missing) == ({"in.txt": b"abc", "out.txt": b"ABC"}, {"no": "no such file"})


def test_who_leaves_a_stream_stops_the_program(session: actors.Session) -> None:
    session.run("x = 1")
    events = session.stream(
        "import time\nwhile True:\n    open('ticks', 'a').write('.')\n"
        "    print('tick', flush=True)\n    time.sleep(0.02)"
    )
    assert next(events).kind == "stdout"  # type: ignore[union-attr]
    events.close()

    def stopped() -> bool:
        size = session.files.stat("ticks").size
        time.sleep(0.3)
        return session.files.stat("ticks").size == size

    eventually(stopped, 5, "the program has stopped")
    assert session.run("x").text == "1", "it was interrupted, and what it knew is kept"


def test_a_session_whose_sandbox_died_is_unknown_and_its_user_can_open_another(system: Deployment) -> None:
    session = actors.Session.open(system.orchestrator, user="bereft")
    session.run("x = 1")
    [info] = ray.get(system.orchestrator.list_sessions.remote(user="bereft"))
    processes_of(system, info.sandbox_id)[0].kill()
    assert session.run("x").outcome in ("rejected", "infra")
    with pytest.raises(actors.ServiceError):
        session.files.list()
    eventually(lambda: session.run("x").error_code == "unknown_session", 30, "the session is known to be lost")
    with pytest.raises(UnknownSession):
        session.files.list()
    session.close()
    with actors.Session.open(system.orchestrator, user="bereft") as another:
        assert another.run("x").error is not None


def test_a_reader_that_stops_costs_no_memory(system: Deployment, session: actors.Session) -> None:
    """What is passed on is bounded like what is kept for the result."""
    [info] = ray.get(system.orchestrator.list_sessions.remote(user="ann"))
    processes = processes_of(system, "Orchestrator", info.sandbox_id)
    session.run("1")
    before = [process.memory_full_info().uss for process in processes]
    events = session.stream("for _ in range(60): print('x' * 1_000_000)\nopen('written', 'w')")
    assert next(events).kind == "stdout"  # type: ignore[union-attr]
    eventually(lambda: session.files.exists("written"), 30, "the program has written it all")
    grown = [process.memory_full_info().uss - used for process, used in zip(processes, before, strict=True)]
    assert max(grown) < 20 * 2**20, grown
    *_, result = events
    assert result.stdout.endswith("[… output truncated: 60000060 bytes in all]")  # type: ignore[union-attr]
