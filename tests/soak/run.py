"""One soak: starts everything, lets it run, waits for quiet, and judges."""

import asyncio
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.soak import judge
from tests.soak.book import Book
from tests.soak.chaos import Chaos
from tests.soak.grpc_client import GrpcClient
from tests.soak.http_client import HttpClient
from tests.soak.ledger import Incident, Ledger, Standstill
from tests.soak.plan import LEFT, plain
from tests.soak.processes import Agent, Predictor

_HTTP_CLIENTS = 32
_GRPC_CONNECTIONS = 4
# More than any run asks; the file has holes and takes what is written.
_BOOK_LINES = 1 << 24
# More than any limit, so than a connection to the predictor carries.
_SLOTS = 96
# How many slots are tried at the end.
_FULL = 16
# In this time, on a busy machine too; less than the time-out of those that take them.
_FILLS_S = 4.0
# Memory is watched after this share of the run, and after so many seconds: until then the allocator's arenas fill.
_WARM_UP, _WARM_UP_S = 0.2, 30.0
# How much longer than wanted it may take.
_PATIENCE = 1.4
_FLAGS = ["--limit", "24", "--queue", "100", "--deadline", "10s", "--timeout", "5s", "--model-limit", "m5=8"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted: so many requests and seconds at the least, and no more than `_PATIENCE` times those seconds.

    `gap_s` is the mean time between two disturbances. Of "http" and "grpc", what is not in `only` is left out.
    """

    requests: int
    seconds: float
    seed: int
    only: frozenset[str]
    gap_s: float


@dataclass(slots=True)
class Report:
    """What came of it, as plain data."""

    requests: dict[str, dict[str, int]]
    conducts: dict[str, int]
    deeds: dict[str, int]
    chaos: dict[str, int]
    restarts: int
    counts: dict[str, int]
    seconds: float
    agent_cpu_s: float
    rss_mib: list[float]
    rss_slope_mib_h: float
    rss_growth_mib: float
    descriptors: list[int]
    incidents: list[Incident]
    standstills: list[Standstill]
    problems: list[str]


async def soak(order: Order, tell: Callable[[str], None]) -> Report:
    """Run it. `tell` is given a line every few seconds."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        book = Book(folder / "book", _BOOK_LINES)
        stack.callback(book.close)
        predictor = Predictor(folder)
        stack.push_async_callback(predictor.close)
        await predictor.start()
        agent = await Agent.start(predictor.upstream, folder, "", [*_FLAGS, "--access-log", "errors"])
        stack.push_async_callback(agent.close)
        return await _Soak(order, book, predictor, agent, tell).run()


class _Soak:
    def __init__(
        self, order: Order, book: Book, predictor: Predictor, agent: Agent, tell: Callable[[str], None]
    ) -> None:
        self._order = order
        self._book = book
        self._predictor = predictor
        self._agent = agent
        self._tell = tell
        self._ledger = Ledger()
        self._chaos = Chaos(agent, predictor, self._ledger, order.seed, order.gap_s, order.only)
        self._verdict = judge.Verdict()
        self._samples: list[tuple[float, float]] = []
        self._peak_descriptors = 0

    async def run(self) -> Report:
        agent, ledger, verdict = self._agent, self._ledger, self._verdict
        await agent.settle()
        at_rest = agent.descriptors()
        begun = monotonic()
        await self._load()
        seconds = monotonic() - begun
        cpu_s = agent.cpu_s()
        state = await agent.settle()
        self._expect(state, {"inflight": 0, "queued": 0, "queued_bytes": 0, "active": 0}, "at rest")
        await self._fill()
        page = await self._page()
        self._predictor.signal(signal.SIGKILL)
        left = await self._descriptors(at_rest)
        if left != at_rest:
            verdict.blame("descriptors", f"{left} are open, {at_rest} were")
        code, trouble = await agent.end()
        if code:
            verdict.blame("exit code", str(code))
        for line in trouble:
            verdict.blame("log", line[:2000])
        if self._predictor.trouble():
            verdict.blame("predictor", self._predictor.trouble()[-2000:])
        self._judge(page)
        slope = judge.line_through(self._samples)
        growth = slope * (self._samples[-1][0] - self._samples[0][0]) if self._samples else 0.0
        if growth > judge.MAX_GROWTH_MIB:
            verdict.blame("memory", f"{growth:.1f} MiB more than at the beginning")
        protocols = {protocol for protocol, _ in ledger.ends}
        return Report(
            requests={at: {end: n for (p, end), n in ledger.ends.most_common() if p == at} for at in sorted(protocols)},
            conducts=dict(ledger.conducts.most_common()),
            deeds=dict(ledger.deeds.most_common()),
            chaos=dict(self._chaos.done),
            restarts=self._chaos.restarts,
            counts=dict(verdict.counts),
            seconds=seconds,
            agent_cpu_s=cpu_s,
            rss_mib=[value for _, value in self._samples],
            rss_slope_mib_h=slope * 3600,
            rss_growth_mib=growth,
            descriptors=[at_rest, self._peak_descriptors, left],
            incidents=self._chaos.incidents,
            standstills=self._chaos.standstills,
            problems=[*ledger.problems[:20], *verdict.problems],
        )

    # The load

    async def _load(self) -> None:
        order, ledger, address = self._order, self._ledger, self._agent.address
        seeds = iter(range(order.seed * 1000, order.seed * 1000 + 1000))
        loop = asyncio.get_running_loop()
        clients = []
        if "http" in order.only:
            clients += [HttpClient(address, ledger, next(seeds)).run() for _ in range(_HTTP_CLIENTS)]
        if "grpc" in order.only:
            clients += [GrpcClient(address, ledger, next(seeds)).run() for _ in range(_GRPC_CONNECTIONS)]
        watch = loop.create_task(self._watch())
        chaos = loop.create_task(self._chaos.run())
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client)
        finally:
            ledger.stopped = True
            watch.cancel()
            await chaos  # it ends what it has begun: afterwards the predictor is there

    async def _watch(self) -> None:
        """Every second: memory and descriptors, and at times a word."""
        order, agent, ledger = self._order, self._agent, self._ledger
        begun, before = monotonic(), 0
        while True:
            await asyncio.sleep(1.0)
            spent, done = monotonic() - begun, len(ledger)
            if spent > max(order.seconds * _WARM_UP, _WARM_UP_S):
                self._samples.append((spent, agent.rss_kib() / 1024))
            self._peak_descriptors = max(self._peak_descriptors, agent.descriptors())
            if int(spent) % 5 == 0:
                self._tell(
                    f"{spent:6.0f} s {done:>9,} requests {(done - before) / 5:>6,.0f}/s"
                    f"  {self._chaos.restarts:>3} restarts  {agent.rss_kib() / 1024:5.1f} MiB"
                    f"  {agent.descriptors():>3} descriptors  {len(ledger.problems)} problems"
                )
                before = done
            if spent > order.seconds and (done >= order.requests or spent > order.seconds * _PATIENCE):
                ledger.stopped = True

    # Afterwards

    def _expect(self, state: dict[str, Any], values: dict[str, object], when: str) -> None:
        found = {name: state[name] for name in values}
        if found != values:
            self._verdict.blame("left over", f"{when}: {found}, not {values}")

    async def _fill(self) -> None:
        """Every slot can be taken again: none has leaked."""
        agent, ledger = self._agent, self._ledger
        agent.adopt(f"limit={_FULL}\nmodel-limit=m5={_FULL}\n")
        self._predictor.signal(signal.SIGSTOP)  # or one slot may be free again before the last is taken
        async with asyncio.TaskGroup() as group:
            for seed in range(_FULL):
                group.create_task(HttpClient(agent.address, ledger, seed).one(plain()))
            taken: dict[str, object] = {"inflight": _FULL, "queued": 0, "limit": _FULL}
            until = monotonic() + _FILLS_S
            while not taken.items() <= (state := await agent.state()).items() and monotonic() < until:
                pass
            self._expect(state, taken, "with every slot taken")
            self._predictor.signal(signal.SIGCONT)
        self._expect(await agent.settle(), {"inflight": 0, "queued": 0, "active": 0}, "after that")

    async def _descriptors(self, wanted: int) -> int:
        """How many are open once the predictor is gone, and with it the connections to it."""
        for _ in range(100):
            await asyncio.sleep(0.05)
            if self._agent.descriptors() == wanted:
                break
        return self._agent.descriptors()

    async def _page(self) -> "_Metrics":
        """The agent's numbers, which stand still when it does."""
        first = _Metrics(await self._agent.get("/metrics"))
        await asyncio.sleep(0.5)
        second = _Metrics(await self._agent.get("/metrics"))
        for name in ("headgate_inflight_seconds", "headgate_queued_seconds", "headgate_rejected_demand_seconds"):
            if first.total(name) != second.total(name):
                self._verdict.blame("drift", f"{name} goes on while nothing happens")
        return second

    def _judge(self, page: "_Metrics") -> None:
        ledger, log = self._ledger, self._book
        numbers = range(1, len(ledger) + 1)
        chaos = self._chaos
        judge.judge_requests(
            self._verdict,
            ((ledger.entry(number), log.line(number)) for number in numbers),
            chaos.incidents,
            chaos.standstills,
            _SLOTS,
        )
        reached: Counter[str] = Counter()
        for number in numbers:
            entry = ledger.entry(number)
            reached[entry.protocol] += entry.end == LEFT and log.line(number)[0] > 0
        judge.judge_sums(self._verdict, ledger.ends, page.requests(), reached)
        page.check(self._verdict)
        probes, bypassed = ledger.probes, page.total("headgate_bypassed")
        if not probes[True] <= bypassed <= probes.total():
            self._verdict.blame("drift", f"{bypassed} probes are counted, {probes[True]} were answered")


