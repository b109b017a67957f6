"""What runs are charged for, told by a /proc that is made up of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.backends.jail.host.usage import BackgroundUsage, UsageMeter

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
HEAP = "55e0d0000000-55e0d4000000 rw-p 00000000 00:01 9    /memfd:heap (deleted)\n"  # 64 MiB


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    process(tmp_path, 1)
    return tmp_path


@pytest.fixture
def meter(proc: Path) -> Iterator[UsageMeter]:
    made = UsageMeter(os.open(proc, os.O_RDONLY))
    yield made
    made.close()


def process(
    proc: Path,
    pid: int,
    *,
    cpu_s: float = 0,
    of_children_s: float = 0,
    resident_mib: int = 0,
    of_files_mib: int = 0,
    own_mib: int | None = None,
    shared_mib: int = 0,
    maps: str = "",
    first_thread_ns: int = 0,
    nested: bool = False,
) -> None:
    """Write what the kernel says of one process; one without ``own_mib`` hides its memory map."""
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    fields = ["S", *["0"] * 10, cpu_s * TICKS_PER_S, "0", of_children_s * TICKS_PER_S, *["0"] * 20]
    if first_thread_ns:
        (folder / "schedstat").write_text(f"{first_thread_ns} 12345 3\n")
    (folder / "stat").write_text(f"{pid} (a) b) " + " ".join(f"{int(x)}" if x != "S" else x for x in fields))
    resident = {"VmHWM": resident_mib, "VmRSS": resident_mib, "RssFile": of_files_mib, "RssShmem": 0}
    (folder / "status").write_text("".join(f"{name}:\t{mib * 1024} kB\n" for name, mib in resident.items()))
    with open(folder / "status", "a") as status:
        status.write(f"NSpid:\t{pid}{chr(9) + '2' if nested else ''}\n")
    if own_mib is not None:
        rollup = f"Pss: {own_mib * 1024} kB\nPss_Shmem: {shared_mib * 1024} kB\n"
        (folder / "smaps_rollup").write_text(rollup)
    (folder / "maps").write_text("55e0c0000000-55e0c0001000 r--p 0 00:01 8  /usr/bin/python\n" + maps)


def test_cpu_time_of_all_processes_counts_from_the_restart(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, cpu_s=2)
    meter.restart(7)
    process(proc, 7, cpu_s=3, of_children_s=1)
    process(proc, 8, cpu_s=4)
    process(proc, 1, cpu_s=9, of_children_s=5)  # whose own work is the service's
    assert meter.cpu_s() == 1 + 1 + 4 + 5


def test_the_background_is_what_is_used_between_programs_and_not_by_nested_containers(
    proc: Path, meter: UsageMeter
) -> None:
    background = BackgroundUsage(meter)
    process(proc, 7, cpu_s=2)
    assert background.cpu_s() == 0
    process(proc, 7, cpu_s=5)
    process(proc, 8, cpu_s=1)
    process(proc, 9, cpu_s=9, nested=True)
    assert background.cpu_s() == 4
    background.restart()
    assert background.cpu_s() == 0


def test_less_than_a_tick_is_timed_too(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, first_thread_ns=1_000_000)
    meter.restart(7)
    process(proc, 7, first_thread_ns=3_500_000, of_children_s=2)
    assert meter.cpu_s() == pytest.approx(2.0025)


def test_work_done_in_threads_that_have_ended_counts(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, first_thread_ns=1_000_000)
    meter.restart(7)
    process(proc, 7, cpu_s=3, first_thread_ns=2_000_000)
    assert meter.cpu_s() == pytest.approx(2.999)


def test_the_peak_is_what_came_on_top(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=60, of_files_mib=20)
    meter.restart(7)
    process(proc, 7, resident_mib=100, of_files_mib=20)
    assert meter.measure(7).peak_mib == 40


def test_what_is_mapped_of_files_is_nobodys_own(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=60, of_files_mib=20)
    meter.restart(7)
    process(proc, 7, resident_mib=100, of_files_mib=50)
    assert meter.measure(7).peak_mib == 10


def test_memory_is_weighed_only_when_it_may_be_too_much(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=60)
    meter.restart(7)
    process(proc, 7, resident_mib=100, own_mib=5)
    assert meter.memory_mib(50) == 40
    assert meter.memory_mib(30) == 5


def test_a_session_cannot_gather_memory_program_by_program(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=60)
    meter.restart(7)
    for program in range(1, 4):
        meter.begin(7)
        process(proc, 7, resident_mib=60 + 40 * program, own_mib=40 * program)
        assert meter.measure(7).peak_mib == 40
        assert meter.memory_mib(30) == 40 * program


def test_the_heap_of_its_kind_is_not_a_programs_memory(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10, maps=HEAP)
    meter.restart(7)
    process(proc, 7, resident_mib=200, own_mib=100, shared_mib=50, maps=HEAP)
    assert meter.memory_mib(1) == 50


def test_shared_memory_beyond_that_heap_is(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10, maps=HEAP)
    meter.restart(7)
    for pid in (7, 8):
        process(proc, pid, resident_mib=300, own_mib=200, shared_mib=150, maps=HEAP)
    assert meter.memory_mib(1) == 400 - 64


def test_what_a_program_itself_calls_the_heap_is_its_memory(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10)
    meter.restart(7)
    process(proc, 7, resident_mib=200, own_mib=100, shared_mib=50, maps=HEAP)
    assert meter.memory_mib(1) == 100


def test_page_tables_count(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10)
    meter.restart(7)
    process(proc, 7, resident_mib=20, own_mib=10)
    with (proc / "7" / "status").open("a") as status:
        status.write("VmPTE:\t51200 kB\n")
    assert meter.memory_mib(100) == 10 + 50
    assert meter.memory_mib(1) == 10 + 50


def test_sockets_count_beyond_a_hundred(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10, own_mib=10)
    meter.restart(7)
    (proc / "1" / "net").mkdir()
    (proc / "1" / "net" / "sockstat").write_text("sockets: used 90\nTCP: inuse 0\n")
    assert meter.memory_mib(50) == 0
    (proc / "1" / "net" / "sockstat").write_text("sockets: used 500\nTCP: inuse 0\n")
    assert meter.memory_mib(500) == 100


def test_hidden_memory_counts_in_full(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, resident_mib=10)
    meter.restart(7)
    process(proc, 7, resident_mib=300)
    assert meter.memory_mib(1) == 300


def test_nothing_counts_once_it_is_closed(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7, cpu_s=2, resident_mib=10)
    meter.close()
    assert meter.memory_mib(1) == meter.cpu_s() == 0


def waits(proc: Path, **of_threads: float) -> None:
    """Write for how long threads, as ``_PID_TID``, have waited for a core."""
    for thread, waited_s in of_threads.items():
        _, pid, tid = thread.split("_")
        folder = proc / pid / "task" / tid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"5 {int(waited_s * 1e9)} 3\n")


def test_a_program_waited_as_long_as_the_thread_that_waited_longest_between_two_looks(
    proc: Path, meter: UsageMeter
) -> None:
    process(proc, 7)
    waits(proc, _7_7=5.0)
    meter.begin_waits()
    assert meter.waited_s() == 0.0, "what was before the program"
    waits(proc, _7_7=6.0, _7_8=0.5)
    assert meter.waited_s() == 1.0
    waits(proc, _7_7=6.0, _7_8=2.5, _9_9=1.0)
    assert meter.waited_s() == 3.0
    meter.begin_waits()
    assert meter.waited_s() == 0.0


def test_where_the_kernel_does_not_say_what_was_waited_it_was_nothing(proc: Path, meter: UsageMeter) -> None:
    process(proc, 7)
    meter.begin_waits()
    (proc / "7" / "task" / "7").mkdir(parents=True)
    (proc / "7" / "task" / "7" / "schedstat").write_text("0\n")
    assert meter.waited_s() == 0.0
    meter.close()
    assert meter.waited_s() == 0.0
