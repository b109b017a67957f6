"""The self-test: before any jail of this machine is trusted, one is attacked, and each probe must fail to get out."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from actors.backends.base import BackendSandbox
from actors.backends.jail.kernel import system_calls
from actors.config import RunLimits, Wall
from actors.errors import IsolationUnavailable
from actors.schemas import Limits, Outcome, Program

_DISK_MIB = 1
_PROBES = """
import ctypes, json, os, socket
def tried(attempt):
    try:
        return str(attempt())
    except OSError as error:
        return error.__class__.__name__
def called(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        client.connect(address)
        return "connected"
def look(path, device):
    if os.stat(path).st_dev != device:
        raise OSError("an inode of this jail's own")
    return "the machine's"
def fill(path):
    with open(path, "wb", buffering=0) as file:
        for _ in range({blocks}):
            if file.write(bytes(2**20)) < 2**20:
                raise OSError("full")
    return "filled"
def attach(instruction):
    code = ctypes.create_string_buffer(instruction)
    program = (1).to_bytes(8, "little") + ctypes.addressof(code).to_bytes(8, "little")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return any_socket.setsockopt(socket.SOL_SOCKET, 26, program)
def duplicate():
    kept = []
    try:
        while len(kept) < 1025:
            kept.append(os.dup(0))
    finally:
        for fd in kept:
            os.close(fd)
print(json.dumps({{
    "file": tried(lambda: os.stat({canary!r})),
    "tcp": tried(lambda: connect(socket.AF_INET, ("127.0.0.1", {port}))),
    "abstract": tried(lambda: connect(socket.AF_UNIX, {abstract!r})),
    "vsock": tried(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "netlink": tried(lambda: socket.socket(16, 3)),
    "unshare": tried(lambda: called({unshare}, 0x10000000)),
    "mount": tried(lambda: called({mount}, b"none", b"/tmp", b"tmpfs", 0, 0)),
    "ptrace": tried(lambda: called({ptrace}, 16, 1, 0, 0)),
    "filter": tried(lambda: attach(bytes.fromhex("060000000000ff7f"))),
    "contexts": tried(lambda: called({io_setup}, 1, ctypes.byref(ctypes.c_ulong()))),
    "priority": tried(lambda: os.nice(-1)),
    "descriptors": tried(duplicate),
    "init": tried(lambda: open("/proc/1/environ").read()),
    "write": tried(lambda: open("/usr/canary", "w")),
    "root": tried(lambda: open("/canary", "w")),
    "fill": tried(lambda: fill("/tmp/fill")),
    "inodes": tried(lambda: look("/usr", {device})),
    "executable": tried(lambda: os.chmod("/proc/self/exe", os.stat("/proc/self/exe").st_mode)),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
    "killed_first": open("/proc/self/oom_score_adj").read().strip(),
}}))
"""
_HINT = "This is a flaw of this machine's jail: do not run untrusted programs here, and report it with this text"
_OWN_PYTHON = (
    "Programs could change the mode and times of this account's Python, since this machine lets only bwrap make user "
    "namespaces: run the service by a Python that another account owns, as the system's, let this account make user "
    'namespaces, or accept it with jail.without = ["executable"]'
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe met, and whether the wall held."""

    probe: str
    held: bool
    seen: str


MUST_RAISE = (
    "file", "tcp", "abstract", "vsock", "netlink", "unshare", "mount", "ptrace", "init", "write", "root", "fill",
    "filter", "contexts", "priority", "descriptors", "inodes", "executable",
)  # fmt: skip


async def probe(sandbox: BackendSandbox, limits: RunLimits, canary: Path, *, own_inodes: bool) -> list[Finding]:
    """Try every way out of ``sandbox``.

    ``canary`` is a file of this machine that no jail shows. Whether files are the machine's own is only looked at where
    they should not be.

    Raises:
        IsolationUnavailable: the probes themselves did not run.
    """
    name = f"\0e2b-canary-{secrets.token_hex(8)}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind(name)
        abstract.listen()
        numbers = system_calls.numbered(platform.machine())
        code = _PROBES.format(
            canary=str(canary),
            device=os.stat("/usr").st_dev,
            port=tcp.getsockname()[1],
            abstract=name,
            **{call: numbers[call] for call in ("unshare", "mount", "ptrace", "io_setup")},
            blocks=_DISK_MIB + 1,
        )
        asked = Limits(**limits.model_dump()).model_copy(update={"disk_mib": _DISK_MIB})
        report = await sandbox.execute(Program(run_id="self-test", code=code, timeout_s=10, limits=asked))
    if report.outcome is not Outcome.OK:
        said = report.error.traceback if report.error else report.message
        raise IsolationUnavailable(f"The jail's self-test did not run ({report.outcome}: {said})", _HINT)
    return [found for found in judge(json.loads(report.stdout)) if own_inodes or found.probe != "inodes"]


def judge(seen: dict[str, object]) -> list[Finding]:
    """Say for each probe whether the wall held: most must have met an ``OSError``."""
    held = {name: str(seen[name]).endswith("Error") for name in MUST_RAISE}
    held["processes"] = int(str(seen["processes"])) <= 2
    held["killed_first"] = seen["killed_first"] == "1000"
    held["capabilities"] = int(str(seen["capabilities"]), 16) == 0
    return [Finding(name, ok, str(seen[name])) for name, ok in held.items()]


_PROBED: dict[Wall, frozenset[str]] = {
    "network": frozenset({"tcp", "abstract"}),
    "seccomp": frozenset({"vsock", "netlink", "unshare", "capabilities", "contexts", "filter"}),
    "capabilities": frozenset({"capabilities"}),
    "read_only": frozenset({"write", "root", "inodes"}),
    "disk": frozenset({"fill"}),
    "executable": frozenset({"executable"}),
}


def require(findings: list[Finding], without: tuple[Wall, ...] = ()) -> None:
    """Require that every wall held that is not left out on purpose.

    Raises:
        IsolationUnavailable: names each that did not.
    """
    excused = {name for wall in without for name in _PROBED.get(wall, ())}
    broken = [found for found in findings if not found.held and found.probe not in excused]
    if broken:
        named = ", ".join(f"{found.probe} ({found.seen})" for found in broken)
        own_python = [found.probe for found in broken] == ["executable"]
        raise IsolationUnavailable(f"The jail does not hold against: {named}", _OWN_PYTHON if own_python else _HINT)
