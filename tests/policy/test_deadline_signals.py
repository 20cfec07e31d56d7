"""What the deadline policy tells of itself: answers that came too late, and predictions that were wrong."""

import pytest

from tests.policy.desk import Desk


def test_answers_after_their_deadline_are_counted_with_the_time_they_took() -> None:
    desk = Desk(limit=2, service=0.1)
    for patience in (5.0, 0.05, 0.1):
        desk.offer(patience)
        desk.run(0.2)
    assert (desk.usage.missed, desk.usage.late_seconds) == (1, pytest.approx(0.1))


def test_a_stream_is_late_when_its_first_byte_is() -> None:
    desk = Desk(limit=2, service=1.0)
    for first_byte in (0.1, 0.4):
        ticket = desk.offer(0.3, streams=True)
        desk.clock.advance(first_byte)
        desk.gate.responded(ticket, desk.clock.now)
        desk.run(1.0)
    assert desk.usage.missed == 1


def test_what_fails_late_is_no_missed_deadline() -> None:
    desk = Desk(limit=1)
    ticket = desk.offer(0.1)
    desk.gate.finish(ticket, desk.clock.advance(1.0), served=False)
    assert desk.usage.missed == 0


def test_predicted_waits_are_compared_with_what_they_became() -> None:
    desk = Desk(limit=2, service=0.1)
    desk.learn()
    desk.gate.take_wait_errors()
    desk.fill()
    assert not desk.gate.take_wait_errors(), "they have not waited"
    for _ in range(4):
        desk.offer(5.0)
    desk.empty()
    errors = desk.gate.take_wait_errors()
    assert len(errors) == 4
    assert max(errors) <= 0.1, "two leave at once each 0.1 s where one each 0.05 s was expected"
    assert not desk.gate.take_wait_errors()


def test_wait_errors_that_nobody_takes_are_bounded() -> None:
    desk = Desk(limit=1, service=0.001)
    running = desk.offer()
    for _ in range(desk.gate.MAX_KEPT + 100):
        waiting = desk.offer()
        desk.gate.finish(running, desk.clock.advance(0.001))
        running = waiting
    assert len(desk.gate.take_wait_errors()) == desk.gate.MAX_KEPT


def test_costs_are_kept_until_they_are_taken() -> None:
    desk = Desk(limit=1)
    ticket = desk.offer()
    told = [desk.gate.cost_of(ticket, rows) for rows in (8, 16, 4)]
    assert desk.gate.take_costs() == told
    assert not desk.gate.take_costs()
