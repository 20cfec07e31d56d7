"""The arithmetic of sweeps: stability, smoothing, knees, levels, advice, scraped metrics; each against plain cases."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.advice import (
    gated_patch,
    isvc_patch,
    keda_scaledobject,
    kpa_percent,
    limit_of,
    points_of,
    queue_of,
    scaling_of,
)
from loadgen.knee import Point, bracket, find_knee, fit_usl
from loadgen.level import Level, generator_problem, little_problem
from loadgen.record import Outcome, Recorder, Sample
from loadgen.scrape import read_metrics, split_of
from loadgen.stats import is_drifting, is_steady, relative_half_width, rising, variation
from loadgen.sweep import find
from loadgen.values import parse_slo

MS = 1_000_000


@given(st.lists(st.floats(0, 1e6), max_size=12))
def test_smoothing_rises_and_is_the_closest_that_does(values: list[float]) -> None:
    smooth = rising(values)
    assert all(a <= b + 1e-6 for a, b in pairwise(smooth))
    assert math.fsum(smooth) == pytest.approx(math.fsum(values), rel=1e-6, abs=1e-6)
    # By the min-max formula of isotonic regression: the largest over starts of the least mean over ends.
    for at in range(len(values)):
        exact = max(
            min(math.fsum(values[start : end + 1]) / (end + 1 - start) for end in range(at, len(values)))
            for start in range(at + 1)
        )
        assert smooth[at] == pytest.approx(exact, rel=1e-6, abs=1e-6)


def test_four_like_windows_are_steady_and_a_slow_drift_is_not() -> None:
    assert is_steady([100, 300, 200, 201, 199, 200], 0.03)
    assert not is_steady([200, 201, 199], 0.03)
    assert not is_steady([200, 220, 180, 200], 0.03)
    assert is_steady([4, 5, 4, 5], 0.03)  # whole requests explain it
    assert not is_steady([0, 0, 0, 0], 0.03)
    assert is_drifting([10.0, 11.0, 12.0, 13.0])
    assert not is_drifting([10.0, 12.0, 10.0, 12.0])
    assert not is_drifting([10.0, 10.01, 10.02, 10.03])
    assert not is_drifting([10.0, 20.0, 30.0])
    assert variation([1.0, 3.0]) == pytest.approx(math.sqrt(2) / 2)
    assert relative_half_width([10.0, 12.0, 11.0, 11.0]) == pytest.approx(3.18 * math.sqrt(2 / 3) / 2 / 11, rel=0.01)


def slots(n: int) -> float:
    return min(n, 4) / 0.02


def batcher(n: int) -> float:
    return min(n, 32) / (0.008 + 0.0005 * min(n, 32))


def contended(n: int) -> float:
    return 1000 * n / (1 + 0.05 * (n - 1) + 0.001 * n * (n - 1))


@pytest.mark.parametrize(("rate", "right"), [(slots, {4}), (batcher, {24, 32}), (contended, {24})])
def test_the_knee_of_noisy_sweeps_is_that_of_the_server(rate: object, right: set[int]) -> None:
    levels = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)
    found = set()
    for seed in range(100):
        source = random.Random(seed)
        curve = [(n, rate(n) * source.gauss(1, 0.01)) for n in levels]  # type: ignore[operator]
        found.add(find_knee([Point(n, x, n / x) for n, x in curve]).throughput)
    assert found <= {n for level in right for n in levels if abs(levels.index(n) - levels.index(level)) <= 1}


def test_the_scalability_law_is_found_again_and_a_flat_curve_has_no_loss() -> None:
    law = fit_usl([Point(n, contended(n), n / contended(n)) for n in (1, 2, 4, 8, 16, 32, 64)])
    assert law is not None
    assert (law.a, law.s, law.k, law.r2) == pytest.approx((1000, 0.05, 0.001, 1.0))
    flat = fit_usl([Point(n, 100.0, n / 100) for n in (1, 2, 4, 8)])
    assert flat is not None
    assert (flat.s, flat.k) == pytest.approx((1.0, 0.0))
    assert fit_usl([Point(1, 1.0, 1.0)] * 3) is None
    assert bracket([Point(2, 50.0, 0.04), Point(4, 100.0, 0.04), Point(8, 100.0, 0.08)]) == (2, 4)


def recorder(times_ms: Sequence[float], shed: int = 0, lag_ms: float = 0.0) -> Recorder:
    made = Recorder()
    for number, time_ms in enumerate([*times_ms, *[0.1] * shed]):
        sample = Sample(1)
        sample.sent_ns = 1 + round(lag_ms * MS)
        sample.done_ns = sample.sent_ns + round(time_ms * MS)
        sample.outcome = Outcome.OK if number < len(times_ms) else Outcome.SHED
        sample.status = 200 if sample.outcome is Outcome.OK else 503
        made.add(sample)
    return made


def closed(callers: int, rate: float, tail_ms: float | None = None, seconds: float = 10.0) -> Level:
    """A level that obeys Little's law."""
    time_ms = callers / rate * 1e3 if tail_ms is None else tail_ms
    return Level(callers, 0.0, recorder([time_ms] * round(rate * seconds)), seconds)


