"""While the predictor is expected for the first time: who may wait, for how long, and what is learned from it."""

from typing import Any

import pytest

from agent.errors import Outcome
from agent.policy.admission import QUEUED, RUNNING, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.usage import Usage

PATIENCE = 10.0


def admission(policy: str, **settings: Any) -> Any:
    given = {"limit": 1, "model_limits": {}, "queue_limit": 100, "queue_bytes": 1 << 20, "patience": PATIENCE}
    return (FifoAdmission if policy == "fifo" else DeadlineAdmission)(**{**given, **settings})


def offer(gate: Any, now: float, patience: float | None = None) -> tuple[Ticket, Outcome | None]:
    ticket = gate.ticket(None, "m", Usage("m", now))
    return ticket, gate.offer(ticket, now, patience)


# When it comes, what the caller says of its patience, and its deadline; the predictor is waited for until 60.
DEADLINES = [
    (0.0, None, 60.0),
    (45.0, None, 60.0),
    (55.0, None, 65.0),
    (0.0, 3.0, 3.0),
    (0.0, 20.0, 20.0),
    (0.0, 90.0, 60.0),
]


@pytest.mark.parametrize("policy", ["fifo", "deadline"])
@pytest.mark.parametrize(("now", "patience", "deadline"), DEADLINES)
def test_a_request_may_wait_for_the_start(policy: str, now: float, patience: float | None, deadline: float) -> None:
    gate = admission(policy)
    gate.hold_until = 60.0
    for state in (RUNNING, QUEUED):
        ticket, refusal = offer(gate, now, patience)
        assert (refusal, ticket.state, ticket.deadline) == (None, state, deadline)
    assert gate.next_deadline() == deadline


@pytest.mark.parametrize("policy", ["fifo", "deadline"])
def test_after_it_patience_is_as_ever(policy: str) -> None:
    gate = admission(policy)
    gate.hold_until = 60.0
    (before, _), (held, _) = offer(gate, 0.0), offer(gate, 0.0)
    gate.hold_until = 0.0
    late, _ = offer(gate, 20.0)
    assert (before.deadline, held.deadline, late.deadline) == (60.0, 60.0, 30.0)


def test_models_with_a_deadline_of_their_own_are_held_too() -> None:
    gate = admission("deadline", model_patience={"m": 2.0})
    gate.hold_until = 60.0
    assert offer(gate, 0.0)[0].deadline == 60.0


def test_a_line_that_stands_for_the_whole_start_refuses_nobody() -> None:
    gate = admission("deadline", limit=2)
    gate.hold_until = 60.0
    assert [offer(gate, float(second))[1] for second in range(59)] == [None] * 59


def test_ends_without_a_predictor_say_nothing_of_it() -> None:
    gate = admission("deadline", limit=2)
    gate.hold_until = 60.0
    tickets = [offer(gate, 0.0)[0] for _ in range(6)]
    for number in range(4):
        gate.finish(tickets[number], 2.0 + number, served=False, reached=False)
    assert (gate.total.pace, gate.total.hold) == (0.0, 0.0)
    gate.hold_until = 0.0
    assert offer(gate, 6.0, 1.0)[1] is None, "nothing is known that could make it late"


def test_service_begins_when_the_predictor_is_there() -> None:
    gate = admission("deadline")
    gate.hold_until = 60.0
    ticket, _ = offer(gate, 0.0)
    gate.reached(ticket, 50.0)
    gate.finish(ticket, 50.5)
    assert (gate.total.hold, gate.lane_of("m").unary.slowest) == (0.5, 0.5)


def test_nor_is_the_wait_for_it_taken_for_the_usual_patience() -> None:
    """A search lets answers take half of that."""
    gate = admission("deadline", model_limits={"m": 1})
    gate.hold_until = 600.0
    for second in range(5):
        offer(gate, float(second))
    offer(gate, 5.0, 3.0)
    assert all(9.0 < flow.patience <= PATIENCE for flow in (gate.total, gate.lane_of("m").drain))
