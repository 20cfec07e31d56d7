"""What the deadline policy believes: how fast a limit lets work through, and how long the predictor takes.

Neither needs a model of batching or processor sharing: departures are counted while somebody waits, and service times
are kept apart by how many requests were in flight at the dispatch, so what was seen in a congestion condemns no idle
predictor. Times are seconds, work is in mean requests (a request's cost, 1.0 unless the caller knows better).
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from math import log

# A level's sample: enough for a stable 90 % quantile, few enough to follow a new version of the model.
_SAMPLES = 96
_MIN_SAMPLES = 4
_MAX_AGE_S = 10.0
# Where a window would last for less than this, only one time in 11 is kept: it spans a moment worth knowing, and what
# is left out costs nothing (0.6 us each, `tests.bench.policy`). A prime, so that no usual batch always tells the same
# of its members.
_DENSE_S = 0.25
_OMITTED = 10

# Levels in flight are told apart in steps of 1.5: at twice the level the time may be twice as long.
_STEP = log(1.5)
_BUCKETS = 40
_BUCKET_OF = [int(log(max(1, level)) / _STEP) for level in range(1024)]

_GAP_WEIGHT = 1 / 64
_ARRIVAL_WEIGHT = 1 / 100
_MEAN_WEIGHT = 0.05
# What comes within this time is counted and booked as one: two means an event cost 0.3 us (`tests.bench.policy`).
_TICK_S = 0.001
_MAX_COUNT = 20
# A pause in the arrivals says little of the rate before and after it.
_MAX_ARRIVAL_GAP_S = 1.0

# A span over which departures are counted whether somebody waits or not, and how far below it the estimate may be.
_SPAN_S = 1.0
_SPAN_DEPARTURES = 32
_SPAN_TOLERANCE = 1.25


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` (below 1.0) of the sorted values do not exceed; 0.0 of none."""
    return values[int(share * len(values))] if values else 0.0


class Window:
    """The newest samples, not older than 10 s, in order of time and of size."""

    __slots__ = ("_arrivals", "values")

    def __init__(self) -> None:
        self.values: list[float] = []
        self._arrivals: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> bool:
        """Take one more sample; the oldest makes room.

        Returns whether all are of the last moment, which a stall or a batch can make alike.
        """
        arrivals, values = self._arrivals, self.values
        insort(values, value)
        arrivals.append((now, value))
        if len(values) <= _SAMPLES:
            return False
        oldest, value = arrivals.popleft()
        del values[bisect_left(values, value)]
        return now - oldest < _DENSE_S

    def trim(self, now: float) -> list[float]:
        """Forget what is too old. Returns `values`, sorted."""
        arrivals, values, oldest = self._arrivals, self.values, now - _MAX_AGE_S
        while arrivals and arrivals[0][0] < oldest:
            del values[bisect_left(values, arrivals.popleft()[1])]
        return values


class ServiceTimes:
    """How long requests took that were dispatched as the n-th in flight, per unit of cost.

    `slowest` is the longest time that was ever told: no quantile is above it.
    """

    __slots__ = ("_omit", "_windows", "slowest")

    def __init__(self) -> None:
        self._windows: list[Window | None] = [None] * _BUCKETS
        self._omit = 0
        self.slowest = 0.0

    def add(self, now: float, level: int, seconds: float) -> None:
        """One request, dispatched as the `level`-th in flight, took `seconds` a unit of cost."""
        self.slowest = max(self.slowest, seconds)
        if self._omit:
            self._omit -= 1
            return
        bucket = _BUCKET_OF[level] if level < 1024 else bucket_of(level)
        window = self._windows[bucket]
        if window is None:
            window = self._windows[bucket] = Window()
        if window.add(now, seconds):
            self._omit = _OMITTED

    def at(self, level: int, now: float) -> Sequence[float]:
        """The sorted times at this level, or the nearest that has some; empty where nothing recent is known."""
        bucket = _BUCKET_OF[level] if level < 1024 else bucket_of(level)
        windows = self._windows
        window = windows[bucket]
        if window is not None:
            values = window.trim(now)
            if len(values) >= _MIN_SAMPLES:
                return values
        # Below before above: congestion that has passed must not be feared longer than it lasts.
        for near in (bucket - 1, bucket + 1, bucket - 2):
            window = windows[near] if near >= 0 else None
            if window is not None:
                values = window.trim(now)
                if len(values) >= _MIN_SAMPLES:
                    return values
        return ()


