"""PURE: what happened to each request, and the histograms it is counted in.

Three clocks per request, all in nanoseconds of one monotonic clock: `response` = done - intended is what a caller who
keeps to the schedule would feel, `service` = done - sent is what most generators report, `lag` = sent - intended is the
generator's own lateness. Keeping the three apart is what makes a late generator visible instead of flattering.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from loadgen.histogram import Histogram


class Outcome(StrEnum):
    """How a request ended, as its caller sees it."""

    OK = "ok"  # 2xx
    SHED = "shed"  # 503 or 429: refused on purpose
    ERROR = "error"  # any other status, or no valid answer
    TIMEOUT = "timeout"  # the caller's own patience ran out
    CANCELLED = "cancelled"  # taken back by the caller on purpose


class Cause(StrEnum):
    """Why a request that has no status ended."""

    CONNECT = "connect failed"
    CLOSED = "closed before the answer"
    RESET = "connection reset"
    TRUNCATED = "closed inside the answer"
    INVALID = "answer is not valid HTTP"
    TIMEOUT = "no answer in time"
    CANCELLED = "taken back"
    GOAWAY = "stream refused or connection going away"


SHED_STATUSES = frozenset({429, 503})


class GrpcStatus(IntEnum):
    """The codes of the gRPC specification (statuscodes.md); HTTP statuses are 100 and up, so the two never mix."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_GRPC_OUTCOMES: dict[int, Outcome] = {
    GrpcStatus.OK: Outcome.OK,
    GrpcStatus.UNAVAILABLE: Outcome.SHED,
    GrpcStatus.RESOURCE_EXHAUSTED: Outcome.SHED,
    # The deadline is the caller's own, sent along as grpc-timeout; a server that keeps it answers as the time is up.
    GrpcStatus.DEADLINE_EXCEEDED: Outcome.TIMEOUT,
}


def outcome_of_grpc(code: int) -> Outcome:
    """The outcome of a call that ended with trailers."""
    return _GRPC_OUTCOMES.get(code, Outcome.ERROR)


def status_name(status: int) -> str:
    """`HTTP 503`, `gRPC UNAVAILABLE`."""
    if status >= 100:
        return f"HTTP {status}"
    return f"gRPC {GrpcStatus(status).name}" if status in range(17) else f"gRPC {status}"


def outcome_of_status(status: int) -> Outcome:
    """The outcome of an answer that arrived whole."""
    if 200 <= status < 300:
        return Outcome.OK
    return Outcome.SHED if status in SHED_STATUSES else Outcome.ERROR


class Sample:
    """One request. `step` is its place in the schedule's steps, `status` the HTTP or gRPC one of an answer that arrived
    whole: it counts only where `outcome` is set and `cause` is not.

    `origin_ns` is the intended time of the first attempt, where this is a later one; `request` is kept where there may
    be one, and `model` is its place among several. `first_ns` and `tokens` are those of a streamed answer; `body`,
    `headers` are kept where the client was asked to. Only what is rarely touched has its default in the class: the
    interpreter is quick with attributes that the class has not.
    """

    attempt = 0
    tokens = 0
    request = b""
    retry_after_s: float | None = None
    body = b""
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, intended_ns: int, step: int = 0) -> None:
        self.intended_ns = intended_ns
        self.step = step
        self.origin_ns = self.sent_ns = self.first_ns = self.done_ns = 0
        self.model = self.status = 0
        self.outcome: Outcome | None = None
        self.cause: Cause | None = None

    @property
    def response_ns(self) -> int:
        """From the intended send time to the end."""
        return self.done_ns - (self.origin_ns or self.intended_ns)


