"""Drives one predictor or contestant: open loop at Poisson times, or a closed loop that finds the capacity."""

import asyncio
import time
from dataclasses import dataclass

import uvloop

from loadgen.pacer import make_pacer
from loadgen.record import Sample
from loadgen.run import ClosedLoop, OpenLoop, Target
from loadgen.schedule import Arrivals, Schedule, Step, draw
from loadgen.units import NS_PER_S

from .calls import Client
from .figures import DEADLINE_S, PATIENCE_S
from .predictors import LIMITS, request

# Callers of the closed loop: enough that the predictor never waits for one.
_CALLERS = 4 * max(LIMITS.values())
_CAPACITY_PATIENCE_S = 30.0
_CAPACITY_WARM_UP_S = 1.0
# Behind the measured time the load goes on, so that what is still waiting then is not better off than what came before.
_COOL_DOWN_S = 1.0
_LEAD_NS = 20_000_000
_MIN_TICK_NS = 100_000
_MEASURED = 1
_DEADLINE_MS = round(DEADLINE_S * 1000)


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of load before and in a measurement, and of the closed loop."""

    warm_up_s: float
    measured_s: float
    capacity_s: float


def offered(protocol: str, port: int, rate: float, effort: Effort, seed: int) -> list[Sample]:
    """Every request that was due in the measured time, ended. Equal seeds and rates give equal times."""
    steps = [Step(rate, seconds) for seconds in (effort.warm_up_s, effort.measured_s, _COOL_DOWN_S)]
    schedule = draw(steps, Arrivals.POISSON, seed)
    samples = uvloop.run(_grpc_open(port, schedule) if protocol == "grpc" else _http_open(port, schedule))
    return [sample for sample in samples if sample.step == _MEASURED]


def capacity(protocol: str, port: int, seconds: float) -> float:
    """Answers a second of a predictor that always has more to do."""
    length_s = _CAPACITY_WARM_UP_S + seconds
    samples = uvloop.run((_grpc_closed if protocol == "grpc" else _http_closed)(port, length_s))
    begin_ns = min(sample.intended_ns for sample in samples) + round(_CAPACITY_WARM_UP_S * NS_PER_S)
    end_ns = begin_ns + round(seconds * NS_PER_S)
    return sum(sample.status == 200 and begin_ns <= sample.done_ns < end_ns for sample in samples) / seconds


def _target(port: int, patience_s: float) -> Target:
    told_ms = round(patience_s * 1000) if patience_s > PATIENCE_S else _DEADLINE_MS
    return Target(("127.0.0.1", port), [request(port, told_ms)], patience_s)


async def _http_open(port: int, schedule: Schedule) -> list[Sample]:
    samples: list[Sample] = []
    await OpenLoop(_target(port, PATIENCE_S), schedule, samples.append).run()
    return samples


async def _http_closed(port: int, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    await ClosedLoop(_target(port, _CAPACITY_PATIENCE_S), _CALLERS, seconds, on_sample=samples.append).run()
    return samples


async def _grpc_open(port: int, schedule: Schedule) -> list[Sample]:
    driver = _GrpcOpenLoop(port, schedule)
    return await driver.run()


async def _grpc_closed(port: int, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    done = asyncio.get_running_loop().create_future()
    end_ns = time.monotonic_ns() + round(seconds * NS_PER_S)

    def again(sample: Sample) -> None:
        samples.append(sample)
        if sample.done_ns < end_ns and sample.status:
            client.send(Sample(sample.done_ns))
        elif not client.inflight and not done.done():
            done.set_result(None)

    client = Client(port, again, patience_s=_CAPACITY_PATIENCE_S, told_s=_CAPACITY_PATIENCE_S)
    try:
        await client.connect()
        for _ in range(_CALLERS):
            client.send(Sample(time.monotonic_ns()))
        await done
    finally:
        client.close()
    return samples


class _GrpcOpenLoop:
    """What loadgen's OpenLoop does over HTTP, with gRPC calls."""

    def __init__(self, port: int, schedule: Schedule) -> None:
        self._schedule = schedule
        self._samples: list[Sample] = []
        self._client = Client(port, self._ended, patience_s=PATIENCE_S, told_s=DEADLINE_S)
        self._sent = 0
        self._steps = [step for step in range(len(schedule.steps)) for _ in range(schedule.arrivals_in(step))]

    async def run(self) -> list[Sample]:
        """Make every call and wait until each has ended, at the latest by its patience. Raises OSError."""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pacer = make_pacer(self._tick)
        try:
            await self._client.connect()
            self._started_ns = time.monotonic_ns() + _LEAD_NS
            self._tick()
            await self._done
        finally:
            self._pacer.close()
            self._client.close()
        return self._samples

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        offsets = self._schedule.offsets_ns
        while self._sent < len(offsets) and self._started_ns + offsets[self._sent] <= now_ns:
            sample = Sample(self._started_ns + offsets[self._sent], self._steps[self._sent])
            self._sent += 1
            self._client.send(sample)
        if self._sent < len(offsets):
            self._pacer.arm(max(self._started_ns + offsets[self._sent], now_ns + _MIN_TICK_NS))
        else:
            self._finish_if_idle()

    def _ended(self, sample: Sample) -> None:
        self._samples.append(sample)
        if self._sent == len(self._schedule.offsets_ns):
            self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if not self._client.inflight and not self._done.done():
            self._done.set_result(None)
