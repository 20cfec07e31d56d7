"""Admission against a naive model, operation by operation, and the promises that the model does not show."""

import random
import sys
from typing import Any

import pytest

from agent.errors import Outcome
from agent.policy.admission import State, Ticket
from agent.policy.fifo import FifoAdmission
from agent.policy.usage import Usage, UsageTable
from tests.fakes import ManualClock
from tests.policy.naive import Gate, Waiting


def admission(
    limit: int | None = 2, queue: int = 10, model_limits: dict[str, int] | None = None, **more: Any
) -> FifoAdmission:
    settings = {"queue_bytes": 1 << 20, "patience": 10.0, **more}
    return FifoAdmission(limit=limit, model_limits=model_limits or {}, queue_limit=queue, **settings)


class Pair:
    """The same operations on both; after each, everything that can be seen is compared."""

    MODELS = ("a", "b", "c", "d")

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = ManualClock()
        limits = {
            name: self.random.randint(1, 3) for name in self.random.sample(self.MODELS, self.random.randint(0, 3))
        }
        limit = self.random.choice([None, 1, 2, 3, 5, 8])
        queue, size, patience = (
            self.random.randint(0, 12),
            self.random.choice([200, 10_000]),
            self.random.choice([3.0, 9.0]),
        )
        self.real = admission(limit, queue, limits, queue_bytes=size, patience=patience)
        self.naive = Gate(limit, limits, queue, size, patience)
        self.usages = {name: Usage(name, self.clock.now) for name in self.MODELS}
        self.tickets: list[Ticket] = []
        self.sums = {name: [0.0, 0.0] for name in self.MODELS}
        self.busy = 0.0
        self.highest = 0

    def step(self) -> None:
        self.pass_time(self.random.choice([0.0, 0.0, 0.25, 1.0, 2.5]))
        running = [ticket for ticket in self.tickets if ticket.owner in self.naive.running]
        queued = [ticket for ticket in self.tickets if ticket.owner in self.naive.queue]
        choices = (
            ["offer"] * 5 + ["finish"] * 4 * bool(running) + ["cancel", "charge"] * bool(queued) + ["expire", "resize"]
        )
        operation, before = self.random.choice(choices), self.real.inflight
        if operation == "offer":
            self.offer()
        elif operation == "finish":
            ticket = self.random.choice(running)
            self.compare(self.real.finish(ticket, self.clock.now), self.naive.finish(ticket.owner))
        elif operation == "cancel":
            ticket = self.random.choice(queued)
            self.real.cancel(ticket, self.clock.now)
            self.naive.cancel(ticket.owner)
        elif operation == "charge":
            ticket, size = self.random.choice(queued), self.random.randint(1, 90)
            self.real.charge(ticket, size)
            ticket.owner.held += size
        elif operation == "expire":
            expired = self.real.expire(self.clock.now)
            expected = self.naive.expire(self.clock.now)
            assert {id(ticket.owner) for ticket in expired} == {id(one) for one in expected}
            assert len(expired) == len(expected)
        else:
            limit = self.random.choice([None, 1, 2, 4, 7])
            self.compare(self.real.resize(limit, self.clock.now), self.naive.resize(limit))
        # Above the limit, where lowering it may leave us, nobody starts.
        assert self.real.limit is None or self.real.inflight <= max(self.real.limit, before)
        self.check()

    def offer(self) -> None:
        one = Waiting(self.random.choice(self.MODELS))
        ticket = self.real.ticket(one, one.model, self.usages[one.model])
        self.tickets.append(ticket)
        refusal = self.real.offer(ticket, self.clock.now)
        self.naive.offer(one, self.clock.now)
        assert refusal is (Outcome.QUEUE_FULL if one.state == "ENDED" else None)

    def pass_time(self, seconds: float) -> None:
        """Integrate by brute force what the levels were meanwhile."""
        self.clock.advance(seconds)
        for one in self.naive.running:
            self.sums[one.model][0] += seconds
        for one in self.naive.queue:
            self.sums[one.model][1] += seconds
        self.busy += seconds * self.naive.is_busy

    def compare(self, started: Any, expected: list[Waiting]) -> None:
        assert [id(ticket.owner) for ticket in started] == [id(one) for one in expected]

    def check(self) -> None:
        real, naive, now = self.real, self.naive, self.clock.now
        assert [ticket.state.name for ticket in self.tickets] == [ticket.owner.state for ticket in self.tickets]
        assert (real.inflight, real.queued) == (len(naive.running), len(naive.queue))
        assert real.queued_bytes == sum(one.held for one in naive.queue)
        assert [id(ticket.owner) for ticket in real.waiting()] == [id(one) for one in naive.queue]
        self.highest = max(self.highest, real.inflight + real.queued)
        if len(self.tickets) % 8 == 0:
            assert real.take_peak() == self.highest
            self.highest = real.inflight + real.queued
        assert real.next_deadline() == min((one.deadline for one in naive.queue), default=None)
        assert real.busy_seconds(now) == pytest.approx(self.busy)
        assert 0 <= real.queued <= real.queue_limit
        for name, usage in self.usages.items():
            usage.advance(now)
            assert usage.inflight == sum(one.model == name for one in naive.running)
            assert usage.queued == sum(one.model == name for one in naive.queue)
            assert [usage.inflight_seconds, usage.queued_seconds] == pytest.approx(self.sums[name])
        # Nobody waits who could run.
        assert not any(naive.has_slot(one) for one in naive.queue)

    def drain(self) -> None:
        """End everything, and find nothing left."""
        while self.naive.queue or self.naive.running:
            for ticket in self.tickets:
                if ticket.state is State.RUNNING:
                    self.compare(self.real.finish(ticket, self.clock.now), self.naive.finish(ticket.owner))
        self.check()
        assert (self.real.inflight, self.real.queued, self.real.queued_bytes) == (0, 0, 0)
        assert {ticket.state for ticket in self.tickets} <= {State.ENDED}


