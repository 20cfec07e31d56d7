"""What the deadline policy keeps for a request and for the models that share a limit."""

from typing import Any

from agent.policy.admission import NEW, Lane, Ticket
from agent.policy.edf import EdfQueue
from agent.policy.estimate import Drain, ServiceTimes
from agent.policy.fair import FairQueue
from agent.policy.knee import Knee
from agent.policy.usage import Usage

# V2 knows priority 1 as the highest and 0 as none stated; that is the middle here, so that a client may step back too.
LOWEST_BAND = 7
_UNSTATED_BAND = 4
# Weight of the newest request in the mean of rows.
_ROWS_WEIGHT = 1 / 64


def band_of(priority: int) -> int:
    """The band of a V2 priority: 1 is served first; 0 and what is no priority stand for the middle."""
    return min(priority, LOWEST_BAND) if priority > 0 else _UNSTATED_BAND


class Line(Lane):
    """A lane whose waiting tickets are ordered by `waiting`, and what is believed of the lane's models.

    `unary` has the times to the end of an answer, `streaming` those to its first byte: the two never mix. `drain` is
    the flow through the lane's own limit, None without one, and `search` what looks for that limit, if anything does.
    """

    __slots__ = ("_rows", "drain", "has_streams", "search", "streaming", "unary", "waiting")

    def __init__(self, limit: int | None, *, fair: bool, search: Knee | None = None) -> None:
        super().__init__(limit if search is None else search.limit)
        self.waiting: EdfQueue | FairQueue = FairQueue() if fair else EdfQueue()
        self.unary = ServiceTimes()
        self.streaming = ServiceTimes()
        self.has_streams = False
        self._rows = 0.0
        self.drain = Drain() if self.limit is not None else None
        self.search = search

    def limit_to(self, limit: int | None, search: Knee | None) -> None:
        """Change the lane's own limit, or what looks for it."""
        self.search = search
        self.limit = limit if search is None else search.limit
        if self.drain is None and self.limit is not None:
            self.drain = Drain()

    def cost_of(self, rows: int) -> float:
        """So many rows in units of the recent mean, which then includes them."""
        self._rows += (rows - self._rows) * _ROWS_WEIGHT if self._rows else rows
        return rows / self._rows

    def times(self, *, streams: bool) -> ServiceTimes:
        """The service times of a class: those of streams end with the first byte of the answer."""
        return self.streaming if streams else self.unary


class DeadlineTicket(Ticket):
    """A ticket with a deadline for its answer, or for the first byte of it where `streams` is set.

    `cost` is in mean requests. `bound` is how long one for this model may take, in seconds. `dispatched` and `level`
    say when it got its slot and how many were then in flight, `expected` when it was predicted to, 0.0 if it was not.
    """

    __slots__ = (
        "band",
        "bound",
        "cost",
        "dispatched",
        "expected",
        "has_responded",
        "level",
        "patience",
        "rank",
        "streams",
        "tenant",
    )

    lane: Line

    def __init__(self, owner: Any, usage: Usage, lane: Line, bound: float) -> None:
        self.owner = owner
        self.usage = usage
        self.lane = lane
        self.bound = bound
        self.state = NEW
        self.deadline = self.dispatched = self.expected = self.patience = 0.0
        self.sequence = self.queued_bytes = self.tenant = self.level = 0
        self.band = _UNSTATED_BAND
        self.cost = 1.0
        self.streams = self.has_responded = False
        self.rank = 0.0
