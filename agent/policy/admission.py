"""Who may run, who waits, who is refused: what the policies share. `fifo` and `deadline` decide.

    offer --> RUNNING -------------------- finish --> ENDED
      |  \\-> QUEUED -- (a slot frees) -> RUNNING        ^
      |          \\-- cancel, expire -------------------+
      \\--> refused: ENDED at once

Policy decides and never acts: each call returns the tickets that the caller must now dispatch, answer or forget. Only
the loop's thread touches these objects, so there are no locks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

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


class Ticket:
    """A request's place in admission. Ends exactly once: ending it twice is our bug and asserts.

    `owner` is the caller's and opaque here. `queued_bytes` is what the caller holds in memory for it while it waits.
    """

    __slots__ = ("deadline", "lane", "owner", "queued_bytes", "sequence", "state", "usage")

    def __init__(self, owner: Any, usage: Usage, lane: "Lane") -> None:
        self.owner = owner
        self.usage = usage
        self.lane = lane
        self.state = NEW
        self.deadline = 0.0
        self.sequence = 0
        self.queued_bytes = 0


class Lane:
    """The models that share a limit; `limit` None means that only the total limit binds."""

    __slots__ = ("inflight", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.inflight = 0

    @property
    def has_room(self) -> bool:
        return self.limit is None or self.inflight < self.limit


class Terms(NamedTuple):
    """What may change while requests are served; see `Admission`.

    `searched` names the models whose limit is searched for, "" for the total; what `limit` and `model_limits` say of
    them is not used.
    """

    limit: int | None
    model_limits: Mapping[str, int]
    queue_limit: int
    queue_bytes: int
    patience: float
    model_patience: Mapping[str, float]
    searched: frozenset[str]


_T = TypeVar("_T", bound=Ticket)


class Admission(ABC, Generic[_T]):
    """The gate. `limit` None admits everything and only counts.

    `queue_limit` and `queue_bytes` bound what waits, in requests and bytes; `patience` is how many seconds a request
    may wait. A model with a limit of its own waits in a lane of its own, so it cannot hold up the others. `peak` is the
    highest level at an ending since `take_peak`. Until `hold_until`, 0.0 for never, the predictor is still expected for
    the first time, and a request may wait for it until then, however short its `patience` is; what it says of itself
    holds.
    """

    __slots__ = (
        "_busy_seconds",
        "_busy_since",
        "_sequence",
        "hold_until",
        "inflight",
        "limit",
        "patience",
        "peak",
        "queue_bytes",
        "queue_limit",
        "queued",
        "queued_bytes",
    )

    def __init__(self, *, limit: int | None, queue_limit: int, queue_bytes: int, patience: float) -> None:
        self.limit = limit
        self.queue_limit = queue_limit
        self.queue_bytes = queue_bytes
        self.patience = patience
        self.hold_until = 0.0
        self.inflight = 0
        self.queued = 0
        self.queued_bytes = 0
        self.peak = 0
        self._sequence = 0
        self._busy_since: float | None = None
        self._busy_seconds = 0.0

    # What a policy decides

    @abstractmethod
    def lane_of(self, model: str) -> Lane:
        """The lane in which requests for this model wait."""

    @abstractmethod
    def ticket(self, owner: Any, model: str, usage: Usage) -> _T:
        """A ticket to offer."""

    @abstractmethod
    def offer(
        self,
        ticket: _T,
        now: float,
        patience: float | None = None,
        *,
        streams: bool = False,
        priority: int = 0,
        tenant: int = 0,
        cost: float = 1.0,
    ) -> Outcome | None:
        """Admit, queue or refuse. Returns the refusal, or None; then `ticket.state` is RUNNING or QUEUED."""

    @abstractmethod
    def finish(self, ticket: _T, now: float, *, served: bool = True, reached: bool = True) -> Sequence[_T]:
        """End a running ticket. Returns the tickets that run now and must be dispatched.

        `served` False says that the time it took tells nothing of the predictor: it failed, or was given up. `reached`
        False that the predictor never had it, so that its end tells nothing of what leaves either.
        """

    @abstractmethod
    def expire(self, now: float) -> list[_T]:
        """End the waiting tickets whose deadline has come, and return them."""

    @abstractmethod
    def next_deadline(self) -> float | None:
        """When `expire` has something to do, unless a ticket leaves before."""

    @abstractmethod
    def waiting(self) -> list[_T]:
        """All waiting tickets, in the order of their arrival."""

    @abstractmethod
    def _drop(self, ticket: _T) -> None:
        """Take a ticket out of its line."""

    @abstractmethod
    def _refill(self, now: float) -> Sequence[_T]:
        """Give free slots to those that wait."""

    # What all have in common

    def charge(self, ticket: _T, size: int) -> None:
        """Book `size` more bytes held in memory for a ticket that waits."""
        assert ticket.state is QUEUED
        ticket.queued_bytes += size
        self.queued_bytes += size

    def reached(self, ticket: _T, now: float) -> None:
        """The predictor, which could not be reached until now, has the request of a running ticket."""

    def responded(self, ticket: _T, now: float) -> None:
        """The first byte of the answer has come."""

    def take_decisions(self) -> "Sequence[tuple[str, Decision]]":
        """What searches for limits have decided since the last call, by model; "" is the total."""
        return ()

    def take_displaced(self) -> Sequence[_T]:
        """The tickets that others have pushed out of the queue since the last call; they are ENDED."""
        return ()

    def cost_of(self, ticket: _T, rows: int) -> float:  # noqa: ARG002 - a slot is a slot here
        """The predicted size of a request of so many rows, in mean requests."""
        return 1.0

    def retry_after(self, ticket: _T, now: float) -> float | None:  # noqa: ARG002 - nothing is predicted here
        """Seconds after which a refused request may find room; None where no wait can help."""
        return 0.0

    def take_peak(self) -> int:
        """The most tickets that ran and waited at once since the last call."""
        level = self.inflight + self.queued
        peak, self.peak = max(self.peak, level), level
        return peak

    def take_wait_errors(self) -> Sequence[float]:
        """By how many seconds the predicted waits of the tickets that have run since the last call were wrong."""
        return ()

    def take_costs(self) -> Sequence[float]:
        """What `cost_of` has said since the last call."""
        return ()

    def cancel(self, ticket: _T, now: float) -> None:
        """Take a waiting ticket out of the queue: its client left, or it has to be answered otherwise."""
        assert ticket.state is QUEUED, "only a waiting ticket can be cancelled"
        self.peak = max(self.peak, self.inflight + self.queued)
        self._drop(ticket)
        self._leave_queue(ticket, now)
        ticket.state = ENDED

    def resize(self, limit: int | None, now: float) -> Sequence[_T]:
        """Change the limit. Running tickets are never preempted.

        Returns the tickets that run now and must be dispatched.
        """
        self.peak = max(self.peak, self.inflight + self.queued)
        self.limit = limit
        self._mark_busy(now)
        return self._refill(now)

    def adopt(self, terms: Terms, now: float) -> Sequence[_T]:
        """Go on under other terms. What waits keeps its deadline. Returns what `resize` does."""
        self.queue_limit, self.queue_bytes, self.patience = terms.queue_limit, terms.queue_bytes, terms.patience
        return self.resize(terms.limit, now)

    def model_limit(self, model: str) -> int | None:
        """The limit set for this model alone, if any."""
        return self.lane_of(model).limit

    def busy_seconds(self, now: float) -> float:
        """Seconds so far in which every slot was taken."""
        return self._busy_seconds + (0.0 if self._busy_since is None else now - self._busy_since)

    # For the policies

    def _enqueue(self, ticket: _T, now: float) -> None:
        self._sequence += 1
        ticket.sequence = self._sequence
        ticket.state = QUEUED
        self.queued += 1
        usage = ticket.usage
        usage.advance(now)
        usage.queued += 1

    def _leave_queue(self, ticket: _T, now: float) -> None:
        self.queued -= 1
        self.queued_bytes -= ticket.queued_bytes
        usage = ticket.usage
        usage.advance(now)
        usage.queued -= 1

    def _mark_busy(self, now: float) -> None:
        busy = self.limit is not None and self.inflight >= self.limit
        if busy and self._busy_since is None:
            self._busy_since = now
        elif not busy and self._busy_since is not None:
            self._busy_seconds += now - self._busy_since
            self._busy_since = None
