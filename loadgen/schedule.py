"""PURE: when each request ought to be sent, drawn once before the clock starts.

All kinds of arrivals share one construction: arrival k has a position on the axis "requests planned so far" (0, 1, 2,
... or sums of random gaps of mean 1), and the steps map positions to times. So a rate that changes in the middle of a
gap stretches only the rest of that gap, as a non-homogeneous Poisson process demands.
"""

import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from loadgen.units import NS_PER_S

# 8 bytes each, so 160 MB: ten minutes at 33,000/s. Beyond that a schedule is a mistake in a unit.
MAX_ARRIVALS = 20_000_000


class Arrivals(StrEnum):
    """How requests are spread within a step."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"  # gaps with a coefficient of variation of one's own: 1 is Poisson, more comes in bursts


class Step(NamedTuple):
    """`rate` requests per second (0 = a pause) for `duration_s` seconds, changing evenly to `end_rate` where that is
    given."""

    rate: float
    duration_s: float
    end_rate: float | None = None

    @property
    def planned(self) -> float:
        """How many requests it plans, on average where arrivals are random."""
        if self.end_rate is None:
            return self.rate * self.duration_s
        return (self.rate + self.end_rate) / 2 * self.duration_s

    def time_of(self, position: float) -> float:
        """When `position` requests of the step have come, in seconds from its start."""
        if self.end_rate is None or self.end_rate == self.rate:
            return position / self.rate
        if not position:
            return 0.0
        # The planned requests up to t are rate * t + slope * t^2 / 2; this root is the one without cancellation.
        slope = (self.end_rate - self.rate) / self.duration_s
        return 2 * position / (self.rate + math.sqrt(max(0.0, self.rate**2 + 2 * slope * position)))


class Schedule(NamedTuple):
    """`offsets_ns` from the start of the run, ascending; `first[i]` is the index of the first arrival of `steps[i]`."""

    steps: tuple[Step, ...]
    offsets_ns: "array[int]"
    first: tuple[int, ...]

    def share(self, number: int, of: int) -> "Schedule":
        """Every `of`-th arrival from the one of `number` on: all shares together are the whole."""
        first = tuple(-(-(index - number) // of) if index > number else 0 for index in self.first)
        return self._replace(offsets_ns=self.offsets_ns[number::of], first=first)

    def arrivals_in(self, step: int) -> int:
        """How many requests `steps[step]` plans."""
        end = self.first[step + 1] if step + 1 < len(self.first) else len(self.offsets_ns)
        return end - self.first[step]


def planned_arrivals(steps: Sequence[Step]) -> float:
    """How many requests `steps` plan, on average where arrivals are random."""
    return sum(step.planned for step in steps)


def given(offsets_s: Sequence[float]) -> Schedule:
    """The schedule of arrivals at these seconds from the start, in any order. Raises ValueError for none or too many,
    and for times that are negative or not finite."""
    if not 1 <= len(offsets_s) <= MAX_ARRIVALS or not all(0 <= offset < math.inf for offset in offsets_s):
        raise ValueError(f"1 to {MAX_ARRIVALS} times of at least 0, not {len(offsets_s)}")
    offsets = array("q", sorted(_ns(offset) for offset in offsets_s))
    duration_s = max(offsets[-1] / NS_PER_S, 1e-3)
    return Schedule((Step(len(offsets) / duration_s, duration_s),), offsets, (0,))


def draw(
    steps: Sequence[Step], arrivals: Arrivals, seed: int, limit: int = MAX_ARRIVALS, *, spread: float = 1.0
) -> Schedule:
    """The schedule of `steps`, of which only the first `limit` arrivals are kept; `spread` is the coefficient of
    variation of gamma's gaps.

    Equal arguments give equal schedules on every machine. The last step may last for ever (math.inf): `limit` ends it.
    Raises ValueError for a negative or otherwise infinite step and for a schedule beyond MAX_ARRIVALS.
    """
    for step in steps:
        endless = math.isinf(step.duration_s) and step is steps[-1] and step.end_rate is None
        rates = (step.rate, step.rate if step.end_rate is None else step.end_rate)
        if not (
            all(0 <= rate < math.inf for rate in rates)
            and step.duration_s >= 0
            and (step.duration_s < math.inf or endless)
        ):
            raise ValueError(f"a step needs a finite rate and duration of at least 0, not {step}")
    if not min(planned_arrivals(steps), limit) <= MAX_ARRIVALS:
        raise ValueError(f"a schedule holds at most {MAX_ARRIVALS} arrivals, not {planned_arrivals(steps):.0f}")
    offsets: array[int] = array("q")
    source = random.Random(seed)
    gap = _gaps(arrivals, source, spread)
    position = 0.0 if arrivals is Arrivals.CONSTANT else gap()
    start_s, passed = 0.0, 0.0
    for step in steps:
        end = passed + step.planned
        # Where the division rounds up to the step's end, the arrival must still lie inside its own step.
        last_ns = _ns(start_s + step.duration_s) - 1
        while position < end and len(offsets) < limit:
            offsets.append(min(last_ns, _ns(start_s + step.time_of(position - passed))))
            position += gap()
        start_s += step.duration_s
        passed = end
    return Schedule(tuple(steps), offsets, _first_arrivals(steps, offsets))


def _gaps(arrivals: Arrivals, source: random.Random, spread: float) -> Callable[[], float]:
    """Draws the next gap, of mean 1."""
    if arrivals is Arrivals.CONSTANT:
        return lambda: 1.0
    if arrivals is Arrivals.POISSON:
        return lambda: source.expovariate(1.0)
    variance = spread**2
    return lambda: source.gammavariate(1 / variance, variance)


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S) if seconds < math.inf else 1 << 63


def _first_arrivals(steps: Sequence[Step], offsets: "array[int]") -> tuple[int, ...]:
    first, start_s = [], 0.0
    for step in steps:
        first.append(bisect_left(offsets, _ns(start_s)))
        start_s += step.duration_s
    return tuple(first)
