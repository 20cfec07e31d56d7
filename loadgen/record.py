"""PURE: what happened to each request, and the histograms it is counted in.

Three clocks per request, all in nanoseconds of one monotonic clock: `response` = done - intended is what a caller who
keeps to the schedule would feel, `service` = done - sent is what most generators report, `lag` = sent - intended is the
generator's own lateness. Keeping the three apart is what makes a late generator visible instead of flattering.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

# A bucket is at most 1/128 of its lower edge wide: reported percentiles are never below the exact ones and at most
# 0.8 % above them. HdrHistogram with two significant digits has the same layout and precision.
_PRECISION_BITS = 7

# The numbers are the generator's own where more than a tenth of the reported p99 is its lateness.
_LAG_SHARE = 0.1
_LAG_FLOOR_NS = 1_000_000

# The odds that a percentile printed as a value is in truth exceeded by more than its share of requests.
_RISK = 0.01


class Outcome(StrEnum):
    """How a request ended, as its caller sees it."""

    OK = "ok"  # 2xx
    SHED = "shed"  # 503 or 429: refused on purpose
    ERROR = "error"  # any other status, or no valid answer
    TIMEOUT = "timeout"  # the caller's own patience ran out


class Cause(StrEnum):
    """Why a request that has no status ended."""

    CONNECT = "connect failed"
    CLOSED = "closed before the answer"
    RESET = "connection reset"
    TRUNCATED = "closed inside the answer"
    INVALID = "answer is not valid HTTP"
    TIMEOUT = "no answer in time"


SHED_STATUSES = frozenset({429, 503})


def outcome_of_status(status: int) -> Outcome:
    """The outcome of an answer that arrived whole."""
    if 200 <= status < 300:
        return Outcome.OK
    return Outcome.SHED if status in SHED_STATUSES else Outcome.ERROR


class Sample:
    """One request: `step` is its place in the schedule's steps; `status` is 0 where no answer arrived whole.

    `body` is the answer's, where the client was asked to keep bodies; otherwise empty.
    """

    __slots__ = ("body", "cause", "done_ns", "intended_ns", "outcome", "sent_ns", "status", "step")

    def __init__(self, intended_ns: int, step: int = 0) -> None:
        self.intended_ns = intended_ns
        self.sent_ns = 0
        self.done_ns = 0
        self.step = step
        self.status = 0
        self.outcome: Outcome | None = None
        self.cause: Cause | None = None
        self.body = b""

    @property
    def response_ns(self) -> int:
        """From the intended send time to the end."""
        return self.done_ns - self.intended_ns


def samples_needed(quantile: float) -> int:
    """How many samples a percentile needs before it is a value: with fewer, 1 % of runs see nothing beyond it.

    The largest n with quantile ** n > 0.01, plus one: 44 for p90, 90 for p95, 459 for p99, 4603 for p99.9.
    """
    return math.ceil(math.log(_RISK) / math.log(quantile))


class Histogram:
    """Counts of nanosecond values in log-linear buckets; memory grows with the number of distinct buckets only."""

    __slots__ = ("_buckets", "count", "max", "min", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def add(self, ns: int) -> None:
        """Count one value; a negative one, which only a clock fault can make, counts as 0."""
        ns = max(ns, 0)
        shift = ns.bit_length() - _PRECISION_BITS - 1
        index = ns if shift <= 0 else (shift << _PRECISION_BITS) + (ns >> shift)
        buckets = self._buckets
        buckets[index] = buckets.get(index, 0) + 1
        if not self.count or ns < self.min:
            self.min = ns
        self.max = max(self.max, ns)
        self.count += 1
        self.total += ns

    def merge(self, other: "Histogram") -> None:
        """Add everything `other` counted; the result equals one histogram that saw both."""
        if not other.count:
            return
        for index, number in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + number
        self.min = min(self.min, other.min) if self.count else other.min
        self.max = max(self.max, other.max)
        self.count += other.count
        self.total += other.total

    def percentile(self, quantile: float) -> int:
        """The smallest value that at least `quantile` (0..1) of the samples do not exceed, rounded up to its bucket's
        upper edge. Raises ValueError when nothing was counted."""
        if not self.count:
            raise ValueError("percentile of an empty histogram")
        rank = max(1, math.ceil(quantile * self.count))
        for upper, number in self.buckets():
            rank -= number
            if rank <= 0:
                return max(self.min, min(upper, self.max))
        return self.max

    def is_enough_for(self, quantile: float) -> bool:
        """Whether the percentile may be called a value, not only the largest of too few."""
        return self.count >= samples_needed(quantile)

    def mean(self) -> float:
        """Arithmetic mean in nanoseconds; 0 when nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def buckets(self) -> list[tuple[int, int]]:
        """(largest value of the bucket in nanoseconds, count), ascending, empty buckets left out."""
        return [(_upper_edge(index), self._buckets[index]) for index in sorted(self._buckets)]


