"""Both policies in any order of events, under terms that change and limits that are searched for: nobody is lost."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent.errors import Outcome
from agent.policy.admission import Admission, State, Terms, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.knee import Knee
from agent.policy.usage import Usage
from tests.examples import examples

MODELS = ("a", "b", "c")
REFUSALS = {Outcome.QUEUE_FULL, Outcome.DEADLINE, Outcome.OVERLOAD}

indexes = st.integers(0, 30)
limits = st.sampled_from([None, 1, 2, 3, 8])
terms = st.builds(
    Terms,
    limit=limits,
    model_limits=st.dictionaries(st.sampled_from(MODELS), st.integers(1, 3), max_size=2),
    queue_limit=st.integers(0, 8),
    queue_bytes=st.sampled_from([0, 100, 10_000]),
    patience=st.sampled_from([0.5, 3.0, 30.0]),
    model_patience=st.just({}),
    searched=st.just(frozenset()),
)


class Gate(RuleBasedStateMachine):
    """`tickets` are all that were offered, `ended` how often each was told to have ended."""

    gate: Admission[Any]

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.tickets: list[Ticket] = []
        self.ended: Counter[Ticket] = Counter()
        self.usages = {name: Usage(name, self.now) for name in MODELS}
        self.ran = 0

    def make(self, limit: int | None) -> Admission[Any]:
        raise NotImplementedError

    @initialize(limit=limits)
    def open(self, limit: int | None) -> None:
        self.gate = self.make(limit)

    def of(self, state: State) -> list[Ticket]:
        return [ticket for ticket in self.tickets if ticket.state is state]

    def pick(self, state: State, index: int) -> Ticket:
        tickets = self.of(state)
        return tickets[index % len(tickets)]

    def follow(self, changed: Iterable[Ticket], waited: list[Ticket]) -> None:
        """Whoever was told of has waited until then, and runs now or has ended."""
        for ticket in changed:
            assert ticket in waited
            waited.remove(ticket)
            assert ticket.state in {State.RUNNING, State.ENDED}
            self.ended[ticket] += ticket.state is State.ENDED

    @rule(model=st.sampled_from(MODELS), said=st.fixed_dictionaries({}))
    def offer(self, model: str, said: dict[str, Any]) -> None:
        waited = self.of(State.QUEUED)
        ticket = self.gate.ticket(None, model, self.usages[model])
        self.tickets.append(ticket)
        refusal = self.gate.offer(ticket, self.now, **said)
        assert refusal is None or refusal in REFUSALS
        assert (refusal is not None) is (ticket.state is State.ENDED)
        self.ended[ticket] += refusal is not None
        self.follow(self.gate.take_displaced(), waited)

    @precondition(lambda self: self.of(State.RUNNING))
    @rule(index=indexes, served=st.booleans(), answered=st.booleans())
    def finish(self, index: int, served: bool, answered: bool) -> None:
        waited, ticket = self.of(State.QUEUED), self.pick(State.RUNNING, index)
        if answered:
            self.gate.responded(ticket, self.now)
        changed = self.gate.finish(ticket, self.now, served=served)
        assert ticket.state is State.ENDED
        self.ended[ticket] += 1
        self.follow(changed, waited)

    @precondition(lambda self: self.of(State.QUEUED))
    @rule(index=indexes)
    def cancel(self, index: int) -> None:
        ticket = self.pick(State.QUEUED, index)
        self.gate.cancel(ticket, self.now)
        assert ticket.state is State.ENDED
        self.ended[ticket] += 1

    @precondition(lambda self: self.of(State.QUEUED))
    @rule(index=indexes, size=st.integers(1, 90))
    def charge(self, index: int, size: int) -> None:
        self.gate.charge(self.pick(State.QUEUED, index), size)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.4, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        waited = self.of(State.QUEUED)
        due = {ticket for ticket in waited if ticket.deadline <= self.now}
        expired = self.gate.expire(self.now)
        assert set(expired) == due
        self.follow(expired, waited)

    @rule(terms=terms)
    def adopt(self, terms: Terms) -> None:
        waited = self.of(State.QUEUED)
        self.follow(self.gate.adopt(terms, self.now), waited)

    @rule(limit=limits)
    def resize(self, limit: int | None) -> None:
        waited = self.of(State.QUEUED)
        self.follow(self.gate.resize(limit, self.now), waited)

    @invariant()
    def the_books_are_right(self) -> None:
        if not self.tickets:
            return
        gate, running, queued = self.gate, self.of(State.RUNNING), self.of(State.QUEUED)
        assert (gate.inflight, gate.queued) == (len(running), len(queued))
        assert gate.queued_bytes == sum(ticket.queued_bytes for ticket in queued)
        assert sorted(map(id, gate.waiting())) == sorted(map(id, queued))
        assert gate.next_deadline() == min((ticket.deadline for ticket in queued), default=None)
        for name, usage in self.usages.items():
            assert usage.inflight == sum(ticket.usage is usage for ticket in running), name
            assert usage.queued == sum(ticket.usage is usage for ticket in queued), name
        # A limit that is lowered ends nobody, but nobody starts above it either.
        assert gate.limit is None or len(running) <= max(gate.limit, self.ran)
        self.ran = len(running)

    @invariant()
    def each_ends_once(self) -> None:
        for ticket in self.tickets:
            assert self.ended[ticket] == (ticket.state is State.ENDED)

    @invariant()
    def nobody_waits_who_could_run(self) -> None:
        if self.tickets and (self.gate.limit is None or self.gate.inflight < self.gate.limit):
            assert not [ticket for ticket in self.of(State.QUEUED) if ticket.lane.has_room]

    def teardown(self) -> None:
        while running := self.of(State.RUNNING):
            waited = self.of(State.QUEUED)
            self.ended[running[0]] += 1
            self.now += 0.1
            self.follow(self.gate.finish(running[0], self.now), waited)
        self.each_ends_once()
        assert {ticket.state for ticket in self.tickets} <= {State.ENDED}


class Fifo(Gate):
    def make(self, limit: int | None) -> Admission[Any]:
        return FifoAdmission(limit=limit, model_limits={"a": 1}, queue_limit=6, queue_bytes=1_000, patience=5.0)


class Deadline(Gate):
    SEARCH: ClassVar[bool] = False

    def make(self, limit: int | None) -> Admission[Any]:
        return DeadlineAdmission(
            limit=4 if self.SEARCH else limit,
            model_limits={"a": 1},
            queue_limit=6,
            queue_bytes=1_000,
            patience=5.0,
            fair=True,
            search=Knee(4) if self.SEARCH else None,
        )

    @rule(
        model=st.sampled_from(MODELS),
        patience=st.sampled_from([None, 0.0, 0.2, 20.0]),
        said=st.fixed_dictionaries(
            {
                "streams": st.booleans(),
                "priority": st.integers(0, 7),
                "tenant": st.integers(0, 3),
                "cost": st.sampled_from([0.3, 1.0, 4.0]),
            }
        ),
    )
    def offer_with_wishes(self, model: str, patience: float | None, said: dict[str, Any]) -> None:
        self.offer(model, {"patience": patience, **said})


class Searched(Deadline):
    SEARCH = True


@pytest.mark.parametrize("kind", [Fifo, Deadline, Searched])
def test_nobody_is_lost_and_nobody_ends_twice(kind: type[Gate]) -> None:
    run_state_machine_as_test(kind, settings=settings(max_examples=examples(60), stateful_step_count=40))
