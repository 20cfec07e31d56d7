"""What rolls: the highest level of a window, and no reader that takes anything from another."""

import random

import pytest

from agent.errors import Outcome
from agent.observe.history import MAX_READINGS, History, Reading, read
from tests.fakes import FakeRecord, FakeServer


def reading(at: float, **given: float) -> Reading:
    fields = dict.fromkeys(Reading._fields, 0.0) | {"limit": 4, "times": ()} | given
    return Reading(**fields | {"at": at})  # type: ignore[arg-type]


def level(second: int) -> int:
    """What was in flight in a second of the square wave."""
    return 6 if second % 10 < 3 else 0


def square(seconds: int) -> History:
    """A reading a second of a square wave, queued as much as in flight."""
    history = History()
    total = 0.0
    for second in range(seconds):
        history.readings.append(
            reading(float(second), peak=2 * level(second - 1), inflight_seconds=total, queued_seconds=total)
        )
        total += level(second)
    return history


def test_the_highest_level_of_the_window_and_of_this_very_second() -> None:
    history = square(100)
    assert history.peak(reading(99.0, peak=1), 15) == 12
    assert history.peak(reading(99.5, peak=40), 15) == 40
    for second in range(100, 120):
        history.readings.append(reading(float(second), peak=1))
    assert (history.peak(reading(119.5, peak=2), 15), history.peak(reading(119.5, peak=2), 60)) == (2, 12)
    assert History().peak(reading(1.0, peak=3), 15) == 3


def test_reading_takes_nothing_however_many_read() -> None:
    history = square(100)
    before = list(history.readings)
    now = reading(99.5, peak=1)
    assert history.peak(now, 15) == history.peak(now, 15) == 12
    assert list(history.readings) == before


def test_the_past_is_bounded() -> None:
    assert len(square(3 * MAX_READINGS).readings) == MAX_READINGS


@pytest.mark.parametrize("seed", range(5))
def test_a_reading_is_the_state_of_the_agent(seed: int) -> None:
    generator = random.Random(seed)
    server = FakeServer({"limit": ["2"], "policy": ["fifo"]})
    tables = server.usages
    for number in range(4):
        usage = tables[generator.choice(["http", "grpc"])].learn(generator.choice("ab"), 0.0)
        server.admission.offer(server.admission.ticket(None, "m", usage), 0.0)
        server.book(
            FakeRecord(
                usage=usage, outcome=outcome, dispatched=1000.0 if outcome is Outcome.SERVED else 0.0, ended=1000.5
            )
            for outcome in (Outcome.SERVED, Outcome.OVERLOAD, Outcome.CLIENT_GONE)[: number % 3 + 1]
        )
    now = read(server.admission, tables, server.counters, 10.0)
    assert (now.inflight, now.queued, now.limit, now.peak) == (2, 2, 2, 4)
    assert (now.inflight_seconds, now.queued_seconds) == (pytest.approx(20.0), pytest.approx(20.0))
    assert (now.served, now.refused, now.failed) == (4, 2, 1)
    assert sum(now.times) == now.served
    assert read(server.admission, tables, server.counters, 10.0) == now


def test_a_fresh_agent_has_a_reading_too() -> None:
    server = FakeServer({"limit": ["none"], "policy": ["fifo"]})
    now = read(server.admission, server.usages, server.counters, 1.0)
    assert (now.inflight, now.limit, now.served, sum(now.times)) == (0, None, 0, 0)
