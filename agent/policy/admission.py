"""Who may run, who waits, who is refused: a fixed limit and a bounded queue, first come, first served.

    offer --> RUNNING -------------------- finish --> ENDED
      |  \\-> QUEUED -- (a slot frees) -> RUNNING        ^
      |          \\-- cancel, expire -------------------+
      \\--> refused: ENDED at once

Policy decides and never acts: each call returns the tickets that the caller must now dispatch, answer or forget. Only
the loop's thread touches these objects, so there are no locks.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from agent.errors import Outcome
from agent.policy.usage import Usage

if TYPE_CHECKING:
    from agent.policy.knee import Decision


class State(IntEnum):
    """Where a ticket is in its life; see the diagram in the module's docstring."""

    NEW = 0
    QUEUED = 1
    RUNNING = 2
    ENDED = 3


# Bound once: looking a member up on its class costs more than the comparison (CPython 3.11: 60 against 15 ns).
NEW, QUEUED, RUNNING, ENDED = State


# Dead entries that the heap of deadlines may hold beside as many as there are tickets.
_SPARE_DEADLINES = 16


class Ticket:
    """A request's place in admission. Ends exactly once: ending it twice is our bug and asserts.

    `owner` is the caller's and opaque here. `queued_bytes` is what the caller holds in memory for it while it waits.
    """

    __slots__ = ("deadline", "lane", "owner", "queued_bytes", "sequence", "state", "usage")

    def __init__(self, owner: Any, model: str, usage: Usage, admission: "Admission") -> None:
        self.owner = owner
        self.usage = usage
        self.lane = admission.lane_of(model)
        self.state = NEW
        self.deadline = 0.0
        self.sequence = 0
        self.queued_bytes = 0


class Lane:
    """The waiting line of the models that share a limit; `limit` None means that only the total limit binds."""

    __slots__ = ("inflight", "limit", "queue")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.inflight = 0
        # An ordered set: O(1) at both ends and for a ticket that leaves from the middle, and nothing is left behind.
        self.queue: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def has_room(self) -> bool:
        return self.limit is None or self.inflight < self.limit


