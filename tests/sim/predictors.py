"""Simulated predictors: workers, processor sharing and a dynamic batcher. Time is virtual, in seconds."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import log
from typing import Protocol

from tests.sim.clock import Clock
from tests.sim.load import Request

Done = Callable[[Request], None]


class Predictor(Protocol):
    """Told to start a request, it calls `done` when it has ended it."""

    def start(self, request: Request) -> None: ...


class Workers:
    """`count` workers and a queue of its own before them, first come, first served."""

    def __init__(self, clock: Clock, done: Done, count: int = 8) -> None:
        self._clock, self._done, self._idle = clock, done, count
        self._queue: deque[Request] = deque()

    def start(self, request: Request) -> None:
        if self._idle:
            self._idle -= 1
            self._run(request)
        else:
            self._queue.append(request)

    def _run(self, request: Request) -> None:
        self._clock.at(self._clock.now + request.work * self._slowness(), lambda: self._end(request))

    def _slowness(self) -> float:
        return 1.0

    def _end(self, request: Request) -> None:
        if self._queue:
            self._run(self._queue.popleft())
        else:
            self._idle += 1
        self._done(request)


class Stalling(Workers):
    """Eight times slower for a second and a half in forty: a neighbour, a collection, a disk."""

    def _slowness(self) -> float:
        return 8.0 if 20.0 <= self._clock.now % 40.0 < 21.5 else 1.0


class Sharing:
    """`cores` shared by all that run; each request beyond costs `contention` of the speed: threads in one process."""

    def __init__(self, clock: Clock, done: Done, cores: int = 8, contention: float = 0.01) -> None:
        self._clock, self._done, self._cores, self._contention = clock, done, cores, contention
        self._running: list[tuple[float, int, Request]] = []
        self._served = 0.0  # what one that runs since the beginning would have got
        self._since = 0.0
        self._plan = 0

    def start(self, request: Request) -> None:
        self._advance()
        heappush(self._running, (self._served + request.work, request.number, request))
        self._schedule()

    def _speed(self) -> float:
        count = len(self._running)
        return min(1.0, self._cores / count) / (1 + self._contention * max(0, count - self._cores)) if count else 0.0

    def _advance(self) -> None:
        self._served += (self._clock.now - self._since) * self._speed()
        self._since = self._clock.now

    def _schedule(self) -> None:
        self._plan += 1
        if self._running:
            left = max(0.0, self._running[0][0] - self._served) / self._speed()
            plan = self._plan
            self._clock.at(self._clock.now + left, lambda: self._tick(plan))

    def _tick(self, plan: int) -> None:
        if plan != self._plan:
            return
        self._advance()
        ended = []
        while self._running and self._running[0][0] <= self._served + 1e-9:
            ended.append(heappop(self._running)[2])
        self._schedule()
        for request in ended:
            self._done(request)


class Batcher:
    """Model instances that compute up to 16 requests at once: 30 ms and 2.5 ms for each, and wait 2 ms to fill."""

    SIZE, INSTANCES = 16, 1
    BATCH_S, EACH_S, SPREAD = 0.030, 0.0025, 0.1
    TRANSIT_S = 0.0

    def __init__(self, clock: Clock, done: Done) -> None:
        self._clock, self._done, self._random = clock, done, random.Random(7)
        self._queue: deque[Request] = deque()
        self._idle = self.INSTANCES
        self._timer = 0

    @classmethod
    def capacity(cls) -> float:
        """Requests a second, when whole batches wait."""
        return cls.INSTANCES * cls.SIZE / (cls.BATCH_S + cls.EACH_S * cls.SIZE)

    def start(self, request: Request) -> None:
        if self.TRANSIT_S:
            self._clock.at(self._clock.now + self.TRANSIT_S, lambda: self._enter(request))
        else:
            self._enter(request)

    def _enter(self, request: Request) -> None:
        self._queue.append(request)
        if not self._idle:
            return
        if len(self._queue) >= self.SIZE:
            self._fire()
        elif len(self._queue) == 1:
            self._timer += 1
            timer = self._timer
            self._clock.at(self._clock.now + 0.002, lambda: self._on_timer(timer))

    def _on_timer(self, timer: int) -> None:
        if timer == self._timer and self._idle and self._queue:
            self._fire()

    def _fire(self) -> None:
        self._timer += 1
        self._idle -= 1
        batch = [self._queue.popleft() for _ in range(min(self.SIZE, len(self._queue)))]
        spread = log(1 + self.SPREAD**2)
        seconds = (self.BATCH_S + self.EACH_S * len(batch)) * self._random.lognormvariate(-spread / 2, spread**0.5)
        self._clock.at(self._clock.now + seconds, lambda: self._end(batch))

    def _end(self, batch: list[Request]) -> None:
        self._idle += 1
        for request in batch:
            self._done(request)
        if self._queue and self._idle:
            self._fire()


class Triton(Batcher):
    """Two instances with batches of four, and a way to them that takes as long as filling: the next batch must wait at
    hand when one ends, so twice as many in flight as fit into the batches do a third more."""

    SIZE, INSTANCES = 4, 2
    BATCH_S, EACH_S, SPREAD = 0.042, 0.002, 0.01
    TRANSIT_S = 0.003