@pytest.mark.parametrize("seed", range(200))
def test_random_operations_do_what_the_naive_model_does(seed: int) -> None:
    pair = Pair(seed)
    for _ in range(200):
        pair.step()
    pair.drain()


class Desk:
    """An admission with its tickets made easy."""

    def __init__(self, **settings: Any) -> None:
        self.admission = admission(**settings)
        self.usage = Usage("m", 0.0)

    def ticket(self, model: str = "m") -> Ticket:
        return self.admission.ticket(object(), model, self.usage)

    def offer(self, model: str = "m", now: float = 0.0) -> Ticket:
        ticket = self.ticket(model)
        self.admission.offer(ticket, now)
        return ticket


def test_a_limit_is_never_exceeded_and_the_rest_waits_in_order() -> None:
    desk = Desk(limit=2)
    tickets = [desk.offer() for _ in range(6)]
    assert [ticket.state for ticket in tickets] == [State.RUNNING] * 2 + [State.QUEUED] * 4
    assert desk.admission.finish(tickets[1], 1.0) == [tickets[2]]
    assert desk.admission.finish(tickets[0], 1.0) == [tickets[3]]


def test_without_a_limit_everything_runs_and_is_counted() -> None:
    desk = Desk(limit=None, queue=0)
    tickets = [desk.offer() for _ in range(100)]
    assert desk.admission.inflight == desk.usage.inflight == 100
    for ticket in tickets:
        assert not desk.admission.finish(ticket, 1.0)
    assert desk.admission.busy_seconds(5.0) == 0.0


def test_a_full_queue_refuses_at_once() -> None:
    desk = Desk(limit=1, queue=1)
    desk.offer()
    desk.offer()
    refused = desk.ticket()
    assert desk.admission.offer(refused, 0.0) is Outcome.QUEUE_FULL
    assert refused.state is State.ENDED
    assert (desk.admission.queued, desk.usage.queued) == (1, 1)


def test_a_queue_is_full_when_its_bytes_are_used_up() -> None:
    desk = Desk(limit=1, queue_bytes=100)
    desk.offer()
    heavy = desk.offer()
    desk.admission.charge(heavy, 99)
    assert desk.offer().state is State.QUEUED
    desk.admission.charge(heavy, 1)
    assert desk.offer().state is State.ENDED
    desk.admission.cancel(heavy, 1.0)
    assert desk.admission.queued_bytes == 0
    assert desk.offer().state is State.QUEUED


def test_a_model_at_its_own_limit_holds_up_nobody_else() -> None:
    desk = Desk(limit=3, model_limits={"slow": 1})
    slow = [desk.offer("slow") for _ in range(3)]
    assert [ticket.state for ticket in slow] == [State.RUNNING, State.QUEUED, State.QUEUED]
    assert desk.offer("fast").state is State.RUNNING
    assert desk.admission.finish(slow[0], 1.0) == [slow[1]]
    assert (desk.admission.model_limit("slow"), desk.admission.model_limit("fast")) == (1, None)


def test_a_newcomer_does_not_pass_those_who_wait_in_its_lane() -> None:
    desk = Desk(limit=1)
    running, first = desk.offer(), desk.offer()
    desk.admission.cancel(first, 0.0)
    second, third = desk.offer(), desk.offer()
    assert desk.admission.finish(running, 1.0) == [second]
    assert third.state is State.QUEUED


