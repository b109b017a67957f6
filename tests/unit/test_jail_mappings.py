"""The memory of libraries: which mappings can be joined, and which hold data of packages."""

from __future__ import annotations

from actors.backends.jail.kernel.mappings import alike, data_of_packages, parse

LIBRARY = "/opt/site-packages/fast.so"
MAPS = f"""\
1000-2000 r--p 00000000 fe:00 7   {LIBRARY}
2000-4000 r-xp 00001000 fe:00 7   {LIBRARY}
4000-5000 r--p 00003000 fe:00 7   {LIBRARY}
5000-6000 r--p 00003000 fe:00 7   {LIBRARY}
6000-7000 rw-p 00004000 fe:00 7   {LIBRARY}
7000-8000 rw-p 00000000 00:00 0
9000-a000 r--p 00000000 fe:00 8   /usr/lib/locale of mine/C
a000-b000 r--p 00000000 fe:00 9   /usr/lib/libalone.so
b000-c000 rw-p 00000000 fe:00 9   /usr/lib/libother.so
"""


def test_a_name_may_hold_spaces_or_be_missing() -> None:
    mappings = list(parse(MAPS.splitlines(keepends=True)))
    assert mappings[6].file == "/usr/lib/locale of mine/C"
    assert (mappings[5].file, mappings[5].size) == ("", 0x1000)


def test_constants_join_the_neighbour_of_the_same_file() -> None:
    found = [(mapping.start, mode) for mapping, mode in alike(list(parse(MAPS.splitlines())))]
    assert found == [(0x1000, "r-xp"), (0x4000, "r-xp"), (0x5000, "rw-p")]


def test_only_data_of_packages_from_their_files_is_shared() -> None:
    assert [mapping.start for mapping in data_of_packages(parse(MAPS.splitlines()))] == [0x6000]
