from __future__ import annotations

import base64
import io
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from actors.cli import render, views
from actors.cli.demo import LOAN
from actors.cli.failures import EXIT_CODES, SERVICE
from actors.cli.terminal import SafeConsole
from actors.core.determinism import verdict
from actors.schemas import ExecutionResult, Outcome, ProgramError, RichResult, Timings, Usage

PIXEL = base64.b64encode(b"\x89PNG picture").decode()


def console() -> SafeConsole:
    return SafeConsole(file=io.StringIO(), width=100, soft_wrap=True, highlight=False)


def drawn(*pieces: RenderableType) -> str:
    on = console()
    for piece in pieces:
        on.print(piece)
    return written(on)


def written(on: SafeConsole) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def result(outcome: Outcome = Outcome.OK, **fields: object) -> ExecutionResult:
    return ExecutionResult.model_validate({"run_id": "r", "outcome": outcome} | fields)


def test_every_outcome_has_a_colour_and_an_exit_code() -> None:
    assert set(render.COLOURS) == set(EXIT_CODES) == set(Outcome)


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_only_a_good_end_exits_with_zero(outcome: Outcome) -> None:
    assert EXIT_CODES[outcome] != 0


@pytest.mark.parametrize("outcome", [Outcome.INFRA, Outcome.REJECTED])
def test_a_failing_service_exits_as_no_program_does(outcome: Outcome) -> None:
    assert EXIT_CODES[outcome] == SERVICE
    assert SERVICE not in {EXIT_CODES[other] for other in Outcome if not other.masked}


@given(share=st.floats(0, 1), width=st.integers(1, 200))
def test_a_bar_is_as_long_as_its_share_to_an_eighth_of_a_character(share: float, width: int) -> None:
    eighths = sum(8 if character == "█" else "▏▎▍▌▋▊▉".index(character) + 1 for character in render.bar(share, width))
    assert eighths == max(round(share * width * 8), 1 if share > 0 else 0)
    assert len(render.bar(share, width)) <= width


@given(share=st.one_of(st.floats(-10, 0), st.floats(1, 10)))
def test_a_bar_never_leaves_its_room(share: float) -> None:
    assert render.bar(share, 10) in ("", "█" * 10)


@given(seconds=st.floats(0, 1e5))
def test_a_duration_is_true_to_its_last_figure(seconds: float) -> None:
    number, unit = render.duration(seconds).split(" ")
    shown_s = float(number) * {"s": 1.0, "ms": 1e-3}[unit]
    assert shown_s == pytest.approx(seconds, rel=0.006, abs=6e-5)


def test_pictures_are_saved_in_the_best_form_and_numbered(tmp_path: Path) -> None:
    shown = (
        RichResult(png=PIXEL, svg="<svg/>", text="<Figure size 640x480>"),
        RichResult(text="no picture"),
        RichResult(svg="<svg>é</svg>"),
    )
    saved = render.save_images(shown, tmp_path / "new", "plot")
    assert [path.name for path in saved] == ["plot.png", "plot-2.svg"]
    assert saved[0].read_bytes() == b"\x89PNG picture"
    assert saved[1].read_text(encoding="utf-8") == "<svg>é</svg>"


def test_values_go_to_one_stream_and_everything_about_the_run_to_the_other() -> None:
    out, err = console(), console()
    fields = {
        "stdout": "no line end",
        "results": (RichResult(text="<Figure>", png=PIXEL), RichResult(text="[bold]42[/]", is_main_result=True)),
        "isolation": "a jail",
        "backend": "jail",
    }
    render.show_result(out, err, result(**fields), [Path("plot.png")])
    assert written(out) == "\n[bold]42[/]\n", "a value starts on a line of its own, and is no markup"
    assert "plot.png" in written(err)
    assert "jail: a jail" in written(err)


@pytest.mark.parametrize("stdout", ["", "a whole line\n"])
def test_a_value_after_nothing_or_a_whole_line_gets_no_empty_line_before_it(stdout: str) -> None:
    out = console()
    render.show_result(out, console(), result(stdout=stdout, results=(RichResult(text="42"),)), [])
    assert written(out) == "42\n"


def test_a_program_that_raised_shows_its_traceback_and_verdict_but_no_value() -> None:
    out, err = console(), console()
    error = ProgramError(name="ValueError", value="no", traceback="Traceback…\n\x1b[31mValueError\x1b[0m: no")
    render.show_result(out, err, result(Outcome.ERROR, error=error), [])
    assert written(out) == ""
    assert "ValueError: no" in written(err)
    assert "● error" in written(err)


def test_a_rejected_run_says_why_and_when_to_retry() -> None:
    text = drawn(render.verdict(result(Outcome.REJECTED, message="the queue is full", retry_after_s=2.5)))
    assert text == "● rejected  the queue is full  (retry in 2.5 s)\n"