def test_lanes_take_turns_by_arrival() -> None:
    desk = Desk(limit=1, model_limits={"a": 1, "b": 1})
    running = desk.offer("c")
    waiting = [desk.offer(model) for model in ("b", "a", "c", "a", "b")]
    assert desk.admission.waiting() == waiting
    for expected in waiting:
        assert desk.admission.finish(running, 1.0) == [expected]
        running = expected


def test_expiry_takes_those_whose_time_has_come_and_nobody_else() -> None:
    desk = Desk(limit=1, patience=10.0, model_limits={"a": 1})
    desk.offer("a", now=0.0)
    early, late = desk.offer("a", now=1.0), desk.offer("a", now=2.0)
    other = desk.offer("b", now=1.5)
    assert desk.admission.next_deadline() == 11.0
    assert desk.admission.expire(10.99) == []
    assert desk.admission.expire(11.0) == [early]
    assert desk.admission.next_deadline() == 11.5
    assert set(desk.admission.expire(100.0)) == {other, late}
    assert desk.admission.next_deadline() is None
    assert desk.admission.queued == 0


def test_a_lower_limit_preempts_nobody_and_a_higher_one_starts_several() -> None:
    desk = Desk(limit=3)
    tickets = [desk.offer() for _ in range(6)]
    assert not desk.admission.resize(1, 0.0)
    assert desk.admission.inflight == 3
    assert not desk.admission.finish(tickets[0], 1.0)
    assert not desk.admission.finish(tickets[1], 1.0)
    assert desk.admission.finish(tickets[2], 1.0) == [tickets[3]]
    assert desk.admission.resize(3, 2.0) == tickets[4:]
    assert not desk.admission.resize(None, 2.0)


def test_busy_seconds_are_those_in_which_every_slot_was_taken() -> None:
    desk = Desk(limit=2)
    one = desk.offer(now=1.0)
    two = desk.offer(now=3.0)
    assert desk.admission.busy_seconds(4.5) == 1.5
    desk.admission.finish(one, 5.0)
    assert desk.admission.busy_seconds(9.0) == 2.0
    desk.admission.resize(1, 10.0)
    assert desk.admission.busy_seconds(12.0) == 4.0
    desk.admission.resize(None, 12.0)
    desk.admission.finish(two, 15.0)
    assert desk.admission.busy_seconds(20.0) == 4.0


def test_ending_twice_is_a_defect_of_the_caller() -> None:
    desk = Desk(limit=1)
    running, queued = desk.offer(), desk.offer()
    desk.admission.cancel(queued, 0.0)
    desk.admission.finish(running, 0.0)
    for again in (
        lambda: desk.admission.finish(running, 0.0),
        lambda: desk.admission.cancel(running, 0.0),
        lambda: desk.admission.cancel(queued, 0.0),
        lambda: desk.admission.finish(queued, 0.0),
        lambda: desk.admission.charge(queued, 1),
        lambda: desk.admission.offer(running, 0.0),
    ):
        with pytest.raises(AssertionError):
            again()
    assert (desk.admission.inflight, desk.admission.queued) == (0, 0)


def test_a_running_ticket_cannot_be_cancelled_nor_a_waiting_one_finished() -> None:
    desk = Desk(limit=1)
    running, queued = desk.offer(), desk.offer()
    with pytest.raises(AssertionError):
        desk.admission.cancel(running, 0.0)
    with pytest.raises(AssertionError):
        desk.admission.finish(queued, 0.0)


def test_a_million_cancels_leave_nothing_behind() -> None:
    desk = Desk(limit=1, queue=1_000_000)
    desk.offer()
    waiting = [desk.offer() for _ in range(100)]
    before = sys.getallocatedblocks()
    for _ in range(10_000):
        for index in range(100):
            desk.admission.cancel(waiting[index], 0.0)
            waiting[index] = desk.offer()
    # The heap of deadlines may hold as many dead entries as there are live ones.
    assert sys.getallocatedblocks() - before < 1000
    assert sys.getsizeof(waiting[0].lane.queue) < 64 * 1024
    assert (desk.admission.queued, desk.usage.queued) == (100, 100)


def test_usage_is_booked_on_what_the_table_says_at_the_offer() -> None:
    clock = ManualClock()
    table = UsageTable([], clock.now)
    gate = admission(limit=1)
    ticket = gate.ticket(None, "m", table.of("m"))
    gate.offer(ticket, clock.now)
    table.learn("m", clock.advance(1.0))
    gate.finish(ticket, clock.advance(1.0))
    rows = {usage.name: (usage.inflight, usage.inflight_seconds) for usage in table.rows(clock.now)}
    assert rows == {"m": (0, 0.0), "_other": (0, 2.0)}
