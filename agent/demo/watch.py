"""Follows the demo as it runs: what the load sees, what the agent says, what the predictor says; makes frames of it."""

import asyncio
import json
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from agent.demo.story import NO_GATE, Calls, Column, Frame, Gate, Model, Rates, Script, cell
from loadgen.http_client import Address, fetch
from loadgen.payload import encode_request
from loadgen.record import Outcome, Sample
from loadgen.run import OpenLoop
from loadgen.units import NS_PER_S

COLUMNS = 60
_TICK_S = 0.125
_POLL_TIMEOUT_S = 2.0

_ANSWERED, _REFUSED, _FAILED = range(3)
_PLACES = {
    Outcome.OK: _ANSWERED,
    Outcome.SHED: _REFUSED,
    Outcome.TIMEOUT: _FAILED,
    Outcome.ERROR: _FAILED,
}


class _Mark(NamedTuple):
    """Counts since the start of the demo, at one moment of its time axis."""

    elapsed_s: float
    gate: Gate
    offered: int
    ended: tuple[int, int, int]


class Watch:
    """The demo's memory. `admin` and `predictor` are the addresses to ask; `show` gets a frame every 125 ms.

    `calls` tells how the gRPC calls have ended so far.
    """

    def __init__(
        self,
        script: Script,
        admin: Address,
        predictor: Address,
        show: Callable[[Frame], None],
        calls: Callable[[], Calls],
    ) -> None:
        self.gate = Gate()
        self._script = script
        self._admin = admin
        self._predictor = predictor
        self._show = show
        self._calls = calls
        self._model = Model()
        self._column_ns = script.duration_s * NS_PER_S / COLUMNS
        gated, bare = script.schedules()
        bare_start_ns = round(script.start_s(NO_GATE) * NS_PER_S)
        self._due_ns = [*gated.offsets_ns, *(offset + bare_start_ns for offset in bare.offsets_ns)]
        self._edges = [bisect_left(self._due_ns, column * self._column_ns) for column in range(COLUMNS)]
        self._edges.append(len(self._due_ns))
        self._ends = [[0, 0, 0] for _ in range(COLUMNS)]
        self._slowest_ns = [0] * COLUMNS
        self._counts = [0, 0, 0]
        self._marks: list[_Mark] = []
        self._recent: deque[_Mark] = deque()

    def add(self, sample: Sample, elapsed_ns: float) -> None:
        """Count a request that ended and was due at `elapsed_ns` of the demo's time axis."""
        assert sample.outcome is not None
        place = _PLACES[sample.outcome]
        column = min(COLUMNS - 1, int(elapsed_ns / self._column_ns))
        self._ends[column][place] += 1
        self._counts[place] += 1
        if place == _ANSWERED:
            self._slowest_ns[column] = max(self._slowest_ns[column], sample.response_ns)

    async def follow(self, load: OpenLoop, first_phase: int, check: Callable[[], None]) -> None:
        """Ask, remember and show until cancelled; `check` raises when there is nothing left to follow."""
        load_start_s = self._script.start_s(first_phase)
        load_end_s = self._script.start_s(first_phase + len(load.recorders))
        self._recent.clear()
        while True:
            check()
            await self._ask()
            elapsed_s = load_start_s
            if load.started_ns:
                elapsed_s += max(0.0, (time.monotonic_ns() - load.started_ns) / NS_PER_S)
            elapsed_s = min(load_end_s, elapsed_s)
            self._mark(elapsed_s)
            phase = max(index for index in range(first_phase, NO_GATE + 1) if self._script.start_s(index) <= elapsed_s)
            phase = min(phase, first_phase + len(load.recorders) - 1)
            self._show(self._frame(elapsed_s, phase, load, first_phase))
            await asyncio.sleep(_TICK_S)

    def means(self, phase: int) -> tuple[float, float]:
        """Mean executing and queued in the gate over `phase`, from the agent's integral counters."""
        start_s, end_s = self._script.start_s(phase), self._script.start_s(phase + 1)
        inside = [mark for mark in self._marks if start_s <= mark.elapsed_s <= end_s]
        if len(inside) < 2:
            return 0.0, 0.0
        first, last = inside[0], inside[-1]
        span_s = last.elapsed_s - first.elapsed_s
        return (
            (last.gate.executing_s - first.gate.executing_s) / span_s,
            (last.gate.queued_s - first.gate.queued_s) / span_s,
        )

    async def settle(self) -> None:
        """Read the agent's final counters."""
        await self._ask()

    def _mark(self, elapsed_s: float) -> None:
        if self._marks and self._marks[-1].elapsed_s == elapsed_s:
            return  # before the first request and after the last the time axis stands still
        answered, refused, failed = self._counts
        due = bisect_left(self._due_ns, elapsed_s * NS_PER_S)
        mark = _Mark(elapsed_s, self.gate, due, (answered, refused, failed))
        self._marks.append(mark)
        self._recent.append(mark)
        while len(self._recent) > 2 and self._recent[1].elapsed_s <= elapsed_s - self._script.beat_s:
            self._recent.popleft()

    async def _ask(self) -> None:
        state, metrics, stats = await asyncio.gather(
            _get(self._admin, "/debug/state"), _get(self._admin, "/metrics"), _get(self._predictor, "/stats")
        )
        if state and metrics:
            self.gate = read_gate(state, metrics)
        if stats:
            known = json.loads(stats)
            self._model = Model(known["executing"], known["waiting"])

    def _frame(self, elapsed_s: float, phase: int, load: OpenLoop, first_phase: int) -> Frame:
        recorder = load.recorders[phase - first_phase]
        return Frame(
            elapsed_s=elapsed_s,
            phase=phase,
            gate=self.gate,
            model=self._model,
            rates=_rates(self._recent),
            p50=cell(recorder, Outcome.OK, 0.5),
            p99=cell(recorder, Outcome.OK, 0.99),
            refusal_p50=cell(recorder, Outcome.SHED, 0.5),
            columns=self._columns(elapsed_s),
            calls=self._calls(),
        )

    def _columns(self, elapsed_s: float) -> tuple[Column, ...]:
        due = bisect_left(self._due_ns, elapsed_s * NS_PER_S)
        begun = min(COLUMNS, int(elapsed_s * NS_PER_S / self._column_ns) + 1)
        columns = []
        for index in range(begun):
            answered, refused, failed = self._ends[index]
            offered = min(due, self._edges[index + 1]) - self._edges[index]
            # A request can end before the clock is read for the frame: never fewer due than ended.
            offered = max(offered, answered + refused + failed)
            columns.append(Column(offered, answered, refused, failed, self._slowest_ns[index]))
        return tuple(columns)


def read_gate(state: bytes, metrics: bytes) -> Gate:
    """The agent's account, from its /debug/state and /metrics."""
    now = json.loads(state)
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.decode()):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Gate(
        executing=now["inflight"],
        queued=now["queued"],
        limit=now["limit"],
        queue_limit=now["queue_limit"],
        rejected=sums.get("headgate_rejected_total", 0.0),
        executing_s=sums.get("headgate_inflight_seconds_total", 0.0),
        queued_s=sums.get("headgate_queued_seconds_total", 0.0),
    )


async def _get(address: Address, path: str) -> bytes:
    """The body of a 200 answer; empty for anything else, as a view that misses a beat must go on."""
    request = encode_request("GET", f"{address[0]}:{address[1]}", path)
    answer = await fetch(address, request, _POLL_TIMEOUT_S)
    return answer.body if answer.status == 200 else b""


def _rates(recent: Sequence[_Mark]) -> Rates:
    if len(recent) < 2:
        return Rates()
    first, last = recent[0], recent[-1]
    span_s = last.elapsed_s - first.elapsed_s
    ended = [(after - before) / span_s for before, after in zip(first.ended, last.ended, strict=True)]
    return Rates((last.offered - first.offered) / span_s, *ended)
