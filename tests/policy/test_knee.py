"""The search for the knee on predictors whose throughput is a formula of the limit."""

import random
from collections.abc import Callable

import pytest

from agent.policy.knee import Decision, Knee, Phase, Reason

Seconds = Callable[[int], float]


def workers(count: int, service: float = 0.05) -> Seconds:
    """So many workers and a queue of their own before them."""
    return lambda limit: service * max(1.0, limit / count)


def batcher(limit: int) -> float:
    """Up to 16 at once in 30 ms and 2.5 ms for each."""
    size = min(limit, 16)
    return (0.030 + 0.0025 * size) * max(1.0, limit / 16)


class Drive:
    """Lets requests end at the pace of a saturated predictor; `noise` is the deviation of the times, as a share."""

    def __init__(self, knee: Knee, seconds: Seconds, *, guard: float = 0.0, noise: float = 0.0, seed: int = 1) -> None:
        self.knee, self.seconds, self.guard, self.noise = knee, seconds, guard, noise
        self.random = random.Random(seed)
        self.now = 100.0
        self.decisions: list[Decision] = []

    def run(self, duration: float, *, saturated: bool = True) -> list[Reason]:
        """Returns why the limit was changed, single steps of experiments left out."""
        end, before = self.now + duration, len(self.decisions)
        while self.now < end:
            limit = self.knee.limit
            seconds = self.seconds(limit)
            self.now += seconds / limit * max(0.1, self.random.gauss(1.0, 2 * self.noise))
            took = seconds * max(0.1, self.random.gauss(1.0, self.noise))
            decision = self.knee.sample(self.now, limit, saturated=saturated, seconds=took, guard=self.guard)
            if decision is not None:
                self.decisions.append(decision)
                assert decision.limit == self.knee.limit
            assert self.knee.lowest <= self.knee.limit <= self.knee.highest
        return [decision.reason for decision in self.decisions[before:] if decision.reason is not Reason.PROBE]


@pytest.mark.parametrize("start", [1, 2, 8, 30, 128])
@pytest.mark.parametrize(("seconds", "right"), [(workers(8), 8), (batcher, 16), (workers(1), 1), (workers(100), 100)])
def test_the_limit_comes_to_the_knee_from_everywhere(start: int, seconds: Seconds, right: int) -> None:
    knee = Knee(start, highest=512)
    Drive(knee, seconds, noise=0.2).run(4000.0 if right == 1 else 400.0)
    assert knee.phase in {Phase.HOLDING, Phase.PROBING}
    assert right / 1.3 <= knee.centre <= right * 1.6 + 1
    assert knee.rate == pytest.approx(right / seconds(right), rel=0.15)


def test_it_doubles_while_that_pays_and_takes_the_last_doubling_back() -> None:
    drive = Drive(Knee(2), workers(8))
    drive.run(6.0)
    reasons = [(decision.limit, decision.reason) for decision in drive.decisions]
    assert reasons[:4] == [(4, Reason.CLIMBED), (8, Reason.CLIMBED), (16, Reason.CLIMBED), (8, Reason.SETTLED)]


def test_an_experiment_tries_more_and_less_twice_and_then_waits_longer_each_time() -> None:
    drive = Drive(Knee(8, lowest=8, highest=16), workers(8))
    drive.run(3.0)
    begun = next(index for index, one in enumerate(drive.decisions) if one.reason is Reason.SETTLED)
    drive.run(100.0)
    steps = drive.decisions[begun + 1 : begun + 9]
    assert [one.limit for one in steps[:7]] == [10, 8, 8, 8, 10, 8, 8]
    assert steps[7].reason is Reason.HELD
    times = drive.run(300.0)
    assert set(times) == {Reason.HELD}
    assert 3 <= len(times) <= 6, "once a minute in the end"


@pytest.mark.parametrize(("lowest", "highest"), [(1, 1), (1, 3), (4, 6)])
def test_the_bounds_are_kept(lowest: int, highest: int) -> None:
    drive = Drive(Knee(lowest, lowest=lowest, highest=highest), workers(100), noise=0.3)
    drive.run(60.0)
    assert knee_is(drive, highest)


def knee_is(drive: Drive, limit: int) -> bool:
    return round(drive.knee.centre) == limit


def test_at_the_upper_bound_doubling_is_over() -> None:
    drive = Drive(Knee(4, highest=4), workers(100))
    assert drive.run(1.0)[0] is Reason.SETTLED
    assert drive.decisions[0].limit == 4


