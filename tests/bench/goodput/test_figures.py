"""Fates and figures of requests made by hand."""

import pytest

from loadgen.record import Sample

from .figures import DEADLINE_S, Fate, fate_of, percentile_ms, summarise

DEADLINE_MS = round(DEADLINE_S * 1000)


def ended(status: int, after_ms: float, lag_ms: float = 0) -> Sample:
    sample = Sample(7_000_000)
    sample.sent_ns = sample.intended_ns + round(lag_ms * 1e6)
    sample.done_ns = sample.intended_ns + round(after_ms * 1e6)
    sample.status = status
    return sample


@pytest.mark.parametrize(
    ("status", "after_ms", "fate"),
    [
        (200, DEADLINE_MS, Fate.IN_TIME),
        (200, DEADLINE_MS + 0.001, Fate.LATE),
        (503, 1, Fate.REFUSED),
        (503, DEADLINE_MS + 1, Fate.REFUSED),
        (429, 1, Fate.REFUSED),
        (504, 1, Fate.EXPIRED),
        (504, DEADLINE_MS + 1, Fate.EXPIRED),
        (500, 1, Fate.FAILED),
        (500, DEADLINE_MS + 1, Fate.FAILED),
        (404, 1, Fate.FAILED),
        (0, 1, Fate.FAILED),
        (0, DEADLINE_MS, Fate.FAILED),
        (0, DEADLINE_MS + 1, Fate.UNANSWERED),
    ],
)
def test_a_request_has_one_fate(status: int, after_ms: float, fate: Fate) -> None:
    assert fate_of(ended(status, after_ms)) is fate


@pytest.mark.parametrize(
    ("quantile", "value"), [(0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0), (0, 1.0)]
)
def test_a_percentile_is_one_of_the_values(quantile: float, value: float) -> None:
    assert percentile_ms([4_000_000, 1_000_000, 3_000_000, 2_000_000], quantile) == value


def test_nothing_has_no_percentile() -> None:
    assert percentile_ms([], 0.5) is None


def test_goodput_is_a_share_of_capacity_and_the_rest_of_what_was_offered() -> None:
    samples = [
        *(ended(200, 100, lag_ms=2) for _ in range(6)),
        ended(200, DEADLINE_MS + 100),
        *(ended(503, 3) for _ in range(8)),
        *(ended(504, 400) for _ in range(3)),
        ended(0, 900),
        ended(500, 1),
    ]
    figures = summarise(samples, capacity=5, seconds=2)
    assert (figures.offered, figures.goodput, figures.refused, figures.expired) == (20, 0.6, 0.4, 0.15)
    assert (figures.late, figures.unanswered, figures.failed) == (1, 1, 1)
    assert (figures.p50_ms, figures.p99_ms) == (100, DEADLINE_MS + 100)
    assert (figures.refusal_p50_ms, figures.refusal_p99_ms) == (3, 3)
    assert figures.lag_p99_ms == 2


def test_without_requests_there_are_no_times() -> None:
    figures = summarise([], capacity=5, seconds=2)
    assert (figures.goodput, figures.refused, figures.p99_ms, figures.refusal_p99_ms) == (0, 0, None, None)
