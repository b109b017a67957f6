from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, lists, sampled_from, text, tuples

from actors.backends.fake.backend import FakeBackend, FakeSandbox
from actors.backends.fake.output import Flooded, Output
from actors.config import FakeSettings
from actors.errors import SandboxLost, SandboxStartFailed, UnknownSession
from actors.schemas import Limits, Outcome, OutputEvent, Program, ProgramReport


async def sandbox(**settings: float | str) -> FakeSandbox:
    return await FakeBackend(FakeSettings.model_validate(settings), "tag").create()


async def run(where: FakeSandbox, code: str, timeout_s: float = 5.0, **limits: int) -> ProgramReport:
    return await where.execute(
        Program(run_id="run", code=code, timeout_s=timeout_s, limits=Limits.model_validate(limits))
    )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("2 ** 10 % 7 // 1 - -3", "5"),
        ("[x * x for x in range(6) if x % 2]", "[1, 9, 25]"),
        ("a, (b, c) = 1, (2, 3)\na + b + c", "6"),
        ("d = {'k': [1, 2, 3]}\nd['k'][1:] = [9]\nd", "{'k': [1, 9]}"),
        ("total = 0\nfor i in range(10):\n    if i == 3: continue\n    if i == 6: break\n    total += i\ntotal", "12"),
        ("n = 3\nwhile n: n -= 1\nelse: n = 'done'\nn", "'done'"),
        ("try: 1 / 0\nexcept (KeyError, ZeroDivisionError) as e: message = str(e)\nmessage", "'division by zero'"),
        ("f'{3.14159:.2f} {\"a\"!r}'", "\"3.14 'a'\""),
        ("'-'.join(sorted(['b', 'a'])).upper()", "'A-B'"),
        ("1 < 2 < 3 and not 0 or nobody", "True"),
        ("import math as m\nfrom math import floor\nfloor(m.pi)", "3"),
    ],
)
async def test_the_language_means_what_it_means_in_python(code: str, text: str) -> None:
    assert (await run(await sandbox(), code)).text == text


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "def f(): pass",
        "eval('1')",
        "().__class__",
        "print.__self__",
        "import math\nmath.__loader__",
        "import os\nos.system('true')",
        "'{0.__class__}'.format(1)",
        "raise SystemExit",
        "__import__('os')",
    ],
)
async def test_what_is_not_understood_is_never_blamed_on_the_program(code: str) -> None:
    report = await run(await sandbox(), code)
    assert report.outcome is Outcome.INFRA
    assert "does not understand" in (report.message or "")


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("# fake: infra\n1", Outcome.INFRA),
        ("# fake: oom\n1", Outcome.OUT_OF_MEMORY),
        ("# fake: crash\n1", Outcome.CRASHED),
        ("# fake: output=200000\n1", Outcome.OUTPUT_LIMIT),
        ("'a' * 10 ** 12", Outcome.OUT_OF_MEMORY),
        ("10 ** 10 ** 10", Outcome.OUT_OF_MEMORY),
    ],
)
async def test_faults_happen_on_demand_and_leave_the_sandbox_of_use(code: str, outcome: Outcome) -> None:
    where = await sandbox()
    report = await run(where, code, output_bytes=1024)
    assert report.outcome is outcome
    assert report.message
    assert (await run(where, "1")).outcome is Outcome.OK


async def test_a_program_that_hangs_is_killed_with_its_session() -> None:
    where = await sandbox()
    await where.open_session("s")
    program = Program(run_id="run", code="# fake: hang\n1", timeout_s=0.02, session="s")
    assert (await where.execute(program)).outcome is Outcome.TIMEOUT
    with pytest.raises(UnknownSession):
        await where.execute(program)


async def test_a_lost_sandbox_stays_lost() -> None:
    where = await sandbox()
    with pytest.raises(SandboxLost) as first:
        await run(where, "# fake: lost")
    with pytest.raises(SandboxLost) as second:
        await run(where, "1")
    assert (first.value.may_have_run, second.value.may_have_run) == (True, False)


