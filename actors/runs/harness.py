"""The harness of a test: the one program that runs the program under test, and then the test with its names."""

from __future__ import annotations

import io
import re
import tokenize

_RUN_TEST = """
import ast, asyncio, inspect, linecache, sys

program = sys._getframe(1).f_code.co_filename
linecache.cache["<test>"] = len(test), None, test.splitlines(True), "<test>"
code = compile(test, "<test>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
try:
    ended = eval(code, names)
    if inspect.iscoroutine(ended):
        asyncio.run(ended)
except SystemExit as end:
    trace = end.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != program:
        trace = trace.tb_next
    # A test may leave with success, as unittest.main() does; the program may not leave on its behalf.
    if trace is not None or not (end.code is None or isinstance(end.code, int) and end.code == 0):
        raise
"""
"""Run in names of its own, for those of the program may hide ``compile`` or ``len``."""
_COMPARED = {"==", "!=", "in", "is", "not"}
_IMPORTED = '"program"'
"""What a program under test reads as its ``__name__`` where it compares it: what it is to whoever imports it."""
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def harness(program: str, test: str, token: str) -> str:
    """Return what to run so that its last value is ``token`` if the test came to its end, and something else if not.

    The program keeps its lines, so that its errors name them. Its main guard does not hold, that of the test does.
    """
    return f"""{_unguarded(_dedented(program))}

# ── the test ──
import builtins as __harness
__harness.exec(  # the test
    __harness.compile({_RUN_TEST!r}, "<harness>", "exec"),
    {{"test": {_dedented(test)!r}, "names": __harness.globals()}},
)
{token!r}"""


def _dedented(code: str) -> str:
    """Take the first line's indentation from every line, as a run without a test does."""
    first = re.search(r"^([ \t]+)\S", code, re.MULTILINE)
    if first is None or code[: first.start()].strip():
        return code
    return re.sub(f"^{re.escape(first[1])}", "", code, flags=re.MULTILINE)


def _unguarded(program: str) -> str:
    """Have every comparison of ``__name__`` come out as in a module that is imported; nothing else changes."""
    if "__name__" not in program:
        return program
    lines = program.split("\n")
    words = [(token.string, token.start) for token in _tokens(program) if token.string not in ("(", ")")]
    for number in range(len(words) - 1, -1, -1):
        (word, (row, column)), before = words[number], words[number - 1][0] if number else ""
        after = words[number + 1][0] if number + 1 < len(words) else ""
        if word == "__name__" and before not in (".", "for") and _COMPARED & {before, after}:
            line = lines[row - 1]
            lines[row - 1] = line[:column] + _IMPORTED + line[column + len(word) :]
    return "\n".join(lines)


def _tokens(program: str) -> list[tokenize.TokenInfo]:
    """The program's tokens, as far as it has any: what does not compile says so when it is run."""
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(program).readline):
            if token.type not in _LAYOUT:
                found.append(token)
    except (tokenize.TokenError, SyntaxError):
        pass
    return found
