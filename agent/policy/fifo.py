"""First come, first served: a fixed limit and a bounded queue. See `admission` for the life of a ticket."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from agent.errors import Outcome
from agent.policy.admission import ENDED, NEW, QUEUED, RUNNING, Admission, Lane, Terms, Ticket
from agent.policy.usage import Usage

# Dead entries that the heap of deadlines may hold beside as many as there are tickets.
_SPARE_DEADLINES = 16


class FifoLane(Lane):
    """A lane with a line in the order of arrival."""

    __slots__ = ("queue",)

    def __init__(self, limit: int | None) -> None:
        super().__init__(limit)
        # An ordered set: O(1) at both ends and for a ticket that leaves from the middle, and nothing is left behind.
        self.queue: OrderedDict[FifoTicket, None] = OrderedDict()


class FifoTicket(Ticket):
    """A ticket of this policy."""

    __slots__ = ()

    lane: FifoLane


class FifoAdmission(Admission[FifoTicket]):
    """Fixed limits, and a line that knows nothing but how long each may wait."""

    __slots__ = ("_deadlines", "_default", "_lanes")

    def __init__(
        self, *, limit: int | None, model_limits: Mapping[str, int], queue_limit: int, queue_bytes: int, patience: float
    ) -> None:
        super().__init__(limit=limit, queue_limit=queue_limit, queue_bytes=queue_bytes, patience=patience)
        self._default = FifoLane(None)
        self._lanes = {name: FifoLane(bound) for name, bound in model_limits.items()}
        self._deadlines: list[tuple[float, int, FifoTicket]] = []

    def lane_of(self, model: str) -> FifoLane:
        """The lane in which requests for this model wait."""
        return self._lanes.get(model, self._default) if self._lanes else self._default

    def ticket(self, owner: Any, model: str, usage: Usage) -> FifoTicket:
        """A ticket to offer."""
        return FifoTicket(owner, usage, self.lane_of(model))

    def offer(
        self,
        ticket: FifoTicket,
        now: float,
        patience: float | None = None,
        *,
        streams: bool = False,  # noqa: ARG002 - first come, first served, whatever it is
        priority: int = 0,  # noqa: ARG002
        tenant: int = 0,  # noqa: ARG002
        cost: float = 1.0,  # noqa: ARG002
    ) -> Outcome | None:
        """Admit, queue or refuse. Returns the refusal, or None; then `ticket.state` is RUNNING or QUEUED.

        `patience` is how many seconds this one may wait, where its own deadline comes before the setting's.
        """
        assert ticket.state is NEW, "a ticket is offered once"
        lane = ticket.lane
        bound = self.patience
        if self.hold_until:
            bound = max(bound, self.hold_until - now)
        if patience is not None and patience < bound:
            bound = patience
        ticket.deadline = now + bound
        # A newcomer never passes one that waits in its lane. Whoever waits elsewhere waits for a slot that it could not
        # use.
        if (self.limit is None or self.inflight < self.limit) and not lane.queue and lane.has_room:
            self._start(ticket, now)
            return None
        if self.queued >= self.queue_limit or self.queued_bytes >= self.queue_bytes:
            ticket.state = ENDED
            return Outcome.QUEUE_FULL
        self._enqueue(ticket, now)
        lane.queue[ticket] = None
        self._push_deadline(ticket)
        return None

    def finish(
        self,
        ticket: FifoTicket,
        now: float,
        *,
        served: bool = True,  # noqa: ARG002 - nothing is learned here
        reached: bool = True,  # noqa: ARG002
    ) -> Sequence[FifoTicket]:
        """End a running ticket. Returns the tickets that run now and must be dispatched."""
        assert ticket.state is RUNNING, "a ticket ends once, and only a running one finishes"
        # Between two endings the level only rises.
        if self.inflight + self.queued > self.peak:  # noqa: PLR1730 - max takes 50 ns more
            self.peak = self.inflight + self.queued
        ticket.state = ENDED
        ticket.lane.inflight -= 1
        self.inflight -= 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight -= 1
        if self._busy_since is not None:
            self._mark_busy(now)
        return self._refill(now) if self.queued else ()

    def expire(self, now: float) -> list[FifoTicket]:
        """End the waiting tickets whose deadline has come, and return them."""
        expired: list[FifoTicket] = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            ticket = heappop(deadlines)[2]
            if ticket.state is QUEUED:
                self.cancel(ticket, now)
                expired.append(ticket)
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, unless a ticket leaves before."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].state is not QUEUED:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def waiting(self) -> list[FifoTicket]:
        """All waiting tickets, in the order of their arrival."""
        return sorted(
            (ticket for lane in self._all_lanes() for ticket in lane.queue), key=lambda ticket: ticket.sequence
        )

    def adopt(self, terms: Terms, now: float) -> Sequence[FifoTicket]:
        """Go on under other terms. A model that has lost its limit keeps its lane."""
        for name in {**self._lanes, **terms.model_limits}:
            bound = terms.model_limits.get(name)
            if name in self._lanes:
                self._lanes[name].limit = bound
            else:
                self._lanes[name] = FifoLane(bound)
        return super().adopt(terms, now)

    def _drop(self, ticket: FifoTicket) -> None:
        del ticket.lane.queue[ticket]

    def _push_deadline(self, ticket: FifoTicket) -> None:
        deadlines = self._deadlines
        # Whoever left the queue otherwise is still in the heap; when they are the most of it, it is built anew.
        if len(deadlines) > 2 * self.queued + _SPARE_DEADLINES:
            deadlines[:] = [entry for entry in deadlines if entry[2].state is QUEUED]
            heapify(deadlines)
        heappush(deadlines, (ticket.deadline, ticket.sequence, ticket))

    def _all_lanes(self) -> list[FifoLane]:
        return [self._default, *self._lanes.values()]

    def _start(self, ticket: FifoTicket, now: float) -> None:
        ticket.state = RUNNING
        ticket.lane.inflight += 1
        self.inflight += 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight += 1
        if self.inflight == self.limit:
            self._mark_busy(now)

    def _refill(self, now: float) -> list[FifoTicket]:
        started: list[FifoTicket] = []
        while self.queued and (self.limit is None or self.inflight < self.limit):
            lane = self._longest_waiting()
            if lane is None:
                break
            ticket, _ = lane.queue.popitem(last=False)
            self._leave_queue(ticket, now)
            self._start(ticket, now)
            started.append(ticket)
        return started

    def _longest_waiting(self) -> FifoLane | None:
        """The lane with room whose first ticket came first."""
        if not self._lanes:
            return self._default
        ready = [lane for lane in self._all_lanes() if lane.queue and lane.has_room]
        return min(ready, key=lambda lane: next(iter(lane.queue)).sequence, default=None)
