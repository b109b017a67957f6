"""What a session's guest agent answers is checked, since programs may answer in its place."""

from __future__ import annotations

from typing import Any

import pytest

from actors.backends.jail.host import wire
from actors.errors import SandboxLost

ENTRY: dict[str, Any] = {
    "name": "a.txt",
    "path": "/home/user/a.txt",
    "type": "file",
    "size": 1,
    "mode": 0o644,
    "modified_at": 1.5,
    "target": None,
}


@pytest.mark.parametrize("kind", ["stat_file", "write_file", "make_directory", "rename_file"])
def test_an_honest_entry_passes(kind: str) -> None:
    assert wire.decoded(kind, ENTRY).name == "a.txt"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "forged",
    [
        {"name": "../../.bashrc"},
        {"name": "b.txt"},
        {"name": ""},
        {"path": "a.txt"},
        {"path": "/home/user/../a.txt"},
        {"path": "/home/user//a.txt"},
        {"size": -1},
        {"size": 2**70},
        {"size": "1"},
        {"size": True},
        {"mode": 0o10000},
        {"modified_at": float("inf")},
        {"type": "socket"},
        {"target": 5},
        {"more": 1},
    ],
    ids=str,
)
def test_a_forged_entry_is_not_believed(forged: dict[str, Any]) -> None:
    for kind, answer in (("stat_file", ENTRY | forged), ("list_directory", [ENTRY, ENTRY | forged])):
        with pytest.raises(SandboxLost, match="session's answer"):
            wire.decoded(kind, answer)


@pytest.mark.parametrize(
    "answer", [{"data": "A", "size": 1}, {"data": "é", "size": 1}, {"data": 5, "size": 1}, {"data": "AA=="}, [], None]
)
def test_a_chunk_that_is_none_is_not_believed(answer: Any) -> None:
    with pytest.raises(SandboxLost, match="session's answer"):
        wire.decoded("read_file", answer)


@pytest.mark.parametrize("size", [-1, 2**70, "1", None, 1.5])
def test_a_file_of_no_size_is_not_believed(size: Any) -> None:
    with pytest.raises(SandboxLost, match="session's answer"):
        wire.decoded("read_file", {"data": "", "size": size})
