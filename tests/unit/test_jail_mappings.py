"""Libraries' memory: which mappings can be one, and that a process that has changed its own still works."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

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


def test_libraries_work_as_before_with_half_of_the_mappings() -> None:
    found: Any = json.loads(
        subprocess.run([sys.executable, "-c", CHANGED], capture_output=True, text=True, check=True).stdout
    )
    assert found["after"] < 0.6 * found["before"]
    assert found["shared"] > 10
    assert found["values"] == found["of_child"] == [2.5, [1.0, 2.0, 4.0], 7]
    assert found["writable_file"] is False


CHANGED = """
import json, os
import numpy as np
from actors.backends.jail.kernel import mappings
def count(word):
    return sum(word in line for line in open("/proc/self/maps"))
def values():
    state = np.random.default_rng(3)
    state.normal(size=10)
    return [float(np.mean([1, 4])), sorted([4.0, 1.0, 2.0]), int(np.arange(8).max())]
before = count(".so")
mappings.merge()
mappings.share_data()
after, shared = count(".so"), count("memfd:libraries")
def can_write():
    # As root one may open what is mapped.
    for name in os.listdir("/proc/self/map_files") if os.geteuid() == 0 else ():
        path = "/proc/self/map_files/" + name
        if "libraries" in os.readlink(path):
            try:
                with open(path, "r+b", buffering=0) as file:
                    file.write(b"x")
                return True
            except PermissionError:
                return False
    return False
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(w, json.dumps(values()).encode())
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps({
    "before": before, "after": after, "shared": shared, "values": values(),
    "of_child": json.loads(os.read(r, 1000)), "writable_file": can_write(),
}))
"""
