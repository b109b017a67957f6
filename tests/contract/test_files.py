"""Files of a session, and files in and out of a single program."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path

import pytest

from actors.errors import ActionFailed, InvalidRequest, NotFound, UnknownSession
from actors.schemas import Outcome
from actors.schemas.action import (
    FileChange,
    ListDirectory,
    MakeDirectory,
    ReadFile,
    RemoveFile,
    RenameFile,
    StatFile,
    WatchDirectory,
    WriteFile,
    performed,
)
from tests.backends import OpenSession, Run, program

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_file_is_written_read_looked_at_moved_and_removed(session: OpenSession) -> None:
    written = await session.do(WriteFile(path="a/b.bin", data=b"\0\xff\n"))
    assert (written.path, written.type, written.size) == ("/home/user/a/b.bin", "file", 3)
    chunk = await session.do(ReadFile(path="/home/user/a/b.bin"))
    assert (chunk.data, chunk.size) == (b"\0\xff\n", 3)
    assert (await session.do(ReadFile(path="a/b.bin", offset=1, size=1))).data == b"\xff"
    assert (await session.do(ReadFile(path="a/b.bin", offset=3))).data == b""
    moved = await session.do(RenameFile(path="a/b.bin", to="c/d.bin"))
    assert moved.path == "/home/user/c/d.bin"
    with pytest.raises(NotFound, match=r"a/b\.bin"):
        await session.do(StatFile(path="a/b.bin"))
    await session.do(RemoveFile(path="c/d.bin"))
    with pytest.raises(FileNotFoundError):
        await session.do(ReadFile(path="c/d.bin"))


async def test_parts_written_one_after_another_make_one_file(session: OpenSession) -> None:
    for at, part in enumerate((b"abc", b"def", b"g")):
        await session.do(WriteFile(path="f", data=part, offset=3 * at))
    assert (await session.do(ReadFile(path="f"))).data == b"abcdefg"
    await session.do(WriteFile(path="f", data=b"x"))
    assert (await session.do(ReadFile(path="f"))).data == b"x"


async def test_a_directory_is_listed_as_deep_as_is_asked(session: OpenSession) -> None:
    for name in ("top.txt", "a/one.txt", "a/b/two.txt"):
        await session.do(WriteFile(path=name, data=b"1"))

    async def names(path: str, depth: int) -> list[str]:
        found = await session.do(ListDirectory(path=path, depth=depth))
        return [entry.path.removeprefix("/home/user/") for entry in found]

    assert await names(".", 1) == ["a", "top.txt"]
    assert set(await names(".", 2)) == {"a", "a/b", "a/one.txt", "top.txt"}
    assert set(await names("a", 9)) == {"a/b", "a/b/two.txt", "a/one.txt"}
    with pytest.raises(NotFound):
        await names("missing", 1)


async def test_programs_and_files_meet_in_the_same_workspace(session: OpenSession) -> None:
    await session.do(WriteFile(path="in.txt", data="grüße".encode()))
    report = await session.run(
        "print(open('in.txt').read())  # fake: show=file:in.txt\n"
        "with open('out.txt', 'w') as file: file.write('zurück')  # fake: write=out.txt:zurück"
    )
    assert report.stdout == "grüße\n"
    assert (await session.do(ReadFile(path="out.txt"))).data.decode() == "zurück"


async def test_the_first_thing_in_a_session_may_be_a_file(session: OpenSession) -> None:
    await session.do(WriteFile(path="first", data=b"1"))
    assert (await session.run("print(open('first').read())  # fake: show=file:first")).stdout == "1\n"


async def test_files_of_sessions_are_kept_apart_and_end_with_them(session: OpenSession) -> None:
    other = OpenSession(session.sandbox, "other")
    await session.sandbox.open_session("other")
    await session.do(WriteFile(path="mine", data=b"1"))
    with pytest.raises(NotFound):
        await other.do(StatFile(path="mine"))
    assert (await session.sandbox.execute(program("open('mine')  # fake: show=file:mine"))).outcome is Outcome.ERROR
    await session.sandbox.close_session("session")
    with pytest.raises(UnknownSession):
        await session.do(StatFile(path="mine"))
    await session.sandbox.open_session("session")
    with pytest.raises(NotFound):
        await session.do(StatFile(path="mine"))


@pytest.mark.parametrize(
    ("action", "field"),
    [
        ({"kind": "read_file", "path": ""}, "path"),
        ({"kind": "read_file", "path": "a\0b"}, "path"),
        ({"kind": "read_file", "path": "a", "offset": -1}, "offset"),
        ({"kind": "read_file", "path": "a", "size": 2**40}, "size"),
        ({"kind": "write_file", "path": "a", "data": b"x" * (8 * 2**20 + 1)}, "data"),
        ({"kind": "read_file", "path": "a", "follow": True}, "follow"),
        ({"kind": "format_disk"}, "action"),
        ("read_file", "action"),
    ],
)
async def test_what_breaks_a_rule_is_named_before_anything_is_done(action: object, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        performed(action)
    assert refused.value.field == field


@pytest.mark.needs("real")
async def test_directories_are_made_and_removed_whole(session: OpenSession) -> None:
    made = await session.do(MakeDirectory(path="x/y/z"))
    assert (made.type, made.path) == ("directory", "/home/user/x/y/z")
    await session.do(MakeDirectory(path="x/y/z"))
    await session.do(WriteFile(path="x/y/z/file", data=b""))
    await session.do(RemoveFile(path="x"))
    assert await session.do(ListDirectory()) == []


@pytest.mark.needs("real")
@pytest.mark.parametrize(
    ("prepared", "action", "problem"),
    [
        ("os.mkdir('d')", ReadFile(path="d"), "is_a_directory"),
        ("open('f', 'w')", ListDirectory(path="f"), "not_a_directory"),
        ("open('f', 'w')", WriteFile(path="f/g", data=b""), "not_a_directory"),
        ("open('f', 'w')", MakeDirectory(path="f"), "exists"),
        ("", WriteFile(path="/usr/x", data=b""), "permission"),
        ("", WriteFile(path="/x", data=b""), "permission"),
        ("", WriteFile(path="../../../etc/passwd", data=b""), "permission"),
        ("", RemoveFile(path="/usr/bin/env"), "permission"),
        ("", ReadFile(path="x" * 300), "invalid"),
        ("open('big', 'w')", WriteFile(path="big", data=b"x", offset=2**45), "no_space"),
        ("", WriteFile(path="big", data=b"x", offset=1), "not_found"),
        ("os.mkfifo('p')", ReadFile(path="p"), "invalid"),
        ("os.symlink('/tmp/elsewhere', 'l')", WriteFile(path="l", data=b""), "is_a_link"),
        ("os.symlink('l', 'l')", ReadFile(path="l"), "is_a_link"),
        ("", ReadFile(path="/dev/zero"), "invalid"),
    ],
)
async def test_what_cannot_be_done_says_why_and_does_no_harm(
    session: OpenSession, prepared: str, action: ReadFile, problem: str
) -> None:
    await session.run(f"import os\n{prepared}")
    with pytest.raises(ActionFailed) as failed:
        await session.do(action)
    assert failed.value.problem == problem
    assert any(part in failed.value.message for part in action.path.split("/") if part)
    assert (await session.run("1 + 1")).text == "2"


@pytest.mark.needs("real")
@pytest.mark.parametrize(
    "where", ["/etc/passwd", "/etc/shadow", "/root/.bashrc", "/proc/1/environ", "/proc/1/root/etc/passwd"]
)
async def test_links_lead_no_further_than_programs_get(session: OpenSession, where: str) -> None:
    """The host's files are not there; what stands in their place is the sandbox's own."""
    await session.run(f"import os\nos.symlink({where!r}, 'link')\nos.symlink('/', 'root')")
    for path in ("link", f"root{where}", f"../../..{where}", where):
        with contextlib.suppress(ActionFailed):
            data = (await session.do(ReadFile(path=path))).data
            assert data == b"" or data != _on_the_host(where)
            inside = await session.run(f"open({where!r}, 'rb').read()")
            assert inside.text == repr(data), "what a program gets itself"


def _on_the_host(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None


@pytest.mark.needs("real")
async def test_names_that_are_no_text_are_listed_and_go_with_their_directory(session: OpenSession) -> None:
    await session.run(
        "import os\nos.mkdir('d')\nopen(b'd/\\xff\\xfe', 'w')\nopen('d/line\\nbreak', 'w')\nopen('d/\\u202e', 'w')"
    )
    names = [entry.name for entry in await session.do(ListDirectory(path="d"))]
    assert sorted(names) == sorted(["\\xff\\xfe", "line\nbreak", "\u202e"])
    await session.do(RemoveFile(path="d"))
    assert await session.do(ListDirectory()) == []


@pytest.mark.needs("real")
async def test_a_listing_without_end_is_refused(session: OpenSession) -> None:
    limits = program("1").limits.model_copy(update={"disk_mib": 256})
    made = await session.run(
        "import os\nos.mkdir('many')\nfor n in range(10_001): os.symlink('x', f'many/{n}')", limits=limits
    )
    assert made.outcome is Outcome.OK
    with pytest.raises(ActionFailed, match="many"):
        await session.do(ListDirectory(path="many"))


@pytest.mark.needs("real")
async def test_a_full_disk_is_an_answer_and_the_session_goes_on(session: OpenSession) -> None:
    async def fill() -> None:
        for at in range(400):
            await session.do(WriteFile(path="big", data=bytes(2**20), offset=at * 2**20))

    with pytest.raises(ActionFailed, match="no_space"):
        await fill()
    await session.do(RemoveFile(path="big"))
    assert (await session.run("1 + 1")).text == "2"


@pytest.mark.needs("processes")
async def test_changes_are_told_as_they_happen(session: OpenSession) -> None:
    changes: list[FileChange] = []

    async def watch() -> None:
        async for change in session.follow(WatchDirectory(recursive=True)):
            changes.append(change)

    def seen(kind: str, name: str) -> bool:
        return any((change.kind, change.path) == (kind, f"/home/user/{name}") for change in changes)

    async def until(kind: str, name: str) -> None:
        async with asyncio.timeout(5):
            while not seen(kind, name):
                await asyncio.sleep(0.01)

    await session.do(MakeDirectory(path="there"))
    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0.2)
    await session.run("import os\nos.makedirs('a/b')")
    await until("created", "a/b")
    await session.run("open('a/b/deep', 'w').write('x')\nos.rename('a/b/deep', 'there/moved')")
    await session.do(RemoveFile(path="there/moved"))
    await until("removed", "there/moved")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    for kind, name in (("created", "a"), ("created", "there/moved")):
        assert seen(kind, name)
    # Written and closed may be told as one change or as two.
    kinds = dict.fromkeys(change.kind for change in changes if change.path.endswith("deep"))
    assert list(kinds) == ["created", "modified", "removed"]
    with pytest.raises(NotFound):
        await anext(session.follow(WatchDirectory(path="missing")))


# Single programs.


async def test_outputs_come_back_by_name_and_by_pattern(run: Run) -> None:
    report = await run(
        "with open('out.csv', 'w') as file: file.write('1,2')  # fake: write=out.csv:1,2\n"
        "with open('other', 'w') as file: file.write('x')  # fake: write=other:x",
        files={"plot.bin": b"\0\xff"},
        outputs=("out.csv", "*.bin", "missing.txt"),
    )
    assert report.files == {"out.csv": b"1,2", "plot.bin": b"\0\xff"}
    assert report.files_missing == {"missing.txt": "no such file"}


@pytest.mark.needs("real")
@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("raise ValueError", Outcome.ERROR),
        ("os._exit(3)", Outcome.ERROR),
        ("os.kill(os.getpid(), 11)", Outcome.CRASHED),
        ("while True: pass", Outcome.TIMEOUT),
        ("while True:\n    try: time.sleep(9)\n    except BaseException: pass", Outcome.TIMEOUT),
    ],
)
async def test_outputs_come_back_however_the_program_ended(run: Run, ending: str, outcome: Outcome) -> None:
    report = await run(
        f"import os, time\nos.makedirs('d')\nopen('d/partial', 'w').write('so far')\n{ending}",
        outputs=("d/*",),
        timeout_s=1.0,
    )
    assert (report.outcome, report.files) == (outcome, {"d/partial": b"so far"})
    assert (await run("open('d/partial')")).error is not None, "and nothing of it is left for the next"


@pytest.mark.needs("real")
async def test_outputs_in_directories_below_and_hidden_ones(run: Run) -> None:
    report = await run(
        "import os\nos.makedirs('a/b')\n"
        "for n in ('a/1.txt', 'a/b/2.txt', 'a/.hidden', '[x].txt'): open(n, 'w').write(n)",
        outputs=("**/*.txt", "[x].txt", "a/.hidden", "a"),
    )
    assert sorted(report.files) == ["[x].txt", "a/.hidden", "a/1.txt", "a/b/2.txt"]
    assert report.files_missing == {"a": "no such file"}


@pytest.mark.needs("real")
async def test_outputs_that_are_too_large_or_no_files_are_named(run: Run) -> None:
    limits = program("1").limits.model_copy(update={"disk_mib": 128})
    report = await run(
        "import os\nopen('huge', 'wb').truncate(100 * 2**20)\nopen('small', 'w').write('1')\n"
        "os.mkfifo('pipe')\nos.symlink('/dev/zero', 'zero')\nopen('65', 'wb').write(bytes(65 * 2**20))",
        outputs=("huge", "small", "pipe", "zero", "65"),
        limits=limits,
    )
    assert report.files == {"small": b"1"}
    assert set(report.files_missing) == {"huge", "pipe", "zero", "65"}
    assert "67,108,864" in report.files_missing["65"]


@pytest.mark.needs("real")
async def test_large_files_go_in_and_come_back_whole(run: Run) -> None:
    data = os.urandom(20 * 2**20)
    limits = program("1").limits.model_copy(update={"disk_mib": 128})
    report = await run(
        "import hashlib\ndata = open('in.bin', 'rb').read()\nopen('out.bin', 'wb').write(data[::-1])\n"
        "hashlib.sha256(data).hexdigest()",
        files={"in.bin": data, "empty": b""},
        outputs=("out.bin", "empty"),
        limits=limits,
    )
    assert report.text == repr(hashlib.sha256(data).hexdigest())
    assert report.files == {"out.bin": data[::-1], "empty": b""}
