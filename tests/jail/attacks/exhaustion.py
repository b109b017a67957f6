"""Too much of everything: memory, processes, files."""

from __future__ import annotations

from actors.schemas import Outcome
from tests.jail.attacks import Attack, small

_CAUGHT = """
try:
{body}
    print("through")
except (OSError, MemoryError, RuntimeError, ValueError):
    print("refused")
"""
_ANY = frozenset({Outcome.OK, Outcome.OUT_OF_MEMORY, Outcome.CRASHED})


def _caught(body: str) -> str:
    return _CAUGHT.format(body="\n".join(f"    {line}" for line in body.strip().splitlines()))


_HOLD = "import time; time.sleep(1)"
EXHAUSTION = (
    Attack(
        "one large value",
        _caught(f"x = b'x' * 300_000_000\n{_HOLD}"),
        frozenset({"process_limits", "control_group", "watch"}),
        ends=_ANY,
        limits=small(),
    ),
    Attack(
        "many small values",
        _caught(f"x = [bytes([i % 256]) * 100_000 for i in range(3000)]\n{_HOLD}"),
        frozenset({"process_limits", "control_group", "watch"}),
        ends=_ANY,
        limits=small(),
    ),
    Attack(
        "shared memory",
        _caught(f"import mmap\nm = mmap.mmap(-1, 300_000_000)\nfor i in range(0, len(m), 4096): m[i] = 1\n{_HOLD}"),
        frozenset({"process_limits", "control_group", "watch"}),
        ends=_ANY,
        limits=small(),
    ),
    Attack(
        "many processes with a little each",
        _caught("""
import os, time
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        hoard = b'x' * 60_000_000
        time.sleep(1.5)
        os._exit(0)
    children.append(pid)
if any([os.waitpid(pid, 0)[1] for pid in children]): raise OSError
"""),
        frozenset({"control_group", "watch"}),
        ends=_ANY,
        limits=small(processes=16),
    ),
    Attack(
        "many processes with a little each, that hide their memory",
        _caught("""
import ctypes, os, time
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(4, 0)  # not dumpable: its memory map cannot be read
        hoard = b'x' * 60_000_000
        time.sleep(1.5)
        os._exit(0)
    children.append(pid)
if any([os.waitpid(pid, 0)[1] for pid in children]): raise OSError
"""),
        frozenset({"control_group", "watch"}),
        ends=_ANY,
        limits=small(processes=16),
    ),
    Attack(
        "many processes",
        _caught("""
import os, time
for _ in range(150):
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
"""),
        frozenset({"process_limits", "control_group"}),
        limits=small(memory_mib=1024),
    ),
    Attack(
        "many threads",
        _caught("""
import threading, time
for _ in range(150): threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
"""),
        frozenset({"process_limits", "control_group"}),
        limits=small(memory_mib=1024),
    ),
    *(
        Attack(
            f"one large file in {place}",
            _caught(
                f"with open('{place}/big', 'wb', buffering=0) as f:\n"
                "    for _ in range(20):\n"
                "        if f.write(bytes(2**20)) < 2**20: raise OSError"
            ),
            frozenset({"disk", "process_limits"}),
            limits=small(),
        )
        for place in ("/tmp", "/home/user", "/dev/shm")
    ),
    Attack(
        "many files together",
        _caught("for i in range(20): open(f'/tmp/{i}', 'wb').write(bytes(2**20))"),
        frozenset({"disk"}),
        limits=small(),
    ),
    Attack(
        "very many empty files",
        _caught("for i in range(5000): open(f'/tmp/{i}', 'w').close()"),
        frozenset({"disk"}),
        limits=small(),
    ),
)