async def test_losing_the_backends_sandboxes_ends_what_runs_in_them() -> None:
    backend = FakeBackend(FakeSettings(), "tag")
    task = asyncio.create_task(run(await backend.create(), "while True: pass"))
    await asyncio.sleep(0)
    backend.lose()
    with pytest.raises(SandboxLost):
        await task
    assert (await run(await backend.create(), "1")).outcome is Outcome.OK


async def test_a_wrong_tag_is_read_from_the_settings_or_from_a_program_on() -> None:
    assert await (await sandbox(build_tag="old")).check() == "old"
    where = await sandbox()
    assert await where.check() == "tag"
    await run(where, "# fake: wrong-tag\n1")
    assert await where.check() == "wrong"


async def test_as_many_creates_fail_as_asked_for_and_all_after_closing() -> None:
    backend = FakeBackend(FakeSettings(), "tag")
    backend.fail_next_creates(2)
    for _ in range(2):
        with pytest.raises(SandboxStartFailed):
            await backend.create()
    where = await backend.create()
    await backend.close()
    with pytest.raises(SandboxLost):
        await where.check()
    with pytest.raises(SandboxStartFailed):
        await backend.create()


async def test_runs_fail_at_the_rate_set_and_alike_for_equal_seeds() -> None:
    async def outcomes(seed: int) -> list[Outcome]:
        where = await FakeBackend(FakeSettings(failure_rate=0.3), "tag", random.Random(seed)).create()
        return [(await run(where, "1")).outcome for _ in range(400)]

    first = await outcomes(1)
    assert first == await outcomes(1) != await outcomes(2)
    assert 80 < first.count(Outcome.INFRA) < 160


@pytest.mark.parametrize("code", ["# fake: slow=60\n1", "import time\ntime.sleep(60)", "x = 0\nwhile True: x += 1"])
async def test_slow_programs_meet_their_timeout(code: str) -> None:
    started_at = time.monotonic()
    assert (await run(await sandbox(), code, timeout_s=0.05)).outcome is Outcome.TIMEOUT
    assert time.monotonic() - started_at < 1


async def test_latencies_are_as_set() -> None:
    started_at = time.monotonic()
    where = await sandbox(create_s=0.03, execute_s=0.04)
    assert (await run(where, "1")).usage.wall_s >= 0.04
    assert time.monotonic() - started_at >= 0.07


@pytest.mark.parametrize("code", ["# fake: explode", "# fake: slow", "# fake: crash=1"])
async def test_a_misspelt_directive_is_an_error_of_the_caller(code: str) -> None:
    with pytest.raises(ValueError, match="no directive"):
        await run(await sandbox(), code)


@given(
    bound=integers(1, 64),
    writes=lists(
        tuples(sampled_from(["stdout", "stderr"]), binary(max_size=40), sampled_from([True, False])), max_size=30
    ),
)
def test_output_is_whole_up_to_the_bound_and_counted_beyond(bound: int, writes: list[tuple[str, bytes, bool]]) -> None:
    events: list[OutputEvent] = []
    output = Output(bound, events.append)
    written = {"stdout": b"", "stderr": b""}
    try:
        for stream, data, flush in writes:
            written[stream] += data
            output.write("stdout" if stream == "stdout" else "stderr", data)
            if flush:
                output.flush()
    except Flooded:
        assert max(map(len, written.values())) > 100 * bound
    output.flush()
    assert output.total_bytes == sum(map(len, written.values()))
    for stream in ("stdout", "stderr"):
        kept = written[stream][:bound].decode(errors="replace")
        dropped = len(written[stream]) > bound
        marker = f"\n[… output truncated: {len(written[stream])} bytes in all]" if dropped else ""
        assert output.text("stdout" if stream == "stdout" else "stderr") == kept + marker
    assert all(event.text for event in events)


@given(lines=lists(text("añ東🎉", min_size=1), max_size=10))
def test_events_add_up_to_the_output(lines: list[str]) -> None:
    events: list[OutputEvent] = []
    output = Output(1_000_000, events.append)
    for line in lines:
        output.write("stdout", line.encode())
    output.flush()
    assert "".join(event.text for event in events) == "".join(lines) == output.text("stdout")
    assert len(events) <= 1
