"""A waiting line in the order (band, deadline, sequence): earliest deadline first, band by band.

A sorted list in blocks of some 32 keys, with the work of each block beside it. Finding a place is O(log n), and the
moves and sums go over one block and the list of blocks: both are memory moves and sums in C, which up to ten thousand
waiting requests cost less than the dozen steps that a balanced tree takes in Python (`python -m tests.bench.policy`).
"""

from bisect import bisect_left
from typing import Any, Protocol

# Band, deadline, and a sequence that makes it unique.
Key = tuple[int, float, int]

_BLOCK = 64

# One dispatch in so many goes to the lowest band that waits.
FLOOR = 16


class Entry(Protocol):
    """What waits: its place in the order, its work in mean requests, and whose it is."""

    key: Key
    cost: float
    tenant: int


class _Block:
    """A run of neighbours in the order."""

    __slots__ = ("costs", "entries", "keys")

    def __init__(self, keys: list[Key], costs: list[float], entries: list[Entry]) -> None:
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
        self._lasts: list[Key] = []
        self._works: list[float] = []

    @property
    def lowest_band(self) -> int:
        """The band that is served last; bands with higher numbers are lower. Only where somebody waits."""
        return self._lasts[-1][0]

    def insert(self, entry: Entry) -> None:
        """Put an entry in its place."""
        key, cost = entry.key, entry.cost
        self.count += 1
        self.work += cost
        lasts = self._lasts
        if not lasts:
            self._blocks.append(_Block([key], [cost], [entry]))
            lasts.append(key)
            self._works.append(cost)
            return
        at = bisect_left(lasts, key)
        if at == len(lasts):
            at -= 1
            block = self._blocks[at]
            block.keys.append(key)
            block.costs.append(cost)
            block.entries.append(entry)
            lasts[at] = key
        else:
            block = self._blocks[at]
            place = bisect_left(block.keys, key)
            block.keys.insert(place, key)
            block.costs.insert(place, cost)
            block.entries.insert(place, entry)
        self._works[at] += cost
        if len(block.keys) > _BLOCK:
            self._split(at)

    def remove(self, entry: Entry) -> None:
        """Take out an entry that waits."""
        key = entry.key
        lasts = self._lasts
        at = bisect_left(lasts, key)
        block = self._blocks[at]
        keys = block.keys
        place = bisect_left(keys, key)
        assert keys[place] == key, "only what waits can be taken out"
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
        self.remove(entry)

    def first(self) -> Any:
        """The entry whose turn it is: the first in the order, or, once in 16 turns, the first of the lowest band."""
        block = self._blocks[0]
        lowest = self._lasts[-1][0]
        if lowest != block.keys[0][0] and self._taken % FLOOR == FLOOR - 1:
            at, place = self._find((lowest, 0.0, 0))
            return self._blocks[at].entries[place]
        return block.entries[0]

    def ahead(self, entry: Entry) -> float:
        """The work of those who come before this entry, which may wait or not."""
        if not self.count or entry.key > self._lasts[-1]:
            return self.work
        return self._before(*self._find(entry.key))

    def backlog(self, entry: Entry) -> float:
        """The work of the entry's band and those above it, whatever the deadlines."""
        band = entry.key[0]
        if not self.count or self._lasts[-1][0] <= band:
            return self.work
        return self._before(*self._find((band + 1, 0.0, 0)))

    def endangers(self, entry: Entry, begin: float, pace: float) -> bool:
        """Whether this entry, which does not wait yet, would make one of its band that waits late.

        `begin` is when one with no work before it would be answered, `pace` how many seconds a unit of work takes.
        """
        key = entry.key
        if not self.count or key > self._lasts[-1]:
            return False
        band = key[0]
        at, place = self._find(key)
        begin += pace * entry.cost
        worst = begin + pace * self.work
        work = self._before(at, place)
        for block in self._blocks[at:]:
            keys = block.keys
            if keys[place][0] != band or keys[place][1] >= worst:
                return False
            # The earliest deadline of the block against all of its work: mostly that settles it.
            done = work + sum(block.costs[place:])
            if keys[place][1] < begin + pace * done:
                for other in range(place, len(keys)):
                    work += block.costs[other]
                    if keys[other][0] != band:
                        return False
                    if begin + pace * work > keys[other][1]:
                        return True
            work = done
            place = 0
        return False

    def _find(self, key: Key) -> tuple[int, int]:
        """Block and place of the first entry that is not before `key`; there is one."""
        at = bisect_left(self._lasts, key)
        return at, bisect_left(self._blocks[at].keys, key)

    def _before(self, at: int, place: int) -> float:
        return sum(self._works[:at]) + sum(self._blocks[at].costs[:place])

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
