"""A directory's copy: the same names, contents, modes, times and links."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from actors.backends.jail.spawn.copies import copy_tree


def copied(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        copy_tree(fd, str(target))
    finally:
        os.close(fd)


def test_everything_is_there_as_it_was(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "file").write_bytes(os.urandom(5_000_000))
    (source / "empty").touch(mode=0o640)
    os.utime(source / "empty", (1, 2))
    (source / "link").symlink_to("/nowhere")
    (source / "closed").mkdir(mode=0o500)
    (Path(os.fsdecode(os.fsencode(source) + b"/\xff\xfe"))).write_text("odd")
    copied(source, target)
    assert (target / "deep" / "er" / "file").read_bytes() == (source / "deep" / "er" / "file").read_bytes()
    found = (target / "empty").stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o640, 2)
    assert os.readlink(target / "link") == "/nowhere"
    assert (target / "closed").stat().st_mode & 0o777 == 0o500
    assert sorted(map(os.fsencode, os.listdir(target))) == sorted(map(os.fsencode, os.listdir(source)))


def test_what_is_no_file_is_left_out_and_links_are_not_followed(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "secret").write_text("x")
        (source / "away").symlink_to(tmp_path / "outside")
        copied(source, target)
    assert os.listdir(target) == ["away"]
    assert (target / "away").is_symlink()


def test_a_directory_that_is_there_is_filled(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "both").mkdir(parents=True)
    (source / "both" / "new").write_text("1")
    (target / "both").mkdir(parents=True)
    (target / "both" / "old").write_text("2")
    copied(source, target)
    assert sorted(os.listdir(target / "both")) == ["new", "old"]
