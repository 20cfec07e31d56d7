"""Other terms while requests wait and run: for both policies."""

from typing import Any

import pytest

from agent.errors import Outcome
from agent.policy.admission import Admission, State, Terms, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.knee import Knee
from agent.policy.usage import Usage

START: dict[str, Any] = {
    "limit": 1,
    "model_limits": {"a": 1},
    "queue_limit": 10,
    "queue_bytes": 1 << 20,
    "patience": 9.0,
}
KINDS = {"fifo": FifoAdmission, "deadline": DeadlineAdmission}


def terms(**changed: Any) -> Terms:
    return Terms(**{**START, "model_patience": {}, "searched": frozenset(), **changed})


class Gate:
    """Offers requests to one policy."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.admission: Admission[Any] = KINDS[kind](**{**START, **settings})
        self.usage = Usage("m", 0.0)

    def offer(self, model: str = "m", now: float = 1.0) -> Ticket:
        ticket: Ticket = self.admission.ticket(None, model, self.usage)
        self.refusal = self.admission.offer(ticket, now)
        return ticket


@pytest.fixture(params=KINDS)
def gate(request: pytest.FixtureRequest) -> Gate:
    return Gate(request.param)


def test_a_higher_limit_lets_those_run_that_wait(gate: Gate) -> None:
    running, *waiting = [gate.offer() for _ in range(4)]
    assert list(gate.admission.adopt(terms(limit=3), 1.0)) == waiting[:2]
    assert [one.state for one in (running, *waiting)] == [State.RUNNING] * 3 + [State.QUEUED]


def test_a_lower_limit_ends_nobody(gate: Gate) -> None:
    gate.admission.adopt(terms(limit=3), 1.0)
    running = [gate.offer() for _ in range(3)]
    assert list(gate.admission.adopt(terms(limit=1), 1.0)) == []
    assert {one.state for one in running} == {State.RUNNING}
    waiting = gate.offer()
    assert list(gate.admission.finish(running[0], 1.1)) == list(gate.admission.finish(running[1], 1.1)) == []
    assert list(gate.admission.finish(running[2], 1.1)) == [waiting]


def test_bounds_of_the_queue_hold_for_who_comes_next(gate: Gate) -> None:
    gate.offer()
    gate.offer()
    gate.admission.adopt(terms(queue_limit=1, queue_bytes=0), 1.0)
    assert gate.offer().state is State.ENDED
    assert gate.refusal is Outcome.QUEUE_FULL
    assert (gate.admission.queued, gate.admission.queue_bytes) == (1, 0)


def test_what_waits_keeps_its_deadline(gate: Gate) -> None:
    gate.offer()
    before = gate.offer()
    gate.admission.adopt(terms(patience=2.0), 1.0)
    assert (before.deadline, gate.offer().deadline) == (10.0, 3.0)
    assert gate.admission.next_deadline() == 3.0


def test_a_model_gets_a_limit_changes_it_and_loses_it(gate: Gate) -> None:
    gate.admission.adopt(terms(limit=None, model_limits={"a": 2, "b": 1}), 1.0)
    assert [gate.offer(model).state for model in "aaabbc"] == [
        *[State.RUNNING, State.RUNNING, State.QUEUED],
        *[State.RUNNING, State.QUEUED],
        State.RUNNING,
    ]
    assert [gate.admission.model_limit(model) for model in "abc"] == [2, 1, None]
    freed = gate.admission.adopt(terms(limit=None, model_limits={"b": 1}), 1.0)
    assert len(freed) == 1, "a may run as many as it likes"
    assert [gate.admission.model_limit(model) for model in "abc"] == [None, 1, None]
    assert (gate.admission.inflight, gate.admission.queued) == (5, 1)


def test_a_search_begins_goes_on_and_ends() -> None:
    gate = Gate("deadline", search=Knee(4), searches={"a": Knee(2)}, model_limits={}).admission
    assert isinstance(gate, DeadlineAdmission)
    search = gate.search
    gate.adopt(terms(limit=0, model_limits={}, searched=frozenset({"", "b"})), 1.0)
    assert gate.search is search
    assert (gate.limit, gate.model_limit("a"), gate.model_limit("b")) == (4, None, 8)
    gate.adopt(terms(limit=6), 2.0)
    assert (gate.search, gate.limit, gate.model_limit("a"), gate.model_limit("b")) == (None, 6, 1, None)
    gate.adopt(terms(limit=0, searched=frozenset({""})), 3.0)
    assert gate.search is not None
    assert gate.limit == 6, "from the limit in force"


def test_models_get_deadlines_and_lose_them() -> None:
    gate = Gate("deadline", model_limits={})
    gate.admission.adopt(terms(model_limits={}, model_patience={"m": 3.0}), 1.0)
    assert (gate.offer("m").deadline, gate.offer("x").deadline) == (4.0, 10.0)
    gate.admission.adopt(terms(model_limits={}), 1.0)
    assert gate.offer("m").deadline == 10.0
