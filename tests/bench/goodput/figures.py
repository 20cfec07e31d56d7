"""PURE: what became of the requests of one cell, from the callers' point of view."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadgen.record import SHED_STATUSES, Sample
from loadgen.units import NS_PER_S

# What every caller grants, from the moment at which its request was due, and tells the server.
DEADLINE_S = 0.5
# A caller stays for as long again, so that an answer that comes late is seen as such.
PATIENCE_S = 2 * DEADLINE_S

_EXPIRED_STATUS = 504


class Fate(StrEnum):
    """How a request ended."""

    IN_TIME = "in time"
    LATE = "late"  # answered after its deadline
    REFUSED = "refused"  # 503, 429, or gRPC's UNAVAILABLE and RESOURCE_EXHAUSTED
    EXPIRED = "expired"  # 504 or DEADLINE_EXCEEDED: waited in vain
    UNANSWERED = "unanswered"  # nothing came before the deadline, nor after it
    FAILED = "failed"


def fate_of(sample: Sample) -> Fate:
    """The fate of a request that has ended; the status of a gRPC call is that of HTTP that means the same."""
    in_time = sample.response_ns <= DEADLINE_S * NS_PER_S
    if sample.status == 200:
        return Fate.IN_TIME if in_time else Fate.LATE
    if sample.status in SHED_STATUSES:
        return Fate.REFUSED
    if sample.status == _EXPIRED_STATUS:
        return Fate.EXPIRED
    return Fate.FAILED if sample.status or in_time else Fate.UNANSWERED


def percentile_ms(durations_ns: Sequence[int], quantile: float) -> float | None:
    """The smallest value that at least `quantile` (0..1) of all do not exceed, in milliseconds; None without any."""
    if not durations_ns:
        return None
    return sorted(durations_ns)[max(0, math.ceil(quantile * len(durations_ns)) - 1)] / 1e6


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers of a cell. Shares are of the requests offered, but `goodput` is of what the predictor can answer.

    `p50_ms` and `p99_ms` are over all answers, late ones too; times run from when a request was due. `lag_p99_ms` is
    the load generator's own lateness, which all times contain.
    """

    offered: int
    goodput: float
    refused: float
    expired: float
    late: int
    unanswered: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    refusal_p50_ms: float | None
    refusal_p99_ms: float | None
    lag_p99_ms: float | None


def summarise(samples: Sequence[Sample], capacity: float, seconds: float) -> Figures:
    """The figures of all requests that were due in `seconds`; `capacity` is in answers a second."""
    fates = [fate_of(sample) for sample in samples]
    count = Counter(fates)
    pairs = list(zip(samples, fates, strict=True))
    answered = [sample.response_ns for sample, fate in pairs if fate in {Fate.IN_TIME, Fate.LATE}]
    refused = [sample.response_ns for sample, fate in pairs if fate is Fate.REFUSED]
    offered = len(samples)
    return Figures(
        offered=offered,
        goodput=count[Fate.IN_TIME] / (capacity * seconds),
        refused=count[Fate.REFUSED] / max(1, offered),
        expired=count[Fate.EXPIRED] / max(1, offered),
        late=count[Fate.LATE],
        unanswered=count[Fate.UNANSWERED],
        failed=count[Fate.FAILED],
        p50_ms=percentile_ms(answered, 0.5),
        p99_ms=percentile_ms(answered, 0.99),
        refusal_p50_ms=percentile_ms(refused, 0.5),
        refusal_p99_ms=percentile_ms(refused, 0.99),
        lag_p99_ms=percentile_ms([sample.sent_ns - sample.intended_ns for sample in samples], 0.99),
    )
