"""What a harness runs: the program as if it were imported, then the test, and only then its own last value."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runs.harness import harness

TOKEN = "0123456789abcdef"


def last_value(program: str, test: str) -> Any:
    """Run a harness as an interpreter does, and return the value of its last expression; None where it left before."""
    tree = ast.parse(harness(program, test, TOKEN), "<program>")
    last = tree.body.pop()
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(tree, "<program>", "exec"), names)
    except SystemExit:
        return None
    return eval(compile(ast.Expression(last.value), "<program>", "eval"), names)


ADD = "def add(a, b): return a + b\n"
LEFT = "def add(a, b): raise SystemExit(0)\n"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (ADD, "assert add(1, 2) == 3"),
        (ADD + "if __name__ == '__main__':\n    print(add(int(input()), int(input())))", "assert add(1, 2) == 3"),
        (ADD + "if '__main__' == __name__: 1 / 0", "assert add(1, 2) == 3"),
        (ADD + "if (__name__) == ('__main__'): 1 / 0", "assert add(1, 2) == 3"),
        (ADD + "if __name__ in {'__main__'} and True: 1 / 0", "assert add(1, 2) == 3"),
        (ADD + "if not __name__ != '__main__': 1 / 0", "assert add(1, 2) == 3"),
        (ADD + "main = __name__ == '__main__'", "assert not main"),
        (ADD + "if __name__ == '__main__': x = 1\nelse: x = 2", "assert x == 2"),
        (ADD + "try:\n    if __name__ == '__main__': 1 / 0\nfinally: pass", "assert add(1, 2) == 3"),
        (ADD + "name = add.__name__ == 'add'", "assert name"),
        (ADD, "assert add.__module__ == __name__ == '__main__'"),
        (ADD, "ran = False\nif __name__ == '__main__': ran = True\nassert ran"),
        ("    def add(a, b):\n        return a + b\n", "assert add(1, 2) == 3"),
        ("\n\tdef add(a, b):\n\t\treturn a + b", "  assert add(1, 2) == 3\n  assert add"),
        (ADD, "\n    assert add(1, 2) == 3\n    "),
        (ADD, "import sys\nassert add(1, 2) == 3\nsys.exit()"),
        (ADD, "import sys\nsys.exit(0)"),
        (ADD, "raise SystemExit"),
        (ADD, "raise SystemExit(False)"),
        (ADD, "exit(0)"),
        (ADD, "def main():\n    assert add(1, 2) == 3\n    return 0\nimport sys\nsys.exit(main())"),
        (ADD, "from __future__ import annotations\ndef f(x: nothing): ...\nassert add(1, 2) == 3"),
        ("from __future__ import annotations\nfrom re import *\nlen = eval = str = 0\n" + ADD, "assert add(1, 2) == 3"),
        ("async def add(a, b): return a + b", "assert await add(1, 2) == 3"),
        ("async def add(a, b): return a + b", "import asyncio\nassert asyncio.run(add(1, 2)) == 3"),
        (ADD, "import inspect\ndef here(): ...\nassert inspect.getsource(here) == 'def here(): ...\\n'"),
        (ADD + "seen = []", "seen.append(1)\nassert seen == [1]"),
        ("x = '''a\n    b'''  # a comment", "assert x == 'a\\n    b'"),
        ("x = 1 \\", "assert x == 1"),
        ("s = 'é\u2028\x0c'\nif __name__ == '__main__': 1 / 0", "assert len(s) == 3"),
        ("if __name__ == '__main__': 1 / 0\r\nx = 1\r\n", "assert x == 1"),
    ],
)  # fmt: skip
def test_a_test_that_comes_to_its_end_is_told(program: str, test: str) -> None:
    assert last_value(program, test) == TOKEN


def test_unittest_says_by_its_exit_status_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    test = (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test(self): self.assertEqual(add(1, 2), 3)\n"
        "suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
        "import sys\nsys.exit(not unittest.TextTestRunner().run(suite).wasSuccessful())"
    )
    assert last_value(ADD, test) == TOKEN
    assert last_value("def add(a, b): return 0", test) is None
    assert last_value(LEFT, test) is None


@pytest.mark.parametrize(
    ("program", "test"),
    [
        (LEFT, "assert add(1, 2) == 3"),
        ("import sys\n" + ADD + "sys.exit(0)", "assert add(1, 2) == 3"),
        (ADD, "import sys\nsys.exit(1)"),
        (ADD, "import sys\nsys.exit('wrong')"),
        (ADD, "raise SystemExit(True)"),
        (ADD, "import sys\nsys.exit(0.0)"),  # printed, and status 1
        ("import sys\ndef leave(): sys.exit(0)", "import sys\nsys.exit(leave())"),
        ("import sys\ndef add(a, b, leave=sys.exit): return [leave(0) for _ in '1']", "assert add(1, 2) == 3"),
        ("class N:\n    def __eq__(self, other): raise SystemExit\ndef add(a, b): return N()", "assert add(1, 2) == 3"),
    ],
)  # fmt: skip
def test_a_program_cannot_leave_for_its_test(program: str, test: str) -> None:
    assert last_value(program, test) is None


@pytest.mark.parametrize(
    ("program", "test", "error", "at"),
    [
        (ADD, "\nassert add(1, 2) == 4", AssertionError, ("<test>", 2)),
        ("\ndef add(a, b):\n    1 / 0", "add(1, 2)", ZeroDivisionError, ("<program>", 3)),
        ("if __name__ == '__main__': pass\n1 / 0", "", ZeroDivisionError, ("<program>", 2)),
    ],
)
def test_errors_name_the_lines_of_the_program_and_of_the_test(
    program: str, test: str, error: type[Exception], at: tuple[str, int]
) -> None:
    with pytest.raises(error) as raised:
        last_value(program, test)
    last = raised.traceback[-1]
    assert (last.frame.code.raw.co_filename, last.lineno + 1) == at


def test_a_test_that_does_not_compile_says_so() -> None:
    with pytest.raises(SyntaxError):
        last_value(ADD, "assert add(")


@given(st.text())
def test_what_is_no_program_is_left_to_the_interpreter(program: str) -> None:
    assert harness(program, "pass", TOKEN).endswith(f"\n{TOKEN!r}")


@given(st.sampled_from(["", "'", '"', "'''", '"""', "\\", "\n", "é\u2028", "\0"]), st.text())
def test_any_test_is_passed_on_as_it_is(start: str, text: str) -> None:
    test = f"x = {start + text!r}"
    assert last_value("", test + f"\nassert x == {start + text!r}") == TOKEN
