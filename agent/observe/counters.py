"""The numbers behind /metrics: plain ints and floats, added up on the path and rendered at scrape.

A prometheus_client counter costs 288 ns an increment and 975 with labels, a plain int 17.
"""

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum

from agent.errors import REPLIES, Blame, Fault, Outcome
from agent.observe.hooks import Record
from agent.policy.classify import Kind
from agent.policy.usage import Usage

# Seconds. Inference takes from a millisecond (a small tree) to minutes (a long generation). A request's cost, in mean
# requests, falls into the same.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

SERVED = Outcome.SERVED
CLIENT_GONE = Outcome.CLIENT_GONE
REFUSALS = frozenset(o for o in Outcome if REPLIES[o].blame is Blame.AGENT and o is not Outcome.INTERNAL)
# For lack of room or time; what a drain turns away is another replica's load.
_TURNED_AWAY = REFUSALS - {Outcome.DRAINING}

# How long a mean of service times is used before it is worked out anew, and the time after which half of it is new: a
# few seconds, as long as the deadline policy's own beliefs last.
_HOLD_AGE_S = 0.25
_HOLD_HALF_LIFE_S = 3.0


class Waste(StrEnum):
    """Why the predictor's time was wasted, where the policy cannot tell."""

    CLIENT_GONE = "client_gone"
    FAILED = "failed"


class Histogram:
    """Counts by fixed bucket.

    `counts[i]` holds values in (BOUNDS[i-1], BOUNDS[i]]; the last one all that are larger.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one value."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The value that `share` of the counted do not exceed, evenly spread within its bucket; None of none.

    What lies beyond the last bound is told as that bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = share * total, 0
    for index, count in enumerate(counts[: len(BOUNDS)]):
        if count and below + count >= rank:
            low = BOUNDS[index - 1] if index else 0.0
            return low + (BOUNDS[index] - low) * (rank - below) / count
        below += count
    return BOUNDS[-1]


class Hold:
    """How long a request keeps its slot, as the mean of recent ones; worked out from a histogram, when it is asked.

    `seconds` is good until `due`; then `refresh`.
    """

    __slots__ = ("_count", "_total", "_weight", "_weighted", "due", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.due = 0.0
        self._count = 0
        self._total = self._weight = self._weighted = 0.0

    def refresh(self, now: float, count: int, total: float) -> None:
        """So many requests have kept their slots for `total` seconds since the start."""
        keep = 0.5 ** ((now - self.due + _HOLD_AGE_S) / _HOLD_HALF_LIFE_S)
        self.due = now + _HOLD_AGE_S
        if count > self._count:
            self._weight = self._weight * keep + count - self._count
            self._weighted = self._weighted * keep + total - self._total
            self._count, self._total = count, total
            self.seconds = self._weighted / self._weight


class ModelCounters:
    """What is counted for one model and protocol. `ended` counts by (status, outcome), a call by gRPC's status.

    `wasted` is the seconds that slots were kept for nothing, `retries` counts dispatched requests that had been tried
    before.
    """

    __slots__ = ("ended", "hold", "queue_wait", "request", "retries", "upstream", "wasted")

    def __init__(self) -> None:
        self.ended: dict[tuple[int, Outcome], int] = {}
        self.queue_wait = Histogram()
        self.upstream = Histogram()
        self.request = Histogram()
        self.hold = Hold()
        self.retries = 0
        self.wasted = dict.fromkeys(Waste, 0.0)


class Counters:
    """Observer that adds up every exchange. Keys of `models` are (model label, protocol)."""

    __slots__ = (
        "_hold",
        "bypassed",
        "cancelled_inflight",
        "cancelled_queued",
        "cost",
        "faults",
        "models",
        "outcomes",
        "rejected",
        "wait_error",
    )

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelCounters] = {}
        self.outcomes = [0] * len(Outcome)
        self.rejected: dict[Outcome, int] = dict.fromkeys(sorted(REFUSALS), 0)
        self.bypassed: dict[Kind, int] = {Kind.HEALTH: 0, Kind.CONTROL: 0}
        self.faults: dict[Outcome, int] = {}
        self.cancelled_queued = 0
        self.cancelled_inflight = 0
        self._hold = Hold()
        self.wait_error = Histogram()
        self.cost = Histogram()

    def ended(self, record: Record) -> None:
        """Book one exchange."""
        outcome = record.outcome
        self.outcomes[outcome] += 1
        usage = record.usage
        if usage is None:
            kind = record.route.kind
            if kind in self.bypassed:
                self.bypassed[kind] += 1
            return
        key = (usage.name, record.protocol)
        counters = self.models.get(key)
        if counters is None:
            counters = self.models[key] = ModelCounters()
        grpc_status = record.grpc_status
        ending = (record.status if grpc_status < 0 else grpc_status, outcome)
        counters.ended[ending] = counters.ended.get(ending, 0) + 1
        dispatched, arrived = record.dispatched, record.arrived
        if dispatched:
            counters.queue_wait.observe(dispatched - arrived)
            if record.is_retry:
                counters.retries += 1
        if outcome is SERVED:
            counters.upstream.observe(record.ended - dispatched)
            counters.request.observe(record.ended - arrived)
        else:
            self._fell_short(record, usage, counters)

    def faulted(self, fault: Fault, peer: str, now: float) -> None:  # noqa: ARG002 - observe.hooks.Observer
        """Book a client's mistake that never became an exchange."""
        self.outcomes[fault.outcome] += 1
        self.faults[fault.outcome] = self.faults.get(fault.outcome, 0) + 1

    def hold_s(self, now: float) -> float:
        """How long a request of any model keeps its slot; 0.0 as long as none has been answered."""
        if now >= self._hold.due:
            histograms = [counters.upstream for counters in self.models.values()]
            count = sum(sum(histogram.counts) for histogram in histograms)
            self._hold.refresh(now, count, sum(histogram.total for histogram in histograms))
        return self._hold.seconds

    def _fell_short(self, record: Record, usage: Usage, counters: ModelCounters) -> None:
        """What an exchange without an answer was: cancelled, refused, a waste of the predictor's time."""
        outcome, dispatched = record.outcome, record.dispatched
        if outcome is CLIENT_GONE:
            if dispatched:
                self.cancelled_inflight += 1
                counters.wasted[Waste.CLIENT_GONE] += record.ended - dispatched
            else:
                self.cancelled_queued += 1
            return
        if dispatched:
            counters.wasted[Waste.FAILED] += record.ended - dispatched
        if outcome in REFUSALS:
            self.rejected[outcome] += 1
            # Whoever comes again has been counted the first time, here or at another replica.
            if outcome in _TURNED_AWAY and not (dispatched or record.is_retry):
                hold = counters.hold
                now = record.ended
                if now >= hold.due:
                    hold.refresh(now, sum(counters.upstream.counts), counters.upstream.total)
                # A model that has not answered yet is taken for one like the others.
                usage.rejected_demand_seconds += hold.seconds or self.hold_s(now)
