"""What the orchestrator is measured beside, each behind the same call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import ray
from jupyter_client.manager import AsyncKernelManager

from tests.benchmarks.loops import Call

WARM = "import numpy, pandas"


class _Kernel:
    """A warm ipykernel: fast, sharing its state between programs, not isolated."""

    def __init__(self) -> None:
        self.manager = AsyncKernelManager()
        self.client: Any = None

    async def start(self) -> None:
        await self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        await self.client.wait_for_ready(timeout=60)
        await self.run(WARM)

    async def run(self, code: str) -> str:
        message_id = self.client.execute(code)
        printed, answered, idle = "", False, False
        while not (answered and idle):
            if not idle:
                message = await self.client.get_iopub_msg(timeout=60)
                if message["parent_header"].get("msg_id") != message_id:
                    continue
                if message["msg_type"] == "stream":
                    printed += message["content"]["text"]
                idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"
            else:
                reply = await self.client.get_shell_msg(timeout=60)
                answered = reply["parent_header"].get("msg_id") == message_id
        return printed


@contextlib.asynccontextmanager
async def warm_ipykernels(count: int) -> AsyncIterator[Call]:
    kernels = [_Kernel() for _ in range(count)]
    await asyncio.gather(*(kernel.start() for kernel in kernels))
    idle: asyncio.Queue[_Kernel] = asyncio.Queue()
    for kernel in kernels:
        idle.put_nowait(kernel)

    async def call(_client: int, code: str) -> str:
        kernel = await idle.get()
        try:
            return await kernel.run(code)
        finally:
            idle.put_nowait(kernel)

    try:
        yield call
    finally:
        for kernel in kernels:
            kernel.client.stop_channels()
            await kernel.manager.shutdown_kernel(now=True)


@contextlib.asynccontextmanager
async def kernel_gateway(count: int) -> AsyncIterator[Call]:
    """Jupyter Kernel Gateway with prespawned kernels, over HTTP and WebSocket."""
    import websockets

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kernel_gateway", f"--KernelGatewayApp.port={port}",
        f"--KernelGatewayApp.prespawn_count={count}", "--KernelGatewayApp.ip=127.0.0.1",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    idle: asyncio.Queue[Any] = asyncio.Queue()
    connections = []
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            kernels: list[Any] = []
            for _ in range(600):
                try:
                    kernels.append((await http.post("/api/kernels", json={})).json())
                except httpx.TransportError:
                    await asyncio.sleep(0.1)  # it is still starting
                if len(kernels) == count:
                    break
            for kernel in kernels:
                url = f"ws://127.0.0.1:{port}/api/kernels/{kernel['id']}/channels"
                connection = await websockets.connect(url, max_size=None)
                connections.append(connection)
                idle.put_nowait(connection)

        async def run(connection: Any, code: str) -> str:
            message_id = uuid.uuid4().hex
            header = {
                "msg_id": message_id,
                "msg_type": "execute_request",
                "username": "",
                "session": "b",
                "version": "5.3",
            }
            content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
            await connection.send(
                json.dumps(
                    {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
                )
            )
            printed = ""
            while True:
                message = json.loads(await asyncio.wait_for(connection.recv(), 60))
                if message["parent_header"].get("msg_id") != message_id:
                    continue
                if message["msg_type"] == "stream":
                    printed += message["content"]["text"]
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    return printed

        for _ in range(count):
            connection = await idle.get()
            await run(connection, WARM)
            idle.put_nowait(connection)

        async def call(_client: int, code: str) -> str:
            connection = await idle.get()
            try:
                return await run(connection, code)
            finally:
                idle.put_nowait(connection)

        yield call
    finally:
        for connection in connections:
            await connection.close()
        server.terminate()
        await server.wait()


@contextlib.asynccontextmanager
async def fresh_process() -> AsyncIterator[Call]:
    """``python -c``: pristine, not isolated, and imports anew each time. As many at once as there are cores."""
    cores = asyncio.Semaphore(len(os.sched_getaffinity(0)))

    async def call(_client: int, code: str) -> str:
        async with cores:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-c", code, stdout=asyncio.subprocess.PIPE
            )
            return (await process.communicate())[0].decode()

    yield call


@contextlib.asynccontextmanager
async def ray_sandboxes(count: int) -> AsyncIterator[Call]:
    """Ray's own sandboxes, in gVisor: isolated, a fresh process for each program, which imports anew.

    Without their actors, whose calls would come on top; in this machine's own file system, so that no image is needed.
    """
    from ray.experimental.sandbox import GVisorSandboxBackend, ImageManager
    from ray.experimental.sandbox.config import SandboxConfig
    from ray.experimental.sandbox.image_manager import get_default_oci_spec

    class ThisMachine(ImageManager):  # type: ignore[misc]  # untyped
        def pull_image(self, image: str, timeout_seconds: float = 0, instance_id: str | None = None) -> str:
            return image

        def get_image_dir(self, image: str) -> str:
            return image

        def prepare_oci_bundle(self, root_dir: str, **_: Any) -> None:
            spec = get_default_oci_spec()
            spec["root"] = {"path": "/", "readonly": True}
            spec["process"] |= {"args": ["sleep", "infinity"], "terminal": False}
            Path(root_dir, "config.json").write_text(json.dumps(spec))

    backend = GVisorSandboxBackend(image_manager=ThisMachine())
    config = SandboxConfig(image="/", rootless=os.geteuid() != 0)
    sandboxes: list[str] = []
    try:
        for _ in range(count):
            sandboxes.append(await asyncio.to_thread(backend.create_sandbox, config))

        async def call(client: int, code: str) -> str:
            command = [sys.executable, "-I", "-c", code]
            ran = await asyncio.to_thread(backend.exec_command, sandboxes[client % count], command, timeout=60)
            return str(ran.stdout)

        yield call
    finally:
        for sandbox in sandboxes:
            await asyncio.to_thread(backend.delete_sandbox, sandbox)


@contextlib.asynccontextmanager
async def bare_actor() -> AsyncIterator[Call]:
    """A call of an async Ray actor that does nothing: what Ray itself costs."""

    class Echo:
        async def call(self, code: str) -> str:
            return str(sum(map(int, code.removeprefix("print(").removesuffix(")").split("+"))))

    actor = ray.remote(num_cpus=0, max_concurrency=1000, enable_task_events=False)(Echo).remote()
    ray.get(actor.call.remote("print(1+1)"))

    async def call(_client: int, code: str) -> str:
        return str(await actor.call.remote(code))

    try:
        yield call
    finally:
        ray.kill(actor)
