"""Drives one run against one target: open loop by a drawn schedule, or closed loop with N callers.

Usable from any asyncio program: make an `OpenLoop` or a `ClosedLoop`, await `run()`, read the result; `on_sample` sees
every request as it ends. Open loop is never closed silently: a late send keeps its intended time, so its lateness is in
its latency and, apart, in the recorded lag.
"""

import asyncio
import itertools
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadgen.client import BaseClient
from loadgen.pacer import Pacer, make_pacer
from loadgen.record import Beat, Cause, Outcome, Recorder, Result, Sample, merged
from loadgen.schedule import Schedule
from loadgen.target import Target, allow_many_connections
from loadgen.units import NS_PER_S

__all__ = ["ClosedLoop", "Extras", "OpenLoop", "Target", "allow_many_connections"]

# Wake-ups closer than this are served together: at 60,000/s one per request would cost more than the request.
_MIN_TICK_NS = 100_000
# Time for the pacer and the first connections to be ready before the first intended send.
_LEAD_NS = 20_000_000
_WARM_CONNECTIONS = 64
# A closed-loop caller whose connection fails would otherwise try again some 10,000 times a second.
_REDIAL_S = 0.05
_BEAT_S = 0.02
_BACKOFF_S = 0.1
_MAX_RETRY_S = 30.0
_FOREVER_S = 1e9


@dataclass(frozen=True, slots=True)
class Extras:
    """What a run may do besides: count by windows of `window_s` (0: not), try a refused request again up to `retries`
    times, after what Retry-After says if `honour` is set, and take back a share of the requests after `cancel_after_s`.

    `seed` is for what is drawn at random on the way. A run that is number `share[0]` of `share[1]` parts sends the
    requests of its turns: all parts together send what one would.
    """

    window_s: float = 0.0
    retries: int = 0
    honour: bool = True
    cancel_share: float = 0.0
    cancel_after_s: float = 0.0
    seed: int = 0
    share: tuple[int, int] = (0, 1)


_PLAIN = Extras()


