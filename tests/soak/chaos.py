"""What happens to the predictor, the settings and the load meanwhile, one thing at a time."""

import asyncio
import random
import signal
from collections import Counter
from time import monotonic

from tests.soak.grpc_client import GrpcClient
from tests.soak.http_client import HttpClient
from tests.soak.ledger import Incident, Ledger, Standstill
from tests.soak.plan import REFUSALS
from tests.soak.processes import Agent, Predictor

LIMITS = ["8", "16", "24", "32", "auto"]
# A failure is told this much later, when the machine is busy.
_AFTER_S = 0.25


class Chaos:
    """Does one thing after the other until there are no more requests. `done` counts them."""

    def __init__(
        self, agent: Agent, predictor: Predictor, ledger: Ledger, seed: int, gap_s: float, only: frozenset[str]
    ) -> None:
        self.done: Counter[str] = Counter()
        self.incidents: list[Incident] = []
        self.standstills: list[Standstill] = []
        self._agent = agent
        self._predictor = predictor
        self._ledger = ledger
        self._rng = random.Random(seed)
        self._gap_s = gap_s
        self._only = only
        self._searches = False

    async def run(self) -> None:
        """Kinds come in turns, in an order that is drawn anew each time."""
        kinds = [self._kill, self._kill, self._kill_stopped, self._terminate, self._stop, self._reload, self._burst]
        while not self._ledger.stopped:
            for act in self._rng.sample(kinds, len(kinds)):
                await asyncio.sleep(self._gap_s * (0.5 + self._rng.random()))
                if self._ledger.stopped:
                    break
                self.done[act.__name__.strip("_").replace("_", " ")] += 1
                await act()

    @property
    def restarts(self) -> int:
        return sum(self.done[kind] for kind in ("kill", "kill stopped", "terminate"))

    async def _kill(self) -> None:
        slots = await self._slots()
        begin = monotonic()
        self._predictor.signal(signal.SIGKILL)
        await self._bring_back("kill", begin, slots)

    async def _terminate(self) -> None:
        slots = await self._slots()
        begin = monotonic()
        self._predictor.signal(signal.SIGTERM)
        await self._bring_back("terminate", begin, slots)

    async def _kill_stopped(self) -> None:
        """No client leaves meanwhile, so that no slot is freed, and those who come can only queue."""
        ledger, agent = self._ledger, self._agent
        ledger.calm = True
        try:
            await asyncio.sleep(0.1)
            self._predictor.signal(signal.SIGSTOP)
            await asyncio.sleep(0.3)
            before = await agent.state()
            begin = monotonic()
            async with asyncio.TaskGroup() as group:
                self._crowd(group, 30)
                await asyncio.sleep(0.3)
                end = monotonic()
                after = await agent.state()
                self._predictor.signal(signal.SIGKILL)
                await self._bring_back("kill stopped", end, self._slots_in(after))
            if before["inflight"] >= before["limit"] >= after["limit"]:
                facts = ", ".join(f"{name} {before[name]} to {after[name]}" for name in ("inflight", "queued", "limit"))
                self.standstills.append(Standstill(begin, end, _ended(after) - _ended(before), facts))
        finally:
            ledger.calm = False

    async def _stop(self) -> None:
        """Nothing may fail of that: no incident."""
        self._predictor.signal(signal.SIGSTOP)
        await asyncio.sleep(0.1 + self._rng.random() * 0.7)
        self._predictor.signal(signal.SIGCONT)

    async def _reload(self) -> None:
        limit = self._rng.choice(LIMITS)
        self._searches = limit == "auto"
        self._agent.adopt(self.settings(limit))

    def settings(self, limit: str) -> str:
        """Lines for --live-settings."""
        queue = self._rng.randrange(60, 150)
        return f"limit={limit}\nqueue={queue}\nmodel-limit=m5={self._rng.randrange(4, 9)}\n"

    async def _burst(self) -> None:
        """More than there is room for, at a predictor that stands still."""
        self._predictor.signal(signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            self._crowd(group, 100)
            await asyncio.sleep(0.2 + self._rng.random() * 0.3)
            self._predictor.signal(signal.SIGCONT)

    def _crowd(self, group: asyncio.TaskGroup, size: int) -> None:
        """So many of each protocol who ask a single time."""
        ledger, address, rng = self._ledger, self._agent.address, self._rng
        if "http" in self._only:
            for _ in range(size):
                group.create_task(HttpClient(address, ledger, rng.getrandbits(32)).run(1))
        if "grpc" in self._only:
            group.create_task(GrpcClient(address, ledger, rng.getrandbits(32)).run(1, callers=size))

    async def _bring_back(self, kind: str, begin: float, slots: int) -> None:
        await self._predictor.wait()
        await asyncio.sleep(self._rng.random() * 0.4)
        await self._predictor.start()
        self.incidents.append(Incident(kind, begin, monotonic() + _AFTER_S, slots))

    async def _slots(self) -> int:
        return self._slots_in(await self._agent.state())

    def _slots_in(self, state: dict) -> int:
        """How many requests the predictor may have; more than the limit where that was just lowered."""
        slots = max(state["limit"], state["inflight"])
        return 2 * slots if self._searches else slots  # the search may be about to double it


def _ended(state: dict) -> int:
    """How many have given a slot back, at the most."""
    return sum(count for outcome, count in state["outcomes"].items() if outcome not in REFUSALS)
