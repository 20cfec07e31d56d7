"""Both pacers wake once per arm, never early."""

import asyncio
import sys
import time
from collections.abc import Callable

import pytest

from loadgen.pacer import LoopPacer, Pacer, TimerFdPacer, make_pacer

Factory = Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Pacer]
pacers = pytest.mark.parametrize(
    "factory",
    [
        LoopPacer,
        pytest.param(TimerFdPacer, marks=pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")),
    ],
)


class Wakes:
    """When the pacer woke."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self.times.append(time.monotonic_ns())
        self._changed.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.times) < count:
                self._changed.clear()
                await self._changed.wait()


@pacers
async def test_it_wakes_at_the_time_and_once(factory: Factory) -> None:
    wakes = Wakes()
    pacer = factory(asyncio.get_running_loop(), wakes)
    for count in range(1, 4):
        when_ns = time.monotonic_ns() + 3_000_000
        pacer.arm(when_ns)
        await wakes.wait_for(count)
        assert wakes.times[-1] >= when_ns - 1_000_000 * isinstance(pacer, LoopPacer)
    pacer.close()
    assert len(wakes.times) == 3


@pacers
async def test_a_time_already_past_wakes_at_once(factory: Factory) -> None:
    wakes = Wakes()
    pacer = factory(asyncio.get_running_loop(), wakes)
    for count, when_ns in enumerate((time.monotonic_ns() - 10**9, 0, -5), 1):
        pacer.arm(when_ns)
        await wakes.wait_for(count)
    pacer.close()


@pacers
async def test_arming_again_replaces_the_time(factory: Factory) -> None:
    wakes = Wakes()
    pacer = factory(asyncio.get_running_loop(), wakes)
    pacer.arm(time.monotonic_ns() + 3_600_000_000_000)
    pacer.arm(time.monotonic_ns() + 2_000_000)
    await wakes.wait_for(1)
    pacer.close()


@pacers
async def test_a_closed_pacer_does_not_wake(factory: Factory) -> None:
    wakes = Wakes()
    closed, later = factory(asyncio.get_running_loop(), wakes), factory(asyncio.get_running_loop(), Wakes())
    closed.arm(time.monotonic_ns() + 1_000_000)
    closed.close()
    closed.close()
    marker = Wakes()
    later.close()
    after = factory(asyncio.get_running_loop(), marker)
    after.arm(time.monotonic_ns() + 5_000_000)
    await marker.wait_for(1)
    after.close()
    assert wakes.times == []


async def test_linux_gets_the_precise_one() -> None:
    pacer = make_pacer(lambda: None)
    assert isinstance(pacer, TimerFdPacer) == (sys.platform == "linux")
    pacer.close()
