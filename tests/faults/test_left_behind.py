"""An agent that was drained for a predictor's restart, and not for the pod's end, ends to be started again."""

import asyncio
from contextlib import suppress

import aiohttp
import pytest

from agent.net import server
from agent.settings import resolve
from tests.contract.processes import free_port
from tests.sockets import PATIENCE_S


async def test_an_agent_that_nobody_ends_after_its_drain_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LEFT_BEHIND_S", 0.0)
    admin = f"127.0.0.1:{free_port()}"
    flags = {"routes": [f"127.0.0.1:0=http://127.0.0.1:{free_port()}"], "admin": [admin], "drain_delay": ["0"]}
    settings = resolve(flags, {})
    running = asyncio.ensure_future(server.serve(settings, lambda: settings))
    async with asyncio.timeout(PATIENCE_S), aiohttp.ClientSession() as session:
        answered = False
        while not answered:
            with suppress(aiohttp.ClientConnectionError):
                async with session.get(f"http://{admin}/wait-for-drain") as answer:
                    assert await answer.text() == "drained\n"
                    answered = True
        assert await running == 0
