"""What the documents say of the tree is so."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
PLACE = re.compile(r"`((?:actors|tests|docs)/[\w./-]+)`")


def test_every_file_that_a_document_names_is_there() -> None:
    named = {(document.name, place) for document in DOCUMENTS for place in PLACE.findall(document.read_text())}
    assert len(named) > 40
    assert not sorted(f"{name}: {place}" for name, place in named if not (ROOT / place).exists())


def test_at_least_twenty_tasks_say_where_to_change_what() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text().partition("## Where to change what")[2]
    rows = [row for row in table.splitlines() if row.startswith("| ") and "`" in row]
    assert len(rows) >= 20
    assert all(PLACE.search(row) for row in rows)


def test_every_room_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path.parent.name for path in (ROOT / "actors").glob("*/__init__.py")]
    assert not [room for room in rooms if room not in text]
    assert not [
        path.stem for path in (ROOT / "actors").glob("*.py") if path.stem not in text and path.stem != "__init__"
    ]


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
