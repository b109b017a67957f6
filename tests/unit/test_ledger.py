"""At most one start per key, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.config import LedgerSettings
from actors.errors import ConfigurationError, DuplicateRun
from actors.runs.ledger import Ledger
from actors.schemas import ExecutionRequest, ExecutionResult, Outcome, Priority


def ledger_at(path: Path, ttl_s: float = 3600.0) -> Ledger:
    return Ledger(LedgerSettings(path=path / "ledger.sqlite3", ttl_s=ttl_s), "test")


def request(code: str = "print(1)", **fields: object) -> ExecutionRequest:
    return ExecutionRequest.checked(**({"code": code, "idempotency_key": "k"} | fields))


def result(outcome: Outcome = Outcome.OK, may_have_run: bool = True) -> ExecutionResult:
    return ExecutionResult(run_id="r1", outcome=outcome, stdout="1\n", may_have_run=may_have_run)


def test_a_new_key_may_start(tmp_path: Path) -> None:
    assert ledger_at(tmp_path).begin(request(), "r1") is None


def test_a_finished_key_gives_its_result_also_to_a_later_life(tmp_path: Path) -> None:
    first = ledger_at(tmp_path)
    first.begin(request(), "r1")
    first.finish(request(), result())
    first.close()
    assert ledger_at(tmp_path).begin(request(), "r2") == result()


def test_a_key_that_started_and_never_ended_names_its_run(tmp_path: Path) -> None:
    ledger_at(tmp_path).begin(request(), "r1")
    assert ledger_at(tmp_path).begin(request(), "r2") == "r1"


def test_a_key_is_for_one_request(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.begin(request(), "r1")
    with pytest.raises(DuplicateRun):
        ledger.begin(request("print(2)"), "r2")


def test_priority_does_not_make_another_request(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.begin(request(), "r1")
    assert ledger.begin(request(priority=Priority.HIGH), "r2") == "r1"


def test_keys_of_two_users_are_two_keys(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.begin(request(user="ann"), "r1")
    assert ledger.begin(request(user="bob"), "r2") is None


def test_a_run_that_never_started_gives_its_key_back(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    ledger.begin(request(), "r1")
    ledger.finish(request(), result(Outcome.REJECTED, may_have_run=False))
    assert ledger.begin(request("print(2)"), "r2") is None


def test_keys_are_forgotten_in_time(tmp_path: Path) -> None:
    ledger_at(tmp_path).begin(request(), "r1")
    assert ledger_at(tmp_path, ttl_s=1e-6).begin(request(), "r2") is None


def test_nobody_else_can_read_the_file(tmp_path: Path) -> None:
    ledger_at(tmp_path).begin(request(), "r1")
    assert (tmp_path / "ledger.sqlite3").stat().st_mode & 0o077 == 0


def test_a_ledger_that_others_could_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"others may write to it; set ledger\.path"):
        ledger_at(tmp_path / "open").begin(request(), "r1")


def test_a_link_in_the_ledgers_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        ledger_at(tmp_path).begin(request(), "r1")
    assert not (tmp_path / "elsewhere").exists()
