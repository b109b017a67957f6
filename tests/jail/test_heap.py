"""A heap in a file: laid out, forked and measured in a process of its own, since nothing undoes it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

START = """
import gc, json, os, signal, sys
from actors.backends.jail.kernel import heap
def maps():
    return [line.split() for line in open("/proc/self/maps") if "memfd:heap" in line]
def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
def in_child(work):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(w, json.dumps(work()).encode())
        os._exit(0)
    os.close(w)
    said = os.read(r, 10_000)
    return json.loads(said) if said else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def in_process(code: str) -> Any:
    ran = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


def test_what_was_allocated_lies_there_whole_and_private() -> None:
    found = in_process("""
with heap.laid_out():
    words = [f"word {n}" for n in range(400_000)]
    shared = maps()
before = status("VmData")
[entry] = maps()
start, end = (int(part, 16) for part in entry[0].split("-"))
inside = sum(start <= id(word) < end for word in words)
print(json.dumps([shared[0][1], entry[1], inside, words == [f"word {n}" for n in range(400_000)], before]))
""")
    shared, private, inside, whole, data_kib = found
    assert (shared, private, whole) == ("rw-s", "rw-p", True)
    assert inside > 370_000  # the rest fits where there was room before
    assert data_kib < 200_000, "addresses that were not used are given back"


def test_forks_copy_what_they_write_to_and_nothing_else() -> None:
    found = in_process("""
with heap.laid_out():
    words = [str(n) for n in range(300_000)]
def rewrite():
    before = status("RssAnon")
    for at in range(100_000):
        words[at] = 0
    return status("RssAnon") - before
resident = in_child(lambda: status("RssAnon") + status("RssShmem"))
print(json.dumps([resident, status("RssShmem"), in_child(rewrite), words[:3], status("VmData")]))
""")
    resident_kib, _, copied_kib, words, data_kib = found
    assert resident_kib < data_kib / 2, "a fork begins without most of the heap"
    assert copied_kib > 500
    assert words == ["0", "1", "2"]


def test_a_second_one_may_follow() -> None:
    assert in_process("""
with heap.laid_out():
    first = [str(n) for n in range(100_000)]
with heap.laid_out():
    second = [str(n) for n in range(100_000)]
print(json.dumps([first == second, len(maps()), in_child(lambda: second[-1])]))
""") == [True, 2, "99999"]


def test_a_process_that_is_forked_meanwhile_cannot_write_into_it() -> None:
    status = in_process("""
with heap.laid_out():
    words = [str(n) for n in range(100_000)]
    ended = in_child(lambda: words.clear())
print(json.dumps([ended, len(words)]))
""")
    assert status == [-11, 100_000]


def test_programs_may_be_executed_meanwhile() -> None:
    assert (
        in_process("""
import subprocess
with heap.laid_out():
    said = subprocess.run(["echo", "yes"], capture_output=True, text=True).stdout
print(json.dumps(said))
""")
        == "yes\n"
    )


def test_a_limit_on_addresses_makes_it_ordinary_memory() -> None:
    assert in_process("""
import resource
held = status("VmSize") * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + 300 * 2**20, held + 300 * 2**20))
with heap.laid_out():
    words = [str(n) for n in range(100_000)]
print(json.dumps([maps(), words[-1], in_child(lambda: words[-2])]))
""") == [[], "99999", "99998"]


def test_nobody_can_write_to_the_file_afterwards() -> None:
    assert (
        in_process("""
import fcntl
kept = []
made = os.memfd_create
os.memfd_create = lambda *a: kept.append(os.dup(fd := made(*a))) or fd
with heap.laid_out():
    words = [str(n) for n in range(1000)]
try:
    os.pwrite(kept[0], b"x", 0)
except PermissionError as error:
    print(json.dumps(type(error).__name__))
""")
        == "PermissionError"
    )


@pytest.mark.parametrize("fails", [False, True])
def test_settling_takes_just_the_pages_that_work_writes_to(fails: bool) -> None:
    before, after, wrote, words = in_process(f"""
with heap.laid_out():
    words = [[n] for n in range(300_000)]
    gc.collect()
    gc.freeze()
def work():
    for word in words[:50_000]:
        word[0] += 1
    if {fails}:
        raise ValueError
before = status("RssAnon")
sys.stderr = open(os.devnull, "w")
heap.settle(work)
print(json.dumps([before, status("RssAnon"), in_child(lambda: words[0][0]), words[0][0]]))
""")
    assert (wrote, words) == (0, 0), "work is a child's"
    assert (after - before > 3000) is not fails
    assert after - before < 30_000
