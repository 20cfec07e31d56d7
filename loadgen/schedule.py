"""PURE: when each request ought to be sent, drawn once before the clock starts.

Constant and Poisson arrivals share one construction: arrival k has a position on the axis "requests planned so far"
(0, 1, 2, ... or sums of unit exponentials), and the steps map positions to times. So a rate that changes in the middle
of a gap stretches only the rest of that gap, as a non-homogeneous Poisson process demands.
"""

import math
import random
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from loadgen.units import NS_PER_S

# 8 bytes each, so 160 MB: ten minutes at 33,000/s. Beyond that a schedule is a mistake in a unit.
MAX_ARRIVALS = 20_000_000


class Arrivals(StrEnum):
    """How requests are spread within a step."""

    CONSTANT = "constant"
    POISSON = "poisson"


class Step(NamedTuple):
    """`rate` requests per second (0 = a pause) for `duration_s` seconds."""

    rate: float
    duration_s: float


class Schedule(NamedTuple):
    """`offsets_ns` from the start of the run, ascending; `first[i]` is the index of the first arrival of `steps[i]`."""

    steps: tuple[Step, ...]
    offsets_ns: "array[int]"
    first: tuple[int, ...]

    def arrivals_in(self, step: int) -> int:
        """How many requests `steps[step]` plans."""
        end = self.first[step + 1] if step + 1 < len(self.first) else len(self.offsets_ns)
        return end - self.first[step]


def planned_arrivals(steps: Sequence[Step]) -> float:
    """How many requests `steps` plan, on average where arrivals are random."""
    return sum(step.rate * step.duration_s for step in steps)


def draw(steps: Sequence[Step], arrivals: Arrivals, seed: int, limit: int = MAX_ARRIVALS) -> Schedule:
    """The schedule of `steps`, of which only the first `limit` arrivals are kept.

    Equal arguments give equal schedules on every machine. The last step may last for ever (math.inf): `limit` ends it.
    Raises ValueError for a negative or otherwise infinite step and for a schedule beyond MAX_ARRIVALS.
    """
    for step in steps:
        if not (
            0 <= step.rate < math.inf and step.duration_s >= 0 and (step.duration_s < math.inf or step is steps[-1])
        ):
            raise ValueError(f"a step needs a finite rate and duration of at least 0, not {step}")
    if not min(planned_arrivals(steps), limit) <= MAX_ARRIVALS:
        raise ValueError(f"a schedule holds at most {MAX_ARRIVALS} arrivals, not {planned_arrivals(steps):.0f}")
    offsets: array[int] = array("q")
    source = random.Random(seed)
    position = 0.0 if arrivals is Arrivals.CONSTANT else source.expovariate(1.0)
    start_s, passed = 0.0, 0.0
    for step in steps:
        end = passed + step.rate * step.duration_s
        # Where the division rounds up to the step's end, the arrival must still lie inside its own step.
        last_ns = _ns(start_s + step.duration_s) - 1
        while position < end and len(offsets) < limit:
            offsets.append(min(last_ns, _ns(start_s + (position - passed) / step.rate)))
            position += 1.0 if arrivals is Arrivals.CONSTANT else source.expovariate(1.0)
        start_s += step.duration_s
        passed = end
    return Schedule(tuple(steps), offsets, _first_arrivals(steps, offsets))


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S) if seconds < math.inf else 1 << 63


def _first_arrivals(steps: Sequence[Step], offsets: "array[int]") -> tuple[int, ...]:
    first, start_s = [], 0.0
    for step in steps:
        first.append(bisect_left(offsets, _ns(start_s)))
        start_s += step.duration_s
    return tuple(first)