def bucket_of(level: int) -> int:
    """The class of levels in flight that are taken for alike."""
    return _BUCKET_OF[level] if level < 1024 else min(_BUCKETS - 2, int(log(level) / _STEP))


class Drain:
    """The flow through one limit: what arrives, what leaves, and since when no slot has been idle.

    `pace` is how many seconds a unit of work takes while somebody waits, 0.0 as long as nobody has. `idle_at` is when a
    slot was last known idle, `refused_at` when somebody was last refused here. `patience` is the mean of what arrivals
    were ready to wait, and `hold` of how long requests keep their slots.
    """

    __slots__ = (
        "_arrival",
        "_arrival_gap",
        "_arrivals",
        "_cost",
        "_departure",
        "_gap",
        "_left",
        "_span_at",
        "_span_departures",
        "hold",
        "idle_at",
        "pace",
        "patience",
        "refused_at",
    )

    def __init__(self) -> None:
        self.idle_at = 0.0
        self.hold = 0.0
        self.pace = 0.0
        self.refused_at = -1.0
        self.patience = 0.0
        self._gap = 0.0
        self._cost = 1.0
        self._departure: float | None = None
        self._arrival: float | None = None
        self._arrival_gap = 0.0
        self._arrivals = 0
        self._left = -1.0
        self._span_at = 0.0
        self._span_departures = 0

    def is_wanting(self, now: float) -> bool:
        """Whether somebody was refused not longer ago than a request takes: there was more to do than was done."""
        return now - self.refused_at <= self.hold

    @property
    def rate(self) -> float:
        """Work that leaves in a second while somebody waits; 0.0 as long as nobody has waited."""
        return 1 / self.pace if self.pace else 0.0

    @property
    def load(self) -> float:
        """Offered over served, refusals included: 2.0 is twice the capacity. Never below 1.0."""
        return max(1.0, self._gap / self._arrival_gap) if self._gap and self._arrival_gap else 1.0

    def arrive(self, now: float, patience: float) -> None:
        """A request has come, whatever becomes of it."""
        last = self._arrival
        if last is None:
            self._arrival, self.patience = now, patience
            return
        self._arrivals = count = self._arrivals + 1
        gap = now - last
        if gap < _TICK_S and count < _MAX_COUNT:
            return
        self._arrival, self._arrivals = now, 0
        gap = min(gap, _MAX_ARRIVAL_GAP_S) / count
        mean, weight = self._arrival_gap, count * _ARRIVAL_WEIGHT
        self._arrival_gap = mean + (gap - mean) * weight if mean else gap
        self.patience += (patience - self.patience) * weight

    def leave(self, now: float, hold: float, cost: float, *, backlogged: bool) -> None:
        """A slot is free again that was held for `hold`; `backlogged` is whether somebody waits for it."""
        self._span_departures += 1
        last = self._departure
        if not backlogged:
            self._departure = None
            if now - self._left < _TICK_S:
                return
        else:
            self._departure = now
            if last is not None:
                if self._gap:
                    self._gap += (now - last - self._gap) * _GAP_WEIGHT
                    self._cost += (cost - self._cost) * _GAP_WEIGHT
                else:
                    self._gap, self._cost = now - last, cost
                self.pace = self._gap / self._cost
        self._left = now
        self.hold += (hold - self.hold) * _MEAN_WEIGHT if self.hold else hold
        if now - self._span_at > _SPAN_S:
            self._end_span(now)

    def wait(self, work: float, limit: int) -> float:
        """Seconds until `work` has left through `limit` slots; 0.0 where nothing is known."""
        return work * (self.pace or self.hold / limit)

    def _end_span(self, now: float) -> None:
        # What left is a lower bound of what can leave. After a stall the estimate is far below it and would stay there:
        # whoever would have to wait is refused, so nobody waits, and departures without a queue are not counted.
        count = self._span_departures
        if count >= _SPAN_DEPARTURES:
            mean = (now - self._span_at) / count
            if self._gap > mean * _SPAN_TOLERANCE:
                self._gap = mean
                self.pace = mean / self._cost
        elif count > 1 and now - self._span_at < _SPAN_DEPARTURES * _SPAN_S:
            return
        self._span_at, self._span_departures = now, 0
