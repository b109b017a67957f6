"""However a driver ends, nothing of its local deployment outlives it for long."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.testing import eventually

GONE_WITHIN_S = 15.0
DRIVER = """
import sys, ray, actors
from pathlib import Path
orchestrator = actors.connect(actors.Settings.load(router={"local": "fake"}, namespace="clean-end"))
assert ray.get(orchestrator.run.remote("print(1)")).ok
ref = orchestrator.run.remote("# fake: slow=60", timeout_s=120.0)
print(Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[3], flush=True)
sys.stdin.readline()
actors.shutdown("clean-end", timeout_s=0.5)
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started a deployment of its own, with a program running, and waits for a line."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=heed_interrupts,
    )
    yield started
    started.kill()
    started.communicate()


def heed_interrupts() -> None:
    """A job in a shell's background is started deaf to them, and so would be what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("end", ["shutdown", "SIGINT", "SIGKILL"])
def test_nothing_is_left_of_a_driver_that_ended(driver: subprocess.Popen[str], end: str) -> None:
    assert driver.stdout is not None
    assert driver.stdin is not None
    directory = Path(driver.stdout.readline().strip())
    assert directory.is_dir()
    processes = psutil.Process(driver.pid).children(recursive=True)
    processes += [process for process in psutil.process_iter() if _names(process, directory)]
    assert len(processes) > 8, "Ray, six actors, the sandboxes and the janitor"
    shared = _shared_memory(processes)
    if end == "shutdown":
        driver.stdin.write("\n")
        driver.stdin.flush()
    else:
        os.kill(driver.pid, getattr(signal, end))
    driver.wait(GONE_WITHIN_S)
    left = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)[1]
    assert not left, [(process.pid, process.cmdline()) for process in left if process.is_running()]
    eventually(lambda: not directory.exists(), GONE_WITHIN_S, "its directory is gone")
    assert not shared & set(glob.glob("/dev/shm/*"))


def _names(process: psutil.Process, directory: Path) -> bool:
    try:
        return any(str(directory) in argument for argument in process.cmdline())
    except psutil.Error:
        return False  # it ended meanwhile, or is another account's


def _shared_memory(processes: list[psutil.Process]) -> set[str]:
    """Files in shared memory that these processes have mapped."""
    found: set[str] = set()
    for process in processes:
        try:
            found |= {mapped.path for mapped in process.memory_maps() if mapped.path.startswith("/dev/shm/")}
        except psutil.Error:
            continue  # it ended meanwhile
    return found & set(glob.glob("/dev/shm/*"))


FAILING = """
from pathlib import Path
import ray
from actors.deployment.local_ray import LocalCluster
def refuse(**options):
    print(Path(options["_temp_dir"]).parent, flush=True)
    raise RuntimeError("no Ray today")
ray.init = refuse
try:
    LocalCluster.start()
except RuntimeError as error:
    print(error)
input()
"""


def test_a_ray_that_does_not_start_leaves_nothing_either() -> None:
    command = [sys.executable, "-c", FAILING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert process.stdout.readline() == "no Ray today\n"
        assert not directory.exists()
        assert not psutil.Process(process.pid).children()
        process.communicate("\n")
