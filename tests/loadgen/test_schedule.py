"""The schedule against naive models: exact fractions for constant arrivals, a walk along the axis for Poisson."""

import math
import random
from fractions import Fraction
from itertools import pairwise
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.schedule import MAX_ARRIVALS, Arrivals, Schedule, Step, draw, planned_arrivals
from loadgen.schedule import given as given_times

NS = 1_000_000_000

# Exact in binary, so that an arrival at the very end of a step is on the same side of it for the model as for the code.
steps = st.lists(
    st.builds(
        Step,
        st.sampled_from([0.0, 0.5, 3.0, 10.0, 34.25, 250.0]),
        st.sampled_from([0.125, 0.25, 1.0, 2.0]),
        end_rate=st.none(),
    ),
    min_size=1,
    max_size=5,
)


def naive_times(plan: list[Step], positions: list[float]) -> list[float]:
    """Each position on the axis "requests planned so far" turned into seconds, by walking all steps for each."""
    times = []
    for position in positions:
        start = Fraction(0)
        left = Fraction(position)
        for step in plan:
            room = Fraction(step.rate) * Fraction(step.duration_s)
            if left < room:
                times.append(float(start + left / Fraction(step.rate)))
                break
            left -= room
            start += Fraction(step.duration_s)
    return times


@given(steps)
def test_constant_arrivals_equal_the_naive_walk(plan: list[Step]) -> None:
    drawn = draw(plan, Arrivals.CONSTANT, seed=0)
    expected = naive_times(plan, [float(number) for number in range(math.ceil(planned_arrivals(plan)) + 1)])
    assert [offset / NS for offset in drawn.offsets_ns] == pytest.approx(expected, abs=2e-9)


@given(steps, st.integers(0, 2**32 - 1))
def test_poisson_arrivals_equal_the_naive_walk(plan: list[Step], seed: int) -> None:
    source = random.Random(seed)
    positions = [source.expovariate(1.0)]
    while positions[-1] < planned_arrivals(plan):
        positions.append(positions[-1] + source.expovariate(1.0))
    drawn = draw(plan, Arrivals.POISSON, seed)
    assert [offset / NS for offset in drawn.offsets_ns] == pytest.approx(naive_times(plan, positions), abs=2e-9)


@given(steps, st.sampled_from(Arrivals), st.integers(0, 1000), st.integers(0, 50))
def test_arrivals_ascend_lie_in_their_step_and_a_limit_keeps_the_first(
    plan: list[Step], arrivals: Arrivals, seed: int, limit: int
) -> None:
    whole = draw(plan, arrivals, seed)
    offsets = list(whole.offsets_ns)
    assert offsets == sorted(offsets)
    start_s = 0.0
    for number, step in enumerate(plan):
        first = whole.first[number]
        mine = offsets[first : first + whole.arrivals_in(number)]
        assert all(round(start_s * NS) <= offset < round((start_s + step.duration_s) * NS) for offset in mine)
        start_s += step.duration_s
    assert sum(whole.arrivals_in(number) for number in range(len(plan))) == len(offsets)
    assert list(draw(plan, arrivals, seed, limit).offsets_ns) == offsets[:limit]