def test_littles_law_is_checked_and_a_pause_breaks_it() -> None:
    assert little_problem(closed(8, 100.0)) == ""
    slow = Level(8, 0.0, recorder([40.0] * 1000), 10.0)  # 100/s of 40 ms are 4 in flight, not 8
    assert "8.0 requests were in flight, but rate times mean time is 4.0" in little_problem(slow)
    assert little_problem(Level(8, 0.0, recorder([40.0] * 100), 1.0)) == ""  # too few to say so
    opened = Level(0, 100.0, recorder([40.0] * 1000), 10.0, inflight=4.2)
    assert little_problem(opened) == ""
    assert "Little" in little_problem(Level(0, 100.0, recorder([40.0] * 1000), 10.0, inflight=8.0))


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (Level(0, 10.0, recorder([10.0] * 100, lag_ms=0.9), 10.0), ""),
        (Level(0, 10.0, recorder([10.0] * 100, lag_ms=5.0), 10.0), "late by 5.0 ms"),
        (Level(0, 10.0, recorder([100.0] * 100, lag_ms=5.0), 10.0), ""),
        (Level(0, 10.0, recorder([1.0]), 10.0, backlogged=3), "3 requests waited"),
        (Level(0, 10.0, recorder([1.0]), 10.0, cpu_share=0.97), "97% of a core"),
        (Level(1, 0.0, recorder([10.0] * 100), 1.0, stall_s=0.2), "stood still for 200 ms"),
        (Level(1, 0.0, recorder([300.0] * 3), 1.0, stall_s=0.2), ""),
        (Level(0, 10.0, Recorder(), 10.0), ""),
    ],
)
def test_the_generator_is_blamed_where_its_own_trouble_shows(level: Level, said: str) -> None:
    assert (said in generator_problem(level)) if said else generator_problem(level) == ""


CURVE = [closed(n, slots(n)) for n in (1, 2, 3, 4, 6, 8, 16)]


def test_the_limit_is_the_knee_unless_the_objective_is_broken_before() -> None:
    wide, tight = [parse_slo("p99<1s")], [parse_slo("p99<25ms")]
    found = limit_of(CURVE, wide)
    assert found is not None
    assert (found.limit, found.slo) == (4, 16)
    found = limit_of([closed(n, slots(n), tail_ms=20.0 if n < 3 else 30.0) for n in (1, 2, 3, 4)], tight)
    assert found is not None
    assert (found.limit, found.slo, found.knee.throughput) == (2, 2, 4)
    nothing = limit_of(CURVE, [parse_slo("p99<5ms")])
    assert nothing is not None
    assert (nothing.limit, nothing.slo) == (0, None)
    assert limit_of([Level(1, 0.0, recorder([], shed=5), 1.0)], wide) is None


def test_of_several_measurements_of_a_level_those_count_that_can_be_trusted() -> None:
    steady, slow = closed(4, 200.0), closed(4, 180.0)
    assert points_of([steady, slow]) == [pytest.approx((4, 190.0, 0.0211), rel=1e-3)]
    unstable, stalled = replace(slow, problem="it varies"), replace(slow, stall_s=1.0)
    assert points_of([unstable, steady, stalled]) == points_of([steady])
    assert points_of([unstable, stalled]) == points_of([slow])


