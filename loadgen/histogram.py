"""PURE: counts of nanosecond values in the layout of HdrHistogram with two significant digits.

The dictionary of buckets is the accumulator of the hot path: the library's `record_value` costs 0.6 us, `add` half of
it, and there are three for each request. `hdr.py` turns one into the library's own and back without loss.
"""

import math

# A bucket is at most 1/128 of its lower edge wide: reported percentiles are never below the exact ones and at most
# 0.8 % above them.
PRECISION_BITS = 7

# The odds that a percentile printed as a value is in truth exceeded by more than its share of requests.
_RISK = 0.01


def samples_needed(quantile: float) -> int:
    """How many samples a percentile needs before it is a value: with fewer, 1 % of runs see nothing beyond it.

    The largest n with quantile ** n > 0.01, plus one: 44 for p90, 90 for p95, 459 for p99, 4603 for p99.9.
    """
    return math.ceil(math.log(_RISK) / math.log(quantile))


class Histogram:
    """Log-linear buckets by their index in `counts`; memory grows with the number of distinct buckets only."""

    __slots__ = ("count", "counts", "max", "min", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def add(self, ns: int) -> None:
        """Count one value; a negative one, which only a clock fault can make, counts as 0."""
        if ns < 0:  # noqa: PLR1730 (max() and min() cost a quarter of the whole here)
            ns = 0
        shift = ns.bit_length() - PRECISION_BITS - 1
        index = ns if shift <= 0 else (shift << PRECISION_BITS) + (ns >> shift)
        counts = self.counts
        counts[index] = counts.get(index, 0) + 1
        if ns > self.max:  # noqa: PLR1730
            self.max = ns
        if ns < self.min or not self.count:
            self.min = ns
        self.count += 1
        self.total += ns

    def add_many(self, ns: int, count: int) -> None:
        """Count `count` equal values."""
        one = Histogram()
        one.add(ns)
        (index,) = one.counts
        one.counts[index], one.count, one.total = count, count, ns * count
        self.merge(one)

    def merge(self, other: "Histogram") -> None:
        """Add everything `other` counted; the result equals one histogram that saw both."""
        if not other.count:
            return
        for index, number in other.counts.items():
            self.counts[index] = self.counts.get(index, 0) + number
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

    def share_above(self, ns: float) -> float:
        """The share of samples above `ns`, to the width of a bucket; 0 when nothing was counted."""
        return sum(number for upper, number in self.buckets() if upper > ns) / self.count if self.count else 0.0

    def is_enough_for(self, quantile: float) -> bool:
        """Whether the percentile may be called a value, not only the largest of too few."""
        return self.count >= samples_needed(quantile)

    def mean(self) -> float:
        """Arithmetic mean in nanoseconds; 0 when nothing was counted."""
        return self.total / self.count if self.count else 0.0

    def buckets(self) -> list[tuple[int, int]]:
        """(largest value of the bucket in nanoseconds, count), ascending, empty buckets left out."""
        return [(_upper_edge(index), self.counts[index]) for index in sorted(self.counts)]


def _upper_edge(index: int) -> int:
    shift = max(0, (index >> PRECISION_BITS) - 1)
    return (((index - (shift << PRECISION_BITS)) + 1) << shift) - 1