def test_a_constant_rate_is_evenly_spaced_from_zero() -> None:
    drawn = draw([Step(4.0, 1.0)], Arrivals.CONSTANT, seed=9)
    assert list(drawn.offsets_ns) == [0, NS // 4, NS // 2, 3 * NS // 4]


def test_a_rate_that_doubles_in_the_middle_of_a_gap_halves_the_rest_of_it() -> None:
    drawn = draw([Step(1.0, 0.5), Step(2.0, 2.0)], Arrivals.CONSTANT, seed=0)
    assert list(drawn.offsets_ns) == [0, NS * 3 // 4, NS * 5 // 4, NS * 7 // 4, NS * 9 // 4]


def test_a_pause_sends_nothing_and_loses_nothing() -> None:
    drawn = draw([Step(2.0, 1.0), Step(0.0, 5.0), Step(2.0, 1.0)], Arrivals.CONSTANT, seed=0)
    assert [offset / NS for offset in drawn.offsets_ns] == [0.0, 0.5, 6.0, 6.5]
    assert drawn.first == (0, 2, 2)


def test_an_arrival_a_fraction_of_a_nanosecond_before_a_step_ends_stays_inside() -> None:
    drawn = draw([Step(1 / (1 - 2e-10), 1.0), Step(0.0, 1.0)], Arrivals.CONSTANT, seed=0)
    assert list(drawn.offsets_ns) == [0, NS - 1]
    assert drawn.first == (0, 2)


def test_poisson_counts_and_gaps_follow_the_law() -> None:
    drawn = draw([Step(1000.0, 20.0)], Arrivals.POISSON, seed=4)
    count = len(drawn.offsets_ns)
    assert abs(count - 20_000) < 5 * math.sqrt(20_000)
    gaps = [(after - before) / NS for before, after in zip(drawn.offsets_ns, drawn.offsets_ns[1:], strict=False)]
    # Exponential gaps: a share of exp(-x) is longer than x means; 5 standard errors of it are below 0.018.
    for means in (0.1, 0.5, 1.0, 2.0, 4.0):
        share = sum(gap > means / 1000.0 for gap in gaps) / len(gaps)
        assert share == pytest.approx(math.exp(-means), abs=0.018)


def test_the_seed_decides() -> None:
    plan = [Step(100.0, 1.0)]
    assert draw(plan, Arrivals.POISSON, 1) == draw(plan, Arrivals.POISSON, 1)
    assert draw(plan, Arrivals.POISSON, 1) != draw(plan, Arrivals.POISSON, 2)


def test_an_endless_last_step_is_ended_by_the_limit() -> None:
    drawn = draw([Step(10.0, 1.0), Step(100.0, math.inf)], Arrivals.CONSTANT, seed=0, limit=15)
    assert [round(offset / NS, 9) for offset in drawn.offsets_ns[10:]] == [1.0, 1.01, 1.02, 1.03, 1.04]
    assert isinstance(drawn, Schedule)


@pytest.mark.parametrize(
    "plan",
    [
        [Step(-1.0, 1.0)],
        [Step(1.0, -1.0)],
        [Step(math.inf, 1.0)],
        [Step(math.nan, 1.0)],
        [Step(1.0, math.inf), Step(1.0, 1.0)],
        [Step(float(MAX_ARRIVALS), 1.1)],
        [Step(1.0, math.inf)],
    ],
)
def test_what_cannot_be_planned_is_refused(plan: list[Step]) -> None:
    with pytest.raises(ValueError):
        draw(plan, Arrivals.POISSON, seed=0, limit=MAX_ARRIVALS * 2)


@pytest.mark.parametrize(("first", "last"), [(0.0, 400.0), (400.0, 0.0), (100.0, 300.0)])
def test_a_ramp_changes_its_rate_evenly(first: float, last: float) -> None:
    step = Step(first, 2.0, last)
    offsets = draw([step], Arrivals.CONSTANT, seed=0).offsets_ns
    assert len(offsets) == step.planned == 400.0
    for half, rate in ((0, (3 * first + last) / 4), (1, (first + 3 * last) / 4)):
        inside = sum(half * NS <= offset < (half + 1) * NS for offset in offsets)
        assert inside == pytest.approx(rate, abs=1)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_gamma_gaps_have_the_spread_that_was_asked_for(spread: float) -> None:
    offsets = draw([Step(1000.0, 30.0)], Arrivals.GAMMA, 5, spread=spread).offsets_ns
    gaps = [(after - before) / NS for before, after in pairwise(offsets)]
    assert mean(gaps) == pytest.approx(0.001, rel=0.08)
    assert stdev(gaps) / mean(gaps) == pytest.approx(spread, rel=0.08)


def test_given_times_are_sorted_and_checked() -> None:
    schedule = given_times([2.0, 0.5, 1.0])
    assert list(schedule.offsets_ns) == [NS // 2, NS, 2 * NS]
    assert (schedule.arrivals_in(0), schedule.steps[0].duration_s) == (3, 2.0)
    for times in ([], [-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError):
            given_times(times)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shares_are_the_whole_in_turns_and_keep_its_steps(of: int) -> None:
    whole = draw([Step(50.0, 0.2), Step(0.0, 0.1), Step(90.0, 0.3)], Arrivals.POISSON, seed=4)
    shares = [whole.share(number, of) for number in range(of)]
    assert sorted(offset for share in shares for offset in share.offsets_ns) == list(whole.offsets_ns)
    assert list(shares[0].offsets_ns) == list(whole.offsets_ns)[::of]
    for step in range(3):
        assert sum(share.arrivals_in(step) for share in shares) == whole.arrivals_in(step)
        for share in shares:
            end = share.first[step] + share.arrivals_in(step)
            start_ns, end_ns = ((0, 200_000_000), (200_000_000, 300_000_000), (300_000_000, 600_000_000))[step]
            assert all(start_ns <= offset < end_ns for offset in share.offsets_ns[share.first[step] : end])
