"""The slots of the synthetic predictor, shared by all its protocols."""

import asyncio
import math
import random
from collections import deque
from dataclasses import dataclass

# A slot that is freed late, since timers round up to a millisecond, hands the lateness to its next request as a shorter
# wait, so that capacity stays slots / service time. Beyond this the process was stopped, and then time is lost.
_CATCH_UP_S = 0.01


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the model behaves; equal values give equal behaviour.

    Service times are lognormal with mean `service_s` and coefficient of variation `cv` (0 = constant). `fail_share`
    (0..1) of the executions end in a 500 or INTERNAL. Answers are padded to at least `response_bytes`.
    """

    slots: int = 4
    service_s: float = 0.05
    cv: float = 0.0
    fail_share: float = 0.0
    response_bytes: int = 0
    seed: int = 0


class Executor:
    """The slots: at most `behaviour.slots` executions at once, the rest first come, first served.

    The n-th execution to start always has the n-th service time and fate drawn from the seed.
    """

    def __init__(self, behaviour: Behaviour, loop: asyncio.AbstractEventLoop) -> None:
        self.executing = 0
        self.peak_executing = 0
        self.served = 0
        self.failed = 0
        self._loop = loop
        self._slots = behaviour.slots
        self._fail_share = behaviour.fail_share
        self._cv = behaviour.cv
        self._service_s = behaviour.service_s
        self._source = random.Random(behaviour.seed)
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    async def execute(self) -> bool:
        """Wait for a slot and hold it for one service time; whether the model succeeded."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(future)
        if self.executing < self._slots:
            self._start(self._loop.time())
        return await future

    def draw(self) -> tuple[float, bool]:
        """The service time in seconds and the success of the next execution."""
        succeeds = self._source.random() >= self._fail_share
        if not self._cv:
            return self._service_s, succeeds
        variance = math.log1p(self._cv**2)
        return self._service_s * self._source.lognormvariate(-variance / 2, math.sqrt(variance)), succeeds

    def _start(self, start: float) -> None:
        future = self._waiting.popleft()
        service_s, succeeds = self.draw()
        self.executing += 1
        self.peak_executing = max(self.peak_executing, self.executing)
        self._loop.call_at(start + service_s, self._end, start + service_s, future, succeeds)

    def _end(self, planned: float, future: "asyncio.Future[bool]", succeeds: bool) -> None:
        self.executing -= 1
        self.served += succeeds
        self.failed += not succeeds
        if not future.done():
            future.set_result(succeeds)
        if self._waiting:
            self._start(max(planned, self._loop.time() - _CATCH_UP_S))
