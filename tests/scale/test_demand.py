"""The demand from integrals: against a server simulated step by step, over windows, and what a replica is worth."""

import random

import pytest

from agent.errors import Outcome
from agent.observe.counters import ModelCounters
from agent.policy.usage import Usage
from agent.scale.demand import DRAIN_S, LONGEST_S, UTILIZATION, Demand, Meter, Reading, between, read

LIMIT = 8


def test_the_demand_is_the_mean_of_what_runs_and_what_was_refused() -> None:
    earlier = Reading(100.0, 10.0, 5.0, 1.0, 10, 8, 1)
    later = Reading(110.0, 50.0, 25.0, 241.0, 110, 88, 11)
    demand = between(earlier, later)
    assert demand == Demand(10.0, inflight=4.0, queued=2.0, rejected=24.0, arrived=10.0, served=8.0, failed=1.0)
    assert demand.total == 28.0
    assert demand.service_s == 0.5


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_no_demand(seconds: float) -> None:
    demand = between(Reading(5.0, 1.0), Reading(5.0 + seconds, 9.0))
    assert set(demand) == {0.0}
    assert demand.service_s == demand.share(LIMIT) == 0.0


def test_a_share_is_what_the_demand_fills_of_a_replica_that_is_not_to_be_full() -> None:
    demand = Demand(60.0, inflight=8.0, queued=0.0, rejected=24.0, arrived=640.0, served=160.0, failed=480.0)
    assert demand.share(LIMIT) == pytest.approx(32.0 / (LIMIT * UTILIZATION))
    assert demand.share(None) is None


def test_what_waits_is_to_be_gone_within_the_drain_time() -> None:
    demand = Demand(60.0, inflight=8.0, queued=600.0, rejected=0.0, arrived=160.0, served=160.0, failed=0.0)
    assert (demand.share(LIMIT) or 0.0) * LIMIT * UTILIZATION == pytest.approx(8.0 + 600.0 * 0.05 / DRAIN_S)


def gate(seed: int, load: float) -> tuple[Usage, list[Reading], float, float]:
    """A gate of `LIMIT` slots and a queue of two, in steps of a millisecond.

    Returns its usage, a reading a second, the mean of min(limit, inflight + queued), and the offered concurrency.
    """
    generator = random.Random(seed)
    usage, now, service_s = Usage("m", 0.0), 0.0, 0.05
    ends: list[float] = []
    readings, level_seconds, offered = [Reading(0.0)], 0.0, 0
    for step in range(1, 30_001):
        now = step / 1000
        usage.advance(now)
        level_seconds += min(LIMIT, usage.inflight + usage.queued) / 1000
        for _ in range(sum(end <= now for end in ends)):
            usage.inflight -= 1
            if usage.queued:
                usage.queued -= 1
                usage.inflight += 1
                ends.append(now + service_s)
        ends = [end for end in ends if end > now]
        if generator.random() < load * LIMIT / service_s / 1000:
            offered += 1
            if usage.inflight < LIMIT:
                usage.inflight += 1
                ends.append(now + service_s)
            elif usage.queued < 2:
                usage.queued += 1
            else:
                usage.rejected_demand_seconds += service_s
        if step % 1000 == 0:
            readings.append(read([usage], {}, now))
    return usage, readings, level_seconds / now, offered * service_s / now


@pytest.mark.parametrize("load", [0.5, 1.2, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_smaller_of_limit_and_level_and_never_hides_what_was_refused(seed: int, load: float) -> None:
    _, readings, level, offered = gate(seed, load)
    demand = between(readings[0], readings[-1])
    assert demand.inflight == pytest.approx(level, rel=0.01)
    assert demand.total == pytest.approx(offered, rel=0.05)


def test_a_window_of_means_is_the_mean_of_its_seconds() -> None:
    _, readings, _, _ = gate(1, 1.2)
    meter = Meter(readings[0])
    for reading in readings[1:]:
        meter.keep(reading)
    for seconds in (1, 7, 30):
        whole = meter.over(seconds, readings[-1])
        parts = [between(*pair) for pair in zip(readings[-seconds - 1 :], readings[-seconds:], strict=False)]
        assert whole.seconds == pytest.approx(seconds)
        assert whole.total == pytest.approx(sum(part.total for part in parts) / seconds)


def test_a_young_meter_tells_of_the_time_that_it_knows() -> None:
    meter = Meter(Reading(10.0))
    assert meter.over(60.0, Reading(10.0)).seconds == 0.0
    assert meter.over(60.0, Reading(12.0, 4.0)) == between(Reading(10.0), Reading(12.0, 4.0))


def test_a_meter_keeps_as_much_as_the_longest_window_needs() -> None:
    meter = Meter(Reading(0.0))
    for second in range(1, 1001):
        meter.keep(Reading(float(second), float(second)))
    assert meter.over(LONGEST_S, Reading(1000.5, 1000.5)).seconds == LONGEST_S + 0.5
    assert meter.over(9999.0, Reading(1000.0, 1000.0)).seconds == LONGEST_S


def test_a_reading_sums_all_models_and_counts_what_came_and_how_it_ended() -> None:
    one, other = Usage("a", 0.0), Usage("b", 0.0, "grpc")
    one.inflight, other.inflight, other.queued = 2, 1, 3
    one.rejected_demand_seconds, other.rejected_demand_seconds = 0.5, 0.25
    for usage in (one, other):
        usage.advance(2.0)
    http, grpc = ModelCounters(), ModelCounters()
    http.ended = {(200, Outcome.SERVED): 5, (503, Outcome.OVERLOAD): 2, (499, Outcome.CLIENT_GONE): 1}
    grpc.ended = {(0, Outcome.SERVED): 4, (14, Outcome.UPSTREAM_CLOSED): 1}
    assert read([one, other], {("a", "http"): http, ("b", "grpc"): grpc}, 2.0) == Reading(
        2.0, 6.0, 6.0, 0.75, arrived=13 + 6, served=9, failed=3
    )
