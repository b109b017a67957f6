"""Output as it happens: in order, in few events, whoever writes it."""

from __future__ import annotations

import asyncio

import pytest

from actors.schemas import Limits, Outcome, OutputEvent
from tests.backends import OpenSession, Run

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("real")]


async def streamed(run: Run, code: str, **fields: object) -> list[OutputEvent]:
    events: list[OutputEvent] = []
    await run(code, emit=events.append, **fields)
    return events


async def test_characters_written_one_by_one_come_together(run: Run) -> None:
    events = await streamed(run, "import sys\nfor _ in range(20_000): print('x', end='', flush=True)")
    assert "".join(event.text for event in events) == "x" * 20_000
    assert len(events) < 400


async def test_c_code_and_children_are_heard_where_they_speak(run: Run) -> None:
    events = await streamed(
        run,
        "import ctypes, os, subprocess, time\nprint('python', flush=True)\n"
        "libc = ctypes.CDLL(None)\nlibc.puts(b'c'); libc.fflush(None)\n"
        "subprocess.run(['echo', 'child'])\nos.write(1, b'descriptor\\n')\nprint('end')",
    )
    assert "".join(event.text for event in events) == "python\nc\nchild\ndescriptor\nend\n"


async def test_what_is_displayed_comes_between_what_is_printed_around_it(run: Run) -> None:
    events = await streamed(run, "print('before')\ndisplay(1)\nprint('between')\ndisplay(2)\nprint('after')\n3")
    told = [event.text.strip() or (event.result.text if event.result else "") for event in events]
    assert told == ["before", "1", "between", "2", "after", "3"]


async def test_an_error_comes_last(run: Run) -> None:
    events = await streamed(run, "import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 / 0")
    assert [event.kind for event in events] == ["stdout", "stderr", "error"]
    assert events[-1].error is not None
    assert events[-1].error.name == "ZeroDivisionError"


async def test_what_is_beyond_the_bound_is_not_passed_on_and_its_size_is_told(run: Run) -> None:
    events: list[OutputEvent] = []
    report = await run("for _ in range(1000): print('x' * 999)", emit=events.append)
    assert sum(len(event.text) for event in events) <= 100_000
    assert report.stdout.endswith("[… output truncated: 1000000 bytes in all]")
    assert report.usage.output_bytes == 1_000_000


async def test_a_program_that_says_nothing_of_limits_has_the_deployment_s(run: Run) -> None:
    report = await run("print('x' * 2000)", limits=Limits())
    assert (report.outcome, len(report.stdout)) == (Outcome.OK, 2001)


async def test_a_character_that_arrives_in_two_pieces_is_passed_on_once(run: Run) -> None:
    events = await streamed(
        run, "import os, time\nos.write(1, b'\\xc3'); time.sleep(0.1); os.write(1, b'\\xa9'); os.write(1, b'\\xff')"
    )
    assert "".join(event.text for event in events) == "é\ufffd"


async def test_who_gives_up_stops_the_program_and_the_session_goes_on(session: OpenSession) -> None:
    await session.run("x = 1")
    code = "import time\nn = 0\nwhile True:\n    open('ticks', 'a').write('.'); print(n, flush=True); time.sleep(0.02)"
    running = asyncio.ensure_future(session.run(code, lambda _: None))
    await asyncio.sleep(0.3)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    before = (await session.command("wc -c < ticks")).stdout
    await asyncio.sleep(0.3)
    assert (await session.command("wc -c < ticks")).stdout == before
    assert int(before) > 3
    assert (await session.run("x")).text == "1"


async def test_warnings_unicode_and_control_characters_are_passed_on_as_they_are(run: Run) -> None:
    report = await run(
        "import warnings\nwarnings.warn('careful')\nprint('grüße 世界 🎉 \\x1b[31mred\\x1b[0m \\r\\t\\x07')"
    )
    assert report.outcome is Outcome.OK
    assert report.stdout == "grüße 世界 🎉 \x1b[31mred\x1b[0m \r\t\x07\n"
    assert "UserWarning: careful" in report.stderr