def _upper_edge(index: int) -> int:
    shift = max(0, (index >> _PRECISION_BITS) - 1)
    return (((index - (shift << _PRECISION_BITS)) + 1) << shift) - 1


class Recorder:
    """Everything counted about one step of a run, or about several when merged."""

    __slots__ = ("causes", "lag", "response", "service", "statuses")

    def __init__(self) -> None:
        self.response = {outcome: Histogram() for outcome in Outcome}
        self.service = {outcome: Histogram() for outcome in Outcome}
        self.lag = Histogram()
        self.statuses: Counter[int] = Counter()
        self.causes: Counter[Cause] = Counter()

    def add(self, sample: Sample) -> None:
        """Count a sample that ended."""
        assert sample.outcome is not None, "a sample is recorded after its end"
        self.response[sample.outcome].add(sample.done_ns - sample.intended_ns)
        self.service[sample.outcome].add(sample.done_ns - sample.sent_ns)
        self.lag.add(sample.sent_ns - sample.intended_ns)
        if sample.cause is None:
            self.statuses[sample.status] += 1
        else:
            self.causes[sample.cause] += 1

    @property
    def count(self) -> int:
        """How many samples were added."""
        return self.lag.count

    def count_of(self, outcome: Outcome) -> int:
        """How many samples ended so."""
        return self.response[outcome].count


def merged(recorders: Iterable[Recorder]) -> Recorder:
    """One recorder that holds what all of `recorders` hold; they stay as they are."""
    whole = Recorder()
    for recorder in recorders:
        for outcome in Outcome:
            whole.response[outcome].merge(recorder.response[outcome])
            whole.service[outcome].merge(recorder.service[outcome])
        whole.lag.merge(recorder.lag)
        whole.statuses.update(recorder.statuses)
        whole.causes.update(recorder.causes)
    return whole


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured.

    `steps` holds one recorder per schedule step (one in closed loop). Rates are counts over `rated_s`: the schedule's
    length, or in closed loop all of `elapsed_s`, the time until the last request ended; `cpu_s` is the CPU time of the
    process in it. `unfinished` requests were cut off by `stop()`; `backlogged` ones waited for a free connection.
    """

    steps: list[Recorder] = field(default_factory=list)
    sent: int = 0
    unfinished: int = 0
    rated_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    connections: int = 0
    backlogged: int = 0
    open_loop: bool = False

    @property
    def total(self) -> Recorder:
        """All steps in one."""
        return merged(self.steps)

    @property
    def generator_limit(self) -> str:
        """Why the numbers tell of the generator rather than of the target; empty when they do not."""
        if self.backlogged:
            return f"{self.backlogged} requests waited in the generator because all its connections were in use"
        total = self.total
        response = Histogram()
        for outcome in Outcome:
            response.merge(total.response[outcome])
        if not self.open_loop or not response.count:
            return ""
        lag, felt = total.lag.percentile(0.99), response.percentile(0.99)
        if lag > max(_LAG_FLOOR_NS, _LAG_SHARE * felt):
            return f"sends were late by {lag / 1e6:.1f} ms at p99, more than a tenth of the response time"
        return ""