class _Run(ABC):
    """What both loops share: the client, the recorders and the one ending.

    `sent` and `started_ns` (monotonic; 0 until sending begins) may be read at any time. `begin` may be set before: it
    is awaited when all is ready, and tells the monotonic time to begin at.
    """

    open_loop = False

    def __init__(
        self, target: Target, steps: int, on_sample: Callable[[Sample], None] | None, extras: Extras = _PLAIN
    ) -> None:
        self.sent = 0
        self.started_ns = 0
        self.begin: Callable[[], Awaitable[int]] | None = None
        self._target = target
        whole = itertools.cycle(zip(target.requests, target.model_of or itertools.repeat(0), strict=False))
        self._feed = itertools.islice(whole, extras.share[0], None, extras.share[1])
        self._on_sample = on_sample
        self._extras = extras
        self._is_plain = not (extras.retries or extras.cancel_share or on_sample)
        self._source = random.Random(extras.seed)
        self._window_ns = round(extras.window_s * NS_PER_S) or 1 << 62
        self._models = max(1, len(target.models))
        # For each step and model, window by window.
        self._books: list[dict[int, Recorder]] = [{} for _ in range(steps * self._models)]
        self._waiting: set[asyncio.TimerHandle] = set()  # retries that are due later
        self._beats: list[Beat] = []
        self._stall_s = 0.0
        self._stopped = False

    async def run(self) -> Result:
        """Send everything and wait until each request has ended, at the latest by its timeout.

        Raises OSError when the target cannot be reached at the start.
        """
        target = self._target
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._client = target.client(self._attempted if self._extras.retries else self._ended)
        try:
            await self._client.connect(min(self._warm_connections(), target.max_connections))
            begin_ns = 0 if self.begin is None else await self.begin()
            if (early_ns := begin_ns - _LEAD_NS - time.monotonic_ns()) > 0:
                await asyncio.wait([self._finished], timeout=early_ns / NS_PER_S)
            self._cpu_s = time.process_time()
            self.started_ns = max(begin_ns, time.monotonic_ns() + _LEAD_NS)
            self._start()
            self._beat_at_s = self._loop.time()
            self._beat()
            await self._finished
            return self._result()
        finally:
            self._close()
            for timer in self._waiting:
                timer.cancel()
            await self._client.close()

    def _result(self) -> Result:
        elapsed_s = (time.monotonic_ns() - self.started_ns) / NS_PER_S
        names = self._target.models if self._models > 1 else ()
        windows: dict[int, Recorder] = {}
        for book in self._books:
            for window, recorder in book.items():
                windows.setdefault(window, Recorder()).merge(recorder)
        return Result(
            steps=self.recorders,
            models={
                name: {
                    (step, window): recorder
                    for step, book in enumerate(self._books[number :: self._models])
                    for window, recorder in book.items()
                }
                for number, name in enumerate(names)
            },
            windows=dict(sorted(windows.items())) if self._extras.window_s else {},
            window_s=self._extras.window_s,
            sent=self.sent,
            unfinished=self._client.inflight + len(self._waiting),
            rated_s=self._rated_s(elapsed_s),
            elapsed_s=elapsed_s,
            cpu_s=time.process_time() - self._cpu_s,
            connections=self._client.opened,
            backlogged=self._client.backlogged,
            open_loop=self.open_loop,
            beats=self._beats,
            stall_s=self._stall_s,
        )

    @property
    def is_stopped(self) -> bool:
        """Whether `stop()` ended the run."""
        return self._stopped

    @property
    def inflight(self) -> int:
        """How many requests were sent and have not ended."""
        return self._client.inflight if self.started_ns else 0

    @property
    def recorders(self) -> list[Recorder]:
        """One for each step, as far as it has come."""
        whole = []
        for first in range(0, len(self._books), self._models):
            parts = [part for book in self._books[first : first + self._models] for part in book.values()]
            whole.append(parts[0] if len(parts) == 1 else merged(parts))
        return whole

    def windows(self) -> dict[int, Recorder]:
        """What has ended so far by window, of a run with one step."""
        if self._models == 1:
            return self._books[0]
        numbers = sorted({number for book in self._books for number in book})
        return {number: merged(book[number] for book in self._books if number in book) for number in numbers}

    def outcomes(self) -> dict[Outcome, int]:
        """How many requests have ended so far, by outcome."""
        parts = [part for book in self._books for part in book.values()]
        return {outcome: sum(part.count_of(outcome) for part in parts) for outcome in Outcome}

    def stop(self) -> None:
        """End the run now; `run()` returns what there is and counts requests in flight as unfinished."""
        self._stopped = True
        self._finish()

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    def _beat(self) -> None:
        now_s = self._loop.time()
        self._stall_s = max(self._stall_s, now_s - self._beat_at_s)
        at_s = (time.monotonic_ns() - self.started_ns) / NS_PER_S
        self._beats.append(Beat(at_s, self._client.inflight, time.process_time() - self._cpu_s))
        self._beat_at_s = now_s + _BEAT_S
        self._beat_timer = self._loop.call_later(_BEAT_S, self._beat)

    def _send(self, sample: Sample) -> None:
        self.sent += 1
        request, sample.model = next(self._feed)
        if self._is_plain:
            self._client.send(request, sample)
            return
        sample.request = request
        self._client.send(request, sample)
        if self._extras.cancel_share and self._source.random() < self._extras.cancel_share:
            self._loop.call_later(self._extras.cancel_after_s, self._client.cancel, sample)

    def _attempted(self, sample: Sample) -> None:
        """The end of one attempt, where there may be more."""
        delay_s = self._retry_delay_s(sample)
        if delay_s is None:
            self._ended(sample)
            return
        self._recorder(sample).retried += 1

        def again() -> None:
            self._waiting.discard(timer)
            attempt = Sample(time.monotonic_ns(), sample.step)
            attempt.origin_ns = sample.origin_ns or sample.intended_ns
            attempt.attempt, attempt.model, attempt.request = sample.attempt + 1, sample.model, sample.request
            self._client.send(attempt.request, attempt)

        timer = self._loop.call_later(delay_s, again)
        self._waiting.add(timer)

    def _retry_delay_s(self, sample: Sample) -> float | None:
        """How long to wait before the next attempt; None when there is none."""
        if sample.outcome is not Outcome.SHED or sample.attempt >= self._extras.retries or self._stopped:
            return None
        hint_s = sample.retry_after_s if self._extras.honour else None
        if hint_s is not None and hint_s < 0:
            return None  # the server says: do not
        if hint_s is None:
            hint_s = _BACKOFF_S * 2**sample.attempt * self._source.uniform(0.5, 1.5)
        delay_s = min(hint_s, _MAX_RETRY_S)
        patience_s = self._target.timeout_s - (sample.done_ns - (sample.origin_ns or sample.intended_ns)) / NS_PER_S
        return delay_s if delay_s < patience_s else None

    def _recorder(self, sample: Sample) -> Recorder:
        at_ns = (sample.origin_ns or sample.intended_ns) if self.open_loop else sample.done_ns
        window = (at_ns - self.started_ns) // self._window_ns
        book = self._books[sample.step * self._models + sample.model]
        recorder = book.get(window)
        if recorder is None:
            recorder = book[window] = Recorder(is_closed=not (self.open_loop or self._extras.retries))
        return recorder

    def _is_idle(self) -> bool:
        return not self._client.inflight and not self._waiting

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

    def _close(self) -> None:
        """Let go of what the run took."""
        if self._beats:
            self._beat_timer.cancel()

    _client: BaseClient  # type: ignore[type-arg]


