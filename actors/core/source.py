"""What text cannot be a program, in any language.

Such a text is a program's own failure, as one that does not compile: whoever wrote it must hear so. A caller's mistake
is an ``InvalidRequest`` instead.
"""

from __future__ import annotations

from actors.schemas import ProgramError
from actors.schemas.request import MAX_CODE_BYTES


def source_error(code: str) -> ProgramError | None:
    """Return why a text cannot be run, in the words of CPython where it has some; None if it can.

    White space alone is a program that does nothing.
    """
    # The number of characters first: encoding 100 MB only to refuse them would hold everyone else up.
    if len(code) > MAX_CODE_BYTES:
        return _too_long(len(code))
    try:
        size = len(code) if code.isascii() else len(code.encode())
    except UnicodeEncodeError as error:
        return _syntax_error(f"(unicode error) {error}", code.count("\n", 0, error.start) + 1)
    if size > MAX_CODE_BYTES:
        return _too_long(size)
    if "\0" in code:
        return _syntax_error("source code cannot contain null bytes", code.count("\n", 0, code.index("\0")) + 1)
    return None


def _too_long(size: int) -> ProgramError:
    return _syntax_error(f"the program has {size:,} bytes; at most {MAX_CODE_BYTES:,} are run", 1)


def _syntax_error(text: str, line: int) -> ProgramError:
    traceback = f'  File "<program>", line {line}\nSyntaxError: {text}\n'
    return ProgramError(name="SyntaxError", value=text, traceback=traceback)
