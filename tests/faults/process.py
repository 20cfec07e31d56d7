"""`headgate serve` as a process of its own: signals, limits of the operating system and exit codes need one."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol, Self

import pytest

from tests.sockets import PATIENCE_S, FakePredictor, Message, Peer, dial


class AgentProcess:
    """A running agent. `events` are the lines of its log, parsed."""

    def __init__(self, process: asyncio.subprocess.Process, listening: Mapping[str, Any]) -> None:
        self._process = process
        self._listening = listening
        self._clients: list[Peer] = []
        self.pid = process.pid
        self.events: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, predictor: FakePredictor, flags: Mapping[str, str], state: str = "serving") -> Self:
        """Returns when it is in this state."""
        settings = {"limit": "1", "access_log": "off", "drain_delay": "0", "ready_when": "listening", **flags}
        arguments = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), value)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent", "serve", "--route", f"127.0.0.1:0={predictor.url}", "--admin", "127.0.0.1:0"),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")},
        )
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            first = json.loads(await process.stderr.readline())
        assert first["event"] == "listening", first
        agent = cls(process, first)
        await agent.until(state=state)
        return agent

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return str(self._listening["listen"][0])

    @property
    def admin_address(self) -> str:
        """Where its admin port is, as host:port."""
        return str(self._listening["admin"])

    async def client(self) -> Peer:
        """A new connection to the data port."""
        return await self._dial(self.address)

    async def admin(self, path: str) -> Message:
        """Ask the admin port."""
        client = await self._dial(self.admin_address)
        await client.send(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        return await client.response()

    async def state(self) -> dict[str, Any]:
        """What /debug/state shows."""
        parsed: dict[str, Any] = json.loads((await self.admin("/debug/state")).body)
        return parsed

    async def until(self, **levels: object) -> None:
        """Until /debug/state shows these values."""
        async with asyncio.timeout(PATIENCE_S):
            while not levels.items() <= (await self.state()).items():
                pass

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for its end; `events` holds what it logged, and nothing of that may be an error."""
        assert self._process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            log = await self._process.stderr.read()
            code = await self._process.wait()
        self.events = [json.loads(line) for line in log.splitlines()]
        assert not [event for event in self.events if event["level"] in {"error", "critical"}]
        return code

    async def close(self) -> None:
        """Kill what is left."""
        for client in self._clients:
            client.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()

    async def _dial(self, address: str) -> Peer:
        host, _, port = address.rpartition(":")
        client = await dial(host, int(port))
        self._clients.append(client)
        return client


class Starter(Protocol):
    """Starts an agent process; keywords are flags."""

    async def __call__(self, predictor: FakePredictor, state: str = "serving", **flags: str) -> AgentProcess: ...


@pytest.fixture
async def process() -> AsyncIterator[Starter]:
    """Starts agents as processes and ends them after the test."""
    running: list[tuple[AgentProcess, FakePredictor]] = []

    async def start(predictor: FakePredictor, state: str = "serving", **flags: str) -> AgentProcess:
        agent = await AgentProcess.start(predictor, flags, state)
        running.append((agent, predictor))
        return agent

    yield start
    for agent, predictor in running:
        await agent.close()
        predictor.close()
