"""What users of notebooks expect of an interpreter: values in every form, magics, errors that help."""

from __future__ import annotations

import base64
import json

import pytest

from actors.backends.base import BackendSandbox
from tests.backends import Run, program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.needs("real")]
SHOWN = "from IPython.display import *\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.mark.parametrize(
    ("code", "form", "value"),
    [
        ("HTML('<b>x</b>')", "html", "<b>x</b>"),
        ("Markdown('# x')", "markdown", "# x"),
        (f"SVG('{SVG}')", "svg", SVG),
        ("Latex('$x$')", "latex", "$x$"),
        ("JSON({'a': [1, None]})", "json_", {"a": [1, None]}),
        ("Javascript('x()')", "javascript", "x()"),
    ],
)
async def test_a_value_is_given_in_its_form(run: Run, code: str, form: str, value: object) -> None:
    report = await run(SHOWN + code)
    [result] = report.results
    assert getattr(result, form) == value
    assert result.is_main_result


@pytest.mark.parametrize(
    ("form", "begins"), [("png", b"\x89PNG\r\n\x1a\n"), ("jpeg", b"\xff\xd8\xff"), ("pdf", b"%PDF-")]
)
async def test_pictures_are_whole(run: Run, form: str, begins: bytes) -> None:
    code = f"""
class Picture:
    def _repr_mimebundle_(self, **_):
        kind = {{"png": "image/png", "jpeg": "image/jpeg", "pdf": "application/pdf"}}["{form}"]
        import io
        from PIL import Image
        file = io.BytesIO()
        Image.new("RGB", (2, 2), "red").save(file, "{form}")
        return {{kind: file.getvalue()}}
Picture()
"""
    [result] = (await run(code)).results
    data = base64.b64decode(getattr(result, form), validate=True)
    assert data.startswith(begins)


async def test_data_may_hold_what_json_does_not_know(run: Run) -> None:
    code = """
import numpy as np
class Odd:
    def _repr_mimebundle_(self, **_):
        loop = []
        loop.append(loop)
        return {"application/json": {"n": np.int64(3), "a": np.arange(2), "o": 1j}, "application/x-loop": loop}
Odd()
"""
    [result] = (await run(code)).results
    assert result.json_ == {"n": 3, "a": [0, 1], "o": "1j"}
    assert result.omitted == {"application/x-loop": "left out: not JSON: it contains itself"}


async def test_several_results_come_in_order_and_the_last_is_the_main_one(run: Run) -> None:
    report = await run(SHOWN + "display(1, HTML('<i>2</i>'))\nprint('between')\ndisplay(3)\n4")
    assert [(result.text, result.is_main_result) for result in report.results if result.html is None] == [
        ("1", False), ("3", False), ("4", True)
    ]  # fmt: skip
    assert report.results[1].html == "<i>2</i>"


@pytest.mark.parametrize("code", ["3;", "3 ;  # quiet", "x = 3\nx;\n"])
async def test_a_semicolon_keeps_the_last_value_back(run: Run, code: str) -> None:
    assert (await run(code)).results == ()


@pytest.mark.parametrize("code", ["'a;'", "3  # ;", "'''\n;'''", "1; 3"])
async def test_a_semicolon_elsewhere_does_not(run: Run, code: str) -> None:
    assert len((await run(code)).results) == 1


async def test_the_last_values_have_names(sandbox: BackendSandbox) -> None:
    async def text(code: str) -> str | None:
        return (await sandbox.execute(program(code, session="last"))).text

    await sandbox.open_session("last")
    assert await text("40") == "40"
    assert await text("[_]") == "[40]"
    assert await text("None") is None
    assert await text("_, __") == "([40], 40)"
    assert await text("_ = 'mine'") is None
    assert await text("1") == "1"
    assert await text("_") == "'mine'", "a name that the program uses itself is left alone"
    await sandbox.close_session("last")


async def test_a_table_is_shown_as_text_html_and_data(run: Run) -> None:
    code = """
import pandas as pd
pd.DataFrame({
    "n": [1, 2], "x": [0.5, float("inf")], "when": pd.to_datetime(["2024-02-29 12:00", None]), "who": ["é", None],
    3: pd.array([True, None], dtype="boolean"),
})
"""
    [result] = (await run(code)).results
    assert result.data == {
        "n": [1, 2], "x": [0.5, None], "when": ["2024-02-29T12:00:00", None], "who": ["é", None], "3": [True, None]
    }  # fmt: skip
    assert "<table" in (result.html or "")
    assert "2024-02-29" in (result.text or "")
    json.dumps(result.data, allow_nan=False)


async def test_a_table_too_large_for_data_is_still_shown(run: Run) -> None:
    [result] = (await run("import pandas as pd\npd.DataFrame({'n': range(200_000)})")).results
    assert result.data is None
    assert "200000 rows" in (result.html or "")