class Recorder:
    """Everything counted about one step of a run, or about several when merged.

    `first` is the time to the first piece of streamed answers, `tokens` their pieces, `retried` the attempts that were
    refused and made again; those are in nothing else.

    In closed loop a request is due when it is sent, so its two clocks are one (`is_closed`) and there is no lag: two of
    three histograms saved are a tenth of what a request costs.
    """

    __slots__ = ("_is_closed", "causes", "first", "lag", "response", "retried", "service", "statuses", "tokens")

    def __init__(self, *, is_closed: bool = False) -> None:
        self._is_closed = is_closed
        self.response = {outcome: Histogram() for outcome in Outcome}
        self.service = self.response if is_closed else {outcome: Histogram() for outcome in Outcome}
        self.lag = Histogram()
        self.first = Histogram()
        self.statuses: Counter[int] = Counter()
        self.causes: Counter[Cause] = Counter()
        self.tokens = 0
        self.retried = 0

    def add(self, sample: Sample) -> None:
        """Count a sample that ended."""
        outcome = sample.outcome
        assert outcome is not None, "a sample is recorded after its end"
        origin_ns = sample.origin_ns or sample.intended_ns
        self.response[outcome].add(sample.done_ns - origin_ns)
        if not self._is_closed:
            self.service[outcome].add(sample.done_ns - sample.sent_ns)
            self.lag.add(sample.sent_ns - sample.intended_ns)
        if sample.cause is None:
            self.statuses[sample.status] += 1
        else:
            self.causes[sample.cause] += 1
        if sample.first_ns:
            self.first.add(sample.first_ns - origin_ns)
            self.tokens += sample.tokens

    @property
    def count(self) -> int:
        """How many samples were added."""
        return sum(histogram.count for histogram in self.response.values())

    def count_of(self, outcome: Outcome) -> int:
        """How many samples ended so."""
        return self.response[outcome].count

    def share_of(self, outcome: Outcome) -> float:
        """The share of samples that ended so; 0 when there are none."""
        return self.response[outcome].count / self.count if self.count else 0.0

    def merge(self, other: "Recorder") -> None:
        """Add everything that `other` counted."""
        for outcome in Outcome:
            self.response[outcome].merge(other.response[outcome])
            if not self._is_closed:
                self.service[outcome].merge(other.service[outcome])
        self.lag.merge(other.lag)
        self.first.merge(other.first)
        self.statuses.update(other.statuses)
        self.causes.update(other.causes)
        self.tokens += other.tokens
        self.retried += other.retried


def merged(recorders: Iterable[Recorder]) -> Recorder:
    """One recorder that holds what all of `recorders` hold; they stay as they are."""
    whole = Recorder()
    for recorder in recorders:
        whole.merge(recorder)
    return whole


class Beat(NamedTuple):
    """What the generator saw of itself at one moment: requests in flight, and its CPU seconds since the start."""

    at_s: float
    inflight: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured.

    `steps` holds one recorder per schedule step (one in closed loop), `models` one per model, step and window where
    there are several models, `windows` one per `window_s` seconds of the run, by its number. Rates are counts over
    `rated_s`: the schedule's length, or in closed loop all of `elapsed_s`, the time until the last request ended;
    `cpu_s` is the CPU time of the process in it. `unfinished` requests were cut off by `stop()`; `backlogged` ones
    waited for a free connection.
    `beats` come some fifty times a second; `stall_s` is the longest that one came late.
    """

    steps: list[Recorder] = field(default_factory=list)
    models: dict[str, dict[tuple[int, int], Recorder]] = field(default_factory=dict)
    windows: dict[int, Recorder] = field(default_factory=dict)
    window_s: float = 0.0
    sent: int = 0
    unfinished: int = 0
    rated_s: float = 0.0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    connections: int = 0
    backlogged: int = 0
    open_loop: bool = False
    beats: list[Beat] = field(default_factory=list)
    stall_s: float = 0.0

    @property
    def total(self) -> Recorder:
        """All steps in one."""
        return merged(self.steps)

    def by_model(self, *, step: int = 0, first: int = 0, last: float = math.inf) -> dict[str, Recorder]:
        """One recorder per model, from `step` on, of the windows from `first` up to `last` (not included)."""
        return {
            name: merged(one for (where, window), one in parts.items() if where >= step and first <= window < last)
            for name, parts in self.models.items()
        }
