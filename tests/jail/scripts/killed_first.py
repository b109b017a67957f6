"""A host that is to be killed first, as Ray's workers are: prints the scores of its jails' own processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from tests.jail import processes


def score(pid: int) -> Path:
    return Path(f"/proc/{pid}/oom_score_adj")


async def main() -> None:
    backend = JailBackend(JailSettings(preload=("json",)), RunLimits())  # so that it needs a jail server of its own
    await backend.start()
    sandbox = await backend.create()
    for pid in sorted(processes.below(backend.server_pid)):
        print(processes.name(pid), score(pid).read_text().strip())
    await sandbox.close()
    await backend.close()


score(os.getpid()).write_text("1000")
asyncio.run(main())
