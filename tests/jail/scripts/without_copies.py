"""A machine that refuses copies of the prototype: jails are built and proven there; prints what two of them see."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import platform
import struct

from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from tests.backends import program

LOOK = {
    "terminals": 'print(sum(" /dev/pts " in line for line in open("/proc/self/mountinfo")))',
    "spaces": 'import os; print(os.readlink("/proc/self/ns/user"))',
}


def refuse_copies() -> None:
    """Refuse new user namespaces unless they come alone, as bwrap makes its last one.

    AppArmor may do the like: user namespaces are for bwrap.
    """
    number = {"x86_64": 272, "aarch64": 97}[platform.machine()]
    steps = [
        (0x20, 0, 0, 0), (0x15, 0, 4, number),
        (0x20, 0, 0, 16), (0x45, 0, 2, 0x10000000), (0x15, 1, 0, 0x10000000),
        (0x06, 0, 0, 0x00050000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000),
    ]  # fmt: skip
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    laid_out = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, ctypes.get_errno()  # no new privileges
    assert libc.prctl(22, 2, laid_out, 0, 0) == 0, ctypes.get_errno()


async def main() -> None:
    # Settings that no other test has, and so a jail server of its own.
    backend = JailBackend(JailSettings(preload=("json",)), RunLimits())
    await backend.start()
    await backend.prove()
    found: dict[str, list[str]] = {name: [] for name in LOOK}
    for _ in range(2):
        sandbox = await backend.create()
        for name, code in LOOK.items():
            found[name].append((await sandbox.execute(program(code))).stdout.strip())
    await backend.close()
    print(json.dumps(found))


refuse_copies()
asyncio.run(main())
