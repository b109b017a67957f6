"""A client of the embedded backend that says when its program runs, and waits to be killed."""

from __future__ import annotations

import asyncio

from actors.backends.jail import JailBackend
from actors.config import JailSettings, RunLimits
from tests.backends import program


async def main() -> None:
    backend = JailBackend(JailSettings(), RunLimits())
    await backend.start()
    sandbox = await backend.create()
    started = asyncio.Event()
    code = "print('running', flush=True)\nwhile True: pass"
    running = asyncio.create_task(sandbox.execute(program(code, timeout_s=60), lambda _: started.set()))
    await started.wait()
    print("running", flush=True)
    await running


asyncio.run(main())