@pytest.mark.parametrize("start", [0, 9])
def test_a_start_outside_the_bounds_is_a_defect(start: int) -> None:
    with pytest.raises(AssertionError):
        Knee(start, highest=8)


def test_without_more_to_do_nothing_is_learnt() -> None:
    drive = Drive(Knee(8), workers(8))
    assert drive.run(60.0, saturated=False) == []
    assert (drive.knee.limit, drive.knee.phase) == (8, Phase.CLIMBING)


def test_one_idle_moment_begins_the_window_anew() -> None:
    knee = Knee(1)
    for number in range(1000):
        assert knee.sample(number / 100, 1, saturated=number % 60 != 0) is None


def test_a_limit_far_too_high_is_cut_at_once() -> None:
    drive = Drive(Knee(128), workers(8), guard=0.25, noise=0.1)
    reasons = drive.run(5.0)
    assert reasons[0] is Reason.GUARD
    assert drive.decisions[0].limit <= 64
    drive.run(60.0)
    assert drive.knee.centre < 40
    assert Reason.RESTORED not in drive.run(60.0)


def test_a_model_that_is_slow_at_any_limit_is_not_starved() -> None:
    drive = Drive(Knee(8), lambda limit: 0.4, guard=0.25, noise=0.1)
    reasons = drive.run(60.0)
    assert Reason.RESTORED in reasons
    assert reasons.index(Reason.RESTORED) <= 4
    drive.run(120.0)
    assert drive.knee.centre > 30, "each slot does as much as the others"


def test_a_cut_that_leaves_the_throughput_is_no_mistake_though_the_times_were_short_at_first() -> None:
    """A line that was only building up when the first cut came makes the times after it look no better."""
    knee, now = Knee(64), 10.0
    decisions = []
    for _ in range(200):
        now += 0.00625  # 160 a second, whatever the limit
        took = min(now - 10.0, 0.4)
        decision = knee.sample(now, 64 if now < 10.4 else 16, saturated=True, seconds=took, guard=0.25)
        decisions += [decision] if decision is not None else []
    assert [one.reason for one in decisions if one.reason is not Reason.CLIMBED][:2] == [Reason.GUARD, Reason.GUARD]


def test_after_a_cut_the_way_back_is_climbed_by_doubling() -> None:
    slow = False
    drive = Drive(Knee(8, highest=64), lambda limit: (0.8 if slow else 0.05) * max(1.0, limit / 8), guard=0.25)
    drive.run(60.0)
    settled = drive.knee.centre
    slow = True
    assert Reason.GUARD in drive.run(5.0)
    low = drive.knee.centre
    slow = False
    drive.run(8.0)
    assert low <= settled / 2 < 0.7 * settled <= drive.knee.centre


def test_times_under_an_earlier_limit_do_not_cut_again() -> None:
    knee = Knee(100)
    for number in range(48):
        decision = knee.sample(10.0 + number / 1000, 100, saturated=True, seconds=1.0, guard=0.25)
    assert decision is not None
    assert decision.reason is Reason.GUARD
    for number in range(200):
        assert knee.sample(10.1 + number / 1000, 100, saturated=False, seconds=1.0, guard=0.25) is None


def test_requests_that_say_nothing_of_the_time_still_count() -> None:
    knee = Knee(1)
    decisions = [knee.sample(number / 100, 1, saturated=True, guard=0.001) for number in range(200)]
    assert [one.reason for one in decisions if one is not None][:1] == [Reason.CLIMBED]


def test_it_follows_a_predictor_that_changes() -> None:
    cores = 4
    drive = Drive(Knee(4), lambda limit: 0.05 * max(1.0, limit / cores), noise=0.1)
    drive.run(100.0)
    assert 3 <= drive.knee.centre <= 7
    cores = 16
    drive.run(400.0)
    assert 12 <= drive.knee.centre <= 26


def test_the_very_limit_that_was_measured_is_taken() -> None:
    """Batches of four: 12 does more than 13."""
    drive = Drive(
        Knee(16, highest=16), lambda limit: 0.05 * max(1, -(-limit // 4)) / 3 if limit <= 12 else 0.05 * limit / 12
    )
    drive.run(60.0)
    assert Reason.LOWERED in {decision.reason for decision in drive.decisions}
    assert drive.knee.centre == 12.0
