"""The recorder against exact sorted lists."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.histogram import Histogram, samples_needed
from loadgen.record import (
    Cause,
    Outcome,
    Recorder,
    Sample,
    merged,
    outcome_of_grpc,
    outcome_of_status,
    status_name,
)

values = st.lists(
    st.one_of(st.integers(0, 600), st.integers(0, 10**7), st.integers(0, 10**13)), min_size=1, max_size=200
)


def histogram_of(numbers: list[int]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


@given(values, st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_percentile_is_never_below_the_exact_one_and_at_most_one_128th_above(
    numbers: list[int], quantile: float
) -> None:
    exact = sorted(numbers)[max(0, math.ceil(quantile * len(numbers)) - 1)]
    assert exact <= histogram_of(numbers).percentile(quantile) <= exact * (1 + 1 / 128)


@given(values)
def test_totals_are_exact(numbers: list[int]) -> None:
    histogram = histogram_of(numbers)
    assert (histogram.count, histogram.total, histogram.min, histogram.max) == (
        len(numbers),
        sum(numbers),
        min(numbers),
        max(numbers),
    )
    assert histogram.mean() == pytest.approx(sum(numbers) / len(numbers))
    assert sum(count for _, count in histogram.buckets()) == len(numbers)


@given(values, values)
def test_merging_equals_counting_everything_in_one(some: list[int], others: list[int]) -> None:
    whole = histogram_of(some)
    whole.merge(histogram_of(others))
    together = histogram_of(some + others)
    assert whole.buckets() == together.buckets()
    assert (whole.count, whole.total, whole.min, whole.max) == (
        together.count,
        together.total,
        together.min,
        together.max,
    )


@given(st.integers(0, 1 << 50))
def test_bucket_edges_enclose_their_values(number: int) -> None:
    ((upper, _),) = histogram_of([number]).buckets()
    assert number <= upper
    assert histogram_of([upper]).buckets() == [(upper, 1)]
    assert histogram_of([upper + 1]).buckets() != [(upper, 1)]


def test_an_empty_histogram_has_no_percentile_and_merges_to_nothing() -> None:
    whole = histogram_of([5])
    whole.merge(Histogram())
    assert (whole.count, whole.min, whole.max) == (1, 5, 5)
    with pytest.raises(ValueError):
        Histogram().percentile(0.5)
    assert Histogram().mean() == 0.0


def test_a_clock_that_went_back_counts_as_zero() -> None:
    assert histogram_of([-3]).max == 0


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 7), (0.9, 44), (0.95, 90), (0.99, 459), (0.999, 4603)])
def test_a_percentile_needs_so_many_samples(quantile: float, needed: int) -> None:
    assert samples_needed(quantile) == needed
    # The definition: with one sample fewer, more than 1 % of all runs never see the tail beyond the percentile.
    assert quantile**needed <= 0.01 < quantile ** (needed - 1)
    assert not histogram_of([1] * (needed - 1)).is_enough_for(quantile)
    assert histogram_of([1] * needed).is_enough_for(quantile)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.OK),
        (204, Outcome.OK),
        (299, Outcome.OK),
        (503, Outcome.SHED),
        (429, Outcome.SHED),
        (301, Outcome.ERROR),
        (400, Outcome.ERROR),
        (500, Outcome.ERROR),
        (502, Outcome.ERROR),
        (504, Outcome.ERROR),
    ],
)
def test_the_status_decides_the_outcome(status: int, outcome: Outcome) -> None:
    assert outcome_of_status(status) is outcome


def ended(outcome: Outcome, intended: int, sent: int, done: int, status: int = 0, cause: Cause | None = None) -> Sample:
    sample = Sample(intended)
    sample.sent_ns, sample.done_ns = sent, done
    sample.status, sample.outcome, sample.cause = status, outcome, cause
    return sample


def test_three_clocks_and_both_tallies_are_kept_apart() -> None:
    recorder = Recorder()
    recorder.add(ended(Outcome.OK, 100, 130, 230, status=200))
    recorder.add(ended(Outcome.TIMEOUT, 0, 5, 99, cause=Cause.TIMEOUT))
    assert recorder.response[Outcome.OK].max == 130
    assert recorder.service[Outcome.OK].max == 100
    assert (recorder.lag.min, recorder.lag.max) == (5, 30)
    assert recorder.response[Outcome.TIMEOUT].max == 99
    assert dict(recorder.statuses) == {200: 1}
    assert dict(recorder.causes) == {Cause.TIMEOUT: 1}
    whole = merged([recorder, recorder])
    assert (whole.count, whole.count_of(Outcome.OK), whole.statuses[200]) == (4, 2, 2)
    assert recorder.count == 2


def test_a_retry_counts_from_its_first_intended_time_and_pieces_are_counted() -> None:
    recorder = Recorder()
    sample = ended(Outcome.OK, 1_000, 1_010, 1_500, status=200)
    sample.origin_ns, sample.first_ns, sample.tokens = 400, 1_200, 7
    recorder.add(sample)
    assert recorder.response[Outcome.OK].max == 1_100
    assert (recorder.service[Outcome.OK].max, recorder.lag.max) == (490, 10)
    assert (recorder.first.max, recorder.tokens) == (800, 7)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, Outcome.OK),
        (14, Outcome.SHED),
        (8, Outcome.SHED),
        (4, Outcome.TIMEOUT),
        (13, Outcome.ERROR),
        (99, Outcome.ERROR),
    ],
)
def test_the_grpc_code_decides_the_outcome(code: int, outcome: Outcome) -> None:
    assert outcome_of_grpc(code) is outcome


def test_statuses_are_named() -> None:
    assert [status_name(status) for status in (503, 14, 77)] == ["HTTP 503", "gRPC UNAVAILABLE", "gRPC 77"]


def test_a_sample_without_an_end_is_not_recorded() -> None:
    with pytest.raises(AssertionError):
        Recorder().add(Sample(0))
