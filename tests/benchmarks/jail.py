"""Measure the jail by itself, beside what it replaces (``python -m tests.benchmarks.jail``); writes ``jail.json``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.backends.base import Emit
from actors.backends.jail import JailBackend, process_names
from actors.backends.jail.host import image
from actors.backends.jail.host.sandbox import JailSandbox
from actors.backends.jail.kernel import bwrap
from actors.backends.jail.kinds import LEAN, LOADED
from actors.config import ImageSettings, JailSettings, RunLimits
from actors.schemas import Limits, Program
from actors.schemas import action as do
from tests.benchmarks import programs, rivals, targets
from tests.benchmarks.loops import Call, closed_loop

LIMITS = RunLimits()
PROGRAMS = {"print": programs.print_sum, "import": programs.imports, "pandas": programs.group_by}
PREPARATION = "import pandas as pd\nframe = pd.DataFrame({'a': range(1_000_000)})\nframe['b'] = frame.a.astype(str)"
PROGRAM = "import numpy, pandas, scipy"  # which a jail with the science stack has imported already


async def execute(sandbox: JailSandbox, code: str, emit: Emit | None = None, session: str | None = None) -> str:
    limits = Limits(**LIMITS.model_dump())
    report = await sandbox.execute(Program(run_id="b", code=code, limits=limits, timeout_s=30, session=session), emit)
    if report.outcome != "ok":
        raise RuntimeError(f"{report.outcome}: {report.message} {report.stderr}")
    return report.stdout


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    since = time.perf_counter()
    await work()
    return time.perf_counter() - since


@contextlib.asynccontextmanager
async def started(settings: JailSettings) -> AsyncIterator[JailBackend]:
    backend = JailBackend(settings, LIMITS)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.close()


async def measure_jails(backend: JailBackend, times: int = 30) -> dict[str, float]:
    """A jail from the call to its first program's end, and its end; one at a time, then two for each core, since one
    waits for the kernel while another is made."""
    spawned, ended = [], []
    for _ in range(times):
        since = time.perf_counter()
        sandbox = await backend.create()
        await execute(sandbox, PROGRAM)
        spawned.append(time.perf_counter() - since)
        await asyncio.sleep(0.05)  # until its spares are made
        ended.append(await timed(sandbox.close))

    async def make() -> None:
        for _ in range(times):
            sandbox = await backend.create()
            await execute(sandbox, PROGRAM)
            await sandbox.close()

    cores = len(os.sched_getaffinity(0))
    since = time.perf_counter()
    await asyncio.gather(*(make() for _ in range(2 * cores)))
    per_s = 2 * cores * times / (time.perf_counter() - since)
    return {
        "new_jail_ms": statistics.median(spawned) * 1e3,
        "end_ms": statistics.median(ended) * 1e3,
        "new_jails_per_s": per_s,
    }


async def measure_runs(backend: JailBackend, jails: int, seconds: float, program: Any) -> float:
    """Pristine runs a second, in so many jails."""
    sandboxes = [await backend.create() for _ in range(jails)]

    async def call(client: int, code: str) -> str:
        return await execute(sandboxes[client], code)

    await closed_loop(call, program, jails, 0.5, 10_000_000)
    loop = await closed_loop(call, program, jails, seconds, 1)
    assert not loop.wrong
    for sandbox in sandboxes:
        await sandbox.close()
    return loop.per_s


async def measure_latency(backend: JailBackend, times: int = 100) -> dict[str, float]:
    """Medians in ms, on interpreters that are ready."""
    sandbox = await backend.create()
    await sandbox.open_session("s")
    await execute(sandbox, "1", session="s")

    async def median_ms(pause_s: float, work: Callable[[], Awaitable[object]]) -> float:
        taken = []
        for _ in range(times):
            await asyncio.sleep(pause_s)
            taken.append(await timed(work))
        return statistics.median(taken) * 1e3

    async def first_byte() -> float:
        since, first = time.perf_counter(), []
        code = "import time; print(1); time.sleep(0.02)"
        await execute(sandbox, code, lambda _: first.append(time.perf_counter() - since))
        return first[0]

    firsts = []
    for _ in range(times):
        await asyncio.sleep(0.02)
        firsts.append(await first_byte())
    found = {
        "session_1_plus_1_ms": await median_ms(0.0, lambda: execute(sandbox, "1+1", session="s")),
        "pristine_1_plus_1_ms": await median_ms(0.02, lambda: execute(sandbox, "1+1")),
        "pandas_ms": await median_ms(0.03, lambda: execute(sandbox, programs.group_by(1)[0])),
        "first_byte_ms": statistics.median(firsts) * 1e3,
    }
    await sandbox.close()
    return found


async def measure_sessions(backend: JailBackend, times: int = 20) -> dict[str, float]:
    """Medians in ms, and MiB a second; the forks are of a table of a million rows that has been prepared."""
    sandbox = await backend.create()
    opened, forked = [], []
    for number in range(times):
        opened.append(await timed(lambda name=f"s{number}": sandbox.open_session(name)))
        await sandbox.close_session(f"s{number}")
        await asyncio.sleep(0.05)  # until its spares are made
    await sandbox.open_session("origin", forkable=True)
    prepared = await timed(lambda: execute(sandbox, PREPARATION, session="origin"))
    for number in range(times):
        forked.append(await timed(lambda name=f"f{number}": sandbox.fork_session("origin", [name])))
    first = [await timed(lambda name=f"f{number}": execute(sandbox, "1+1", session=name)) for number in range(times)]
    part = bytes(do.MAX_CHUNK_BYTES)

    async def write() -> None:
        for at in range(8):
            await sandbox.perform("origin", do.WriteFile(path="/tmp/f", data=part, offset=at * len(part)))

    async def command() -> None:
        async for _ in sandbox.follow("origin", do.StartCommand(command="true")):
            pass

    await write()
    wrote = await timed(write)
    commands = [await timed(command) for _ in range(times)]
    await sandbox.close()
    return {
        "open_ms": statistics.median(opened) * 1e3,
        "prepare_ms": prepared * 1e3,
        "fork_ms": statistics.median(forked) * 1e3,
        "first_program_of_a_fork_ms": statistics.median(first) * 1e3,
        "command_ms": statistics.median(commands) * 1e3,
        "write_mib_per_s": 8 * len(part) / 2**20 / wrote,
    }


async def measure_memory(backend: JailBackend, jails: int = 4) -> dict[str, float]:
    """MiB that are an idle interpreter's own, and no other process's."""
    sandboxes = [await backend.create() for _ in range(jails)]
    for sandbox in sandboxes:
        for code in ("1", PROGRAM):
            await execute(sandbox, code)
    await asyncio.sleep(1)
    own = await asyncio.to_thread(_own_mib)
    for sandbox in sandboxes:
        await sandbox.close()
    return {f"{kind}_own_mib": statistics.median(found) for kind, found in own.items()}


def _own_mib() -> dict[str, list[float]]:
    """Private memory of interpreters, by the kind of the zygote that they descend from."""
    processes = {pid: (parent, name) for pid, parent, name in _processes()}
    kinds = {process_names.zygote(kind): kind for kind in (LEAN, LOADED)}
    own: dict[str, list[float]] = {}
    for pid, (parent, name) in processes.items():
        grandparent, its_name = processes.get(parent, (0, ""))
        if name == "python" and its_name == process_names.FORK_SERVER:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kib = sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
            own.setdefault(kinds[processes[grandparent][1]], []).append(kib / 1024)
    return own


def _processes() -> list[tuple[int, int, str]]:
    """Pid, parent's pid and name of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            found.append((int(path.parent.name), int(rest.split()[1]), name))
    return found