@pytest.mark.parametrize(
    ("plot", "kind", "elements"),
    [
        ("plt.plot([1, 2], [3, 4], label='a')", "line", [{"label": "a", "points": [[1.0, 3.0], [2.0, 4.0]]}]),
        ("plt.scatter([1], [2], label='b')", "scatter", [{"label": "b", "points": [[1.0, 2.0]]}]),
        ("plt.bar(['x', 'y'], [1, 2])", "bar", None),
        ("plt.pie([1, 3], labels=['p', 'q'])", "pie", None),
    ],
)
async def test_a_figure_is_a_picture_and_data(run: Run, plot: str, kind: str, elements: object) -> None:
    [result] = (await run(f"import matplotlib.pyplot as plt\n{plot}\nplt.title('T')\nplt.show()")).results
    assert result.chart is not None
    assert (result.chart["type"], result.chart["title"]) == (kind, "T")
    assert elements is None or result.chart["elements"] == elements
    assert base64.b64decode(result.png or "").startswith(b"\x89PNG")


async def test_a_figure_whose_data_cannot_be_read_is_a_picture(run: Run) -> None:
    code = "import matplotlib.pyplot as plt\nplt.boxplot([[1, 2, 3]], patch_artist=True)\nplt.show()"
    report = await run(code)
    assert base64.b64decode(report.results[0].png or "").startswith(b"\x89PNG")
    assert report.stderr == ""


async def test_a_figure_left_open_is_shown_at_the_end_and_once(run: Run) -> None:
    report = await run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nprint('done')")
    assert len(report.results) == 1
    assert (await run("import matplotlib.pyplot as plt\nprint(plt.get_fignums())")).stdout == "[]\n"


async def test_formulas_and_images_are_shown(run: Run) -> None:
    [formula] = (await run("import sympy\nsympy.sqrt(8)")).results
    assert "sqrt{2}" in (formula.latex or "")
    [image] = (await run("from PIL import Image\nImage.new('RGB', (3, 2), 'blue')")).results
    assert base64.b64decode(image.png or "").startswith(b"\x89PNG")


async def test_top_level_await_magics_and_shell_commands(run: Run) -> None:
    assert (await run("import asyncio\nawait asyncio.sleep(0, 'awaited')")).text == "'awaited'"
    assert "per loop" in (await run("%timeit -n1 -r1 pass")).stdout
    assert (await run("!echo out; echo err >&2")).stdout == "out\n"
    assert (await run("files = !echo a; echo b\nfiles")).text == "['a', 'b']"
    assert (await run("%%bash\necho in bash")).stdout == "in bash\n"


async def test_warnings_go_to_stderr_and_unicode_stays(run: Run) -> None:
    report = await run("import warnings; warnings.warn('careful'); print('é😀 ﷽')")
    assert "UserWarning: careful" in report.stderr
    assert report.stdout == "é😀 ﷽\n"


@pytest.mark.parametrize(
    ("code", "package"),
    [
        ("import not_there.part", "not_there"),
        ("import cv2", "opencv-python-headless"),
        ("from Bio import x", "biopython"),
    ],
)
async def test_a_missing_package_says_how_to_add_it(run: Run, code: str, package: str) -> None:
    report = await run(code)
    assert report.error is not None
    assert report.error.name == "ModuleNotFoundError"
    assert report.error.traceback.rstrip().endswith(f"pip install {package}")


async def test_a_missing_part_of_a_package_that_is_there_gives_no_such_advice(run: Run) -> None:
    report = await run("import json.nothing")
    assert report.error is not None
    assert "pip install" not in report.error.traceback


async def test_input_without_stdin_says_where_it_comes_from(run: Run) -> None:
    report = await run("name = input('? ')")
    assert report.error is not None
    assert report.error.name == "EOFError"
    assert "stdin=" in report.error.traceback
    assert (await run("print('hi', input('? '))", stdin=b"Ann\n")).stdout == "? hi Ann\n"


@pytest.mark.parametrize(
    ("code", "last"),
    [
        ("%nosuchmagic", "UsageError: Line magic function `%nosuchmagic` not found."),
        ("%time 1/0", "ZeroDivisionError: division by zero"),
        ("%timeit 1/0", "ZeroDivisionError: division by zero"),
        ("%run missing.py", "Exception: File `'missing.py'` not found."),
        ("%load_ext nothing", "ModuleNotFoundError: No module named 'nothing'"),
    ],
)
async def test_tracebacks_of_magics_are_without_internals_too(run: Run, code: str, last: str) -> None:
    report = await run(code)
    assert report.error is not None
    assert last in report.error.traceback
    assert 'File "<program>", line 1' in report.error.traceback
    assert "IPython/" not in report.error.traceback


async def test_magics_know_where_home_is(run: Run) -> None:
    report = await run("%cd /tmp\n%cd\n%pwd")
    assert (report.stdout, report.text) == ("/tmp\n/home/user\n", "'/home/user'")