def test_a_cached_result_claims_no_resources_of_its_own() -> None:
    usage = Usage(cpu_s=3.0, peak_memory_mib=77)
    line = drawn(render.facts(result(cached=True, usage=usage, backend="jail", timings=Timings(total_s=0.002))))
    assert line == "from the cache · 2.0 ms\n"
    assert "3.00 s CPU · 77 MiB" in drawn(render.facts(result(usage=usage)))


def test_timings_leave_out_skipped_stages_and_add_up() -> None:
    text = drawn(render.timings_table(result(timings=Timings(execute_s=0.3, queue_s=0.1, total_s=0.5))))
    assert "limit" not in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows[:2]] == [["queue", "100"], ["execute", "300"]]
    assert "calls between actors" in text
    assert rows[-1][-2:] == ["500", "ms"]


def test_timings_of_a_run_that_never_started_can_be_shown() -> None:
    assert "in all" in drawn(render.timings_table(result(Outcome.REJECTED)))


def test_metrics_of_a_component_that_is_away_say_so() -> None:
    pool = {"pool_size": 3, "created": 4, "errors": 0}
    line = drawn(render.metrics_line({"pool": pool, "cache": {"unavailable": "ResultCache: is gone"}}))
    assert line == "pool: 3 sandboxes, 4 created, 0 errors    cache: unavailable\n"


def test_metrics_are_shown_with_their_units_and_without_what_is_nested_too_deep() -> None:
    values = {"mean_wait_s": 0.0123, "draining": False, "states": {"idle": 2}, "limits": {"jail": {"limit": 1}}}
    text = drawn(render.metrics_table("fair_queue", values))
    assert "fair queue" in text
    for row in ("mean wait  12.3 ms", "draining   no", "states     idle 2"):
        assert row in text
    assert "limits" not in text


def test_a_summary_counts_every_run() -> None:
    text = drawn(render.summary(Counter(ok=3, timeout=1), 2.0))
    assert "75.0%" in text
    assert "4 programs in 2.00 s, 2 a second" in text


@pytest.mark.parametrize(("able", "said"), [(True, "can jail"), (False, "cannot jail")])
def test_a_diagnosis_shows_every_finding_with_its_remedy_and_ends_with_the_verdict(able: bool, said: str) -> None:
    on = console()
    findings = [(True, "kernel", "Linux 6", ""), (False, "bwrap", "not found", "install it"), (None, "memory", "", "")]
    views.show_diagnosis(on, able, {"python": "3.11"}, findings)
    text = written(on)
    for mark in ("✓  kernel", "✗  bwrap", "→ install it", "•  memory", "python  3.11"):
        assert mark in text
    assert said in text.splitlines()[-1]


def test_a_status_shows_health_first_and_fits_its_terminal() -> None:
    on = SafeConsole(file=io.StringIO(), width=100, highlight=False)
    health = {"status": "degraded", "namespace": "n", "in_flight": 1, "pool": {"detail": "no bwrap", "sandboxes": 0}}
    views.show_status(on, health, {"pool": {"pool_size": 0}, "queue": {"unavailable": "gone"}})
    lines = written(on).splitlines()
    assert lines[0].startswith("● degraded  n")
    assert "no bwrap" in lines[0]
    assert all(len(line) <= 100 for line in lines)


def test_a_batch_nobody_looks_at_draws_no_progress() -> None:
    on = console()
    with views.BatchProgress(on, 2, shown=True) as progress:
        progress.advance(Counter(ok=1))
    assert written(on) == ""


def test_the_progress_of_a_batch_counts_by_outcome() -> None:
    on = SafeConsole(file=io.StringIO(), width=100, force_terminal=True, highlight=False)
    with views.BatchProgress(on, 2, shown=True) as progress:
        progress.advance(Counter(ok=1))
        progress.advance(Counter(ok=1, error=1))
    text = written(on)
    assert "2/2" in text
    assert "error 1" in text


def test_the_demo_is_cacheable_so_that_its_second_run_shows_the_cache() -> None:
    assert verdict.judge(LOAN).certain


def test_the_demo_says_how_much_faster_the_cache_was() -> None:
    on = console()
    first = result(stdout="Payment: 1", timings=Timings(execute_s=0.4, total_s=0.4), isolation="a jail")
    again = first.model_copy(update={"cached": True, "timings": Timings(total_s=0.004)})
    metrics = {
        "pool": {"pool_size": 3, "created": 3, "errors": 0},
        "cache": {"hits": 1, "misses": 1, "entries": 1},
    }
    views.show_demo(on, first, again, [Path("loan.png")], metrics)
    text = written(on)
    for said in ("Payment: 1", "loan.png", "a jail", "4.0 ms, 100 times as fast", "1 hits", "e2b-orchestrator up"):
        assert said in text