async def measure_rivals(seconds: float) -> dict[str, dict[str, float]]:
    config = image.describe(JailSettings(), ImageSettings())
    words = [config["bwrap"], "--unshare-user", *bwrap.mounts(config["prefixes"])]
    if os.geteuid() == 0:
        words += ["--uid", "1000"]

    def process(prefix: list[str]) -> Call:
        async def call(_: int, code: str) -> str:
            argv = [*prefix, sys.executable, "-c", code]
            ran = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            return (await ran.communicate())[0].decode()

        return call

    cores = len(os.sched_getaffinity(0))
    found: dict[str, dict[str, float]] = {}
    contenders = {"fresh process": process([]), "fresh process in bwrap": process([*words, "--"])}
    for name, call in contenders.items():
        found[name] = await _loops(call, cores, seconds)
    async with rivals.warm_ipykernels(cores) as call:
        found["warm ipykernel"] = await _loops(call, cores, seconds)
    if shutil.which("runsc"):
        async with rivals.ray_sandboxes(cores) as call:
            found["ray.experimental.sandbox"] = await _loops(call, cores, seconds)
    return found


async def _loops(call: Call, clients: int, seconds: float) -> dict[str, float]:
    one = await closed_loop(call, programs.print_sum, 1, seconds, 1)
    many = await closed_loop(call, programs.print_sum, clients, seconds, 1_000_000)
    pandas = await closed_loop(call, programs.group_by, clients, seconds, 2_000_000)
    assert not one.wrong + many.wrong + pandas.wrong
    return {"p50_ms": one.p50_ms, "per_s": many.per_s, "pandas_per_s": pandas.per_s}