class Admission:
    """The gate. `limit` None admits everything and only counts.

    `queue_limit` and `queue_bytes` bound what waits, in requests and bytes; `patience` is how many seconds a request
    may wait. A model with a limit of its own waits in a lane of its own, so it cannot hold up the others.
    """

    __slots__ = (
        "_busy_seconds",
        "_busy_since",
        "_deadlines",
        "_default",
        "_lanes",
        "_sequence",
        "inflight",
        "limit",
        "patience",
        "queue_bytes",
        "queue_limit",
        "queued",
        "queued_bytes",
    )

    def __init__(
        self, *, limit: int | None, model_limits: Mapping[str, int], queue_limit: int, queue_bytes: int, patience: float
    ) -> None:
        self.limit = limit
        self.queue_limit = queue_limit
        self.queue_bytes = queue_bytes
        self.patience = patience
        self.inflight = 0
        self.queued = 0
        self.queued_bytes = 0
        self._sequence = 0
        self._default = Lane(None)
        self._lanes = {name: Lane(bound) for name, bound in model_limits.items()}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._busy_since: float | None = None
        self._busy_seconds = 0.0

    def lane_of(self, model: str) -> Lane:
        """The lane in which requests for this model wait."""
        return self._lanes.get(model, self._default) if self._lanes else self._default

    def model_limit(self, model: str) -> int | None:
        """The limit set for this model alone, if any."""
        return self.lane_of(model).limit

    def busy_seconds(self, now: float) -> float:
        """Seconds so far in which every slot was taken."""
        return self._busy_seconds + (0.0 if self._busy_since is None else now - self._busy_since)

    def ticket(self, owner: Any, model: str, usage: Usage) -> Ticket:
        """A ticket to offer."""
        return Ticket(owner, model, usage, self)

    def offer(
        self,
        ticket: Ticket,
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
        # A newcomer never passes one that waits in its lane. Whoever waits elsewhere waits for a slot that it could not
        # use.
        if (self.limit is None or self.inflight < self.limit) and not lane.queue and lane.has_room:
            self._start(ticket, now)
            return None
        if self.queued >= self.queue_limit or self.queued_bytes >= self.queue_bytes:
            ticket.state = ENDED
            return Outcome.QUEUE_FULL
        ticket.deadline = now + (self.patience if patience is None else min(patience, self.patience))
        self._enqueue(ticket, now)
        self._push_deadline(ticket)
        return None

    def charge(self, ticket: Ticket, size: int) -> None:
        """Book `size` more bytes held in memory for a ticket that waits."""
        assert ticket.state is QUEUED
        ticket.queued_bytes += size
        self.queued_bytes += size

    def responded(self, ticket: Ticket, now: float) -> None:
        """The first byte of the answer has come."""

    def take_decisions(self) -> "Sequence[tuple[str, Decision]]":
        """What searches for limits have decided since the last call, by model; "" is the total. None search here."""
        return ()

    def take_displaced(self) -> Sequence[Ticket]:
        """The tickets that others have pushed out of the queue; nobody does here."""
        return ()

    def retry_after(self, ticket: Ticket, now: float) -> float | None:  # noqa: ARG002 - nothing is predicted here
        """Seconds after which a refused request may find room; None where no wait can help."""
        return 0.0

    def finish(self, ticket: Ticket, now: float, *, served: bool = True) -> Sequence[Ticket]:  # noqa: ARG002
        """End a running ticket. Returns the tickets that run now and must be dispatched."""
        assert ticket.state is RUNNING, "a ticket ends once, and only a running one finishes"
        ticket.state = ENDED
        ticket.lane.inflight -= 1
        self.inflight -= 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight -= 1
        if self._busy_since is not None:
            self._mark_busy(now)
        return self._refill(now) if self.queued else ()

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Take a waiting ticket out of the queue: its client left, or it has to be answered otherwise."""
        assert ticket.state is QUEUED, "only a waiting ticket can be cancelled"
        del ticket.lane.queue[ticket]
        self._leave_queue(ticket, now)
        ticket.state = ENDED

    def expire(self, now: float) -> list[Ticket]:
        """End the waiting tickets whose deadline has come, and return them."""
        expired: list[Ticket] = []
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now:
            ticket = heappop(deadlines)[2]
            if ticket.state is QUEUED:
                self.cancel(ticket, now)
                expired.append(ticket)
        return expired

    def resize(self, limit: int | None, now: float) -> Sequence[Ticket]:
        """Change the limit. Running tickets are never preempted.

        Returns the tickets that run now and must be dispatched.
        """
        self.limit = limit
        self._mark_busy(now)
        return self._refill(now)

    def waiting(self) -> list[Ticket]:
        """All waiting tickets, in the order of their arrival."""
        return sorted(
            (ticket for lane in self._all_lanes() for ticket in lane.queue), key=lambda ticket: ticket.sequence
        )

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, unless a ticket leaves before."""
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].state is not QUEUED:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def _enqueue(self, ticket: Ticket, now: float) -> None:
        self._sequence += 1
        ticket.sequence = self._sequence
        ticket.state = QUEUED
        ticket.lane.queue[ticket] = None
        self.queued += 1
        usage = ticket.usage
        usage.advance(now)
        usage.queued += 1

    def _push_deadline(self, ticket: Ticket) -> None:
        deadlines = self._deadlines
        # Whoever left the queue otherwise is still in the heap; when they are the most of it, it is built anew.
        if len(deadlines) > 2 * self.queued + _SPARE_DEADLINES:
            deadlines[:] = [entry for entry in deadlines if entry[2].state is QUEUED]
            heapify(deadlines)
        heappush(deadlines, (ticket.deadline, ticket.sequence, ticket))

    def _all_lanes(self) -> list[Lane]:
        return [self._default, *self._lanes.values()]

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.state = RUNNING
        ticket.lane.inflight += 1
        self.inflight += 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight += 1
        if self.inflight == self.limit:
            self._mark_busy(now)

    def _leave_queue(self, ticket: Ticket, now: float) -> None:
        self.queued -= 1
        self.queued_bytes -= ticket.queued_bytes
        usage = ticket.usage
        usage.advance(now)
        usage.queued -= 1

    def _refill(self, now: float) -> list[Ticket]:
        started: list[Ticket] = []
        while self.queued and (self.limit is None or self.inflight < self.limit):
            lane = self._longest_waiting()
            if lane is None:
                break
            ticket, _ = lane.queue.popitem(last=False)
            self._leave_queue(ticket, now)
            self._start(ticket, now)
            started.append(ticket)
        return started

    def _longest_waiting(self) -> Lane | None:
        """The lane with room whose first ticket came first."""
        if not self._lanes:
            return self._default
        ready = [lane for lane in self._all_lanes() if lane.queue and lane.has_room]
        return min(ready, key=lambda lane: next(iter(lane.queue)).sequence, default=None)

    def _mark_busy(self, now: float) -> None:
        busy = self.limit is not None and self.inflight >= self.limit
        if busy and self._busy_since is None:
            self._busy_since = now
        elif not busy and self._busy_since is not None:
            self._busy_seconds += now - self._busy_since
            self._busy_since = None
