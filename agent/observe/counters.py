"""The numbers behind /metrics: plain ints and floats, added up on the path and rendered at scrape.

A prometheus_client counter costs 288 ns an increment and 975 with labels, a plain int 17.
"""

from bisect import bisect_left

from agent.errors import REPLIES, Blame, Fault, Outcome
from agent.observe.hooks import Record
from agent.policy.classify import Kind

# Seconds. Inference takes from a millisecond (a small tree) to minutes (a long generation).
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

SERVED = Outcome.SERVED
CLIENT_GONE = Outcome.CLIENT_GONE
_REFUSALS = frozenset(o for o in Outcome if REPLIES[o].blame is Blame.AGENT and o is not Outcome.INTERNAL)


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


class ModelCounters:
    """What is counted for one model and protocol. `ended` counts by (status, outcome), a call by gRPC's status."""

    __slots__ = ("ended", "queue_wait", "request", "upstream")

    def __init__(self) -> None:
        self.ended: dict[tuple[int, Outcome], int] = {}
        self.queue_wait = Histogram()
        self.upstream = Histogram()
        self.request = Histogram()


class Counters:
    """Observer that adds up every exchange. Keys of `models` are (model label, protocol)."""

    __slots__ = ("bypassed", "cancelled_inflight", "cancelled_queued", "faults", "models", "outcomes", "rejected")

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelCounters] = {}
        self.outcomes = [0] * len(Outcome)
        self.rejected: dict[Outcome, int] = dict.fromkeys(sorted(_REFUSALS), 0)
        self.bypassed: dict[Kind, int] = {Kind.HEALTH: 0, Kind.CONTROL: 0}
        self.faults: dict[Outcome, int] = {}
        self.cancelled_queued = 0
        self.cancelled_inflight = 0

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
        dispatched = record.dispatched
        if dispatched:
            counters.queue_wait.observe(dispatched - record.arrived)
        if outcome is SERVED:
            counters.upstream.observe(record.ended - dispatched)
            counters.request.observe(record.ended - record.arrived)
        elif outcome is CLIENT_GONE:
            if dispatched:
                self.cancelled_inflight += 1
            else:
                self.cancelled_queued += 1
        elif outcome in _REFUSALS:
            self.rejected[outcome] += 1

    def faulted(self, fault: Fault, peer: str, now: float) -> None:  # noqa: ARG002 - observe.hooks.Observer
        """Book a client's mistake that never became an exchange."""
        self.outcomes[fault.outcome] += 1
        self.faults[fault.outcome] = self.faults.get(fault.outcome, 0) + 1
