"""Whatever a program displays: the forms that fit come, the others are named with the reason, and it goes on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from actors.schemas import Outcome, OutputEvent, ProgramReport, RichResult
from tests.backends import OpenSession, Run

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLOT = "import matplotlib.pyplot as plt, numpy as np, pandas as pd\n"
SHOW = "from IPython.display import *\n"
BUNDLE = """
class Odd:
    def __init__(self, bundle): self.bundle = bundle
    def _repr_mimebundle_(self, **_): return self.bundle
    def __repr__(self): return "odd"
"""


def only(report: ProgramReport) -> RichResult:
    """Return the one result of a program that ended well."""
    assert report.outcome is Outcome.OK, (report.message, report.error, report.stderr)
    [result] = report.results
    json.dumps(result.model_dump(mode="json"), allow_nan=False)
    return result


@pytest.mark.parametrize(
    "plot",
    [
        "plt.plot([1, 2, 3], [1, float('nan'), 3])",
        "prices = pd.Series([3, 4, 5, 4, 6, 7]); plt.plot(prices); plt.plot(prices.rolling(3).mean())",
        "plt.scatter([1, 2, np.nan], [1, np.nan, 3])",
        "plt.plot(np.ma.array([1, 2, 3], mask=[0, 1, 0]))",
        "plt.bar(['a', 'b'], [1, np.nan])",
        "plt.plot([1, np.inf, -np.inf, 2])",
        "plt.boxplot([[1, 2, np.nan], [3, 4, 5]])",
        "plt.plot(pd.to_datetime(['2024-01-01', None, '2024-01-03']), [1, 2, 3])",
        "fig, ax = plt.subplots(1, 2); ax[0].plot([np.nan] * 3); ax[1].scatter([1], [np.nan])",
    ],
)
async def test_a_figure_of_numbers_that_json_lacks_is_a_picture_and_data(run: Run, plot: str) -> None:
    report = await run(f"{PLOT}{plot}\nplt.show()\nprint('after')")
    result = only(report)
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")
    assert report.stdout == "after\n"


async def test_a_number_that_json_lacks_is_null_in_a_figures_data(run: Run) -> None:
    chart = only(await run(PLOT + "plt.plot([1, 2, 3], [1, float('nan'), 3])\nplt.show()")).chart
    assert chart is not None
    assert chart["elements"][0]["points"] == [[1.0, 1.0], [2.0, None], [3.0, 3.0]]


async def test_a_session_lives_on_after_such_a_figure(session: OpenSession) -> None:
    only(await session.run(PLOT + "x = 1\nplt.scatter([1, 2, np.nan], [1, np.nan, 3]); plt.show()"))
    assert (await session.run("x")).text == "1"


@pytest.mark.parametrize(
    ("plot", "points"),
    [
        ("plt.plot(np.arange(150_000))", "150,000"),
        ("plt.plot(np.random.rand(1_000_000))", "1,000,000"),
        ("plt.scatter(np.random.rand(60_000), np.random.rand(60_000))", "60,000"),
    ],
)
async def test_a_figure_of_too_many_points_is_a_picture(run: Run, plot: str, points: str) -> None:
    result = only(await run(f"{PLOT}{plot}\nplt.show()", timeout_s=60))
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")
    assert result.chart is None
    assert result.omitted == {"chart": f"left out: {points} points, more than 50,000"}


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("{'mean': float('nan')}", {"mean": None}),
        ("[1.5, float('inf'), -float('inf')]", [1.5, None, None]),
        ("{'a': {1: True, None: 2, (3, 4): float('nan')}}", {"a": {"1": True, "null": 2, "(3, 4)": None}}),
        ("{'d': __import__('datetime').date(2024, 2, 29), 'n': float('nan')}", {"d": "2024-02-29", "n": None}),
        ("[__import__('numpy').float64('nan'), __import__('numpy').array([1.0, float('nan')])]", [None, [1.0, None]]),
        ("[{3}, b'x', 1j, object]", [[3], "b'x'", "1j", "<class 'object'>"]),
    ],
)  # fmt: skip
async def test_json_of_what_json_lacks_is_displayed(run: Run, code: str, value: object) -> None:
    report = await run(f"{SHOW}{BUNDLE}display(Odd({{'application/json': {code}}}))\nprint('after')")
    assert only(report).json_ == value
    assert report.stdout == "after\n"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("list(range(300_000))", "more than 249,000 values"),
        ("{str(n): n for n in range(300_000)}", "more than 249,000 values"),
        ("['x' * 1000] * 20_000", "20,080,000 characters"),
        ("deep(100)", "nested deeper than 62 levels"),
        ("deep(100_000)", "nested deeper than 62 levels"),
        ("loop", "contains itself"),
        ("[float('nan'), loop]", "contains itself"),
        ("Bad()", "not JSON: ZeroDivisionError"),
    ],
)
async def test_json_that_does_not_fit_is_left_out_and_says_why(run: Run, code: str, reason: str) -> None:
    made = """