class _Metrics:
    """A scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over all series of that name, with or without _total, that have these labels."""
        names = {name, name + "_total"}
        return sum(s.value for s in self._samples if s.name in names and labels.items() <= s.labels.items())

    def requests(self) -> dict[tuple[str, str], int]:
        """How many have ended, by protocol and outcome."""
        counts: Counter[tuple[str, str]] = Counter()
        for sample in self._samples:
            if sample.name == "headgate_requests_total":
                counts[sample.labels["protocol"], sample.labels["outcome"]] += int(sample.value)
        return counts

    def check(self, verdict: judge.Verdict) -> None:
        """Numbers that are counted in different places must agree."""
        requests = self.requests()
        outcomes: Counter[str] = Counter()
        for (_, outcome), count in requests.items():
            outcomes[outcome] += count
        refused = sum(outcomes[outcome] for outcome in judge.REFUSALS)
        for name, expected in {
            "headgate_requests_inflight": 0,
            "headgate_requests_queued": 0,
            "headgate_stream_messages_outstanding": 0,
            "headgate_queued_bytes": 0,
            "headgate_client_faults": 0,
            "headgate_request_seconds_count": outcomes["served"],
            "headgate_upstream_seconds_count": outcomes["served"],
            "headgate_cancelled": outcomes["client_gone"],
            "headgate_rejected": refused,
        }.items():
            if self.total(name) != expected:
                verdict.blame("drift", f"{name} is {self.total(name)}, not {expected}")
        if outcomes["internal"]:
            verdict.blame("internal", f"{outcomes['internal']} requests")
        # A slot is held while the predictor is dialled, too, which counts as waiting.
        held, waited = self.total("headgate_inflight_seconds"), self.total("headgate_queue_wait_seconds_sum")
        spent = self.total("headgate_upstream_seconds_sum") + sum(
            self.total("headgate_wasted_seconds", reason=reason) for reason in ("failed", "client_gone")
        )
        slack = 0.001 * held + 1.0
        if not spent - slack <= held <= spent + waited + slack:
            said = f"requests took {spent:.1f} s and waited for {waited:.1f} s"
            verdict.blame("drift", f"slots were held for {held:.1f} s, and {said}")
