"""The counters against a naive recount of the same exchanges."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from agent.errors import Fault, Outcome
from agent.observe.counters import BOUNDS, Counters, Histogram, Hold, Waste
from agent.policy.classify import Kind, Route
from agent.policy.usage import Usage
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
    assert counted.retries == sum(record.is_retry for record in records if record.dispatched)
    lost = [record for record in records if record.dispatched and record.outcome is not Outcome.SERVED]
    for reason in Waste:
        of_reason = [
            record for record in lost if (record.outcome is Outcome.CLIENT_GONE) is (reason is Waste.CLIENT_GONE)
        ]
        assert counted.wasted[reason] == pytest.approx(sum(record.ended - record.dispatched for record in of_reason))


M, NEW = Usage("m", 0.0), Usage("_other", 0.0)


def refused(at: float, outcome: Outcome = Outcome.OVERLOAD, usage: Usage = M, **given: Any) -> FakeRecord:
    return FakeRecord(outcome=outcome, usage=usage, arrived=at, dispatched=0.0, ended=at, **given)


def answered(at: float, seconds: float, usage: Usage = M) -> FakeRecord:
    return FakeRecord(usage=usage, arrived=at - seconds, dispatched=at - seconds, ended=at)


def demand(*records: FakeRecord) -> float:
    """The rejected demand after these records, of whatever model."""
    counters = Counters()
    before = M.rejected_demand_seconds + NEW.rejected_demand_seconds
    for record in records:
        counters.ended(record)
    return M.rejected_demand_seconds + NEW.rejected_demand_seconds - before


def test_a_refused_request_counts_with_the_mean_time_of_recent_answers() -> None:
    answers = [answered(1000.0 + number, seconds) for number, seconds in enumerate([0.1, 0.2, 0.3])]
    assert demand(*answers, refused(1003.0), refused(1003.1)) == pytest.approx(0.4)


@pytest.mark.parametrize("outcome", [Outcome.QUEUE_FULL, Outcome.EXPIRED, Outcome.DEADLINE])
def test_every_refusal_for_lack_of_room_or_time_is_demand(outcome: Outcome) -> None:
    assert demand(answered(1000.0, 0.5), refused(1000.1, outcome)) == pytest.approx(0.5)


def test_retries_drains_and_clients_that_left_are_no_rejected_demand() -> None:
    drained = FakeRecord(outcome=Outcome.DRAINING, usage=M, arrived=1000.0, dispatched=1000.0, ended=1001.0)
    others = [refused(1000.2, is_retry=True), refused(1000.3, Outcome.CLIENT_GONE), drained]
    others.append(refused(1000.4, Outcome.DRAINING))
    assert demand(answered(1000.0, 0.5), *others) == 0.0


def test_a_model_that_has_not_answered_yet_is_taken_for_one_like_the_others() -> None:
    assert demand(refused(999.0, usage=NEW), answered(1000.0, 0.5), refused(1001.0, usage=NEW)) == pytest.approx(0.5)


def test_the_mean_follows_a_model_that_changes() -> None:
    hold = Hold()
    for second in range(30):
        hold.refresh(float(second), 100 * second, 10.0 * second)
    assert hold.seconds == pytest.approx(0.1)
    assert 29.0 < hold.due < 30.0
    for second in range(1, 11):
        hold.refresh(29.0 + second, 2900 + 100 * second, 290.0 + 40.0 * second)
    assert 0.3 < hold.seconds < 0.4
    hold.refresh(1000.0, 3900, 690.0)
    assert hold.seconds > 0.3, "nothing new is no news"


def test_means_are_worked_out_now_and_then_and_not_at_every_refusal() -> None:
    slow = [answered(1000.1, 3.0)] * 99
    first, second, third = answered(1000.0, 1.0), refused(1000.0), refused(1000.1)
    assert demand(first, second, *slow, third) == pytest.approx(2.0)
    assert demand(first, second, *slow, third, refused(1000.5)) == pytest.approx(4.98, abs=0.02)


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
