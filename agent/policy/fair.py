"""A waiting line in which tenants take turns: deficit round robin in a band, earliest deadline first in a tenant.

(Shreedhar and Varghese, "Efficient fair queueing using deficit round robin", SIGCOMM 1995.)
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from agent.policy.edf import FLOOR, EdfQueue, Entry, band_at

# Tenants beyond these share a place with others: what clients invent must not grow what we keep. 0 is for nobody's.
PLACES = 64

# What a tenant may take in its turn, in mean requests.
_QUANTUM = 1.0


def place_of(tenant: int) -> int:
    """The place of a tenant, 0 for 0."""
    return 1 + tenant % (PLACES - 1) if tenant else 0


class _Band:
    """The tenants of one band. `turns` has those that wait, the first of them served next."""

    __slots__ = ("deficits", "queues", "turns", "work")

    def __init__(self) -> None:
        self.work = 0.0
        self.queues: dict[int, EdfQueue] = {}
        self.deficits: dict[int, float] = {}
        self.turns: deque[int] = deque()

    def insert(self, entry: Entry) -> None:
        place = place_of(entry.tenant)
        queue = self.queues.get(place)
        if queue is None:
            queue = self.queues[place] = EdfQueue()
            self.deficits[place] = 0.0 if self.turns else _QUANTUM  # the first of a band need not wait for its turn
            self.turns.append(place)
        queue.insert(entry)
        self.work += entry.cost

    def remove(self, entry: Entry) -> None:
        place = place_of(entry.tenant)
        queue = self.queues[place]
        queue.remove(entry)
        if not queue.count:
            # Who has nothing to send saves nothing up.
            del self.queues[place], self.deficits[place]
            self.turns.remove(place)
        self.work = self.work - entry.cost if self.queues else 0.0

    def first(self) -> Any:
        turns, deficits = self.turns, self.deficits
        while True:
            entry = self.queues[turns[0]].first()
            if deficits[turns[0]] >= entry.cost:
                return entry
            turns.rotate(-1)
            deficits[turns[0]] += _QUANTUM

    def ahead(self, own: float, cost: float) -> float:
        """The work before an entry that has `own` before it in its tenant's line: as much of every other tenant."""
        turn = own + cost
        return sum(min(queue.work, turn) for queue in self.queues.values())


class FairQueue:
    """The same interface as `edf.EdfQueue`. `work` is the sum of the costs of all that wait."""

    __slots__ = ("_bands", "_taken", "count", "work")

    def __init__(self) -> None:
        self.count = 0
        self.work = 0.0
        self._taken = 0
        self._bands: dict[int, _Band] = {}

    @property
    def lowest_band(self) -> int:
        """The band that is served last. Only of a queue in which somebody waits."""
        return max(self._bands)

    def insert(self, entry: Entry) -> None:
        """Put an entry into its tenant's line."""
        number = band_at(entry.rank)
        band = self._bands.get(number)
        if band is None:
            band = self._bands[number] = _Band()
        band.insert(entry)
        self.count += 1
        self.work += entry.cost

    def remove(self, entry: Entry) -> None:
        """Take out an entry that waits."""
        number = band_at(entry.rank)
        band = self._bands[number]
        band.remove(entry)
        if not band.queues:
            del self._bands[number]
        self.count -= 1
        self.work = self.work - entry.cost if self.count else 0.0

    def take(self, entry: Entry) -> None:
        """Take out the entry that `first` has named: it is served, at its tenant's expense."""
        self._taken += 1
        self._bands[band_at(entry.rank)].deficits[place_of(entry.tenant)] -= entry.cost
        self.remove(entry)

    def first(self) -> Any:
        """The entry whose turn it is; once in 16 turns that of the lowest band."""
        bands = self._bands
        number = min(bands)
        if len(bands) > 1 and self._taken % FLOOR == FLOOR - 1:
            number = max(bands)
        return bands[number].first()

    def earliest(self) -> Any:
        """The entry with the earliest deadline of all bands and tenants, or None."""
        firsts = (queue.first() for band in self._bands.values() for queue in band.queues.values())
        return min(firsts, key=lambda entry: entry.deadline, default=None)

    def last(self) -> Any:
        """The last of the tenant of the lowest band that has the most waiting. Only where somebody waits."""
        return max(self._bands[self.lowest_band].queues.values(), key=lambda queue: queue.work).last()

    def entries(self) -> Iterator[Any]:
        """All that wait, in no order."""
        queues = (queue for band in self._bands.values() for queue in band.queues.values())
        return (entry for queue in queues for entry in queue.entries())

    def ahead(self, entry: Entry) -> float:
        """The work of those who come before this entry, which may wait or not."""
        band = self._bands.get(band_at(entry.rank))
        own = 0.0
        if band is not None:
            queue = band.queues.get(place_of(entry.tenant))
            own = queue.ahead(entry) if queue is not None else 0.0
        return self._sum(entry, own)

    def backlog(self, entry: Entry) -> float:
        """The work before one that came last of the entry's tenant, whatever the deadlines."""
        band = self._bands.get(band_at(entry.rank))
        own = 0.0
        if band is not None:
            queue = band.queues.get(place_of(entry.tenant))
            own = queue.work if queue is not None else 0.0
        return self._sum(entry, own)

    def endangers(self, entry: Entry, begin: float, pace: float) -> bool:  # noqa: ARG002
        """Taking turns makes nobody late who was not to expect it: a tenant's turn comes whatever others ask for."""
        return False

    def _sum(self, entry: Entry, own: float) -> float:
        number = band_at(entry.rank)
        above = sum(band.work for other, band in self._bands.items() if other < number)
        band = self._bands.get(number)
        if band is None:
            return above
        place = place_of(entry.tenant)
        queue = band.queues.get(place)
        # Of its own tenant exactly what is before it, not as much as would come in as many turns.
        surplus = min(queue.work, own + entry.cost) - own if queue is not None else 0.0
        return above + band.ahead(own, entry.cost) - surplus