class OpenLoop(_Run):
    """Sends by `schedule`, whatever the target does."""

    open_loop = True

    def __init__(
        self,
        target: Target,
        schedule: Schedule,
        on_sample: Callable[[Sample], None] | None = None,
        extras: Extras = _PLAIN,
    ) -> None:
        super().__init__(target, len(schedule.steps), on_sample, extras)
        self._offsets = schedule.offsets_ns
        self._first = (*schedule.first[1:], len(schedule.offsets_ns))
        self._planned_s = sum(step.duration_s for step in schedule.steps)
        self._step = 0
        self._pacer: Pacer | None = None

    @property
    def planned(self) -> int:
        """How many requests the schedule has."""
        return len(self._offsets)

    def _warm_connections(self) -> int:
        return self._target.links(min(_WARM_CONNECTIONS, max(1, len(self._offsets))))

    def _start(self) -> None:
        self._pacer = make_pacer(self._tick)
        self._tick()

    def _close(self) -> None:
        super()._close()
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
        elif self._is_idle():
            self._finish()

    def _ended(self, sample: Sample) -> None:
        self._recorder(sample).add(sample)
        if self._on_sample is not None:
            self._on_sample(sample)
        if self.sent == len(self._offsets) and self._is_idle():
            self._finish()

    def _rated_s(self, elapsed_s: float) -> float:
        return elapsed_s if self._stopped or math.isinf(self._planned_s) else self._planned_s


class ClosedLoop(_Run):
    """`concurrency` callers, each sending its next request when the last one has ended, for `duration_s` seconds or
    until `limit` requests were sent, whichever comes first. They begin one after the other within `ramp_s`."""

    def __init__(
        self,
        target: Target,
        concurrency: int,
        duration_s: float = math.inf,
        limit: float = math.inf,
        on_sample: Callable[[Sample], None] | None = None,
        extras: Extras = _PLAIN,
        ramp_s: float = 0.0,
    ) -> None:
        super().__init__(target, 1, on_sample, extras)
        self._callers = concurrency
        self._ramp_s = ramp_s
        self._duration_s = duration_s
        self._ends_ns = 0  # no caller begins a request after it
        self._limit = limit

    def _warm_connections(self) -> int:
        return self._target.links(self._callers)

    def _start(self) -> None:
        if self.begin is None:
            self.started_ns = time.monotonic_ns()
        self._ends_ns = self.started_ns + round(min(self._duration_s, _FOREVER_S) * NS_PER_S)
        wait_s = max(0.0, (self.started_ns - time.monotonic_ns()) / NS_PER_S)
        for number in range(self._callers):
            if wait_s or self._ramp_s:
                self._loop.call_later(wait_s + self._ramp_s * number / self._callers, self._begin)
            else:
                self._begin()

    def end(self) -> None:
        """Send nothing more; the run is over when what is in flight has ended."""
        self._ends_ns = 0

    def _begin(self) -> None:
        self._next(time.monotonic_ns())

    def _next(self, now_ns: int) -> None:
        if now_ns < self._ends_ns and self.sent < self._limit and not self._stopped:
            self._send(Sample(now_ns))
        elif not self._stopped:
            self._callers -= 1
            if not self._callers:
                self._finish()

    def _ended(self, sample: Sample) -> None:
        self._recorder(sample).add(sample)
        if self._on_sample is not None:
            self._on_sample(sample)
        if sample.cause is None:
            self._next(sample.done_ns)
        elif sample.cause in {Cause.TIMEOUT, Cause.CANCELLED}:
            self._begin()
        else:
            self._loop.call_later(_REDIAL_S, self._begin)

    def _rated_s(self, elapsed_s: float) -> float:
        return elapsed_s
