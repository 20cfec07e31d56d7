"""`headgate scaler` as a process: signals, exit codes, a port that is taken."""

import asyncio
import json
import os
import signal
import socket
import sys
from typing import Any

import grpc

from protos import external_scaler_pb2 as messages
from protos import external_scaler_pb2_grpc as services
from tests.scale.peers import Page, serving
from tests.sockets import PATIENCE_S


async def start(listen: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "agent", "scaler", "--listen", listen, "--interval", "50ms"),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")},
    )


async def end(process: asyncio.subprocess.Process) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and what was logged after that what has been read."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        log = await process.stderr.read()
        return await process.wait(), [json.loads(line) for line in log.splitlines()]


async def test_a_signal_ends_streams_and_process_in_order() -> None:
    process = await start("127.0.0.1:0")
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            listening = json.loads(await process.stderr.readline())
        assert (listening["event"], listening["tls"]) == ("listening", False)
        async with serving(Page(1.0).answer) as agent, grpc.aio.insecure_channel(listening["listen"]) as channel:
            reference = messages.ScaledObjectRef(namespace="team", scalerMetadata={"agents": agent})
            told = aiter(services.ExternalScalerStub(channel).StreamIsActive(reference))
            assert (await anext(told)).result
            process.send_signal(signal.SIGTERM)
            code, events = await end(process)
        assert code == 0
        assert [event["event"] for event in events] == ["draining", "ended"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_port_that_is_taken_ends_it_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await start(f"127.0.0.1:{taken.getsockname()[1]}")
        code, events = await end(process)
    assert code == 1
    errors = [event for event in events if event["level"] == "error"]
    assert [event["event"] for event in errors] == ["cannot start"]
