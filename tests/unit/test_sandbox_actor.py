"""The Sandbox actor as a plain object around the fake backend: its fences, and what it replaces when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from actors.backends.fake.sandbox import FakeSandbox
from actors.config import Settings
from actors.errors import SandboxLost, SandboxStartFailed, StaleGrant, Throttled, UnknownSession
from actors.sandbox import Sandbox
from actors.schemas import GrantTicket, Limits, Outcome, OutputEvent, Program, ProgramReport, SandboxAnswer

HANG = "# fake: slow=60"


def settings_of(**sections: object) -> Settings:
    return Settings.load(**({"router": {"local": "fake"}} | sections))


async def started(**sections: object) -> Sandbox:
    sandbox = Sandbox("fake-1", "fake", settings_of(**sections))
    await sandbox.start()
    return sandbox


def use(number: int = 1, grant: str = "g1", epoch: int = 1, user: str = "ann", ttl_s: float = 30.0) -> GrantTicket:
    return GrantTicket(grant, epoch, number, user, ttl_s)


def program(code: str = "print(1)", session: str | None = None, run_id: str = "r") -> Program:
    return Program(run_id=run_id, code=code, session=session)


async def running(sandbox: Sandbox, grant: GrantTicket, code: str = HANG) -> asyncio.Task[SandboxAnswer]:
    """A program that has started."""
    task = asyncio.ensure_future(sandbox.execute(grant, program(code)))
    await settle(lambda: sandbox.busy)
    return task


async def settle(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0)


async def test_a_program_runs_on_a_grant() -> None:
    sandbox = await started()
    answer = await sandbox.execute(use(), program())
    assert (answer.report.stdout, answer.generation) == ("1\n", 1)
    await sandbox.stop()


async def test_a_grant_of_an_older_epoch_is_refused() -> None:
    sandbox = await started()
    await sandbox.execute(use(epoch=2), program())
    with pytest.raises(StaleGrant, match="epoch"):
        await sandbox.execute(use(grant="g0", epoch=1), program())
    await sandbox.stop()


async def test_a_use_is_good_for_one_call() -> None:
    sandbox = await started()
    await sandbox.execute(use(1), program())
    with pytest.raises(StaleGrant, match="used already"):
        await sandbox.execute(use(1), program())
    assert (await sandbox.execute(use(2), program())).report.outcome is Outcome.OK
    await sandbox.stop()


async def test_a_later_grant_ends_what_was_given_up_and_never_runs_beside_it() -> None:
    sandbox = await started()
    first = await running(sandbox, use(1, "g1"))
    answer = await sandbox.execute(use(1, "g2"), program())
    assert answer.report.outcome is Outcome.OK
    with pytest.raises(SandboxLost) as lost:
        await first
    assert lost.value.may_have_run
    await sandbox.stop()


async def test_cancelling_a_run_ends_it_before_the_call_returns() -> None:
    sandbox = await started()
    task = await running(sandbox, use(1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sandbox.busy
    assert (await sandbox.execute(use(2), program())).report.outcome is Outcome.OK
    await sandbox.stop()


async def test_a_run_ends_with_its_lease() -> None:
    sandbox = await started()
    with pytest.raises(SandboxLost, match="lease"):
        await sandbox.execute(use(ttl_s=0.05), program(HANG))
    assert not sandbox.busy
    await sandbox.stop()


async def test_stopping_under_a_program_is_a_lost_sandbox() -> None:
    sandbox = await started()
    task = await running(sandbox, use())
    await sandbox.stop()
    with pytest.raises(SandboxLost):
        await task
    with pytest.raises(StaleGrant, match="stopping"):
        await sandbox.execute(use(2), program())


async def test_another_user_gets_a_sandbox_that_nobody_used() -> None:
    sandbox = await started()
    await sandbox.execute(use(1, "g1", user="ann"), program())
    answer = await sandbox.execute(use(1, "g2", user="bob"), program())
    assert answer.generation == 2
    await sandbox.stop()


async def test_fresh_demands_a_sandbox_that_nobody_used() -> None:
    sandbox = await started()
    await sandbox.execute(use(1), program())
    assert (await sandbox.execute(use(2), program(), True)).generation == 2
    await sandbox.stop()


async def test_a_sandbox_is_replaced_after_its_last_run() -> None:
    sandbox = await started(pool={"max_executions": 2})
    generations = [(await sandbox.execute(use(number), program())).generation for number in range(1, 6)]
    assert generations == [1, 1, 2, 2, 3]
    await sandbox.stop()


async def test_a_lost_sandbox_is_replaced_for_the_next_run() -> None:
    sandbox = await started()
    with pytest.raises(SandboxLost):
        await sandbox.execute(use(1), program("# fake: lost"))
    assert (await sandbox.execute(use(2), program())).generation == 2
    await sandbox.stop()


async def test_a_batch_goes_on_after_a_service_failure() -> None:
    sandbox = await started()
    answers = await sandbox.execute_many(use(), [program(), program("# fake: lost"), program("print(3)")])
    shown = [answer.report.stdout if isinstance(answer, SandboxAnswer) else type(answer) for answer in answers]
    assert shown == ["1\n", SandboxLost, "3\n"]
    await sandbox.stop()


async def test_a_stream_ends_with_the_answer() -> None:
    sandbox = await started()
    items = [item async for item in sandbox.stream(use(), program("print('a')"))]
    assert [item.text for item in items if isinstance(item, OutputEvent)] == ["a\n"]
    assert isinstance(items[-1], SandboxAnswer)
    await sandbox.stop()


async def test_a_session_keeps_state_and_is_lost_with_its_sandbox() -> None:
    sandbox = await started()
    await sandbox.open_session(use(1), "s", False, Limits())
    await sandbox.execute_in_session(program("x = 1", "s"), 30.0)
    assert (await sandbox.execute_in_session(program("print(x)", "s"), 30.0)).report.stdout == "1\n"
    items = [item async for item in sandbox.stream_in_session(program("print(x)", "s"), 30.0)]
    assert [item.text for item in items if isinstance(item, OutputEvent)] == ["1\n"]
    with pytest.raises(SandboxLost):
        await sandbox.execute_in_session(program("# fake: lost", "s"), 30.0)
    with pytest.raises(UnknownSession):
        await sandbox.execute_in_session(program("print(x)", "s"), 30.0)
    await sandbox.stop()


async def test_a_closed_session_is_unknown() -> None:
    sandbox = await started()
    await sandbox.open_session(use(1), "s", False, Limits())
    await sandbox.close_session("s")
    with pytest.raises(UnknownSession):
        await sandbox.execute_in_session(program("1", "s"), 30.0)
    await sandbox.stop()


async def test_a_sessions_program_that_was_given_up_ends_before_the_next_begins() -> None:
    sandbox = await started()
    await sandbox.open_session(use(1), "s", False, Limits())
    first = asyncio.ensure_future(sandbox.execute_in_session(program(HANG, "s"), 60.0))
    await settle(lambda: sandbox.busy)
    assert (await sandbox.execute_in_session(program("print(1)", "s"), 30.0)).report.outcome is Outcome.OK
    with pytest.raises(SandboxLost):
        await first
    await sandbox.stop()


async def test_sessions_of_a_lost_orchestrator_are_ended() -> None:
    sandbox = await started()
    await sandbox.open_session(use(1), "s", False, Limits())
    before = sandbox.status()
    await sandbox.end_sessions()
    after = sandbox.status()
    assert (before.sessions, after.sessions, after.generation) == (1, 0, before.generation + 1)
    with pytest.raises(UnknownSession):
        await sandbox.execute_in_session(program("1", "s"), 30.0)
    await sandbox.end_sessions()
    assert sandbox.status().generation == after.generation, "there was nothing to end"
    await sandbox.stop()


async def test_a_grant_on_a_sandbox_with_sessions_that_nobody_knows_starts_from_a_new_one() -> None:
    sandbox = await started()
    await sandbox.open_session(use(1), "s", False, Limits())
    answer = await sandbox.execute(use(2), program())
    assert (answer.generation, sandbox.status().sessions) == (2, 0)
    await sandbox.stop()


async def test_a_check_replaces_a_sandbox_of_a_wrong_build() -> None:
    sandbox = await started()
    await sandbox.execute(use(1), program("# fake: wrong-tag"))
    assert (await sandbox.check()).generation == 2
    await sandbox.stop()


async def test_a_worn_sandbox_is_renewed_though_it_is_well() -> None:
    sandbox = await started(pool={"max_executions": 2})
    for number in (1, 2):
        await sandbox.execute(use(number), program())
    checked, renewed = await sandbox.check(), await sandbox.renew()
    assert (checked.generation, checked.executions) == (1, 2), "a check only looks"
    assert (renewed.generation, renewed.executions, renewed.user) == (2, 0, None)
    await sandbox.stop()


async def test_a_sandbox_that_lived_long_enough_is_replaced_after_its_run() -> None:
    sandbox = await started(pool={"max_age_s": 1e-9})
    assert [(await sandbox.execute(use(number), program())).generation for number in (1, 2)] == [1, 2]
    await sandbox.stop()


async def test_what_runs_or_holds_a_session_is_not_renewed() -> None:
    sandbox = await started()
    task = await running(sandbox, use(1))
    assert (await sandbox.renew()).generation == 1
    task.cancel()
    await asyncio.wait([task])
    await sandbox.execute(use(1, "g2"), program())
    before = await sandbox.renew()
    await sandbox.open_session(use(1, "g3"), "s", False, Limits())
    assert (await sandbox.renew()).generation == before.generation
    assert (await sandbox.execute_in_session(program("print(1)", "s"), 30.0)).report.stdout == "1\n"
    await sandbox.stop()


async def test_a_throttled_program_leaves_its_sandbox_as_it_was() -> None:
    sandbox = await started()
    with pytest.raises(Throttled):
        await sandbox.execute(use(1), program("# fake: throttled"))
    assert (await sandbox.execute(use(2), program())).generation == 1
    await sandbox.stop()


async def test_a_slot_serves_the_backend_that_it_is_named_for() -> None:
    settings = settings_of(backends={"blue": {"kind": "fake", "pool": {"max_executions": 1, "build_tag": "blue"}}})
    sandbox = Sandbox("blue-1", "blue", settings)
    status = await sandbox.start()
    assert (status.backend, status.build_tag) == ("blue", "blue")
    assert [(await sandbox.execute(use(number), program())).generation for number in (1, 2)] == [1, 2]
    await sandbox.stop()


async def test_a_check_and_a_run_at_once_leave_one_sandbox() -> None:
    sandbox = await started(fake={"create_s": 0.01})
    await sandbox.execute(use(1), program("# fake: wrong-tag"))
    checked, answer = await asyncio.gather(sandbox.check(), sandbox.execute(use(1, "g2", user="bob"), program()))
    assert answer.generation == sandbox.status().generation
    assert checked.generation <= answer.generation
    await sandbox.stop()


async def test_a_slot_whose_template_is_wrong_does_not_start() -> None:
    sandbox = Sandbox("fake-1", "fake", settings_of(fake={"build_tag": "old"}))
    with pytest.raises(SandboxStartFailed, match="'old', not 'fake'"):
        await sandbox.start()
    await sandbox.stop()


async def test_a_run_that_never_ends_is_answered_for_and_its_slot_serves_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.sandbox.GIVEN_UP_S", 0.05)
    sandbox = await started()
    awake = asyncio.Event()

    async def never(*_: object) -> ProgramReport:
        while not awake.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await awake.wait()
        return ProgramReport(outcome=Outcome.OK)

    with monkeypatch.context() as patched:
        patched.setattr(FakeSandbox, "execute", never)
        with pytest.raises(SandboxLost, match="lease ran out") as lost:
            await sandbox.execute(use(1, ttl_s=0.05), program())
    assert lost.value.may_have_run
    answer = await sandbox.execute(use(2), program())
    assert (answer.report.outcome, answer.generation) == (Outcome.OK, 2)
    awake.set()
    await sandbox.stop()
