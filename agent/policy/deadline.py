"""Who may run, who waits, who is refused: by what can still be answered in time.

    offer --> RUNNING -------------------------- finish --> ENDED
      |  \\-> QUEUED -- (a slot frees) -> RUNNING             ^
      |          |\\-- too late at its turn (from finish) ----|
      |          \\--- cancel, expire, displaced ------------+
      \\--> refused: ENDED at once

Three tests keep goodput at any load with nothing to tune. At the arrival a request is refused that is predicted to be
late (DEADLINE), and while a line has stood for longer than a burst explains, one that would only lengthen it
(OVERLOAD). At the dispatch one is dropped that cannot be in time any more. The line goes by deadlines. An idle
predictor refuses nobody.

A slot is scarce in two places: the total limit and a model's own. Each has its own drain rate, counted while
somebody waits for that limit, and a request must pass both. Work ahead at the total is what waits in lanes that have
room, in the order in which they are served; at the lane it is the lane's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import Outcome
from agent.policy import arrival
from agent.policy.admission import ENDED, NEW, QUEUED, RUNNING, Admission, Ticket
from agent.policy.estimate import Drain, quantile
from agent.policy.knee import Decision, Knee
from agent.policy.line import DeadlineTicket, Line, band_of
from agent.policy.usage import Usage

_DEADLINE, _QUEUE_FULL = Outcome.DEADLINE, Outcome.QUEUE_FULL

# Bounds of a request's cost, in mean requests: an absurd one must not make the sums useless.
_MIN_COST, _MAX_COST = 0.05, 32.0


class DeadlineAdmission(Admission):
    """The gate that knows deadlines; used like `admission.Admission`, with tickets of `ticket`.

    `patience` is how many seconds a request may take that states no deadline, `model_patience` the same for single
    models; what a client states can only shorten it. `fair` makes tenants take turns. `search` looks for the total
    limit, `searches` for those of models. Beyond Admission, `finish` and `resize` also return tickets that are ENDED:
    it was too late for them, and they are to be answered with EXPIRED; `take_displaced` has those that an `offer` has
    pushed out, to be answered with OVERLOAD.
    """

    __slots__ = ("_bounded", "_decisions", "_displaced", "_line", "_lines", "_model_patience", "search", "total")

    # Decisions that nobody has taken. A search makes one a window.
    MAX_DECISIONS = 100

    def __init__(
        self,
        *,
        limit: int | None,
        model_limits: Mapping[str, int],
        queue_limit: int,
        queue_bytes: int,
        patience: float,
        model_patience: Mapping[str, float] | None = None,
        fair: bool = False,
        search: Knee | None = None,
        searches: Mapping[str, Knee] | None = None,
    ) -> None:
        super().__init__(
            limit=limit if search is None else search.limit,
            model_limits={},
            queue_limit=queue_limit,
            queue_bytes=queue_bytes,
            patience=patience,
        )
        found = searches or {}
        self._line = Line(None, fair=fair)
        self._lines = {
            name: Line(model_limits.get(name), fair=fair, search=found.get(name)) for name in {**model_limits, **found}
        }
        self._bounded = list(self._lines.values())
        self._default, self._lanes = self._line, dict(self._lines)
        self._model_patience = dict(model_patience or {})
        self._displaced: list[Ticket] = []
        self.total = Drain()
        self.search = search
        self._decisions: list[tuple[str, Decision]] = []

    def ticket(self, owner: Any, model: str, usage: Usage) -> DeadlineTicket:
        """A ticket to offer."""
        return DeadlineTicket(owner, model, usage, self)

    def line_of(self, model: str) -> Line:
        """The lane of a model, with what is believed of it."""
        return self._lines.get(model, self._line) if self._lines else self._line

    def patience_of(self, model: str) -> float:
        """How many seconds a request for this model may take."""
        return self._model_patience.get(model, self.patience) if self._model_patience else self.patience

    def offer(
        self,
        ticket: Ticket,
        now: float,
        patience: float | None = None,
        *,
        streams: bool = False,
        priority: int = 0,
        tenant: int = 0,
        cost: float = 1.0,
    ) -> Outcome | None:
        """Admit, queue or refuse. Returns the refusal, or None; then `ticket.state` is RUNNING or QUEUED.

        `patience` is how many seconds the client will wait for its answer, or with `streams` for the first byte of it.
        `priority` is V2's (1 is the highest, 0 none), `tenant` any number that stands for one, 0 for none, and `cost`
        the predicted size in mean requests.
        """
        assert isinstance(ticket, DeadlineTicket)
        assert ticket.state is NEW, "a ticket is offered once"
        lane = ticket.lane
        slo = ticket.bound
        if patience is not None and patience < slo:
            slo = patience
        ticket.patience = slo
        ticket.deadline = now + slo
        ticket.streams = streams
        if cost != 1.0:
            ticket.cost = min(_MAX_COST, max(_MIN_COST, cost))
        self.total.arrive(now, slo)
        if lane.drain is not None:
            lane.drain.arrive(now, slo)
        limit = self.limit
        if (limit is None or self.inflight < limit) and not lane.queue and lane.has_room:
            self.total.idle_at = now
            if lane.drain is not None:
                lane.drain.idle_at = now
            if self.inflight and slo < self._median(ticket, self.inflight + 1, now):
                ticket.state = ENDED
                self._turn_away(lane, now)
                return _DEADLINE
            self._start(ticket, now)
            return None
        if priority:
            ticket.band = band_of(priority)
        ticket.tenant = tenant
        self._sequence += 1
        ticket.sequence = self._sequence
        ticket.key = (ticket.band, ticket.deadline, self._sequence)
        refusal = self._judge(ticket, now)
        if refusal is not None:
            ticket.state = ENDED
            self._turn_away(lane, now)
            return refusal
        self._enqueue(ticket, now)
        return None

    def responded(self, ticket: Ticket, now: float) -> None:
        """The first byte of the answer has come. It meets the deadline of a streaming ticket; others take no notice."""
        assert isinstance(ticket, DeadlineTicket)
        if ticket.streams and not ticket.has_responded and ticket.state is RUNNING:
            ticket.has_responded = True
            ticket.lane.streaming.add(now, ticket.level, (now - ticket.dispatched) / ticket.cost)

    def finish(self, ticket: Ticket, now: float, *, served: bool = True) -> Sequence[Ticket]:
        """End a running ticket. Returns those that run now and must be dispatched, and ENDED ones: too late.

        `served` False says that the time it took tells nothing of the predictor: it failed, or was given up.
        """
        assert isinstance(ticket, DeadlineTicket)
        assert ticket.state is RUNNING, "a ticket ends once, and only a running one finishes"
        lane, limit = ticket.lane, self.limit
        full = limit is not None and self.inflight >= limit
        lane_full = not lane.has_room
        ticket.state = ENDED
        lane.inflight -= 1
        self.inflight -= 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight -= 1
        if self._busy_since is not None:
            self._mark_busy(now)
        hold, cost = now - ticket.dispatched, ticket.cost
        if served and not ticket.streams:
            lane.unary.add(now, ticket.level, hold / cost)
        elif ticket.streams:
            lane.has_streams = True
        self.total.leave(now, hold, cost, backlogged=full and self._contended())
        if lane.drain is not None:
            lane.drain.leave(now, hold, cost, backlogged=lane_full and bool(lane.queue))
        if self.search is not None or lane.search is not None:
            self._sample(ticket, now, hold if served and not ticket.streams else None, full, lane_full)
        changed: Sequence[Ticket] = self._refill(now) if self.queued else ()
        self._mark_idle(lane, now)
        return changed

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Take a waiting ticket out of the queue: its client left, or it has to be answered otherwise."""
        assert isinstance(ticket, DeadlineTicket)
        assert ticket.state is QUEUED, "only a waiting ticket can be cancelled"
        ticket.lane.waiting.remove(ticket)
        super().cancel(ticket, now)

    def resize(self, limit: int | None, now: float) -> Sequence[Ticket]:
        """Change the total limit. Running tickets are never preempted. Returns what `finish` does."""
        changed = super().resize(limit, now)
        self._mark_idle(self._line, now)
        return changed

    def take_decisions(self) -> Sequence[tuple[str, Decision]]:
        """What the searches have decided since the last call, by model; "" is the total."""
        decisions, self._decisions = self._decisions, []
        return decisions

    def take_displaced(self) -> Sequence[Ticket]:
        """The tickets that higher priorities have pushed out of the queue since the last call; they are ENDED."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def predicted_wait(self, model: str) -> float:
        """Seconds that all that waits before the model's next request of no priority needs to get its slots."""
        lane = self.line_of(model)
        wait = self.total.wait(self._all_work(lane), self.limit or 1) if self._is_full() else 0.0
        if lane.drain is not None and not lane.has_room:
            wait = max(wait, lane.drain.wait(lane.waiting.work, lane.limit or 1))
        return wait

    def retry_after(self, ticket: Ticket, now: float) -> float | None:
        """Seconds after which a refused request like this may be in time; None if no wait can help it.

        The caller adds the jitter: callers that were refused together must not come back together.
        """
        assert isinstance(ticket, DeadlineTicket)
        left = ticket.deadline - now
        if left < self._median(ticket, max(1, self.inflight), now):
            return None
        lane = ticket.lane
        excess = self.total.wait(self._all_work(lane) + ticket.cost, self.limit or 1) if self._is_full() else 0.0
        if lane.drain is not None and not lane.has_room:
            excess = max(excess, lane.drain.wait(lane.waiting.work + ticket.cost, lane.limit or 1))
        # What fits is a line that is served in half the time there is.
        return max(0.0, excess - ticket.patience / 2)

    def service_time(self, model: str, share: float, now: float, *, streams: bool = False) -> float:
        """The quantile of the model's service times at the level in flight; 0.0 where nothing recent is known."""
        return quantile(self.line_of(model).times(streams=streams).at(max(1, self.inflight), now), share)

    def is_overloaded(self, model: str, now: float) -> bool:
        """Whether requests for the model stand in a line that no burst explains."""
        lane = self.line_of(model)
        median = self.service_time(model, 0.5, now)
        if self._is_full() and arrival.stands(self.total, median, self.total.patience - median, now):
            return True
        drain = lane.drain
        return drain is not None and not lane.has_room and arrival.stands(drain, median, drain.patience - median, now)

    def _is_full(self) -> bool:
        return self.limit is not None and self.inflight >= self.limit

    def _median(self, ticket: DeadlineTicket, level: int, now: float) -> float:
        return quantile(ticket.lane.times(streams=ticket.streams).at(level, now), 0.5) * ticket.cost

    def _judge(self, ticket: DeadlineTicket, now: float) -> Outcome | None:
        """The tests at arrival for one that must wait. Makes room by displacing where that is its right."""
        lane, limit = ticket.lane, self.limit
        queue = lane.waiting
        displaces = queue.count > 0 and queue.lowest_band > ticket.band
        full = self.queued >= self.queue_limit or self.queued_bytes >= self.queue_bytes
        if full and not displaces:
            return _QUEUE_FULL
        times = lane.times(streams=ticket.streams).at(max(1, self.inflight if limit is None else limit), now)
        crowded = False
        if limit is not None and self.inflight >= limit:
            ahead, backlog = queue.ahead(ticket), queue.backlog(ticket)
            elsewhere = 0.0
            if self._bounded:
                elsewhere = sum(other.waiting.ahead(ticket) for other in self._contenders(lane))
                backlog += sum(other.waiting.backlog(ticket) for other in self._contenders(lane))
            found = arrival.judge(self.total, limit, ticket, times, ahead, elsewhere, backlog, now)
            if found is not None:
                return found
            crowded = displaces and arrival.is_crowded(self.total, limit, ticket, times, self._all_work(lane), now)
        if lane.drain is not None and lane.limit is not None and (lane.queue or not lane.has_room):
            ahead, backlog = queue.ahead(ticket), queue.backlog(ticket)
            found = arrival.judge(lane.drain, lane.limit, ticket, times, ahead, 0.0, backlog, now)
            if found is not None:
                return found
            if displaces and arrival.is_crowded(lane.drain, lane.limit, ticket, times, queue.work, now):
                crowded = True
        if full or crowded:
            self._displace(lane, now)
        return None

    def _displace(self, lane: Line, now: float) -> None:
        """Push out the newest ticket of the lane's lowest band."""
        lowest = lane.waiting.lowest_band
        for victim in reversed(lane.queue):
            assert isinstance(victim, DeadlineTicket)
            if victim.band == lowest:
                self.cancel(victim, now)
                self._displaced.append(victim)
                return

    def _enqueue(self, ticket: DeadlineTicket, now: float) -> None:
        lane = ticket.lane
        ticket.state = QUEUED
        self._push_deadline(ticket)
        lane.queue[ticket] = None
        lane.waiting.insert(ticket)
        self.queued += 1
        usage = ticket.usage
        usage.advance(now)
        usage.queued += 1

    def _start(self, ticket: Ticket, now: float) -> None:
        assert isinstance(ticket, DeadlineTicket)
        super()._start(ticket, now)
        ticket.dispatched, ticket.level = now, self.inflight

    def _refill(self, now: float) -> list[Ticket]:
        changed: list[Ticket] = []
        while self.queued and (self.limit is None or self.inflight < self.limit):
            lane = self._next_line()
            if lane is None:
                break
            ticket: DeadlineTicket = lane.waiting.first()
            lane.waiting.take(ticket)
            del lane.queue[ticket]
            self._leave_queue(ticket, now)
            if self._is_late(ticket, now):
                ticket.state = ENDED
            else:
                self._start(ticket, now)
            changed.append(ticket)
        return changed

    def _is_late(self, ticket: DeadlineTicket, now: float) -> bool:
        """Whether a slot would be wasted on it. With nobody behind it, a small chance is worth an idle slot."""
        left = ticket.deadline - now
        if not self.inflight:
            return left <= 0.0
        times = ticket.lane.times(streams=ticket.streams).at(self.inflight + 1, now)
        return left < quantile(times, 0.5 if self.queued else 0.1) * ticket.cost

    def _next_line(self) -> Line | None:
        if not self._bounded:
            return self._line
        ready = [lane for lane in (self._line, *self._bounded) if lane.queue and lane.has_room]
        return min(ready, key=lambda lane: lane.waiting.first().key, default=None)

    def _contended(self) -> bool:
        """Whether somebody waits for the total limit, and not only for a model's own."""
        if not self._bounded:
            return self.queued > 0
        return any(lane.queue and lane.has_room for lane in (self._line, *self._bounded))

    def _contenders(self, lane: Line) -> list[Line]:
        """The other lanes from which tickets may be dispatched before those of this lane."""
        return [other for other in (self._line, *self._bounded) if other is not lane and other.queue and other.has_room]

    def _all_work(self, lane: Line) -> float:
        work = lane.waiting.work
        return work + sum(other.waiting.work for other in self._contenders(lane)) if self._bounded else work

    def _mark_idle(self, lane: Line, now: float) -> None:
        if self.limit is None or self.inflight < self.limit:
            self.total.idle_at = now
        if lane.drain is not None and lane.has_room:
            lane.drain.idle_at = now

    def _sample(self, ticket: DeadlineTicket, now: float, seconds: float | None, full: bool, lane_full: bool) -> None:
        """Let the searches learn from the end of a ticket, which is not counted in flight any more."""
        search, lane = self.search, ticket.lane
        if search is not None:
            guard = self.total.patience / 2
            found = search.sample(
                now, self.inflight + 1, saturated=full or self.total.is_wanting(now), seconds=seconds, guard=guard
            )
            if found is not None:
                self._note("", found)
                self.limit = found.limit
                self._mark_busy(now)
        if lane.search is not None and lane.drain is not None:
            guard = lane.drain.patience / 2
            found = lane.search.sample(
                now, lane.inflight + 1, saturated=lane_full or lane.drain.is_wanting(now), seconds=seconds, guard=guard
            )
            if found is not None:
                lane.limit = found.limit
                self._note(next(name for name, other in self._lines.items() if other is lane), found)

    def _turn_away(self, lane: Line, now: float) -> None:
        self.total.refused_at = now
        if lane.drain is not None:
            lane.drain.refused_at = now

    def _note(self, model: str, decision: Decision) -> None:
        if len(self._decisions) < self.MAX_DECISIONS:
            self._decisions.append((model, decision))
