"""Hostile programs: what each tries, which walls stop it, and how it is to end."""

from __future__ import annotations

from dataclasses import dataclass

from actors.config import Wall
from actors.schemas import Limits, Outcome

SYSCALL = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def call(x86, arm, *arguments):
    number = arm if platform.machine() == "aarch64" else x86
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""
THROUGH, REFUSED = "through", "refused"


@dataclass(frozen=True, slots=True)
class Attack:
    """One way to try to get through.

    Each of ``walls`` stops it alone, and without all of them it succeeds: both are tried. An attack without walls meets
    the namespaces that no setting takes away, or the kernel's own refusal. With ``outside`` the same program is run
    without a jail, where it succeeds.
    """

    name: str
    code: str
    """Prints ``through`` or ``refused``."""
    walls: frozenset[Wall] = frozenset()
    outside: bool = False
    ends: frozenset[Outcome] = frozenset({Outcome.OK})
    limits: Limits | None = None
    timeout_s: float = 20.0


def attempt(name: str, statement: str, *walls: Wall, outside: bool = False) -> Attack:
    """One statement, which raises ``OSError`` where it is refused."""
    code = f"{SYSCALL}\ntry:\n    {statement}\n    print('{THROUGH}')\nexcept OSError:\n    print('{REFUSED}')"
    return Attack(name, code, frozenset(walls), outside)


def small(**changes: int) -> Limits:
    limits = Limits(memory_mib=128, cpu_s=10, processes=32, disk_mib=16, output_bytes=10_000, network=False)
    return limits.model_copy(update=changes)
