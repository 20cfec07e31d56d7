"""Random operations on the deadline policy: whatever it decides, the books are right and nobody waits in vain."""

import random

import pytest

from agent.errors import Outcome
from agent.policy.admission import State
from agent.policy.deadline import DeadlineAdmission
from agent.policy.line import DeadlineTicket
from agent.policy.usage import Usage
from tests.fakes import ManualClock

REFUSALS = {Outcome.QUEUE_FULL, Outcome.DEADLINE, Outcome.OVERLOAD}
MODELS = ("a", "b", "c")


class Books:
    """Every ticket that was ever offered, counted anew after each operation."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        limits = {name: self.random.randint(1, 3) for name in self.random.sample(MODELS, self.random.randint(0, 2))}
        self.gate = DeadlineAdmission(
            limit=self.random.choice([None, 1, 2, 5, 8]),
            model_limits=limits,
            queue_limit=self.random.randint(0, 12),
            queue_bytes=self.random.choice([200, 10_000]),
            patience=self.random.choice([3.0, 30.0]),
            fair=self.random.random() < 0.5,
        )
        self.prioritised = self.random.random() < 0.5
        self.usages = {name: Usage(name, self.clock.now) for name in MODELS}
        self.tickets: list[DeadlineTicket] = []
        self.refused = self.served = self.dropped = self.highest = 0

    def of(self, state: State) -> list[DeadlineTicket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def step(self) -> None:
        self.clock.advance(self.random.choice([0.0, 0.0, 0.05, 0.3, 1.0]))
        running, queued = self.of(State.RUNNING), self.of(State.QUEUED)
        idle = not running
        choices = ["offer"] * 6 + ["finish"] * 5 * bool(running) + ["cancel", "charge"] * bool(queued)
        operation = self.random.choice([*choices, "expire", "resize"])
        if operation == "offer":
            self.offer(idle=idle)
        elif operation == "finish":
            ticket = self.random.choice(running)
            self.gate.responded(ticket, self.clock.now)
            self.follow(self.gate.finish(ticket, self.clock.now, served=self.random.random() < 0.8), queued)
            assert ticket.state is State.ENDED
        elif operation == "cancel":
            self.gate.cancel(self.random.choice(queued), self.clock.now)
        elif operation == "charge":
            self.gate.charge(self.random.choice(queued), self.random.randint(1, 90))
        elif operation == "expire":
            expired = self.gate.expire(self.clock.now)
            assert set(expired) == {ticket for ticket in queued if ticket.deadline <= self.clock.now}
        else:
            self.follow(self.gate.resize(self.random.choice([None, 1, 3, 9]), self.clock.now), queued)
        self.check()

    def offer(self, *, idle: bool) -> None:
        model, chosen = self.random.choice(MODELS), self.random.random
        ticket = self.gate.ticket(None, model, self.usages[model])
        self.tickets.append(ticket)
        refusal = self.gate.offer(
            ticket,
            self.clock.now,
            self.random.choice([None, 0.1, 1.0, 20.0]),
            streams=chosen() < 0.2,
            priority=self.random.randint(0, 7) if self.prioritised else 0,
            tenant=self.random.randint(0, 3),
            cost=self.random.choice([1.0, 1.0, 0.3, 4.0]),
        )
        assert refusal is None or refusal in REFUSALS
        assert (refusal is None) is (ticket.state in {State.RUNNING, State.QUEUED})
        assert refusal is None or not idle, "an idle predictor refuses nobody"
        self.refused += refusal is not None
        displaced = self.gate.take_displaced()
        assert len(displaced) <= 1
        assert all(victim.state is State.ENDED and victim.band > ticket.band for victim in displaced)

    def follow(self, changed: object, queued: list[DeadlineTicket]) -> None:
        assert isinstance(changed, list | tuple)
        assert len(set(changed)) == len(changed)
        for ticket in changed:
            assert ticket in queued, "only what waited can change"
            assert ticket.state in {State.RUNNING, State.ENDED}
            self.served += ticket.state is State.RUNNING
            self.dropped += ticket.state is State.ENDED

    def check(self) -> None:
        gate, running, queued = self.gate, self.of(State.RUNNING), self.of(State.QUEUED)
        assert (gate.inflight, gate.queued) == (len(running), len(queued))
        assert gate.queued_bytes == sum(ticket.queued_bytes for ticket in queued)
        assert gate.waiting() == queued
        assert gate.next_deadline() == min((ticket.deadline for ticket in queued), default=None)
        for model in MODELS:
            line, usage = gate.lane_of(model), self.usages[model]
            mine = [ticket for ticket in queued if ticket.lane is line]
            assert line.waiting.count == len(mine)
            assert line.waiting.work == pytest.approx(sum(ticket.cost for ticket in mine))
            assert line.inflight == sum(ticket.lane is line for ticket in running)
            assert usage.inflight == sum(ticket.usage is usage for ticket in running)
            assert usage.queued == sum(ticket.usage is usage for ticket in queued)
        self.highest = max(self.highest, gate.inflight + gate.queued)
        if len(self.tickets) % 8 == 0:
            assert gate.take_peak() == self.highest
            self.highest = gate.inflight + gate.queued
        room = gate.limit is None or gate.inflight < gate.limit
        assert not (room and any(ticket.lane.has_room for ticket in queued)), "nobody waits who could run"
        assert (gate._busy_since is not None) is (not room)

    def drain(self) -> None:
        while running := self.of(State.RUNNING):
            self.follow(self.gate.finish(running[0], self.clock.advance(0.1)), self.of(State.QUEUED) + self.tickets)
        self.check()
        assert (self.gate.inflight, self.gate.queued, self.gate.queued_bytes) == (0, 0, 0)
        assert {ticket.state for ticket in self.tickets} <= {State.ENDED}


@pytest.mark.parametrize("seed", range(100))
def test_random_operations_leave_the_books_right(seed: int) -> None:
    books = Books(seed)
    for _ in range(250):
        books.step()
    books.drain()


def test_the_random_operations_come_to_every_end() -> None:
    refused = served = dropped = 0
    for seed in range(20):
        books = Books(seed)
        for _ in range(250):
            books.step()
        refused, served, dropped = refused + books.refused, served + books.served, dropped + books.dropped
    assert min(refused, served, dropped) > 20
