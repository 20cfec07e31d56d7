"""The predictor is killed or ended and started again, twenty times, with requests running and waiting.

What runs when it is killed is told so; what runs when it is ended is answered; what waits is answered by the next one,
and nothing runs twice. Real model servers do the same once each in contract/test_restart and test_grpc_restart.
"""

import asyncio
import signal
import sys
from collections import Counter

import uvloop

from tests.faults.process import AgentProcess
from tests.net.bed import post
from tests.net.http2_peers import Http2Client
from tests.sockets import PATIENCE_S, FakePredictor

RESTARTS = 20
# As many run as wait in each protocol: half of the slots each.
RUNNING, WAITING = 2, 6


class Restarted(FakePredictor):
    """The predictor's port, and one process after the other behind it. `begun` counts by name what has run."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: Counter[str] = Counter()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return super().url.replace("http", "auto", 1)

    async def start(self) -> None:
        """Returns when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.faults.restart_predictor", str(self._port)), stdout=asyncio.subprocess.PIPE
        )
        assert await self._line() == "listening"

    async def until_begun(self, *names: str) -> None:
        """Until these run."""
        while not all(self.begun[name] for name in names):
            word, name = (await self._line()).split(" ")
            assert word == "begun"
            self.begun[name] += 1

    async def end(self, number: signal.Signals) -> None:
        """Have the process ended; what it said to the last is counted."""
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            rest = await self._process.stdout.read()
            await self._process.wait()
        self.begun.update(line.split(" ")[1] for line in rest.decode().splitlines())

    async def kill(self) -> None:
        """Leave nothing behind."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            return (await self._process.stdout.readline()).decode().strip()


async def post_one(agent: AgentProcess, name: str) -> str:
    """One request over HTTP/1.1. Returns how it ended."""
    client = await agent.client()
    await client.send(post(f"#{name}#".encode()))
    reply = await client.response()
    if reply.status == 200:
        assert reply.body == f"#{name}#".encode()
        return "served"
    return b"".join(reply.values(b"x-headgate-reason")).decode()


async def call_one(agent: AgentProcess, name: str) -> str:
    """One gRPC call. Returns how it ended."""
    client = Http2Client(await agent.client())
    await client.flush()
    half = await client.answer(await client.call(f"#{name}#".encode()))
    if half.grpc_status == 0:
        assert f"#{name}#".encode() in half.body
        return "served"
    assert half.grpc_status == 14
    return (half.reason or b"").decode()


async def restart_over_and_over() -> None:
    predictor = Restarted()
    agent = await AgentProcess.start(predictor, {"limit": f"{2 * RUNNING}", "deadline": "60s", "drain_timeout": "1s"})
    try:
        await predictor.start()
        for number in range(RESTARTS):
            how = signal.SIGTERM if number % 2 else signal.SIGKILL
            running = {f"{number}-hold-{i}-{kind}": kind for i in range(RUNNING) for kind in ("http", "grpc")}
            waiting = {f"{number}-wait-{i}-{kind}": kind for i in range(WAITING) for kind in ("http", "grpc")}
            one = {"http": post_one, "grpc": call_one}
            held = [asyncio.create_task(one[kind](agent, name)) for name, kind in running.items()]
            await predictor.until_begun(*running)
            queued = [asyncio.create_task(one[kind](agent, name)) for name, kind in waiting.items()]
            await agent.until(inflight=len(running), queued=len(waiting))
            await predictor.end(how)
            expected = "served" if how is signal.SIGTERM else "upstream_closed"
            assert await asyncio.gather(*held) == [expected] * len(running)
            await predictor.start()
            ends = dict(zip(waiting, await asyncio.gather(*queued), strict=True))
            assert ends == dict.fromkeys(waiting, "served"), (number, how, ends)
            await predictor.until_begun(*waiting)
        assert set(predictor.begun.values()) == {1}, "nothing runs twice"
        assert len(predictor.begun) == RESTARTS * 2 * (RUNNING + WAITING)
        await agent.until(inflight=0, queued=0, active=0)
        await predictor.end(signal.SIGTERM)
        agent.signal(signal.SIGTERM)
        assert await agent.exit_code() == 0
    finally:
        await agent.close()
        await predictor.kill()
        predictor.close()


def test_no_waiting_request_is_lost_in_twenty_restarts() -> None:
    uvloop.run(restart_over_and_over())
