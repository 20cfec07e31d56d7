"""A deadline admission with a clock, and a predictor of so many workers that all take the same time."""

from typing import Any

from agent.errors import Outcome
from agent.policy.admission import State, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.usage import Usage
from tests.fakes import ManualClock


class Desk:
    """`service` is how long each request takes, in seconds. `running` has the tickets with their ends, in order."""

    def __init__(self, limit: int | None = 2, *, service: float = 0.1, queue: int = 1000, **settings: Any) -> None:
        given = {"model_limits": {}, "queue_bytes": 1 << 30, "patience": 10.0, **settings}
        self.gate = DeadlineAdmission(limit=limit, queue_limit=queue, **given)
        self.clock = ManualClock()
        self.service = service
        self.usage = Usage("m", self.clock.now)
        self.running: list[tuple[float, Ticket]] = []
        self.late: list[Ticket] = []
        self.refusal: Outcome | None = None

    def offer(self, patience: float | None = None, model: str = "m", **said: Any) -> Ticket:
        """Offer one more; `refusal` has the answer."""
        ticket = self.gate.ticket(None, model, self.usage)
        self.refusal = self.gate.offer(ticket, self.clock.now, patience, **said)
        assert (self.refusal is not None) is (ticket.state is State.ENDED)
        self._follow([ticket])
        return ticket

    def refused(self, patience: float | None = None, model: str = "m", **said: Any) -> Outcome | None:
        """Offer one more. Returns the refusal."""
        self.offer(patience, model, **said)
        return self.refusal

    def run(self, seconds: float) -> None:
        """Let time pass, and what runs end when it is due."""
        until = self.clock.now + seconds
        while self.running and min(self.running, key=lambda pair: pair[0])[0] <= until:
            end, ticket = first = min(self.running, key=lambda pair: pair[0])
            self.running.remove(first)
            self.clock.now = end
            self._follow(self.gate.finish(ticket, end))
        self.clock.now = until

    def learn(self, seconds: float = 20.0, every: float = 0.025, patience: float = 10.0) -> None:
        """Keep all slots taken and some waiting for a while, so that the estimates settle; then run empty."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            if self.gate.queued < 4:
                self.offer(patience)
            self.run(every)
        self.empty()

    def empty(self) -> None:
        """Let everything end."""
        while self.running:
            self.run(self.service)

    def fill(self, patience: float = 10.0) -> None:
        """Take every free slot."""
        while self.gate.limit is None or self.gate.inflight < self.gate.limit:
            assert self.offer(patience).state is State.RUNNING

    def stand(self, patience: float) -> None:
        """Offer twice the capacity for so long that what waits is no burst any more, until no more is admitted."""
        assert self.gate.limit is not None
        self.fill(patience)
        for _ in range(1000):
            self.offer(patience)
            self.run(self.service / self.gate.limit / 2)
        while self.refused(patience) is None:
            pass

    def _follow(self, tickets: list[Ticket] | Any) -> None:
        for ticket in tickets:
            if ticket.state is State.RUNNING:
                self.running.append((self.clock.now + self.service, ticket))
            elif ticket.state is State.ENDED and self.refusal is None:
                self.late.append(ticket)
