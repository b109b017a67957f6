"""What fits a pattern is what ``glob`` finds with it."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.backends.glob_patterns import fits

FILES = (
    *("a.png", "b.PNG", "ab.png", "x", "[y].txt", "y.txt", "-.txt", "sub/a.png", "sub/b/c.png", "sub/b/c/d.png"),
    *(".env", ".git/hooks/post-checkout", "sub/.hidden/a.png", "sub/.a.png", "c*.txt", "cd.txt"),
)
PARTS = st.sampled_from(["*", "**", "?", "*.png", "a*", "sub", "b", ".*", "[ab]*", "[!a]*", "[y].txt", "c*.txt", "."])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@given(st.lists(PARTS, min_size=1, max_size=4).map("/".join))
@settings(max_examples=400, deadline=None)
def test_a_name_fits_if_glob_finds_it(tree: Path, pattern: str) -> None:
    found = glob.glob(pattern, root_dir=tree, recursive=True, include_hidden="/." in f"/{pattern}")
    files = {os.path.normpath(name) for name in found if (tree / name).is_file()}
    assert files - {pattern} == {name for name in FILES if fits(name, pattern)} - {pattern}


@pytest.mark.parametrize("name", ["*", "[y].txt", ".git/config", "a/../b"])
def test_a_pattern_fits_itself(name: str) -> None:
    assert fits(name, name)


@pytest.mark.parametrize("name", [".git/hooks/post-checkout", "sitecustomize.py", "sub/x.png", "x.png\n", "x.png/y"])
def test_what_was_not_asked_for_does_not_fit(name: str) -> None:
    assert not fits(name, "*.png")


def test_no_pattern_takes_long() -> None:
    since_s = time.process_time()
    assert not fits("/".join(["a"] * 500) + "/b", "/".join(["**", "a*a*a"] * 100))
    assert not fits("a" * 1000, "*a" * 100 + "b")
    assert time.process_time() - since_s < 1
