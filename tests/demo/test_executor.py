"""The slots: exactly so many, first come first served, and deterministic."""

import asyncio
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest

from agent.demo.executor import Behaviour, Executor

FAST = Behaviour(slots=3, service_s=0.002)


@pytest.mark.parametrize("slots", [1, 3, 8])
async def test_exactly_so_many_execute_at_once_and_the_rest_waits(slots: int) -> None:
    executor = Executor(replace(FAST, slots=slots), asyncio.get_running_loop())
    ended: list[int] = []

    async def one(number: int) -> None:
        await executor.execute()
        ended.append(number)
        assert executor.executing <= slots

    count = 5 * slots
    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(0)
    assert (executor.executing, executor.waiting) == (slots, count - slots)
    await asyncio.gather(*tasks)
    assert sorted(ended) == list(range(count))
    if slots == 1:
        assert ended == sorted(ended)  # with more slots, a stall between two starts may let a later one end first
    assert (executor.peak_executing, executor.executing, executor.waiting, executor.served) == (slots, 0, 0, count)


class ManualLoop:
    """A loop whose clock stands until the test moves it, and which calls late when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., None], *arguments: object) -> None:
        self.calls.append((when, call, arguments))

    def run_next(self, late_s: float = 0.0) -> float:
        """Make the earliest call, `late_s` after its time; returns its time."""
        when, call, arguments = self.calls.pop(min(range(len(self.calls)), key=lambda index: self.calls[index][0]))
        self.now = max(self.now, when + late_s)
        call(*arguments)
        return when


async def executions(loop: ManualLoop, behaviour: Behaviour, count: int) -> list[asyncio.Task[bool]]:
    executor = Executor(behaviour, cast("asyncio.AbstractEventLoop", loop))
    tasks = [asyncio.create_task(executor.execute()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_late_timers_do_not_cost_capacity() -> None:
    loop = ManualLoop()
    tasks = await executions(loop, Behaviour(slots=2, service_s=0.05), 8)
    ends = [loop.run_next(late_s=0.004) for _ in range(8)]
    assert ends == pytest.approx([100.05, 100.05, 100.1, 100.1, 100.15, 100.15, 100.2, 100.2])
    await asyncio.gather(*tasks)


async def test_a_process_that_stood_still_has_lost_the_time() -> None:
    loop = ManualLoop()
    tasks = await executions(loop, Behaviour(slots=1, service_s=0.05), 3)
    ends = [loop.run_next(late_s=5.0), loop.run_next(), loop.run_next()]
    assert ends == pytest.approx([100.05, 105.09, 105.14])
    await asyncio.gather(*tasks)


async def test_an_idle_slot_starts_at_once() -> None:
    loop = ManualLoop()
    executor = Executor(Behaviour(slots=1, service_s=0.05), cast("asyncio.AbstractEventLoop", loop))
    for start in (100.0, 200.0):
        loop.now = start
        task = asyncio.create_task(executor.execute())
        await asyncio.sleep(0)
        assert loop.run_next() == start + 0.05
        assert await task


async def draws(behaviour: Behaviour, count: int) -> list[tuple[float, bool]]:
    executor = Executor(behaviour, asyncio.get_running_loop())
    return [executor.draw() for _ in range(count)]


async def test_the_seed_decides_service_times_and_failures() -> None:
    behaviour = Behaviour(cv=0.5, fail_share=0.3, seed=4)
    assert await draws(behaviour, 50) == await draws(behaviour, 50)
    assert await draws(behaviour, 50) != await draws(replace(behaviour, seed=5), 50)


@pytest.mark.parametrize("cv", [0.0, 0.2, 1.0])
async def test_service_times_have_the_mean_and_the_spread(cv: float) -> None:
    times = [service_s for service_s, _ in await draws(Behaviour(service_s=0.05, cv=cv), 20_000)]
    assert statistics.fmean(times) == pytest.approx(0.05, rel=0.04)
    assert statistics.pstdev(times) / statistics.fmean(times) == pytest.approx(cv, rel=0.1)
    assert min(times) > 0


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
async def test_failures_have_their_share(share: float) -> None:
    failures = sum(not succeeds for _, succeeds in await draws(Behaviour(fail_share=share), 4_000))
    assert failures / 4_000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4_000))


async def test_a_caller_that_leaves_saves_nothing() -> None:
    loop = ManualLoop()
    executor = Executor(Behaviour(slots=1, service_s=0.05), cast("asyncio.AbstractEventLoop", loop))
    running, waiting, last = (asyncio.create_task(executor.execute()) for _ in range(3))
    await asyncio.sleep(0)
    for task in (running, waiting):
        task.cancel()
    await asyncio.sleep(0)
    assert (executor.executing, executor.waiting) == (1, 2)
    assert [loop.run_next() for _ in range(3)] == pytest.approx([100.05, 100.1, 100.15])
    assert await last
    assert (executor.served, executor.executing, executor.waiting) == (3, 0, 0)
