from __future__ import annotations

import asyncio
import time

import pytest

from actors.backends.fake.backend import FakeBackend
from actors.backends.fake.sandbox import FakeSandbox
from actors.config import FakeSettings
from actors.errors import InvalidRequest, SandboxLost, SandboxStartFailed, Throttled, UnknownSession
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
        ("x = 20\nx + 22", "42"),
        ("y = (1 + 2) * 4 - 6 / 3\ny", "10.0"),
        ("[1, {'a': (None, True)}, -2]", "[1, {'a': (None, True)}, -2]"),
        ("'text'", "'text'"),
        ("7\nx = 1", None),
        ("7\nprint('said')", None),
    ],
)
async def test_the_last_expression_s_value_is_the_result(code: str, text: str | None) -> None:
    report = await run(await sandbox(), code)
    assert (report.outcome, report.text) == (Outcome.OK, text)


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "def f(): pass",
        "for i in [1]: print(i)",
        "x += 1",
        "eval('1')",
        "().__class__",
        "print.__self__",
        "print(1, file=None)",
        "len",
        "'a' * 10 ** 12",
        "'a' * 3",
        "x = 2\n" + "x = x * x\n" * 60,
        "raise SystemExit",
        "__import__('os')",
    ],
)
async def test_what_is_not_understood_is_never_blamed_on_the_program(code: str) -> None:
    report = await run(await sandbox(), code)
    assert (report.outcome, report.may_have_run) == (Outcome.INFRA, False)
    assert "does not understand" in (report.message or "")


@pytest.mark.parametrize(
    ("code", "name", "value", "line"),
    [
        ("1\n1 / 0", "ZeroDivisionError", "division by zero", 2),
        ("nobody", "NameError", "name 'nobody' is not defined", 1),
        ("1\n\n# fake: raise=my_Error:so: and so\n2", "my_Error", "so: and so", 3),
        ("# fake: show=file:missing", "FileNotFoundError", "[Errno 2] No such file or directory: 'missing'", 1),
        ("# fake: show=env:MISSING", "KeyError", "'MISSING'", 1),
    ],
)
async def test_an_exception_has_its_name_value_and_line(code: str, name: str, value: str, line: int) -> None:
    error = (await run(await sandbox(), code)).error
    assert error is not None
    assert (error.name, error.value) == (name, value)
    assert f"line {line}\n" in error.traceback


async def test_a_directive_takes_effect_in_its_place_and_stands_for_the_statement_in_its_line() -> None:
    events: list[OutputEvent] = []
    code = (
        "print('a', end='')\nfor _ in range(2):\n    compute()  # fake: stderr=in between\n"
        "import sys; print('b', file=sys.stderr)  # fake: output=3\n7"
    )
    report = await (await sandbox()).execute(Program(run_id="run", code=code), events.append)
    assert (report.stdout, report.stderr, report.text) == ("axxx", "in between\n", "7")
    assert [(event.kind, event.text) for event in events] == [
        ("stdout", "a"),
        ("stderr", "in between\n"),
        ("stdout", "xxx"),
        ("result", ""),
    ]


async def test_a_program_shows_what_it_was_given_and_leaves_files() -> None:
    where = await sandbox()
    given = {"files": {"in.txt": b"file"}, "env": {"NAME": "variable"}, "stdin": b"input", "outputs": ("*.txt", "no")}
    code = "# fake: show=file:in.txt\n# fake: show=env:NAME\n# fake: show=stdin\n# fake: write=out.txt:a:b"
    report = await where.execute(Program.model_validate({"run_id": "run", "code": code, **given}))
    assert report.stdout == "file\nvariable\ninput\n"
    assert report.files == {"in.txt": b"file", "out.txt": b"a:b"}
    assert report.files_missing == {"no": "no such file"}
    assert (await run(where, "# fake: show=file:out.txt")).outcome is Outcome.ERROR


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("# fake: infra\n1", Outcome.INFRA),
        ("# fake: oom\n1", Outcome.OUT_OF_MEMORY),
        ("# fake: crash\n1", Outcome.CRASHED),
        ("# fake: output=200000\n1", Outcome.OUTPUT_LIMIT),
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


async def test_a_throttled_program_did_not_run_and_leaves_the_sandbox_of_use() -> None:
    where = await sandbox()
    with pytest.raises(Throttled) as throttled:
        await run(where, "# fake: throttled\nprint(1)")
    assert not throttled.value.may_have_run
    assert (await run(where, "1")).outcome is Outcome.OK


async def test_losing_the_backends_sandboxes_ends_what_runs_in_them() -> None:
    backend = FakeBackend(FakeSettings(), "tag")
    task = asyncio.create_task(run(await backend.create(), "# fake: slow=60"))
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


async def test_a_closed_backend_makes_no_sandbox_and_has_lost_those_that_it_made() -> None:
    backend = FakeBackend(FakeSettings(), "tag")
    where = await backend.create()
    await backend.close()
    with pytest.raises(SandboxLost):
        await where.check()
    with pytest.raises(SandboxStartFailed):
        await backend.create()


async def test_runs_fail_at_the_rate_set_and_the_same_ones_every_time() -> None:
    async def outcomes() -> list[Outcome]:
        where = await sandbox(failure_rate=0.3)
        return [(await run(where, "1")).outcome for _ in range(400)]

    first = await outcomes()
    assert first == await outcomes()
    assert 80 < first.count(Outcome.INFRA) < 160


@pytest.mark.parametrize("code", ["# fake: slow=60\n1", "1\nwhile True: pass  # fake: hang"])
async def test_slow_programs_meet_their_timeout(code: str) -> None:
    started_at = time.monotonic()
    assert (await run(await sandbox(), code, timeout_s=0.05)).outcome is Outcome.TIMEOUT
    assert time.monotonic() - started_at < 1


async def test_latencies_are_as_set() -> None:
    started_at = time.monotonic()
    where = await sandbox(create_s=0.03, execute_s=0.04)
    assert (await run(where, "1")).usage.wall_s >= 0.04
    assert time.monotonic() - started_at >= 0.07


async def test_output_is_passed_on_before_a_wait() -> None:
    started_at = time.monotonic()
    seen: list[tuple[str, float]] = []
    program = Program(run_id="run", code="print('first')\n# fake: slow=0.1\nprint('second')")
    await (await sandbox()).execute(program, lambda event: seen.append((event.text, time.monotonic() - started_at)))
    assert [text for text, _ in seen] == ["first\n", "second\n"]
    assert seen[0][1] < 0.1 <= seen[1][1]


@pytest.mark.parametrize(
    "code", ["# fake: explode", "# fake: slow", "# fake: slow=soon", "# fake: crash=1", "# fake: show=clock"]
)
async def test_a_misspelt_directive_is_an_error_of_the_caller(code: str) -> None:
    with pytest.raises(InvalidRequest, match="no directive"):
        await run(await sandbox(), code)
