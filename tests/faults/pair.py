"""An agent and a predictor as processes, and what must hold after whatever was done to them."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path

import pytest

from tests.soak.book import Book
from tests.soak.grpc_client import GrpcClient
from tests.soak.http_client import HttpClient
from tests.soak.ledger import Ledger
from tests.soak.plan import SERVED, Plan, plain
from tests.soak.processes import Agent, Predictor
from tests.sockets import PATIENCE_S, eventually

LIMIT, WAITING = 2, 4


class Pair:
    """An agent, a predictor, and what was asked of them. The soak's clients and predictor keep the ledger."""

    def __init__(self, folder: Path) -> None:
        self.book = Book(folder / "book", 4096)
        self.predictor = Predictor(folder)
        self.ledger = Ledger()
        self.agent: Agent
        self._folder = folder
        self._asked: list[asyncio.Task[None]] = []

    async def start(
        self, *flags: str, limit: int = LIMIT, environment: Mapping[str, str] | None = None, loop: str = "uvloop"
    ) -> None:
        """With these flags for the agent, beside its usual ones, and on that loop."""
        await self.predictor.start()
        self._limit = limit
        usual = ["--limit", str(limit), "--policy", "fifo", "--access-log", "off"]
        self.agent = await Agent.start(
            self.predictor.upstream, self._folder, "", [*usual, *flags], environment=environment, loop=loop
        )
        await self.agent.settle()
        self.at_rest = self.agent.descriptors()

    def ask(self, protocol: str, plan: Plan) -> None:
        self.begin(self.client(protocol).one(plan))

    def client(self, protocol: str) -> HttpClient | GrpcClient:
        return (HttpClient if protocol == "http" else GrpcClient)(self.agent.address, self.ledger, 0)

    def begin(self, asking: Coroutine[None, None, None]) -> None:
        """Have something asked meanwhile."""
        self._asked.append(asyncio.create_task(asking))

    async def until(self, **levels: int) -> None:
        """Until /debug/state shows these values."""
        async with asyncio.timeout(PATIENCE_S):
            while not levels.items() <= (await self.agent.state()).items():
                pass

    async def fill(self, protocol: str, running: Plan) -> None:
        """Every slot is taken by this, and others wait. It must not end before they do."""
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

    async def until_executed(self, count: int) -> None:
        """Until the predictor has taken up the first so many: what the agent has sent may still lie in a socket."""
        await eventually(lambda: sum(self.executed()[:count]) == count, "the predictor has not taken them up")

    async def check_afterwards(self, protocol: str, *, but: Sequence[str] = ()) -> None:
        """The agent serves, every slot is free, and nothing is left open when the predictor is gone.

        Its log holds no trouble but lines with one of these words.
        """
        self.predictor.signal(signal.SIGSTOP)  # or one slot may be free again before the last is taken
        for _ in range(self._limit):
            self.ask(protocol, plain())
        await self.until(inflight=self._limit)
        self.predictor.signal(signal.SIGCONT)
        assert (await self.answered())[SERVED] >= self._limit
        state = await self.agent.settle(PATIENCE_S)
        assert (state["inflight"], state["queued"], state["queued_bytes"], state["active"]) == (0, 0, 0, 0)
        self.predictor.signal(signal.SIGKILL)
        await eventually(lambda: self.agent.descriptors() == self.at_rest, "descriptors are left open")
        code, trouble = await self.agent.end()
        trouble = [line for line in trouble if not any(word in line for word in but)]
        trouble += [self.predictor.trouble()] if self.predictor.trouble() else []
        assert not trouble, trouble
        assert code == 0


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    new = Pair(tmp_path)
    yield new
    await new.agent.close()
    await new.predictor.close()
    new.book.close()
