"""What the documents tell people to paste does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SESSIONS = Path(__file__).parents[2] / "docs" / "sessions.md"


def test_the_tour_prints_what_its_comments_say(tmp_path: Path) -> None:
    [tour] = re.findall(r"<!-- tour -->\n```python\n(.*?)```", SESSIONS.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", tour], capture_output=True, text=True, timeout=110, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.splitlines()
    for line in tour.splitlines():
        said = re.search(r"print\(.*\)  # (.*)", line)
        if said:
            assert said[1] in printed, done.stdout
    assert "hello world at level session" in printed
    assert "['499500', '500500', '501500', '502500']" in printed
    assert any(
        "('error', \"ValueError" in line and "('failed', \"line 1: '4', where '5' was expected\")" in line
        for line in printed
    )
