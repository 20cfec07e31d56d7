"""Samples that age, service times by level in flight, and the flow through a limit."""

import random
from math import log

import pytest

from agent.policy.estimate import Drain, ServiceTimes, Window, bucket_of, quantile


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [((), 0.5, 0.0), ((1.0,), 0.99, 1.0), ((1.0, 2.0, 3.0, 4.0), 0.5, 3.0), ((1.0, 2.0, 3.0, 4.0), 0.1, 1.0)],
)
def test_a_quantile_is_one_of_the_values(values: tuple[float, ...], share: float, expected: float) -> None:
    assert quantile(values, share) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_window_has_the_newest_96_of_the_last_ten_seconds(seed: int) -> None:
    generator, window, all_of_them, now = random.Random(seed), Window(), list[tuple[float, float]](), 0.0
    pace = generator.choice([0.01, 0.1, 1.0])
    for _ in range(400):
        now += generator.random() * pace
        value = generator.choice([1.0, 2.0, generator.random()])
        window.add(now, value)
        all_of_them.append((now, value))
        expected = sorted(value for at, value in all_of_them[-96:] if at >= now - 10.0)
        assert window.trim(now) == expected
    assert window.trim(now + 10.1) == []


def test_levels_are_told_apart_in_steps_of_half() -> None:
    buckets = [bucket_of(level) for level in range(1, 5000)]
    assert buckets == [int(log(level) / log(1.5)) for level in range(1, 5000)]
    assert bucket_of(10**9) < 40


def test_times_are_those_of_the_level_or_of_the_nearest_that_has_some() -> None:
    times = ServiceTimes()
    for _ in range(4):
        times.add(1.0, 1, 0.010)
        times.add(1.0, 16, 0.160)
    assert times.at(1, 1.0)[0] == 0.010
    assert times.at(16, 1.0)[0] == 0.160
    assert times.at(24, 1.0)[0] == 0.160, "one step below"
    assert times.at(11, 1.0)[0] == 0.160, "one step above"
    assert not times.at(100, 1.0)
    assert not times.at(5000, 1.0)


def test_below_comes_before_above_and_three_are_too_few() -> None:
    times = ServiceTimes()
    for _ in range(4):
        times.add(1.0, 2, 0.02)
        times.add(1.0, 4, 0.04)
    for _ in range(3):
        times.add(1.0, 3, 0.03)
    assert times.at(3, 1.0)[0] == 0.02
    times.add(1.0, 3, 0.03)
    assert times.at(3, 1.0)[0] == 0.03


def drain(gap: float, count: int, *, batch: int = 1, cost: float = 1.0) -> Drain:
    """A flow with `batch` departures every `batch * gap` seconds, while somebody waits."""
    flow = Drain()
    for number in range(count):
        flow.leave((number // batch) * batch * gap, 0.05, cost, backlogged=True)
    return flow


@pytest.mark.parametrize(("batch", "tolerance"), [(1, 0.001), (4, 0.05), (16, 0.2)])
def test_the_rate_is_what_leaves_while_somebody_waits_in_batches_too(batch: int, tolerance: float) -> None:
    flow = drain(0.01, 1600, batch=batch)
    assert flow.rate == pytest.approx(100.0, rel=tolerance)
    assert flow.wait(50.0, 8) == pytest.approx(0.5, rel=tolerance)


def test_work_is_counted_by_its_cost() -> None:
    assert drain(0.01, 1000, cost=2.0).wait(4.0, 8) == pytest.approx(0.02)


def test_departures_without_a_queue_say_nothing_of_the_capacity() -> None:
    flow = drain(0.01, 200)
    for number in range(20):
        flow.leave(2.0 + number * 0.5, 0.05, 1.0, backlogged=False)
    assert flow.rate == pytest.approx(100.0)


def test_before_anybody_has_waited_slots_and_their_time_tell_the_wait() -> None:
    flow = Drain()
    assert (flow.wait(10.0, 8), flow.rate, flow.load) == (0.0, 0.0, 1.0)
    flow.leave(1.0, 0.08, 1.0, backlogged=False)
    assert flow.wait(10.0, 8) == pytest.approx(0.1)


def test_a_stall_is_forgotten_though_nobody_dares_to_wait() -> None:
    """After a stall whoever would wait is refused, so no departure has a queue behind it: the rate would stay low."""
    flow = drain(0.01, 200)
    flow.leave(62.0, 60.0, 1.0, backlogged=True)
    assert flow.rate < 2.0
    for number in range(1, 400):
        flow.leave(62.0 + number * 0.0125, 0.05, 1.0, backlogged=False)
    assert flow.rate == pytest.approx(80.0, rel=0.05)


def test_a_light_load_does_not_pass_for_the_capacity() -> None:
    flow = drain(0.01, 200)
    for number in range(400):
        flow.leave(2.0 + number * 0.05, 0.05, 1.0, backlogged=False)
    assert flow.rate == pytest.approx(100.0)


def test_few_departures_are_counted_over_a_longer_span() -> None:
    flow = drain(0.5, 40)
    flow.leave(200.0, 100.0, 1.0, backlogged=True)
    slow = flow.rate
    for number in range(1, 100):
        flow.leave(200.0 + number * 0.5, 0.5, 1.0, backlogged=False)
    assert slow < 0.5
    assert flow.rate == pytest.approx(2.0, rel=0.1)


def test_the_load_is_offered_over_served_and_never_below_one() -> None:
    flow = drain(0.01, 1000)
    for number in range(2000):
        flow.arrive(10.0 + number * 0.0025, 0.5)
    assert flow.load == pytest.approx(4.0, rel=0.01)
    for number in range(2000):
        flow.arrive(20.0 + number * 0.1, 2.0)
    assert flow.load == 1.0
    assert flow.patience == pytest.approx(2.0, rel=0.01)


def test_a_pause_in_the_arrivals_counts_as_a_second() -> None:
    flow, other = drain(0.01, 1000), drain(0.01, 1000)
    for each, pause in ((flow, 1.0), (other, 1000.0)):
        for number in range(500):
            each.arrive(10.0 + number * 0.001, 0.5)
        each.arrive(10.5 + pause, 0.5)
        for number in range(50):
            each.arrive(10.5 + pause + number * 0.001, 0.5)
    assert 1.2 < flow.load == pytest.approx(other.load, rel=0.02)


@pytest.mark.parametrize(("ago", "wants"), [(0.0, True), (0.04, True), (0.06, False)])
def test_a_refusal_tells_of_more_to_do_for_as_long_as_a_request_takes(ago: float, wants: bool) -> None:
    flow = drain(0.01, 100)
    assert not flow.is_wanting(5.0)
    flow.refused_at = 5.0
    assert flow.is_wanting(5.0 + ago) is wants


def test_what_comes_within_a_moment_counts_as_often_as_it_came() -> None:
    """At 50,000 a second one in 20 is looked at, and the rates and means are the same."""
    flow = drain(0.00004, 4000)
    for number in range(40_000):
        flow.arrive(10.0 + number * 0.00002, 0.5)
    assert flow.load == pytest.approx(2.0, rel=0.02)
    for number in range(40_000):
        flow.arrive(20.0 + number * 0.00002, 0.9)
        flow.leave(20.0 + number * 0.00002, 0.2, 1.0, backlogged=False)
    assert flow.patience == pytest.approx(0.9, rel=0.01)
    assert flow.hold == pytest.approx(0.2, rel=0.01)