def deep(n):
    value = []
    for _ in range(n): value = [value]
    return value
loop = []
loop.append(loop)
class Bad:
    def __str__(self): return 1 / 0
"""
    result = only(await run(f"{made}{BUNDLE}Odd({{'text/plain': 'odd', 'application/json': {code}}})"))
    assert (result.text, result.json_) == ("odd", None)
    assert reason in (result.omitted or {})["json"]


async def test_json_as_deep_and_wide_as_may_be_comes_whole(run: Run) -> None:
    code = "value = [list(range(200_000))]\nfor _ in range(60): value = [value]\n"
    result = only(await run(f"{code}{BUNDLE}Odd({{'text/plain': 'odd', 'application/json': value}})"))
    value: Any = result.json_
    for _ in range(61):
        [value] = value
    assert len(value) == 200_000


async def test_a_table_of_long_texts_is_cut_as_pandas_does(run: Run) -> None:
    code = "import pandas as pd\npd.DataFrame({'id': range(5000), 'text': ['lorem ipsum ' * 400] * 5000})"
    result = only(await run(code, timeout_s=30))
    assert "[5000 rows x 2 columns]" in (result.text or "")
    assert "<table" in (result.html or "")
    assert result.omitted == {"data": "left out: more than 4,000,000 characters"}


@pytest.mark.parametrize(
    "frame",
    [
        "pd.DataFrame({'x': [object()] * 3, 'y': [[1, 2], {'a': float('nan')}, None]})",
        "pd.DataFrame([[float('nan')] * 300] * 300)",
        "pd.DataFrame({('a', 1): [1], ('b', 2): [np.inf]})",
        "pd.DataFrame({'é' * 1000: ['😀' * 2000] * 1000})",
        "pd.DataFrame({'c': pd.Categorical(['a', None]), 'p': pd.period_range('2024', periods=2, freq='M')})",
        "pd.options.display.max_rows = None; display(pd.DataFrame({'x': range(30_000)}))",
    ],
)
async def test_any_table_is_displayed(run: Run, frame: str) -> None:
    report = await run(f"import pandas as pd, numpy as np\n{frame}", timeout_s=60)
    assert only(report).text


@pytest.mark.parametrize(
    ("code", "kept", "omitted"),
    [
        ("'x' * 5_000_000", 1_000_000, {"text": "cut: the first 1,000,000 of 5,000,002 characters"}),
        ("'😀' * 3_000_000", 333_333, {"text": "cut: the first 333,333 of 3,000,002 characters"}),
        ("b'\\x00' * 2_000_000", 1_000_000, {"text": "cut: the first 1,000,000 of 8,000,003 characters"}),
    ],
)
async def test_a_long_text_is_cut(run: Run, code: str, kept: int, omitted: dict[str, str]) -> None:
    result = only(await run(code))
    text, _, marker = (result.text or "").rpartition("\n")
    assert len(text) == kept
    assert marker.startswith("[… truncated: ")
    assert result.omitted == omitted


@pytest.mark.parametrize(
    ("bundle", "present", "missing"),
    [
        ("{'text/html': 'x' * 3_000_000}", {"html"}, set()),
        ("{'text/html': 'x' * 30_000_000}", set(), {"html"}),
        ("{'text/html': '😀' * 9_000_000}", set(), {"html"}),
        ("{'text/html': 'h' * 9_000_000, 'image/png': 'p' * 9_000_000}", {"html"}, {"png"}),
        ("{'image/png': b'\\x89' * 9_000_000}", set(), {"png"}),
        ("{'image/svg+xml': b'<svg/>'}", {"svg"}, set()),
        ("{'text/html': 5, 'text/latex': None, 'text/markdown': ['a\\n', 'b']}", {"markdown"}, {"html", "latex"}),
        ("{'image/png': 5, 'application/pdf': {}}", set(), {"png", "pdf"}),
        ("{'e2b/data': [1], 'e2b/chart': 'x'}", set(), {"data", "chart"}),
        ("{f'x/{n}': n for n in range(100)}", {f"x/{n}" for n in range(31)}, {"forms"}),
        ("{'x/bytes': b'abc', 7: 8}", {"x/bytes", "7"}, set()),
        ("{'x/' + 'y' * 10_000: 1}", {"x/" + "y" * 198}, set()),
    ],
)
async def test_any_bundle_is_displayed_as_far_as_it_fits(
    run: Run, bundle: str, present: set[str], missing: set[str]
) -> None:
    result = only(await run(f"{BUNDLE}Odd({bundle} | {{'text/plain': 'odd'}})"))
    assert result.text == "odd"
    assert set(result.formats()) - {"text"} == present
    assert set(result.omitted or ()) == missing


@pytest.mark.parametrize("method", ["_repr_html_", "_repr_png_", "_repr_json_", "__repr__", "_repr_mimebundle_"])
@pytest.mark.parametrize("show", ["Bad()", "display(Bad(), Bad()); print('after')", "[Bad(), Bad()]"])
async def test_a_form_that_fails_is_missing_and_says_why_on_stderr(run: Run, method: str, show: str) -> None:
    report = await run(f"class Bad:\n    def {method}(self, **_): raise ValueError('no such form')\n{show}\n")
    assert report.outcome is Outcome.OK
    if method == "__repr__" or "[" not in show:
        assert "ValueError: no such form" in report.stderr
    assert "after" not in show or report.stdout == "after\n"


async def test_an_error_after_an_error_is_printed_and_the_session_lives_on(session: OpenSession) -> None:
    code = "x = 1\nget_ipython().run_cell('1 / 0'); get_ipython().run_cell('[][0]')\nraise KeyError('third')"
    report = await session.run(code)
    assert report.error is not None
    assert report.error.name == "ZeroDivisionError"
    assert "IndexError" in report.stderr
    assert "KeyError: 'third'" in report.stderr
    assert (await session.run("x")).text == "1"


async def test_a_number_of_too_many_digits_is_no_error_until_it_is_printed(run: Run) -> None:
    report = await run("10 ** 5000")
    assert (report.outcome, report.results) == (Outcome.OK, ())
    assert "ValueError: Exceeds the limit" in report.stderr


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('x' * 30_000_000)",
        "raise ValueError('😀' * 5_000_000)",
        "raise type('N' * 1_000_000, (Exception,), {})('v')",
        "error = ValueError('v')\nfor _ in range(300): error.add_note('é' * 50_000)\nraise error",
        "raise ExceptionGroup('g', [ValueError('x' * 100_000)] * 1000)",
        "def f(n):\n    try: f(n - 1) if n else 1 / 0\n    except Exception as e: raise OSError('y') from e\nf(9)",
        "class Bad(Exception):\n    def __str__(self): raise SystemExit\n    __repr__ = __str__\nraise Bad",
        "raise UnicodeDecodeError('utf-8', b'x' * 10_000_000, 0, 1, '\\ud800')",
        "raise SyntaxError('s', ('f', 1, 1, 'z' * 20_000_000))",
        "exec('x = ' + '(' * 150 + 'y' * 5_000_000)",
    ],
)
async def test_any_exception_is_an_error_and_the_state_lives_on(session: OpenSession, code: str) -> None:
    await session.run("kept = 1")
    report = await session.run(code)
    assert report.outcome is Outcome.ERROR, report.message
    assert report.error is not None
    assert report.error.traceback
    assert len(report.error.traceback) <= 1_000_100
    assert (await session.run("kept")).text == "1"


async def test_a_long_message_leaves_both_ends_of_the_traceback(run: Run) -> None:
    error = (await run("def f():\n    raise ValueError('a' * 9_000_000 + 'the end')\nf()")).error
    assert error is not None
    assert "line 2, in f" in error.traceback
    assert error.traceback.rstrip().endswith("the end")
    assert "characters left out" in error.traceback


async def test_an_update_takes_the_place_of_what_was_displayed(run: Run) -> None:
    code = "h = display('0', display_id=True)\nfor i in range(1200): h.update(str(i))\nprint('end')"
    report = await run(SHOW + code, timeout_s=30)
    assert only(report).text == "'1199'"
    assert report.stdout == "end\n"


async def test_updates_keep_the_order_and_replace_every_display_of_that_name(run: Run) -> None:
    code = "display(1, display_id='a'); display(2); display(3, display_id='a'); update_display(4, display_id='a')\n5"
    report = await run(SHOW + code)
    assert [(result.text, result.display_id) for result in report.results] == [
        ("4", "a"), ("2", None), ("4", "a"), ("5", None)
    ]  # fmt: skip
    assert report.text == "5"


async def test_an_update_of_what_an_earlier_run_displayed_comes_under_its_name(session: OpenSession) -> None:
    await session.run(SHOW + "h = display('before', display_id='mine')")
    result = only(await session.run("h.update('after')"))
    assert (result.text, result.display_id) == ("'after'", "mine")


async def test_updates_are_streamed_as_they_come(run: Run) -> None:
    events: list[OutputEvent] = []
    code = "h = display('0', display_id='p')\nfor i in range(1, 4): h.update(str(i))\nprint('end')"
    await run(SHOW + code, events.append)
    shown = [(event.result.text, event.result.display_id) for event in events if event.result is not None]
    assert shown == [(f"'{n}'", "p") for n in range(4)]


async def test_cleared_output_is_no_result(run: Run) -> None:
    code = "for i in range(3000):\n    clear_output(wait=True)\n    display(i)\nprint('end')"
    assert only(await run(SHOW + code, timeout_s=30)).text == "2999"
    assert (await run(SHOW + "display(1); display(2); clear_output(); print('end')")).results == ()
    assert only(await run(SHOW + "display(1); clear_output(wait=True)")).text == "1"


async def test_updates_without_end_leave_the_last(run: Run) -> None:
    code = "h = display('x', display_id=True)\nfor i in range(30_000): h.update(i)\n'last'"
    report = await run(SHOW + code, timeout_s=60)
    assert report.outcome is Outcome.OK
    assert [result.text for result in report.results] == ["29999", "'last'"]


async def test_large_updates_leave_the_last(run: Run) -> None:
    code = "h = display('x', display_id=True)\nfor i in range(200): h.update(HTML(f'{i}' + 'y' * 1_000_000))\n'last'"
    report = await run(SHOW + code, timeout_s=60)
    assert report.outcome is Outcome.OK, report.message
    assert (report.results[0].html or "").startswith("199y")
    assert report.text == "'last'"


async def test_thousands_of_values_are_bounded_and_say_so(session: OpenSession) -> None:
    report = await session.run(SHOW + "x = 1\nfor i in range(5000): display(i)\nprint('end')\n'last'", timeout_s=60)
    assert report.outcome is Outcome.OK
    assert report.stdout == "end\n"
    assert report.text == "'last'"
    assert [result.text for result in report.results[:900]] == [str(n) for n in range(900)]
    said = "4,100 more values were displayed than a result has room for, and left out"
    assert report.results[-1].omitted == {"results": said}
    assert (await session.run("x")).text == "1"


async def test_values_too_large_together_are_bounded_and_say_so(run: Run) -> None:
    report = await run(SHOW + "for i in range(30): display(HTML('x' * 5_000_000))\n'last'", timeout_s=60)
    assert report.outcome is Outcome.OK
    assert report.text == "'last'"
    assert "22 more values" in (report.results[-1].text or "")


async def test_threads_may_display_at_the_same_time(run: Run) -> None:
    code = """
import threading
def show(name):
    for i in range(20): display(HTML(name * 300_000))
threads = [threading.Thread(target=show, args=(name,)) for name in 'abcd']
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    report = await run(SHOW + code, timeout_s=60)
    assert report.outcome is Outcome.OK, report.message
    assert sorted(result.html[0] for result in report.results if result.html) == sorted("abcd" * 20)
    assert all(len(set(result.html)) == 1 for result in report.results if result.html)


async def test_a_child_process_displays_as_text(run: Run) -> None:
    code = "import os\nif os.fork() == 0:\n    display(41); os._exit(0)\nos.wait()\n42"
    report = await run(SHOW + code)
    assert only(report).text == "42"


async def test_an_interrupt_amid_large_displays_keeps_the_state(session: OpenSession) -> None:
    await session.run("x = 1")
    report = await session.run(SHOW + "while True: display(HTML('x' * 4_000_000)); clear_output()", timeout_s=0.5)
    assert report.outcome is Outcome.TIMEOUT
    assert (await session.run("x")).text == "1"
