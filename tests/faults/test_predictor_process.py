"""A predictor that is a process, killed and stopped: who was queued is answered by the next one, who ran is told.

Over both protocols, with an agent that is a process too. The soak's clients and predictor keep the ledger.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.soak.book import Book
from tests.soak.grpc_client import GrpcClient
from tests.soak.http_client import HttpClient
from tests.soak.ledger import Ledger
from tests.soak.plan import SERVED, Deed, Plan, plain
from tests.soak.processes import Agent, Predictor
from tests.sockets import PATIENCE_S, eventually

# A child process needs the loop's child watcher; the agent in it runs on uvloop whatever this test runs on.
pytestmark = [pytest.mark.asyncio(loop_factories=["asyncio"]), pytest.mark.parametrize("protocol", ["http", "grpc"])]

LIMIT, WAITING = 2, 4


class Scene:
    """An agent, a predictor, and what was asked of them."""

    def __init__(self, folder: Path) -> None:
        self.book = Book(folder / "book", 64)
        self.predictor = Predictor(folder)
        self.ledger = Ledger()
        self.agent: Agent
        self._folder = folder
        self._asked: list[asyncio.Task[None]] = []

    async def start(self, bound: str = "0") -> None:
        await self.predictor.start()
        flags = ["--limit", str(LIMIT), "--policy", "fifo", "--timeout", bound, "--access-log", "off"]
        self.agent = await Agent.start(self.predictor.upstream, self._folder, "", flags)
        await self.agent.settle()
        self.at_rest = self.agent.descriptors()

    def ask(self, protocol: str, plan: Plan) -> None:
        client = (HttpClient if protocol == "http" else GrpcClient)(self.agent.address, self.ledger, 0)
        self._asked.append(asyncio.create_task(client.one(plan)))

    async def until(self, **levels: int) -> None:
        """Until /debug/state shows these values."""
        async with asyncio.timeout(PATIENCE_S):
            while not levels.items() <= (await self.agent.state()).items():
                pass

    async def fill(self, protocol: str, running: Plan) -> None:
        """Every slot is taken by this, and others wait."""
        for count in range(1, LIMIT + 1):
            self.ask(protocol, running)
            await self.until(inflight=count)
        for count in range(1, WAITING + 1):
            self.ask(protocol, plain())
            await self.until(inflight=LIMIT, queued=count)

    async def answered(self) -> Counter[str]:
        """How all that was asked has ended."""
        await asyncio.gather(*self._asked)
        assert not self.ledger.problems
        return Counter(self.ledger.entry(number).end for number in range(1, len(self.ledger) + 1))

    def executed(self) -> list[int]:
        """How often the predictor took each up."""
        return [self.book.line(number)[1] for number in range(1, len(self.ledger) + 1)]

    async def check_afterwards(self, protocol: str) -> None:
        """The agent serves, every slot is free, and nothing is left open when the predictor is gone."""
        for _ in range(LIMIT):
            self.ask(protocol, plain(delay_s=0.1))
        await self.until(inflight=LIMIT)
        assert (await self.answered())[SERVED] >= LIMIT
        state = await self.agent.settle(PATIENCE_S)
        assert (state["inflight"], state["queued"], state["queued_bytes"], state["active"]) == (0, 0, 0, 0)
        self.predictor.signal(signal.SIGKILL)
        await eventually(lambda: self.agent.descriptors() == self.at_rest, "descriptors are left open")
        code, trouble = await self.agent.end()
        assert (code, trouble, self.predictor.trouble()) == (0, [], "")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    new = Scene(tmp_path)
    yield new
    await new.agent.close()
    await new.predictor.close()
    new.book.close()


@pytest.mark.parametrize("stopped", [False, True])
async def test_it_is_killed(scene: Scene, protocol: str, *, stopped: bool) -> None:
    """Also when it stood still before, so that what it had lay in its socket."""
    await scene.start()
    if stopped:
        scene.predictor.signal(signal.SIGSTOP)
    await scene.fill(protocol, plain(Deed.NEVER))
    scene.predictor.signal(signal.SIGKILL)
    await scene.predictor.wait()
    await scene.until(inflight=LIMIT, queued=WAITING - LIMIT)
    await scene.predictor.start()
    assert await scene.answered() == {"upstream_closed": LIMIT, SERVED: WAITING}
    assert scene.executed() == [not stopped] * LIMIT + [1] * WAITING
    await scene.check_afterwards(protocol)


async def test_it_stands_still_and_goes_on(scene: Scene, protocol: str) -> None:
    await scene.start()
    scene.predictor.signal(signal.SIGSTOP)
    await scene.fill(protocol, plain())
    scene.predictor.signal(signal.SIGCONT)
    assert await scene.answered() == {SERVED: LIMIT + WAITING}
    assert scene.executed() == [1] * (LIMIT + WAITING)
    await scene.check_afterwards(protocol)


async def test_it_stands_still_for_too_long(scene: Scene, protocol: str) -> None:
    """`--timeout` frees the slots. What had been sent is not sent again when it goes on."""
    await scene.start(bound="300ms")
    scene.predictor.signal(signal.SIGSTOP)
    for _ in range(LIMIT):
        scene.ask(protocol, plain())
    assert await scene.answered() == {"timeout": LIMIT}
    await scene.until(inflight=0)
    scene.predictor.signal(signal.SIGCONT)
    await scene.check_afterwards(protocol)
    assert max(scene.executed()) == 1


async def test_it_is_ended_with_sigterm(scene: Scene, protocol: str) -> None:
    """It finishes what it has; over HTTP/2 it says that it goes. Nobody notices."""
    await scene.start()
    await scene.fill(protocol, plain(delay_s=0.3))
    scene.predictor.signal(signal.SIGTERM)
    await scene.predictor.wait()
    await scene.predictor.start()
    assert await scene.answered() == {SERVED: LIMIT + WAITING}
    assert scene.executed() == [1] * (LIMIT + WAITING)
    await scene.check_afterwards(protocol)
