"""The demand on a server, from its integrals: every scaler is told what is worked out here, and nothing else.

Demand is the mean of min(limit, inflight + queued), and the rate of refused requests times their service time. A gate
leaves no slot idle while somebody waits for it, so that minimum is `inflight` at every moment and its integral is
`inflight_seconds`. A queue's length would say nothing until all slots are taken, and then mostly how long the queue may
get; without the refusals, good shedding would hide all that is beyond the limit.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

from agent.errors import Outcome
from agent.observe.counters import ModelCounters
from agent.policy.usage import Usage

# How much of its limit a replica should be asked for, and how long a line may last that has gathered.
UTILIZATION = 0.7
DRAIN_S = 30.0

# A reading a second, for windows of up to this many seconds.
LONGEST_S = 300

_NO_FAULT_OF_OURS = frozenset({Outcome.SERVED, Outcome.CLIENT_GONE})


class Reading(NamedTuple):
    """A server's integrals and counts at one moment; `at` is seconds of a monotonic clock, as are the integrals'.

    `arrived` counts inference requests whatever became of them, `served` those that were answered, and `failed` those
    that were refused or that the predictor failed.
    """

    at: float
    inflight_seconds: float = 0.0
    queued_seconds: float = 0.0
    rejected_demand_seconds: float = 0.0
    arrived: int = 0
    served: int = 0
    failed: int = 0


class Demand(NamedTuple):
    """Time-weighted means over a window of `seconds`; `arrived`, `served` and `failed` are requests a second.

    `rejected` is the concurrency that was offered and refused.
    """

    seconds: float
    inflight: float
    queued: float
    rejected: float
    arrived: float
    served: float
    failed: float

    @property
    def total(self) -> float:
        """How many requests would be executing if nobody were refused: offered load times service time."""
        return self.inflight + self.rejected

    @property
    def service_s(self) -> float:
        """Seconds that a request keeps its slot (Little's law); 0.0 where none was served."""
        return self.inflight / self.served if self.served else 0.0

    def share(self, limit: int | None) -> float | None:
        """How many replicas of this limit the demand asks for. Rounded up once, over the sum of all replicas.

        What waits is to be gone in `DRAIN_S`. Without a limit there is nothing to divide by, and this is None.
        """
        if not limit:
            return None
        return (self.total + self.queued * self.service_s / DRAIN_S) / (limit * UTILIZATION)


def read(usages: Iterable[Usage], models: Mapping[tuple[str, str], ModelCounters], now: float) -> Reading:
    """The sums over all models. `usages` must stand at `now` (UsageTable.rows)."""
    inflight_s = queued_s = rejected_s = 0.0
    ended = present = served = failed = 0
    for usage in usages:
        inflight_s += usage.inflight_seconds
        queued_s += usage.queued_seconds
        rejected_s += usage.rejected_demand_seconds
        present += usage.inflight + usage.queued
    for counters in models.values():
        for (_, outcome), count in counters.ended.items():
            ended += count
            if outcome is Outcome.SERVED:
                served += count
            elif outcome not in _NO_FAULT_OF_OURS:
                failed += count
    return Reading(now, inflight_s, queued_s, rejected_s, ended + present, served, failed)


def between(earlier: Reading, later: Reading) -> Demand:
    """The means from one reading to a later one; all 0.0 where no time has passed."""
    seconds = later.at - earlier.at
    if seconds <= 0.0:
        return Demand(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    means = [(new - old) / seconds for old, new in zip(earlier[1:], later[1:], strict=True)]
    return Demand(seconds, *means)


class Meter:
    """Keeps a server's readings, so that the demand over any window of up to `LONGEST_S` can be told."""

    __slots__ = ("_readings",)

    def __init__(self, first: Reading) -> None:
        self._readings = deque([first], maxlen=LONGEST_S + 1)

    def keep(self, reading: Reading) -> None:
        """Take a reading, once a second; the oldest makes room."""
        self._readings.append(reading)

    def last_second(self) -> Demand:
        """The demand between the last two readings that were kept."""
        readings = self._readings
        return between(readings[max(0, len(readings) - 2)], readings[-1])

    def over(self, seconds: float, latest: Reading) -> Demand:
        """The demand in the last `seconds` before `latest`, or for as long as there are readings.

        The window begins at a reading that was kept, so it may be up to a second longer.
        """
        readings = self._readings
        index = bisect_right(readings, latest.at - seconds, key=attrgetter("at"))
        return between(readings[max(0, index - 1)], latest)
