"""Shell commands of a session."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from actors.backends.base import BackendSandbox
from actors.errors import ActionFailed, InvalidRequest, NotFound
from actors.schemas import Limits, Outcome
from actors.schemas.action import (
    CommandEvent,
    FollowCommand,
    ListCommands,
    ReadFile,
    ResizeTerminal,
    SendInput,
    SignalCommand,
    StartCommand,
    Terminal,
    WatchDirectory,
    WriteFile,
    performed,
)
from tests.backends import OpenSession, program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("processes")]
SPIN = "while :; do :; done"


async def events_of(session: OpenSession, line: str, **fields: Any) -> list[CommandEvent]:
    return [event async for event in session.follow(StartCommand(command=line, **fields))]


async def processes(session: OpenSession) -> str:
    return (await session.command("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout


async def test_a_command_s_streams_and_exit_code(session: OpenSession) -> None:
    result = await session.command("echo out; echo err >&2; exit 3")
    assert (result.outcome, result.exit_code, result.stdout, result.stderr) == (Outcome.ERROR, 3, "out\n", "err\n")
    assert (await session.command("true")).ok


async def test_output_comes_as_it_happens_and_in_order(session: OpenSession) -> None:
    started = time.monotonic()
    seen: list[tuple[float, str, str]] = []
    async for event in session.follow(StartCommand(command="echo 1; sleep 0.3; echo 2 >&2; sleep 0.3; echo 3")):
        seen.append((time.monotonic() - started, event.kind, event.text))
    assert [(kind, text) for _, kind, text in seen] == [
        ("started", ""), ("stdout", "1\n"), ("stderr", "2\n"), ("stdout", "3\n"), ("ended", ""),
    ]  # fmt: skip
    assert seen[1][0] < 0.25 < seen[2][0] < 0.55 < seen[3][0]


async def test_characters_written_one_by_one_are_passed_on_together(session: OpenSession) -> None:
    events = await events_of(session, "i=0; while [ $i -lt 3000 ]; do printf x; i=$((i+1)); done")
    assert "".join(event.text for event in events) == "x" * 3000
    assert len(events) < 100


async def test_a_character_cut_in_two_arrives_whole(session: OpenSession) -> None:
    events = await events_of(session, r"printf '\303'; sleep 0.1; printf '\251 \377'")
    assert "".join(event.text for event in events) == "é \ufffd"


async def test_it_runs_in_the_workspace_or_where_it_is_told(session: OpenSession) -> None:
    assert (await session.command("pwd")).stdout == "/home/user\n"
    assert (await session.command("pwd", cwd="/tmp")).stdout == "/tmp\n"
    with pytest.raises(NotFound, match="missing"):
        await session.command("pwd", cwd="missing")
    await session.do(WriteFile(path="sub/script.sh", data=b"echo from $PWD", mode=0o755))
    assert (await session.command("sh script.sh", cwd="sub")).stdout == "from /home/user/sub\n"


HARD_VALUES = {
    "QUOTES": "'\"`$(touch /tmp/owned)",
    "LINES": "a\nb\r\n",
    "EMPTY": "",
    "UNICODE": "é✓\u202e",
    "EQUALS": "==",
}


async def test_variables_of_any_value_reach_the_command_and_no_other(session: OpenSession) -> None:
    show = "python3 -c 'import os, json; print(json.dumps({k: os.environ.get(k) for k in %r}))'" % sorted(HARD_VALUES)  # noqa: UP031
    show = show.replace("['", '["').replace("']", '"]').replace("', '", '", "')
    import json

    assert json.loads((await session.command(show, env=HARD_VALUES)).stdout) == HARD_VALUES
    assert set(json.loads((await session.command(show)).stdout.strip()).values()) == {None}
    assert not (await session.command("test -e /tmp/owned")).ok


async def test_standard_input_is_empty_unless_it_is_asked_for(session: OpenSession) -> None:
    assert (await session.command("cat; echo end")).stdout == "end\n"
    started = await session.do(StartCommand(command="sort", stdin=True))
    await session.do(SendInput(pid=started.pid, data=b"b\na\n"))
    await session.do(SendInput(pid=started.pid, data=b"c\n", end=True))
    events = [event async for event in session.follow(FollowCommand(pid=started.pid))]
    assert events[-1].result is not None
    assert events[-1].result.stdout == "a\nb\nc\n"


async def test_input_that_nobody_reads_is_refused_in_the_end(session: OpenSession) -> None:
    started = await session.do(StartCommand(command="sleep 60", stdin=True))

    async def pour() -> None:
        for _ in range(4):
            await session.do(SendInput(pid=started.pid, data=bytes(2**19)))

    with pytest.raises(ActionFailed, match="does not read"):
        await pour()
    await session.do(SignalCommand(pid=started.pid))
    async for _ in session.follow(FollowCommand(pid=started.pid)):
        pass
    with pytest.raises(NotFound):
        await session.do(SendInput(pid=started.pid, data=b"x"))
    no_input = await session.do(StartCommand(command="sleep 60"))
    with pytest.raises(ActionFailed, match="stdin=True"):
        await session.do(SendInput(pid=no_input.pid, data=b"x"))


async def test_a_command_out_of_time_ends_with_all_that_it_started(session: OpenSession) -> None:
    started = time.monotonic()
    result = await session.command("sleep 4711 & (trap '' TERM INT HUP; sleep 4712) & sleep 4713", timeout_s=0.4)
    assert time.monotonic() - started < 1.4
    assert (result.outcome, result.exit_code) == (Outcome.TIMEOUT, 137)
    assert "timeout_s" in (result.message or "")
    assert "sleep 471" not in await processes(session)


async def test_who_stops_listening_stops_the_command(session: OpenSession) -> None:
    events = session.follow(StartCommand(command="sleep 4721"))
    await anext(events)
    await events.aclose()
    assert "sleep 4721" not in await processes(session)
    following = asyncio.ensure_future(session.command("sleep 4722"))
    await asyncio.sleep(0.2)
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following
    assert "sleep 4722" not in await processes(session)


async def test_one_in_the_background_goes_on_without_a_listener(session: OpenSession) -> None:
    started = await session.do(StartCommand(command="echo 1; sleep 0.3; echo 2", timeout_s=None))
    [info] = await session.do(ListCommands())
    assert (info.pid, info.command, info.cwd, info.pty) == (
        started.pid,
        "echo 1; sleep 0.3; echo 2",
        "/home/user",
        False,
    )
    listening = session.follow(FollowCommand(pid=started.pid))
    assert [(await anext(listening)).kind for _ in range(2)] == ["started", "stdout"]
    await listening.aclose()
    late = [event async for event in session.follow(FollowCommand(pid=started.pid))]
    assert "".join(event.text for event in late) == "1\n2\n"
    again = [event async for event in session.follow(FollowCommand(pid=started.pid))]
    assert again[-1].result == late[-1].result
    assert await session.do(ListCommands()) == []


async def test_two_listeners_hear_the_same(session: OpenSession) -> None:
    started = await session.do(StartCommand(command="for i in 1 2 3; do sleep 0.1; echo $i; done"))

    async def heard() -> str:
        return "".join([event.text async for event in session.follow(FollowCommand(pid=started.pid))])

    assert await asyncio.gather(heard(), heard()) == ["1\n2\n3\n", "1\n2\n3\n"]


@pytest.mark.parametrize(("sent", "exit_code"), [("SIGINT", 130), ("term", 143), (9, 137), ("SIGUSR1", 138)])
async def test_signals_by_name_and_number(session: OpenSession, sent: Any, exit_code: int) -> None:
    started = await session.do(StartCommand(command="exec sleep 60"))
    await asyncio.sleep(0.05)
    await session.do(performed({"kind": "signal_command", "pid": started.pid, "signal": sent}))
    events = [event async for event in session.follow(FollowCommand(pid=started.pid))]
    assert events[-1].result is not None
    assert events[-1].result.exit_code == exit_code
    with pytest.raises(InvalidRequest):
        performed({"kind": "signal_command", "pid": 1, "signal": "SIGNONSENSE"})


async def test_a_command_that_is_not_there(session: OpenSession) -> None:
    for action in (
        SignalCommand(pid=1),
        SignalCommand(pid=99999),
        SendInput(pid=99999),
        ResizeTerminal(pid=2, rows=1, cols=1),
    ):
        with pytest.raises(NotFound):
            await session.do(action)
    with pytest.raises(NotFound):
        await anext(session.follow(FollowCommand(pid=99999)))
    assert (await session.run("1 + 1")).text == "2", "nor can its pid be an interpreter's"


async def test_a_terminal_is_one_and_has_its_size(session: OpenSession) -> None:
    started = await session.do(
        StartCommand(command="tty; stty size; read x; stty size; echo got $x", pty=Terminal(rows=40, cols=100))
    )
    data = b""
    async with asyncio.timeout(10):
        async for event in session.follow(FollowCommand(pid=started.pid)):
            if event.kind == "pty":
                data += event.data
            if data.endswith(b"40 100\r\n"):
                await session.do(ResizeTerminal(pid=started.pid, rows=30, cols=90))
                await session.do(SendInput(pid=started.pid, data=b"word\n"))
    lines = data.decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/")
    assert lines[1:] == ["40 100", "word", "30 90", "got word", ""]


async def test_a_key_on_the_terminal_interrupts(session: OpenSession) -> None:
    started = await session.do(StartCommand(command="cat", pty=Terminal()))
    await asyncio.sleep(0.1)
    await session.do(SendInput(pid=started.pid, data=b"\x03"))
    events = [event async for event in session.follow(FollowCommand(pid=started.pid))]
    assert events[-1].result is not None
    assert events[-1].result.exit_code == 130


async def test_more_output_than_is_kept_is_marked_and_all_of_it_passed_on(session: OpenSession) -> None:
    size = 0
    async for event in session.follow(StartCommand(command="head -c 5000000 /dev/zero | tr '\\0' x; echo")):
        size += len(event.text)
        if event.result is not None:
            result = event.result
    assert size == 5_000_001
    assert len(result.stdout) < 1_000_100
    assert result.stdout.endswith("[… output truncated: 5000001 bytes in all]")


async def test_a_command_waits_for_who_listens_slowly(session: OpenSession) -> None:
    """Else what nobody takes would pile up in memory."""
    events = session.follow(StartCommand(command="yes | (head -c 20000000; touch /tmp/all-written)", timeout_s=None))
    await anext(events)
    await anext(events)
    await asyncio.sleep(0.5)
    assert not (await session.command("test -e /tmp/all-written")).ok
    size = sum([len(event.text) async for event in events])
    assert size > 19_000_000
    assert (await session.command("test -e /tmp/all-written")).ok


async def test_programs_and_commands_share_files_processes_and_the_loopback(session: OpenSession) -> None:
    await session.run(
        "import threading\nfrom http.server import HTTPServer, SimpleHTTPRequestHandler\n"
        "server = HTTPServer(('127.0.0.1', 8123), SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\nopen('page', 'w').write('served')"
    )
    fetch = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:8123/page\").read().decode())'"
    assert (await session.command(fetch)).stdout == "served\n"
    await session.run("import subprocess\nchild = subprocess.Popen(['sleep', '4731'])")
    assert (await session.command("pkill -f 'sleep 473[1]' || kill $(pidof sleep)")).exit_code in (0, 1)
    assert (await session.run("child.wait(5)")).text == "-15"


async def test_commands_run_beside_a_program(session: OpenSession) -> None:
    running = asyncio.ensure_future(
        session.run("import time\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)\n'went'")
    )
    await asyncio.sleep(0.1)
    assert (await session.command("touch go")).ok
    assert (await running).text == "'went'"


async def test_what_a_command_leaves_behind_lasts_until_the_session_ends(session: OpenSession) -> None:
    result = await session.command("sleep 4741 & echo started")
    assert (result.outcome, result.stdout) == (Outcome.OK, "started\n")
    assert "sleep 4741" in await processes(session)
    await session.sandbox.close_session(session.name)
    await session.sandbox.open_session(session.name)
    assert "sleep 4741" not in await processes(session)


async def test_too_many_commands_are_refused(session: OpenSession) -> None:
    limits_of_processes = 64

    async def start_all() -> None:
        for _ in range(limits_of_processes + 60):
            await session.do(StartCommand(command="exec sleep 60", timeout_s=None))

    with pytest.raises(ActionFailed):
        await start_all()
    for info in await session.do(ListCommands()):
        await session.do(SignalCommand(pid=info.pid))
    assert (await session.command("echo fine")).stdout == "fine\n"


async def test_a_killed_guest_agent_is_replaced(session: OpenSession) -> None:
    """Its commands are over, files and interpreters are not."""
    await session.run("x = 1")
    running = asyncio.ensure_future(session.command("sleep 60"))
    await asyncio.sleep(0.2)
    kill = await session.command("sleep 0.2; kill -9 $PPID")
    assert kill.outcome is Outcome.CRASHED
    assert (await running).outcome is Outcome.CRASHED
    assert (await session.command("echo again")).stdout == "again\n"
    assert (await session.run("x")).text == "1"


async def test_walls_hold_for_commands_too(session: OpenSession) -> None:
    probes = {
        "touch /usr/x": "Read-only",
        "mount -t tmpfs none /mnt": "",
        "unshare -r true": "",
        "cat /proc/1/environ": "denied",
        "chroot / true": "",
    }
    for probe, words in probes.items():
        result = await session.command(probe)
        assert result.exit_code != 0, probe
        assert words in result.stderr, probe
    status = (await session.command("cat /proc/self/status")).stdout
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    await session.command("sleep 0.2; kill -9 1; kill -9 -1")  # after the guest agent has said that it started
    assert (await session.command("echo fine")).stdout == "fine\n"


async def test_limits_hold_for_commands_too(session: OpenSession) -> None:
    bomb = await session.command(":(){ :|:& };:; sleep 1; echo over", timeout_s=5)
    assert bomb.wall_s < 6.5
    await session.sandbox.close_session(session.name)
    await session.sandbox.open_session(session.name)
    assert (await session.command("echo fine")).stdout == "fine\n"
    big = await session.command("head -c 1000000000 /dev/zero > /tmp/big; ls -l /tmp/big | wc -l; stat -c %s /tmp/big")
    assert int(big.stdout.split()[1]) <= 256 * 2**20


async def test_the_first_bytes_of_a_file_that_a_command_still_writes_can_be_read(session: OpenSession) -> None:
    started = await session.do(StartCommand(command="for i in 1 2 3; do echo $i >> log; sleep 0.2; done"))
    await asyncio.sleep(0.1)
    assert (await session.do(ReadFile(path="log"))).data == b"1\n"
    async for _ in session.follow(FollowCommand(pid=started.pid)):
        pass
    assert (await session.do(ReadFile(path="log"))).data == b"1\n2\n3\n"


async def test_a_closed_session_ends_its_commands_and_tells_who_listens(session: OpenSession) -> None:
    listening = asyncio.ensure_future(session.command("sleep 60"))
    await asyncio.sleep(0.2)
    await session.sandbox.close_session(session.name)
    assert (await listening).outcome is Outcome.CRASHED


async def test_memory_is_limited_for_commands_too(session: OpenSession) -> None:
    hungry = await session.command("python3 -c 'x = bytearray(3_000_000_000); print(len(x))'")
    assert (hungry.exit_code != 0, hungry.stdout) == (True, "")
    assert hungry.outcome is Outcome.OUT_OF_MEMORY or "MemoryError" in hungry.stderr
    assert (await session.command("exit 137")).outcome is Outcome.ERROR
    assert (await session.run("1 + 1", limits=program("1").limits)).text == "2"


async def test_a_session_s_own_limits_hold_for_its_commands(sandbox: BackendSandbox) -> None:
    limits = Limits(memory_mib=64, disk_mib=3, output_bytes=1024, processes=8)
    await sandbox.open_session("small", limits=limits)
    small = OpenSession(sandbox, "small")
    full = await small.command("head -c 5000000 /dev/zero > /tmp/full; stat -c %s /tmp/full")
    assert int(full.stdout) <= 3 * 2**20
    assert "truncated" in (await small.command("seq 10000")).stdout
    hungry = await small.command("python3 -c 'x = b\"x\" * 1_500_000_000; import time; time.sleep(2)'")
    assert not hungry.ok
    many = await small.command("for i in $(seq 26); do sleep 1 & done")
    assert not many.ok or "fork" in many.stderr
    await sandbox.close_session("small")


async def test_memory_of_many_processes_is_counted_together(session: OpenSession) -> None:
    grow = "x = bytearray(300_000_000)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(5)"
    await session.do(WriteFile(path="grow.py", data=grow.encode()))
    result = await session.command("for i in 1 2 3 4 5 6; do python3 grow.py & done; wait; exit 1", timeout_s=30)
    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "MemoryError" not in result.stderr, "each by itself may have so much"
    assert (await session.run("1 + 1")).text == "2"


async def test_many_commands_watches_and_listeners_that_come_and_go_leave_the_session_sound(
    session: OpenSession,
) -> None:
    async def one(number: int) -> None:
        if number % 3 == 0:
            changes = session.follow(WatchDirectory(path="/tmp"))
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0.01 * (number % 7))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await changes.aclose()
        elif number % 3 == 1:
            line = f"for i in 1 2 3; do echo {number} | tee /tmp/{number} /tmp/shared; done"
            assert (await session.command(line)).stdout == f"{number}\n" * 3
        else:
            started = await session.do(StartCommand(command="sleep 60", stdin=True))
            await session.do(SendInput(pid=started.pid, data=b"x"))
            await session.do(SignalCommand(pid=started.pid))

    await asyncio.gather(*(one(number) for number in range(60)))
    assert (await session.command("echo sound")).stdout == "sound\n"
    async with asyncio.timeout(5):
        while await session.do(ListCommands()):
            await asyncio.sleep(0.02)
