"""A second for Knative: the numbers, and what came through the activator, on a clock of the test's."""

import random

import pytest

from agent.scale.demand import DRAIN_S, Demand
from agent.scale.stat import Numbers, Proxied, numbers

BUSY = Demand(1.0, inflight=8.0, queued=0.0, rejected=24.0, arrived=640.0, served=160.0, failed=480.0)


def test_it_is_the_demand() -> None:
    assert numbers(BUSY, 0.05, 0.0, 0) == Numbers(32.0, 0.0, 640.0, 0.0)


def test_what_waits_is_work_to_be_done_in_time() -> None:
    waiting = BUSY._replace(queued=100.0, rejected=0.0)
    assert numbers(waiting, 10.0, 0.0, 0).concurrency == pytest.approx(8.0 + 100.0 * 10.0 / DRAIN_S)
    assert numbers(waiting, 0.0, 0.0, 0).concurrency == 8.0


def test_windows_are_as_long_as_they_are() -> None:
    assert numbers(BUSY._replace(seconds=2.0), 0.05, 6.0, 20) == Numbers(32.0, 3.0, 640.0, 10.0)


def test_the_proxied_part_is_never_more_than_the_whole() -> None:
    """Else the autoscaler, which subtracts it and adds what the activator says, would count less than nothing."""
    assert numbers(BUSY._replace(rejected=0.0), 0.05, 17.0, 3).proxied_concurrency == 8.0


def test_no_time_no_numbers() -> None:
    assert numbers(BUSY._replace(seconds=0.0), 0.05, 1.0, 1) == Numbers(0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_presence_is_the_sum_of_the_stays(seed: int) -> None:
    generator = random.Random(seed)
    proxied, now, stays, present = Proxied(100.0), 100.0, 0.0, 0
    for _ in range(500):
        elapsed = generator.choice([0.0, 0.001, 0.5])
        now += elapsed
        stays += elapsed * present
        if present and generator.random() < 0.5:
            proxied.leave(now)
            present -= 1
        else:
            proxied.enter(now)
            present += 1
    seconds, arrived = proxied.read(now + 1.0)
    assert seconds == pytest.approx(stays + present)
    assert arrived - present == 500 - arrived
