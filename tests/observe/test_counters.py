"""The counters against a naive recount of the same exchanges."""

from collections import Counter
from itertools import pairwise

import pytest

from agent.errors import Fault, Outcome
from agent.observe.counters import BOUNDS, Counters, Histogram
from agent.policy.classify import Kind, Route
from tests.fakes import FakeRecord
from tests.observe.records import USAGES, some_records


def recounted(values: list[float]) -> list[int]:
    edges = [float("-inf"), *BOUNDS, float("inf")]
    return [sum(low < value <= high for value in values) for low, high in pairwise(edges)]


def check(histogram: Histogram, values: list[float]) -> None:
    assert histogram.counts == recounted(values)
    assert histogram.total == pytest.approx(sum(values))


@pytest.mark.parametrize("seed", range(5))
def test_every_number_is_that_of_a_recount(seed: int) -> None:
    records = some_records(seed, 400)
    counters = Counters()
    for record in records:
        counters.ended(record)
    assert counters.outcomes == [sum(record.outcome is outcome for record in records) for outcome in Outcome]
    bypassed = Counter(record.route.kind for record in records if record.usage is None)
    assert counters.bypassed == {Kind.HEALTH: bypassed[Kind.HEALTH], Kind.CONTROL: bypassed[Kind.CONTROL]}
    booked = [record for record in records if record.usage is not None]
    reasons = Counter(record.outcome for record in booked)
    assert counters.rejected == {outcome: reasons[outcome] for outcome in counters.rejected}
    gone = [bool(record.dispatched) for record in booked if record.outcome is Outcome.CLIENT_GONE]
    assert (counters.cancelled_queued, counters.cancelled_inflight) == (gone.count(False), gone.count(True))
    for name in ("a", "b", "_other"):
        for protocol in ("http", "grpc"):
            check_model(
                counters,
                [record for record in booked if (record.usage.name, record.protocol) == (name, protocol)],  # type: ignore[union-attr]
            )


def check_model(counters: Counters, records: list[FakeRecord]) -> None:
    usage = records[0].usage
    assert usage is not None
    counted = counters.models[usage.name, records[0].protocol]
    assert counted.ended == Counter((record.status, record.outcome) for record in records)
    check(counted.queue_wait, [record.dispatched - record.arrived for record in records if record.dispatched])
    served = [record for record in records if record.outcome is Outcome.SERVED]
    check(counted.upstream, [record.ended - record.dispatched for record in served])
    check(counted.request, [record.ended - record.arrived for record in served])


@pytest.mark.parametrize(("index", "bound"), [*enumerate(BOUNDS)])
def test_a_bucket_includes_its_upper_bound(index: int, bound: float) -> None:
    histogram = Histogram()
    histogram.observe(bound)
    histogram.observe(bound * 1.0001)
    assert histogram.counts[index : index + 2] == [1, 1]


def test_the_bounds_rise() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_only_what_the_agent_refused_counts_as_rejected() -> None:
    assert set(Counters().rejected) == {
        Outcome.QUEUE_FULL,
        Outcome.EXPIRED,
        Outcome.DRAINING,
        Outcome.DEADLINE,
        Outcome.OVERLOAD,
    }


def test_an_upgrade_outside_the_known_routes_is_no_bypass() -> None:
    counters = Counters()
    counters.ended(FakeRecord(route=Route(Kind.INFERENCE), usage=None))
    assert sum(counters.bypassed.values()) == 0
    assert counters.outcomes[Outcome.SERVED] == 1


def test_mistakes_that_never_became_a_request_have_a_count_of_their_own() -> None:
    counters = Counters()
    for outcome in (Outcome.BAD_REQUEST, Outcome.BAD_REQUEST, Outcome.HEAD_TOO_LARGE):
        counters.faulted(Fault(outcome, "why"), "192.0.2.1:5000", 1.0)
    assert counters.faults == {Outcome.BAD_REQUEST: 2, Outcome.HEAD_TOO_LARGE: 1}
    assert counters.outcomes[Outcome.BAD_REQUEST] == 2
    assert not counters.models


def test_labels_do_not_grow_with_what_clients_send() -> None:
    counters = Counters()
    for number in range(1000):
        counters.ended(FakeRecord(usage=USAGES[0], target=b"/%d" % number, peer=str(number)))
    assert len(counters.models) == 1
