"""The last minutes, a reading a second: what rolls, so that two who read never take anything from each other."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from agent.observe.counters import BOUNDS, Counters
from agent.policy.admission import Admission
from agent.policy.usage import UsageTable

# Five minutes and the one before them.
MAX_READINGS = 301
MAX_EVENTS = 20


class Reading(NamedTuple):
    """The state at one moment; what is cumulative goes from the start of the process.

    `at` is monotonic seconds. `peak` is the most that was in flight and queued at once since the reading before,
    `limit` None where nothing bounds. `served`, `refused` and `failed` (any other ending) count inference requests that
    have ended, and `times` those served by the buckets of `counters.BOUNDS`.
    """

    at: float
    inflight: int
    queued: int
    limit: int | None
    peak: int
    inflight_seconds: float
    queued_seconds: float
    rejected_demand: float
    served: int
    refused: int
    failed: int
    times: tuple[int, ...]


def read(admission: Admission[Any], usages: Mapping[str, UsageTable], counters: Counters, now: float) -> Reading:
    """The state as of now. Takes nothing: `Admission.take_peak` is for whoever keeps the reading."""
    rows = [row for table in usages.values() for row in table.rows(now)]
    models = counters.models.values()
    served = [sum(column) for column in zip(*(model.request.counts for model in models), strict=True)]
    refused = sum(counters.rejected.values())
    ended = sum(sum(model.ended.values()) for model in models)
    return Reading(
        at=now,
        inflight=admission.inflight,
        queued=admission.queued,
        limit=admission.limit,
        peak=max(admission.peak, admission.inflight + admission.queued),
        inflight_seconds=sum(row.inflight_seconds for row in rows),
        queued_seconds=sum(row.queued_seconds for row in rows),
        rejected_demand=sum(row.rejected_demand_seconds for row in rows),
        served=sum(served),
        refused=refused,
        failed=ended - sum(served) - refused,
        times=tuple(served) or (0,) * (len(BOUNDS) + 1),
    )


class Event(NamedTuple):
    """A decision of the search for a limit: of the total where `model` is empty. `rate` is requests a second."""

    at: float
    model: str
    limit: int
    reason: str
    rate: float


class History:
    """Readings in the order of time, the newest last, and the latest decisions on limits."""

    __slots__ = ("events", "readings")

    def __init__(self) -> None:
        self.readings: deque[Reading] = deque(maxlen=MAX_READINGS)
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)

    def peak(self, now: Reading, window: float) -> int:
        """The most that was in flight and queued at once; `now` is a reading that is not kept."""
        return max(now.peak, *(reading.peak for reading in self._since(now, window)), 0)

    def _since(self, now: Reading, window: float) -> Iterator[Reading]:
        """The readings whose second lies at least partly in the window, newest first."""
        for reading in reversed(self.readings):
            if reading.at <= now.at - window:
                return
            yield reading
