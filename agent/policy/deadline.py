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
from math import inf

from agent.errors import Outcome
from agent.policy import arrival
from agent.policy.admission import ENDED, NEW, RUNNING, Terms
from agent.policy.edf import rank_of
from agent.policy.estimate import quantile
from agent.policy.knee import Decision, Knee, resumed
from agent.policy.line import DeadlineTicket, Line, band_of
from agent.policy.lines import LineAdmission

_DEADLINE, _QUEUE_FULL = Outcome.DEADLINE, Outcome.QUEUE_FULL

# Bounds of a request's cost, in mean requests: an absurd one must not make the sums useless.
_MIN_COST, _MAX_COST = 0.05, 32.0


class DeadlineAdmission(LineAdmission):
    """The gate that knows deadlines; used like `admission.Admission`, with tickets of `ticket`.

    `patience` is how many seconds a request may take that states no deadline, `model_patience` the same for single
    models; what a client states can only shorten it. `fair` makes tenants take turns. `search` looks for the total
    limit, `searches` for those of models. Beyond Admission, `finish` and `resize` also return tickets that are ENDED:
    it was too late for them, and they are to be answered with EXPIRED; `take_displaced` has those that an `offer` has
    pushed out, to be answered with OVERLOAD.
    """

    __slots__ = ("_decisions", "_displaced", "_has_bands", "search")

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
            model_limits=model_limits,
            queue_limit=queue_limit,
            queue_bytes=queue_bytes,
            patience=patience,
            model_patience=model_patience or {},
            fair=fair,
            searches=searches or {},
        )
        self._displaced: list[DeadlineTicket] = []
        self._has_bands = False
        self.search = search
        self._decisions: list[tuple[str, Decision]] = []

    def offer(
        self,
        ticket: DeadlineTicket,
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
        assert ticket.state is NEW, "a ticket is offered once"
        lane = ticket.lane
        slo = ticket.bound
        if patience is not None and patience < slo:
            slo = patience
        total, drain, limit, inflight = self.total, lane.drain, self.limit, self.inflight
        total.arrive(now, slo)
        if drain is not None:
            drain.arrive(now, slo)
        if self.hold_until:  # of which `arrive` need not know: a search lets answers take half of what it is told
            slo = min(max(ticket.bound, self.hold_until - now), inf if patience is None else patience)
        ticket.patience = slo
        ticket.deadline = now + slo
        ticket.streams = streams
        if cost != 1.0:
            ticket.cost = min(_MAX_COST, max(_MIN_COST, cost))
        if (limit is None or inflight < limit) and not lane.waiting.count and (drain is None or lane.has_room):
            total.idle_at = now
            if drain is not None:
                drain.idle_at = now
            # Where nothing was ever as slow as that, the median is not either.
            longest = (lane.streaming if streams else lane.unary).slowest * ticket.cost
            if slo < longest and inflight and slo < self._median(ticket, inflight + 1, now):
                ticket.state = ENDED
                self._turn_away(lane, now)
                return _DEADLINE
            self._start(ticket, now)
            return None
        if priority:
            ticket.band = band_of(priority)
            self._has_bands = True
        ticket.tenant = tenant
        return self._line_up(ticket, now)

    def _line_up(self, ticket: DeadlineTicket, now: float) -> Outcome | None:
        """Queue a ticket that cannot run yet, unless the tests at the arrival refuse it."""
        ticket.rank = rank_of(ticket.band, ticket.deadline)
        refusal = self._judge(ticket, now)
        if refusal is not None:
            ticket.state = ENDED
            self._turn_away(ticket.lane, now)
            return refusal
        self._enqueue(ticket, now)
        ticket.lane.waiting.insert(ticket)
        return None

    def reached(self, ticket: DeadlineTicket, now: float) -> None:
        """The predictor, which could not be reached until now, has the request: its service time begins here.

        Else the times of a start-up or a restart would be taken for service times, and what comes next be refused.
        """
        ticket.dispatched, ticket.level = now, self.inflight

    def responded(self, ticket: DeadlineTicket, now: float) -> None:
        """The first byte of the answer has come. It meets the deadline of a streaming ticket; others take no notice."""
        if ticket.streams and not ticket.has_responded and ticket.state is RUNNING:
            ticket.has_responded = True
            ticket.lane.streaming.add(now, ticket.level, (now - ticket.dispatched) / ticket.cost)
            if now > ticket.deadline:
                ticket.usage.missed += 1

    def finish(
        self, ticket: DeadlineTicket, now: float, *, served: bool = True, reached: bool = True
    ) -> Sequence[DeadlineTicket]:
        """End a running ticket. Returns those that run now and must be dispatched, and ENDED ones: too late."""
        assert ticket.state is RUNNING, "a ticket ends once, and only a running one finishes"
        if self.inflight + self.queued > self.peak:  # noqa: PLR1730 - as in FifoAdmission
            self.peak = self.inflight + self.queued
        lane, limit = ticket.lane, self.limit
        full = limit is not None and self.inflight >= limit
        lane_full = lane.limit is not None and lane.inflight >= lane.limit
        ticket.state = ENDED
        lane.inflight -= 1
        self.inflight -= 1
        usage = ticket.usage
        usage.advance(now)
        usage.inflight -= 1
        hold, cost, streams = now - ticket.dispatched, ticket.cost, ticket.streams
        if streams:
            lane.has_streams = True
        elif served:
            lane.unary.add(now, ticket.level, hold / cost)
            if now > ticket.deadline:
                usage.missed += 1
                usage.late_seconds += hold
        if reached:
            self.total.leave(now, hold, cost, backlogged=full and self.queued > 0 and self._contended())
            if lane.drain is not None:
                lane.drain.leave(now, hold, cost, backlogged=lane_full and lane.waiting.count > 0)
            if self.search is not None or lane.search is not None:
                self._sample(ticket, now, hold if served and not streams else None, full, lane_full)
        changed: Sequence[DeadlineTicket] = self._refill(now) if self.queued else ()
        if full or changed:
            self._mark_slots(now)
        return changed

    def adopt(self, terms: Terms, now: float) -> Sequence[DeadlineTicket]:
        """Go on under other terms; a search that is still wanted goes on where it was."""
        self.search = resumed(self.search, self.limit, wanted="" in terms.searched)
        limit = terms.limit if self.search is None else self.search.limit
        return super().adopt(terms._replace(limit=limit), now)

    def take_decisions(self) -> Sequence[tuple[str, Decision]]:
        """What the searches have decided since the last call, by model; "" is the total."""
        decisions, self._decisions = self._decisions, []
        return decisions

    def take_displaced(self) -> Sequence[DeadlineTicket]:
        """The tickets that higher priorities have pushed out of the queue since the last call; they are ENDED."""
        displaced, self._displaced = self._displaced, []
        return displaced

    def searches(self) -> list[tuple[str, Knee]]:
        """The searches that are on, by model; "" is the total."""
        found = [("", self.search), *((name, line.search) for name, line in self._lines.items())]
        return [(name, search) for name, search in found if search is not None]

    def predicted_wait(self, model: str) -> float:
        """Seconds that all that waits before the model's next request of no priority needs to get its slots."""
        return self._wait(self.lane_of(model), 0.0)

    def retry_after(self, ticket: DeadlineTicket, now: float) -> float | None:
        """Seconds after which a refused request like this may be in time; None if no wait can help it.

        The caller adds the jitter: callers that were refused together must not come back together.
        """
        left = ticket.deadline - now
        if left < self._median(ticket, max(1, self.inflight), now):
            return None
        # What fits is a line that is served in half the time there is.
        return max(0.0, self._wait(ticket.lane, ticket.cost) - ticket.patience / 2)

    def service_time(self, model: str, share: float, now: float, *, streams: bool = False) -> float:
        """The quantile of the model's service times at the level in flight; 0.0 where nothing recent is known."""
        return quantile(self.lane_of(model).times(streams=streams).at(max(1, self.inflight), now), share)

    def is_overloaded(self, model: str, now: float) -> bool:
        """Whether requests for the model stand in a line that no burst explains."""
        lane = self.lane_of(model)
        median = self.service_time(model, 0.5, now)
        if self._is_full() and arrival.stands(self.total, median, self.total.patience - median, now):
            return True
        drain = lane.drain
        return drain is not None and not lane.has_room and arrival.stands(drain, median, drain.patience - median, now)

    def _wait(self, lane: Line, more: float) -> float:
        """Seconds until all that waits before the end of the lane's line, and `more` work, has its slots."""
        wait = self.total.wait(self._all_work(lane) + more, self.limit or 1) if self._is_full() else 0.0
        if lane.drain is not None and not lane.has_room:
            wait = max(wait, lane.drain.wait(lane.waiting.work + more, lane.limit or 1))
        return wait

    def _judge(self, ticket: DeadlineTicket, now: float) -> Outcome | None:
        """The tests at arrival for one that must wait. Makes room by displacing where that is its right."""
        lane, limit = ticket.lane, self.limit
        queue = lane.waiting
        displaces = self._has_bands and queue.count > 0 and queue.lowest_band > ticket.band
        full = self.queued >= self.queue_limit or self.queued_bytes >= self.queue_bytes
        if full and not displaces:
            return _QUEUE_FULL
        level = self.inflight if limit is None or self.inflight < limit else limit
        times = lane.times(streams=ticket.streams).at(level, now)
        crowded = False
        if limit is not None and self.inflight >= limit:
            others = self._contenders(lane) if self._bounded else ()
            found = arrival.judge(self.total, limit, ticket, times, others, now)
            if found is not None:
                return found
            crowded = displaces and arrival.is_crowded(self.total, limit, ticket, times, self._all_work(lane), now)
        if lane.drain is not None and lane.limit is not None and (queue.count or not lane.has_room):
            found = arrival.judge(lane.drain, lane.limit, ticket, times, (), now)
            if found is not None:
                return found
            if displaces and arrival.is_crowded(lane.drain, lane.limit, ticket, times, queue.work, now):
                crowded = True
        if full or crowded:
            self._displace(lane, now)
        return None

    def _displace(self, lane: Line, now: float) -> None:
        """Push out the ticket that would be served last."""
        victim: DeadlineTicket = lane.waiting.last()
        self.cancel(victim, now)
        self._displaced.append(victim)

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
