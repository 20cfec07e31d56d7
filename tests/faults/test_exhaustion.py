"""Too few descriptors, and too little memory: those inside are served, nothing spins or grows, and it recovers."""

import asyncio
import resource
import signal
from pathlib import Path
from time import monotonic

import pytest

from tests.faults.pair import Pair
from tests.soak.plan import SERVED, plain
from tests.sockets import PATIENCE_S

# A child process needs the loop's child watcher; the agent in it runs on the loop that is named.
pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.parametrize("protocol", ["http", "grpc"])]

MIB = 1 << 20
OUTSIDE = 40
# What a loop that spins would take is all of it. asyncio's own complains a thousand times each second that it does not
# accept, for which it needs a quarter.
IDLE_SHARE = 0.75
UPLOADS, UPLOAD = 80, 512 * 1024
ANSWERS, ANSWER = 30, 4_000_000


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_without_descriptors_nothing_spins_and_those_inside_are_served(
    pair: Pair, protocol: str, loop: str
) -> None:
    await pair.start(loop=loop)
    client = pair.client(protocol)
    inside = await client.dial()
    await client.ask(inside, plain())
    used = pair.agent.descriptors()
    _, hard = resource.prlimit(pair.agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pair.agent.pid, resource.RLIMIT_NOFILE, (used, hard))
    outside = [await asyncio.open_connection(*pair.agent.address) for _ in range(OUTSIDE)]
    cpu_s, begun = pair.agent.cpu_s(), monotonic()
    asked = 0
    while monotonic() - begun < 0.8:
        await client.ask(inside, plain())
        asked += 1
        await asyncio.sleep(0.1)
    assert pair.agent.cpu_s() - cpu_s < IDLE_SHARE * (monotonic() - begun)
    resource.prlimit(pair.agent.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for _, writer in outside:
        writer.close()
    client.leave(inside)
    assert await pair.answered() == {SERVED: 1 + asked}
    # asyncio's own loop stops accepting for a second, says so, and stumbles over a listener that was closed meanwhile.
    await pair.check_afterwards(protocol, but=["out of system resource", "_start_serving"])


def limit_memory(pid: int, more: int) -> None:
    """What is asked of the system beyond this fails, and with it the process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [size] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize:")]
    resource.prlimit(pid, resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))


async def test_many_large_uploads_wait_in_little_memory(pair: Pair, protocol: str) -> None:
    """40 MiB of bodies at one slot."""
    await pair.start("--queue", str(UPLOADS), limit=1)
    pair.ask(protocol, plain())
    await pair.answered()
    before = pair.agent.rss_kib()
    limit_memory(pair.agent.pid, 64 * MIB)
    pair.predictor.signal(signal.SIGSTOP)
    for _ in range(UPLOADS):
        pair.ask(protocol, plain(body=UPLOAD))
    await pair.until(inflight=1, queued=UPLOADS - 1)
    async with asyncio.timeout(PATIENCE_S):
        while (await pair.agent.state())["queued_bytes"] < (UPLOADS - 1) * 60 * 1024:
            pass
    assert pair.agent.rss_kib() - before < 24 * 1024
    pair.predictor.signal(signal.SIGCONT)
    assert await pair.answered() == {SERVED: 1 + UPLOADS}
    assert pair.executed() == [1] * (1 + UPLOADS)
    await pair.check_afterwards(protocol)


async def test_many_large_answers_wait_in_little_memory(pair: Pair, protocol: str) -> None:
    """120 MB of answers for clients that do not read."""
    await pair.start(limit=ANSWERS)
    pair.ask(protocol, plain())
    await pair.answered()
    before = pair.agent.rss_kib()
    limit_memory(pair.agent.pid, 64 * MIB)
    client = pair.client(protocol)
    connections = [await client.dial(kernel_buffer=4096) for _ in range(ANSWERS)]
    for connection in connections:
        connection.transport.pause_reading()
        pair.begin(client.ask(connection, plain(answer=ANSWER)))
    await pair.until(inflight=ANSWERS)
    settled = await settle(pair)
    assert settled - before < 24 * 1024
    for connection in connections:
        connection.transport.resume_reading()
    assert await pair.answered() == {SERVED: 1 + ANSWERS}
    for connection in connections:
        client.leave(connection)
    await pair.check_afterwards(protocol)


async def settle(pair: Pair) -> int:
    """The agent's memory, in KiB, once it does nothing any more."""
    while True:
        cpu_s = pair.agent.cpu_s()
        await asyncio.sleep(0.2)
        if pair.agent.cpu_s() - cpu_s < 0.02:
            return pair.agent.rss_kib()
