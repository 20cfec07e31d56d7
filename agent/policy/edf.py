"""A waiting line in the order (band, deadline, arrival): earliest deadline first, band by band.

A sorted list in blocks of some 32 keys, with the work of each block beside it. Finding a place is O(log n), and the
moves and sums go over one block and the list of blocks: both are memory moves and sums in C, which up to ten thousand
waiting requests cost less than the dozen steps that a balanced tree takes in Python (`python -m tests.bench.policy`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Protocol

# Band and deadline as one number, which is compared three times as fast as a tuple. A band spans more seconds than a
# monotonic clock will ever tell; deadlines that differ by less than the last bit, a microsecond, go by arrival.
_BAND_SPAN = float(1 << 30)

_BLOCK = 64

# One dispatch in so many goes to the lowest band that waits.
FLOOR = 16


class Entry(Protocol):
    """What waits: its `rank` in the order, until when, its work in mean requests, and whose it is."""

    rank: float
    deadline: float
    cost: float
    tenant: int


def rank_of(band: int, deadline: float) -> float:
    """The rank of a deadline, in seconds of the monotonic clock, in a band."""
    return band * _BAND_SPAN + deadline


def band_at(rank: float) -> int:
    """The band of a rank."""
    return int(rank // _BAND_SPAN)


class _Block:
    """A run of neighbours in the order."""

    __slots__ = ("costs", "entries", "keys")

    def __init__(self, keys: list[float], costs: list[float], entries: list[Entry]) -> None:
        self.keys = keys
        self.costs = costs
        self.entries = entries


class EdfQueue:
    """`work` is the sum of the costs of all that wait."""

    __slots__ = ("_blocks", "_lasts", "_taken", "_works", "count", "work")

    def __init__(self) -> None:
        self.count = 0
        self.work = 0.0
        self._taken = 0
        self._blocks: list[_Block] = []
        # The last key and the work of each block: what is bisected and summed.
        self._lasts: list[float] = []
        self._works: list[float] = []

    @property
    def lowest_band(self) -> int:
        """The band that is served last; bands with higher numbers are lower. Only where somebody waits."""
        return band_at(self._lasts[-1])

    def insert(self, entry: Entry) -> None:
        """Put an entry in its place, behind those of the same deadline."""
        key, cost = entry.rank, entry.cost
        self.count += 1
        self.work += cost
        lasts = self._lasts
        if not lasts:
            self._blocks.append(_Block([key], [cost], [entry]))
            lasts.append(key)
            self._works.append(cost)
            return
        at = bisect_right(lasts, key)
        if at == len(lasts):
            at -= 1
            block = self._blocks[at]
            block.keys.append(key)
            block.costs.append(cost)
            block.entries.append(entry)
            lasts[at] = key
        else:
            block = self._blocks[at]
            place = bisect_right(block.keys, key)
            block.keys.insert(place, key)
            block.costs.insert(place, cost)
            block.entries.insert(place, entry)
        self._works[at] += cost
        if len(block.keys) > _BLOCK:
            self._split(at)

    def remove(self, entry: Entry) -> None:
        """Take out an entry that waits."""
        key = entry.rank
        lasts = self._lasts
        at = bisect_left(lasts, key)
        block = self._blocks[at]
        place = bisect_left(block.keys, key)
        while block.entries[place] is not entry:  # equal ranks go by arrival, and may go over several blocks
            place += 1
            if place == len(block.entries):
                at, place = at + 1, 0
                block = self._blocks[at]
            assert block.keys[place] == key, "only what waits can be taken out"
        keys = block.keys
        del keys[place], block.entries[place]
        cost = block.costs.pop(place)
        self.count -= 1
        if not keys:
            del self._blocks[at], lasts[at], self._works[at]
        else:
            self._works[at] -= cost
            lasts[at] = keys[-1]
        # An empty queue has no work at all: sums of fractions would leave a rest.
        self.work = self.work - cost if self.count else 0.0

    def take(self, entry: Entry) -> None:
        """Take out the entry that `first` has named: it is served."""
        self._taken += 1
        block = self._blocks[0]
        if block.entries[0] is not entry or len(block.keys) == 1:
            self.remove(entry)
            return
        # The head of a block needs no search and changes nothing but sums.
        del block.keys[0], block.entries[0]
        cost = block.costs.pop(0)
        self._works[0] -= cost
        self.work -= cost
        self.count -= 1

    def first(self) -> Any:
        """The entry whose turn it is: the first in the order, or, once in 16 turns, the first of the lowest band."""
        block = self._blocks[0]
        if self._taken % FLOOR == FLOOR - 1:
            at, place = self._find(rank_of(self.lowest_band, 0.0))
            return self._blocks[at].entries[place]
        return block.entries[0]

    def earliest(self) -> Any:
        """The entry with the earliest deadline of all bands, or None."""
        found = None
        if self.count:
            band, lowest = band_at(self._blocks[0].keys[0]), self.lowest_band
            found = self._blocks[0].entries[0]
            while band < lowest:
                at, place = self._find(rank_of(band + 1, 0.0))
                band = band_at(self._blocks[at].keys[place])
                entry = self._blocks[at].entries[place]
                if entry.deadline < found.deadline:
                    found = entry
        return found

    def last(self) -> Any:
        """The last in the order. Only where somebody waits."""
        return self._blocks[-1].entries[-1]

    def entries(self) -> Iterator[Any]:
        """All that wait, in the order."""
        return (entry for block in self._blocks for entry in block.entries)

    def ahead(self, entry: Entry) -> float:
        """The work of those who come before this entry, which may wait or not."""
        rank, lasts = entry.rank, self._lasts
        if not lasts or rank >= lasts[-1]:
            return self.work
        at = bisect_right(lasts, rank)
        block = self._blocks[at]
        return sum(self._works[:at]) + sum(block.costs[: bisect_right(block.keys, rank)])

    def backlog(self, entry: Entry) -> float:
        """The work of the entry's band and those above it, whatever the deadlines."""
        above = (entry.rank // _BAND_SPAN + 1) * _BAND_SPAN
        if not self.count or self._lasts[-1] < above:
            return self.work
        at, place = self._find(above)
        return sum(self._works[:at]) + sum(self._blocks[at].costs[:place])

    def endangers(self, entry: Entry, begin: float, pace: float) -> bool:
        """Whether this entry, which does not wait yet, would make one of its band that waits late.

        `begin` is when one with no work before it would be answered, `pace` how many seconds a unit of work takes.
        """
        rank, lasts = entry.rank, self._lasts
        if not lasts or rank >= lasts[-1]:
            return False
        base = rank // _BAND_SPAN * _BAND_SPAN
        end = base + _BAND_SPAN
        at = bisect_right(lasts, rank)
        place = bisect_right(self._blocks[at].keys, rank)
        # From here on in ranks: what is done at `begin` and the work before it, against the deadlines of the band.
        begin += base + pace * entry.cost
        worst = begin + pace * self.work
        nearest = self._blocks[at].keys[place]
        if nearest >= end or nearest >= worst:
            return False
        work = sum(self._works[:at]) + sum(self._blocks[at].costs[:place])
        for block in self._blocks[at:]:
            keys = block.keys
            if keys[place] >= end or keys[place] >= worst:
                return False
            # The earliest deadline of the block against all of its work: mostly that settles it.
            done = work + (sum(block.costs[place:]) if place else self._works[at])
            if keys[place] < begin + pace * done:
                for key, cost in zip(keys[place:], block.costs[place:], strict=True):
                    work += cost
                    if key >= end:
                        return False
                    if begin + pace * work > key:
                        return True
            work = done
            place = 0
            at += 1
        return False

    def _find(self, key: float) -> tuple[int, int]:
        """Block and place of the first entry that is not before `key`; there is one."""
        at = bisect_left(self._lasts, key)
        return at, bisect_left(self._blocks[at].keys, key)

    def _split(self, at: int) -> None:
        block = self._blocks[at]
        half = len(block.keys) // 2
        lower, upper = (
            _Block(block.keys[part], block.costs[part], block.entries[part])
            for part in (slice(half), slice(half, None))
        )
        self._blocks[at : at + 1] = lower, upper
        self._lasts.insert(at, lower.keys[-1])
        self._works[at : at + 1] = sum(lower.costs), sum(upper.costs)
