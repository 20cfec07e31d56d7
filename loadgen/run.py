"""Drives one run against one target: open loop by a drawn schedule, or closed loop with N callers.

Usable from any asyncio program: make an `OpenLoop` or a `ClosedLoop`, await `run()`, read the result; `on_sample` sees
every request as it ends. Open loop is never closed silently: a late send keeps its intended time, so its lateness is in
its latency and, apart, in the recorded lag.
"""

import asyncio
import itertools
import math
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.http_client import MAX_CONNECTIONS, Address, Client
from loadgen.pacer import Pacer, make_pacer
from loadgen.record import Cause, Outcome, Recorder, Result, Sample
from loadgen.schedule import Schedule
from loadgen.units import NS_PER_S

# Wake-ups closer than this are served together: at 60,000/s one per request would cost more than the request.
_MIN_TICK_NS = 100_000
# Time for the pacer and the first connections to be ready before the first intended send.
_LEAD_NS = 20_000_000
_WARM_CONNECTIONS = 64
# A closed-loop caller whose connection fails would otherwise try again some 10,000 times a second.
_REDIAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send and what: `requests` are whole HTTP/1.1 requests, sent in turn; `timeout_s` is the patience of a
    caller, counted from the intended send time."""

    address: Address
    requests: Sequence[bytes]
    timeout_s: float
    max_connections: int = MAX_CONNECTIONS


def allow_many_connections() -> None:
    """Raise this process's limit of open files to what the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Run(ABC):
    """What both loops share: the client, the recorders and the one ending.

    `sent`, `recorders` (one per step) and `started_ns` (monotonic; 0 until sending begins) may be read at any time.
    """

    open_loop = False

    def __init__(self, target: Target, steps: int, on_sample: Callable[[Sample], None] | None) -> None:
        self.sent = 0
        self.started_ns = 0
        self.recorders = [Recorder() for _ in range(steps)]
        self._target = target
        self._requests = itertools.cycle(target.requests)
        self._on_sample = on_sample
        self._stopped = False

    async def run(self) -> Result:
        """Send everything and wait until each request has ended, at the latest by its timeout.

        Raises OSError when the target cannot be reached at the start.
        """
        target = self._target
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client = Client(target.address, self._ended, target.timeout_s, max_connections=target.max_connections)
        try:
            await self._client.connect(min(self._warm_connections(), target.max_connections))
            cpu_s = time.process_time()
            self.started_ns = time.monotonic_ns() + _LEAD_NS
            self._start()
            await self._finished
            elapsed_s = (time.monotonic_ns() - self.started_ns) / NS_PER_S
            return Result(
                steps=self.recorders,
                sent=self.sent,
                unfinished=self._client.inflight,
                rated_s=self._rated_s(elapsed_s),
                elapsed_s=elapsed_s,
                cpu_s=time.process_time() - cpu_s,
                connections=self._client.opened,
                backlogged=self._client.backlogged,
                open_loop=self.open_loop,
            )
        finally:
            self._close()
            await self._client.close()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop()` ended the run."""
        return self._stopped

    def outcomes(self) -> dict[Outcome, int]:
        """How many requests have ended so far, by outcome."""
        return {outcome: sum(recorder.count_of(outcome) for recorder in self.recorders) for outcome in Outcome}

    def stop(self) -> None:
        """End the run now; `run()` returns what there is and counts requests in flight as unfinished."""
        self._stopped = True
        self._finish()

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    def _send(self, sample: Sample) -> None:
        self.sent += 1
        self._client.send(next(self._requests), sample)

    def _record(self, sample: Sample) -> None:
        self.recorders[sample.step].add(sample)
        if self._on_sample is not None:
            self._on_sample(sample)

    @abstractmethod
    def _warm_connections(self) -> int:
        """How many connections to open before the clock starts."""

    @abstractmethod
    def _start(self) -> None:
        """Begin to send."""

    @abstractmethod
    def _ended(self, sample: Sample) -> None:
        """Record `sample`, and finish when it was the last."""

    @abstractmethod
    def _rated_s(self, elapsed_s: float) -> float:
        """The time that rates are taken over."""

    def _close(self) -> None:  # noqa: B027 (only one of the two has something to let go)
        """Let go of what `_start` took."""


class OpenLoop(_Run):
    """Sends by `schedule`, whatever the target does."""

    open_loop = True

    def __init__(self, target: Target, schedule: Schedule, on_sample: Callable[[Sample], None] | None = None) -> None:
        super().__init__(target, len(schedule.steps), on_sample)
        self._offsets = schedule.offsets_ns
        self._first = (*schedule.first[1:], len(schedule.offsets_ns))
        self._planned_s = sum(step.duration_s for step in schedule.steps)
        self._step = 0
        self._pacer: Pacer | None = None

    def _warm_connections(self) -> int:
        return min(_WARM_CONNECTIONS, max(1, len(self._offsets)))

    def _start(self) -> None:
        self._pacer = make_pacer(self._tick)
        self._tick()

    def _close(self) -> None:
        if self._pacer is not None:
            self._pacer.close()

    def _tick(self) -> None:
        if self._stopped:
            return
        assert self._pacer is not None
        now_ns = time.monotonic_ns()
        due_ns = now_ns - self.started_ns
        offsets, planned = self._offsets, len(self._offsets)
        while self.sent < planned and offsets[self.sent] <= due_ns:
            while self.sent >= self._first[self._step]:
                self._step += 1
            self._send(Sample(self.started_ns + offsets[self.sent], self._step))
        if self.sent < planned:
            self._pacer.arm(max(self.started_ns + offsets[self.sent], now_ns + _MIN_TICK_NS))
        elif not self._client.inflight:
            self._finish()

    def _ended(self, sample: Sample) -> None:
        self._record(sample)
        if self.sent == len(self._offsets) and not self._client.inflight:
            self._finish()

    def _rated_s(self, elapsed_s: float) -> float:
        return elapsed_s if self._stopped or math.isinf(self._planned_s) else self._planned_s


class ClosedLoop(_Run):
    """`concurrency` callers, each sending its next request when the last one has ended, for `duration_s` seconds or
    until `limit` requests were sent, whichever comes first."""

    def __init__(
        self,
        target: Target,
        concurrency: int,
        duration_s: float = math.inf,
        limit: float = math.inf,
        on_sample: Callable[[Sample], None] | None = None,
    ) -> None:
        super().__init__(target, 1, on_sample)
        self._callers = concurrency
        self._duration_s = duration_s
        self._limit = limit

    def _warm_connections(self) -> int:
        return self._callers

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.started_ns = time.monotonic_ns()
        for _ in range(self._callers):
            self._next()

    def _next(self) -> None:
        now_ns = time.monotonic_ns()
        if self._stopped:
            return
        if self.sent >= self._limit or now_ns - self.started_ns >= self._duration_s * NS_PER_S:
            self._callers -= 1
            if not self._callers:
                self._finish()
            return
        self._send(Sample(now_ns))

    def _ended(self, sample: Sample) -> None:
        self._record(sample)
        if sample.status or sample.cause is Cause.TIMEOUT:
            self._next()
        else:
            self._loop.call_later(_REDIAL_S, self._next)

    def _rated_s(self, elapsed_s: float) -> float:
        return elapsed_s
