"""Lanes whose lines are ordered by deadlines, and who of them runs next: what `deadline` decides upon."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from agent.policy.admission import ENDED, RUNNING, Admission, Terms
from agent.policy.estimate import Drain, quantile
from agent.policy.knee import Knee, resumed
from agent.policy.line import DeadlineTicket, Line
from agent.policy.usage import Usage


class LineAdmission(Admission[DeadlineTicket]):
    """Admission with `line.Line` for lanes. `total` is the flow through the total limit."""

    __slots__ = (
        "_bounded",
        "_costs",
        "_fair",
        "_is_plain",
        "_line",
        "_lines",
        "_model_patience",
        "_wait_errors",
        "total",
    )

    # What is kept until somebody takes it: more than one core can do in a second.
    MAX_KEPT = 10_000

    def __init__(
        self,
        *,
        limit: int | None,
        model_limits: Mapping[str, int],
        queue_limit: int,
        queue_bytes: int,
        patience: float,
        model_patience: Mapping[str, float],
        fair: bool,
        searches: Mapping[str, Knee],
    ) -> None:
        super().__init__(limit=limit, queue_limit=queue_limit, queue_bytes=queue_bytes, patience=patience)
        self._fair = fair
        self._line = Line(None, fair=fair)
        self._lines = {
            name: Line(model_limits.get(name), fair=fair, search=searches.get(name))
            for name in {**model_limits, **searches}
        }
        self._bounded = list(self._lines.values())
        self._model_patience = dict(model_patience)
        self._is_plain = not (self._lines or model_patience)  # no model is different
        self.total = Drain()
        self._wait_errors: deque[float] = deque(maxlen=self.MAX_KEPT)
        self._costs: deque[float] = deque(maxlen=self.MAX_KEPT)

    def ticket(self, owner: Any, model: str, usage: Usage) -> DeadlineTicket:
        """A ticket to offer."""
        if self._is_plain:
            return DeadlineTicket(owner, usage, self._line, self.patience)
        return DeadlineTicket(owner, usage, self.lane_of(model), self.patience_of(model))

    def lane_of(self, model: str) -> Line:
        """The lane of a model, with what is believed of it."""
        return self._lines.get(model, self._line)

    def patience_of(self, model: str) -> float:
        """How many seconds a request for this model may take."""
        return self._model_patience.get(model, self.patience)

    def cost_of(self, ticket: DeadlineTicket, rows: int) -> float:
        """The predicted size of a request of so many rows, in mean requests of its lane."""
        cost = ticket.lane.cost_of(rows)
        self._costs.append(cost)
        return cost

    def expire(self, now: float) -> list[DeadlineTicket]:
        """End the waiting tickets whose deadline has come, and return them."""
        expired: list[DeadlineTicket] = []
        for lane in (self._line, *self._bounded):
            while (ticket := lane.waiting.earliest()) is not None and ticket.deadline <= now:
                self.cancel(ticket, now)
                expired.append(ticket)
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, unless a ticket leaves before."""
        first = (lane.waiting.earliest() for lane in (self._line, *self._bounded))
        return min((ticket.deadline for ticket in first if ticket is not None), default=None)

    def waiting(self) -> list[DeadlineTicket]:
        """All waiting tickets, in the order of their arrival."""
        tickets = (ticket for lane in (self._line, *self._bounded) for ticket in lane.waiting.entries())
        return sorted(tickets, key=lambda ticket: ticket.sequence)

    def adopt(self, terms: Terms, now: float) -> Sequence[DeadlineTicket]:
        """Go on under other terms. A model that has lost its limit keeps its lane."""
        self._model_patience = dict(terms.model_patience)
        for name in {**self._lines, **terms.model_limits, **dict.fromkeys(terms.searched - {""})}:
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = Line(None, fair=self._fair)
                self._bounded.append(line)
            line.limit_to(terms.model_limits.get(name), resumed(line.search, line.limit, wanted=name in terms.searched))
        self._is_plain = not (self._lines or self._model_patience)
        return super().adopt(terms, now)

    def take_wait_errors(self) -> Sequence[float]:
        """By how many seconds the predicted waits of the tickets that have run since the last call were wrong."""
        return _emptied(self._wait_errors)

    def take_costs(self) -> Sequence[float]:
        """What `cost_of` has said since the last call."""
        return _emptied(self._costs)

    def resize(self, limit: int | None, now: float) -> Sequence[DeadlineTicket]:
        """Change the total limit. Running tickets are never preempted. Returns what `finish` does."""
        changed = super().resize(limit, now)
        self._mark_slots(now)
        return changed

    def _drop(self, ticket: DeadlineTicket) -> None:
        ticket.lane.waiting.remove(ticket)

    def _start(self, ticket: DeadlineTicket, now: float) -> None:
        ticket.state = RUNNING
        ticket.lane.inflight += 1
        self.inflight = level = self.inflight + 1
        ticket.dispatched, ticket.level = now, level
        usage = ticket.usage
        usage.advance(now)
        usage.inflight += 1
        if level == self.limit:
            self._mark_busy(now)

    def _refill(self, now: float) -> list[DeadlineTicket]:
        changed: list[DeadlineTicket] = []
        while self.queued and (self.limit is None or self.inflight < self.limit):
            lane = self._next_line() if self._bounded else self._line
            if lane is None:
                break
            ticket: DeadlineTicket = lane.waiting.first()
            lane.waiting.take(ticket)
            changed.append(ticket)
            self.queued -= 1
            self.queued_bytes -= ticket.queued_bytes
            usage = ticket.usage
            usage.advance(now)
            usage.queued -= 1
            if self._is_late(ticket, now):
                ticket.state = ENDED
                continue
            # As `_start` does, in one step with the leaving: 0.5 of the 5 us of a request (`tests.bench.policy`).
            ticket.state = RUNNING
            if ticket.expected:
                self._wait_errors.append(abs(now - ticket.expected))
            lane.inflight += 1
            self.inflight += 1
            usage.inflight += 1
            ticket.dispatched, ticket.level = now, self.inflight
        return changed

    def _is_late(self, ticket: DeadlineTicket, now: float) -> bool:
        """Whether a slot would be wasted on it. With nobody behind it, a small chance is worth an idle slot."""
        left = ticket.deadline - now
        if not self.inflight:
            return left <= 0.0
        times = ticket.lane.streaming if ticket.streams else ticket.lane.unary
        if left >= times.slowest * ticket.cost:
            return False
        return left < quantile(times.at(self.inflight + 1, now), 0.5 if self.queued else 0.1) * ticket.cost

    def _next_line(self) -> Line | None:
        ready = [lane for lane in (self._line, *self._bounded) if lane.waiting.count and lane.has_room]
        return min(ready, key=lambda lane: lane.waiting.first().rank, default=None)

    def _contended(self) -> bool:
        """Whether somebody waits for the total limit, and not only for a model's own."""
        return not self._bounded or any(lane.waiting.count and lane.has_room for lane in (self._line, *self._bounded))

    def _contenders(self, lane: Line) -> list[Line]:
        """The other lanes from which tickets may be dispatched before those of this lane."""
        lanes = (self._line, *self._bounded)
        return [other for other in lanes if other is not lane and other.waiting.count and other.has_room]

    def _all_work(self, lane: Line) -> float:
        work = lane.waiting.work
        return work + sum(other.waiting.work for other in self._contenders(lane)) if self._bounded else work

    def _mark_slots(self, now: float) -> None:
        """After endings, or with another limit: count on whether every slot is taken."""
        limit = self.limit
        if (limit is not None and self.inflight >= limit) is (self._busy_since is None):
            self._mark_busy(now)

    def _is_full(self) -> bool:
        return self.limit is not None and self.inflight >= self.limit

    def _median(self, ticket: DeadlineTicket, level: int, now: float) -> float:
        return quantile(ticket.lane.times(streams=ticket.streams).at(level, now), 0.5) * ticket.cost


def _emptied(kept: deque[float]) -> list[float]:
    values = [*kept]
    kept.clear()
    return values