async def measure(seconds: float) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    async with started(JailSettings()) as backend:
        report: dict[str, Any] = {
            "machine": {"cores": cores, "kernel": platform.release(), "python": platform.python_version()},
            "isolation": backend.capabilities.isolation,
            "jails": await measure_jails(backend),
            "latency": await measure_latency(backend),
            "sessions": await measure_sessions(backend),
            "memory": await measure_memory(backend),
            "runs_per_s": {
                f"{name}, {jails} jails": await measure_runs(backend, jails, seconds, program)
                for name, program in PROGRAMS.items()
                for jails in sorted({1, cores, 2 * cores})
            },
        }
    async with started(JailSettings(without=("control_group",))) as backend:
        report["jails_without_groups"] = await measure_jails(backend)
    report["rivals"] = await measure_rivals(seconds)
    report["targets"] = judge(report, cores)
    return report


def judge(report: dict[str, Any], cores: int) -> list[dict[str, Any]]:
    runs, jails, latency = report["runs_per_s"], report["jails"], report["latency"]
    figures: list[targets.Figure] = [
        ("new jail to its first result, ms", "≤", 30, jails["new_jail_ms"]),
        ("the same without control groups, ms", "≤", 20, report["jails_without_groups"]["new_jail_ms"]),
        ("new jails a second", "≥", 60, jails["new_jails_per_s"]),
        ("end of a jail, ms", "≤", 5, jails["end_ms"]),
        ("own memory of an idle interpreter, MiB", "≤", 6, report["memory"]["loaded_own_mib"]),
        ("pristine runs a second, science stack imported", "≥", 130, runs[f"import, {cores} jails"]),
        ("the same, with a pandas group-by", "≥", 130, runs[f"pandas, {cores} jails"]),
        ("pristine runs a second, no packages", "≥", 130, runs[f"print, {cores} jails"]),
        ("1+1 in a session, ms", "≤", 1, latency["session_1_plus_1_ms"]),
        ("1+1 in a pristine interpreter, ms", "≤", 1, latency["pristine_1_plus_1_ms"]),
        ("first byte of output, ms", "≤", 5, latency["first_byte_ms"]),
    ]
    return targets.judge(figures)


def show(console: Console, report: dict[str, Any]) -> None:
    console.print(report["isolation"])
    table = Table("", "print/s", "the jail's", "pandas/s", "the jail's", title="beside the jail, in the same run")
    cores = report["machine"]["cores"]
    ours = [report["runs_per_s"][f"{name}, {cores} jails"] for name in ("print", "pandas")]
    table.add_row("the jail", f"{ours[0]:.0f}", "", f"{ours[1]:.0f}", "")
    for name, found in report["rivals"].items():
        cells = [
            cell
            for own, rate in zip(ours, (found["per_s"], found["pandas_per_s"]), strict=True)
            for cell in (f"{rate:.1f}", f"{own / rate:.2f} times")
        ]
        table.add_row(name, *cells)
    console.print(table)
    own = Table("the jail", "", title="the jail")
    for group in ("jails", "latency", "sessions", "memory", "runs_per_s"):
        for name, value in report[group].items():
            own.add_row(name, f"{value:.1f}")
    console.print(own)
    console.print(targets.table(report["targets"], f"targets, on {report['machine']['cores']} cores"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each closed loop")
    parser.add_argument("--output", type=Path, default=Path("jail.json"))
    arguments = parser.parse_args()
    report = asyncio.run(measure(arguments.seconds))
    arguments.output.write_text(json.dumps(report, indent=2))
    show(Console(width=120), report)


if __name__ == "__main__":
    main()
