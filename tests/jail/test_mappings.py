"""The memory of libraries, joined and shared in a process of its own, since nothing undoes it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


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