def test_a_batchers_limit_is_whole_batches_as_far_as_the_objective_allows() -> None:
    slo = [parse_slo("p99<1s")]
    assert limit_of(CURVE, slo, batch=8).limit == 8  # type: ignore[union-attr]
    assert limit_of(CURVE[:5], slo, batch=4).limit == 4  # type: ignore[union-attr]
    assert limit_of(CURVE[:4], slo, batch=3).limit == 3  # type: ignore[union-attr]


def test_queue_and_scaling_follow_their_formulas() -> None:
    slo = parse_slo("p99<250ms")
    queue = queue_of(closed(14, 331.0, tail_ms=71.0), slo)
    assert queue.wait_s == pytest.approx(0.179, abs=0.001)
    assert queue.slots in {58, 59}
    scaling = scaling_of(298.0, 11.6, growth=0.005, startup_s=35.0)
    assert (scaling.headroom, scaling.concurrency) == (pytest.approx(0.851, abs=1e-3), 9)
    assert kpa_percent(14, scaling) == round(100 * 11.6 * scaling.headroom / 14)
    patch = isvc_patch(14, queue, scaling, slo)
    for line in ("    containerConcurrency: 14\n", "    scaleMetric: concurrency\n", "    scaleTarget: 14\n"):
        assert f"\n{line}" in patch
    assert f'target-utilization-percentage: "{kpa_percent(14, scaling)}"\n' in patch
    gated = gated_patch(14, queue, scaling, slo)
    for line in (
        'headgate.dev/limit: "14"',
        "headgate.dev/deadline: 250ms",
        "scaleTarget: 9",
        "containerConcurrency: 0",
    ):
        assert f" {line}\n" in gated
    assert '        threshold: "9"\n' in keda_scaledobject(scaling)


def test_a_search_smooths_what_noise_turned_around() -> None:
    tails = {2: 20.0, 4: 40.0, 8: 95.0, 10: 90.0, 12: 130.0}
    levels = [closed(n, 100.0, tail_ms=tail) for n, tail in tails.items()]
    found = find(levels, [parse_slo("p99<100ms")])
    assert (found.passing and found.passing.callers, found.failing and found.failing.callers) == (10, 12)
    assert found.kind == "smooth"
    cliff = find([closed(8, 100.0, tail_ms=20.0), closed(9, 100.0, tail_ms=400.0)], [parse_slo("p99<100ms")])
    assert cliff.kind.startswith("cliff: 2")
    shed = Level(16, 0.0, recorder([10.0] * 600, shed=60), 1.0)
    found = find([closed(8, 100.0, tail_ms=20.0), shed], [parse_slo("p99<100ms"), parse_slo("shed<1%")])
    assert (found.passing and found.passing.callers, found.kind) == (8, "shed")


def test_metrics_of_both_known_servers_are_split() -> None:
    before = read_metrics('# HELP x\nheadgate_queue_wait_seconds_sum{model="a"} 1\nnot a line\nbad NaNaN\n')
    page = (
        'headgate_queue_wait_seconds_sum{model="a"} 2\nheadgate_queue_wait_seconds_sum{model="b"} 1\n'
        "headgate_queue_wait_seconds_count 100\nheadgate_upstream_seconds_sum 5\nheadgate_upstream_seconds_count 100\n"
    )
    split = split_of(before, read_metrics(page))
    assert split is not None
    assert (split.queue_s, split.compute_s, split.source) == (0.02, 0.05, "Headgate")
    triton = {
        "nv_inference_request_success": 10.0,
        "nv_inference_queue_duration_us": 1000.0,
        "nv_inference_compute_infer_duration_us": 5000.0,
        "nv_inference_compute_input_duration_us": 100.0,
    }
    split = split_of({}, triton)
    assert split is not None
    assert (split.queue_s, split.compute_s) == (pytest.approx(1e-4), pytest.approx(5.1e-4))
    assert split_of(triton, triton) is None
