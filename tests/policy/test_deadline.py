"""The deadline policy: its promises one by one, and the pitfalls that its parts are there for."""

import gc

import pytest

from agent.errors import Outcome
from agent.policy.admission import State
from agent.policy.line import band_of
from tests.policy.desk import Desk

DEADLINE, OVERLOAD, QUEUE_FULL = Outcome.DEADLINE, Outcome.OVERLOAD, Outcome.QUEUE_FULL


def test_without_a_limit_everything_runs_and_is_counted() -> None:
    desk = Desk(limit=None)
    assert {desk.offer().state for _ in range(100)} == {State.RUNNING}
    assert (desk.gate.inflight, desk.gate.queued, desk.gate.busy_seconds(2000.0)) == (100, 0, 0.0)


def test_nothing_is_refused_as_long_as_nothing_is_known() -> None:
    desk = Desk(limit=1)
    assert [desk.refused(0.01) for _ in range(20)] == [None] * 20


def test_an_idle_predictor_refuses_nobody() -> None:
    desk = Desk(service=5.0)
    desk.learn(100.0, every=1.0, patience=60.0)
    assert desk.offer(0.001).state is State.RUNNING
    assert desk.refused(0.001) is DEADLINE, "hopeless, and somebody runs"
    assert desk.offer(60.0).state is State.RUNNING


def test_a_request_that_cannot_be_answered_in_time_is_refused_at_its_arrival() -> None:
    desk = Desk(limit=2, service=0.1)
    desk.learn()
    desk.fill()
    assert desk.refused(0.1) is DEADLINE, "its own service takes all of it"
    assert desk.refused(0.25) is None, "0.05 of waiting, with a margin, and 0.1 of service"
    for _ in range(20):
        desk.offer(5.0)
    assert desk.refused(1.0) is None, "deadlines go first: only one is before it"
    assert desk.refused(0.16) is DEADLINE
    line = 22 * 0.05
    assert desk.refused(line + 0.1) is None, "those with later deadlines wait for it"
    assert desk.refused(5.01) is None


def test_the_line_goes_by_deadlines_and_equal_ones_by_arrival() -> None:
    desk = Desk(limit=1)
    running = desk.offer()
    waiting = [desk.offer(patience) for patience in (5.0, 3.0, 5.0, 4.0)]
    order = [waiting[1], waiting[3], waiting[0], waiting[2]]
    assert desk.gate.waiting() == waiting
    for expected in order:
        assert list(desk.gate.finish(running, desk.clock.now)) == [expected]
        running = expected


def test_one_that_is_too_late_at_its_turn_is_dropped_and_the_next_runs() -> None:
    desk = Desk(limit=2, service=0.1)
    desk.learn()
    running, _ = desk.offer(), desk.offer()
    tight, patient = desk.offer(0.4), desk.offer(5.0)
    desk.clock.advance(0.35)
    changed = desk.gate.finish(running, desk.clock.now)
    assert [(ticket, ticket.state) for ticket in changed] == [(tight, State.ENDED), (patient, State.RUNNING)]
    assert (desk.gate.inflight, desk.gate.queued, desk.usage.inflight, desk.usage.queued) == (2, 0, 2, 0)


def test_too_late_depends_on_whether_others_wait() -> None:
    """With others behind it half the service time is asked for, with nobody a tenth's: an idle slot earns nothing."""
    for behind, expected in ((False, State.RUNNING), (True, State.ENDED)):
        desk = Desk(limit=2)
        for number in range(96):  # times from 0.05 to 0.145 s at one level
            desk.clock.advance(0.01)
            desk.gate.lane_of("m").unary.add(desk.clock.now, 2, 0.05 + number / 1000)
        desk.fill()
        tight = desk.offer(0.5)
        other = desk.offer(5.0) if behind else None
        desk.clock.advance(0.43)  # 0.07 left: more than the fastest tenth takes, less than half of them
        desk.gate.finish(desk.running[0][1], desk.clock.now)
        assert tight.state is expected
        assert other is None or other.state is State.RUNNING


def test_a_late_one_runs_if_nothing_else_does() -> None:
    desk = Desk(limit=1, service=1.0)
    desk.learn(60.0, every=0.25)
    running = desk.offer()
    tight = desk.offer(3.0)
    desk.clock.advance(2.9)
    assert list(desk.gate.finish(running, desk.clock.now)) == [tight]
    assert tight.state is State.RUNNING


def test_full_is_full_in_requests_and_in_bytes() -> None:
    desk = Desk(limit=1, queue=2, queue_bytes=100)
    desk.fill()
    first = desk.offer()
    desk.gate.charge(first, 100)
    assert desk.refused() is QUEUE_FULL
    desk.gate.cancel(first, desk.clock.now)
    assert desk.gate.queued_bytes == 0
    assert [desk.refused() for _ in range(3)] == [None, None, QUEUE_FULL]


def test_expiry_takes_those_whose_time_has_come_in_every_lane() -> None:
    desk = Desk(limit=1, model_limits={"a": 1})
    desk.fill()
    now = desk.clock.now
    late, early, other = desk.offer(9.0), desk.offer(3.0, priority=7), desk.offer(4.0, "a")
    assert desk.gate.next_deadline() == now + 3.0
    assert desk.gate.expire(now + 2.99) == []
    assert desk.gate.expire(now + 3.0) == [early]
    assert set(desk.gate.expire(now + 100.0)) == {late, other}
    assert (desk.gate.next_deadline(), desk.gate.queued) == (None, 0)


def test_what_a_client_states_can_only_shorten_the_deadline_of_its_model() -> None:
    desk = Desk(limit=1, patience=10.0, model_patience={"slow": 60.0, "fast": 1.0})
    desk.fill()
    now = desk.clock.now
    cases = ((None, "m", 10.0), (20.0, "m", 10.0), (2.0, "m", 2.0), (None, "slow", 60.0), (90.0, "slow", 60.0))
    for patience, model, expected in (*cases, (None, "fast", 1.0), (0.5, "fast", 0.5)):
        assert desk.offer(patience, model).deadline == now + expected


def test_lowering_the_limit_preempts_nobody_and_raising_it_starts_several() -> None:
    desk = Desk(limit=3)
    tickets = [desk.offer() for _ in range(6)]
    assert not desk.gate.resize(1, desk.clock.now)
    assert [len(desk.gate.finish(ticket, desk.clock.now)) for ticket in tickets[:3]] == [0, 0, 1]
    assert desk.gate.resize(3, desk.clock.now) == tickets[4:]


def test_ending_twice_is_a_defect_of_the_caller() -> None:
    desk = Desk(limit=1)
    running, queued = desk.offer(), desk.offer()
    desk.gate.cancel(queued, 0.0)
    desk.gate.finish(running, 0.0)
    for again in (
        lambda: desk.gate.finish(running, 0.0),
        lambda: desk.gate.cancel(queued, 0.0),
        lambda: desk.gate.offer(running, 0.0),
    ):
        with pytest.raises(AssertionError):
            again()


def test_tickets_leave_nothing_for_the_garbage_collector() -> None:
    desk = Desk(limit=1, queue=3)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            for ticket in [desk.offer() for _ in range(6)]:
                if ticket.state is State.QUEUED:
                    desk.gate.cancel(ticket, desk.clock.now)
            desk.empty()
        del ticket
        assert gc.collect() == 0
    finally:
        gc.enable()


# What went wrong while the policy was built


def test_pitfall_a_congestion_that_has_passed_does_not_lock_the_door() -> None:
    desk = Desk(limit=8, service=3.0)
    desk.learn(60.0, every=0.3)
    desk.service = 0.05
    for _ in range(3):
        desk.fill()
        assert desk.refused(0.5) is DEADLINE, "at this level in flight it takes three seconds, as far as is known"
        desk.empty()
    assert desk.offer(0.5).state is State.RUNNING, "an idle predictor refuses nobody"
    desk.run(11.0)
    for _ in range(60):
        desk.fill(0.5)
        desk.empty()
    desk.fill(0.5)
    assert desk.refused(0.5) is None


def test_pitfall_b_a_request_that_was_overtaken_teaches_nothing_wrong() -> None:
    """It waits far longer than was predicted. A margin that followed such errors would refuse what can be served."""
    answers = []
    for overtaken in (False, True):
        desk = Desk(limit=1, service=0.1)
        desk.learn(every=0.05)
        patient = [desk.offer(8.0) for _ in range(3)]
        end = desk.clock.now + 0.8
        while desk.clock.now < end:
            if desk.gate.queued < 4:
                desk.offer(1.0 if overtaken else 9.0)
            desk.run(0.05)
        waits = [ticket.dispatched for ticket in patient[1:]]
        assert (max(waits) == 0.0) is overtaken, "the patient ones still wait only if they were overtaken"
        desk.empty()
        desk.fill()
        answers.append([desk.refused(patience) for patience in (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)])
    assert answers[0] == answers[1]


def test_pitfall_c_a_standing_line_may_hold_a_full_batch() -> None:
    desk = Desk(limit=16, service=0.07)
    desk.learn(20.0, every=0.002)
    desk.stand(0.5)
    assert desk.gate.is_overloaded("m", desk.clock.now)
    assert desk.refusal is OVERLOAD
    assert 16 <= desk.gate.queued <= 33


def test_pitfall_d_the_cap_on_a_standing_line_knows_no_deadlines() -> None:
    desk = Desk(limit=8, service=0.05)
    desk.learn(20.0, every=0.002)
    desk.stand(0.5)
    assert desk.refusal is OVERLOAD
    for patience in (0.2, 0.5, 1.0, 2.0):
        assert desk.refused(patience) is OVERLOAD, "a tight one is not refused for what it has not caused"
    desk.run(0.05)  # eight have left
    assert [desk.refused(patience) for patience in (0.2, 0.5)] == [None, None]


def test_pitfall_e_a_tight_newcomer_does_not_make_those_late_who_were_promised_an_answer() -> None:
    desk = Desk(limit=1, service=0.1)
    desk.learn(every=0.05)
    desk.fill()
    promised = 0
    while desk.refused(1.0) is None:
        promised += 1
    assert promised in range(4, 9)
    late_before = len(desk.late)
    admitted = sum(desk.refused(0.5) is None for _ in range(20))
    assert admitted <= 2, "what the margins leave, and no more"
    desk.empty()
    assert len(desk.late) == late_before


def test_a_burst_that_can_be_served_in_time_is_no_standing_line() -> None:
    desk = Desk(limit=8, service=0.05)
    desk.learn(20.0, every=0.002)
    desk.run(1.0)
    assert [desk.refused(0.5) for _ in range(50)] == [None] * 50
    assert not desk.gate.is_overloaded("m", desk.clock.now)
    desk.empty()
    assert not desk.late


# Streams


def test_the_times_of_streams_end_with_the_first_byte_and_do_not_mix_with_others() -> None:
    desk = Desk(limit=1)
    gate, clock = desk.gate, desk.clock
    for _ in range(10):
        stream = gate.ticket(None, "m", desk.usage)
        gate.offer(stream, clock.now, streams=True)
        gate.responded(stream, clock.advance(0.2))
        gate.responded(stream, clock.advance(0.1))
        gate.finish(stream, clock.advance(0.1))
        gate.responded(stream, clock.now)
        unary = gate.ticket(None, "m", desk.usage)
        gate.offer(unary, clock.now)
        gate.responded(unary, clock.advance(0.01))
        gate.finish(unary, clock.advance(0.04))
    for share in (0.0, 0.5, 0.99):
        assert gate.service_time("m", share, clock.now, streams=True) == pytest.approx(0.2)
        assert gate.service_time("m", share, clock.now) == pytest.approx(0.05)


def test_a_streams_slot_lasts_to_its_end() -> None:
    desk = Desk(limit=1)
    stream, waiting = desk.offer(1.0, streams=True), desk.offer(5.0)
    desk.gate.responded(stream, desk.clock.advance(0.1))
    assert (desk.gate.inflight, waiting.state) == (1, State.QUEUED)
    assert list(desk.gate.finish(stream, desk.clock.advance(3.0))) == [waiting]


@pytest.mark.parametrize(("streams", "patience", "expected"), [(True, 0.3, None), (False, 0.3, DEADLINE)])
def test_long_answers_do_not_condemn_streams_nor_short_ones_help_the_rest(
    streams: bool, patience: float, expected: Outcome | None
) -> None:
    """Streams answer within 0.1 s and last 2 s; the others take 2 s. A slot frees every 0.02 s."""
    desk = Desk(limit=100, service=2.0)
    line = desk.gate.lane_of("m")
    desk.fill()
    for _ in range(50):
        now = desk.clock.now
        line.unary.add(now, 100, 2.0)
        line.streaming.add(now, 100, 0.1)
    for number in range(200):
        desk.gate.total.leave(desk.clock.now + number * 0.02 - 4.0, 2.0, 1.0, backlogged=True)
    assert desk.refused(patience, streams=streams) is expected


def test_a_standing_line_of_streams_is_measured_by_their_slots_and_not_by_their_first_bytes() -> None:
    """Slots are held for 2 s and first bytes come after 0.1 s. A line of 0.1 s would be empty, and leave slots idle."""
    desk = Desk(limit=8, service=2.0)
    line = desk.gate.lane_of("m")
    for _ in range(400):
        desk.offer(4.0, streams=True)
        line.streaming.add(desk.clock.now, 8, 0.1)
        desk.run(0.125)
    assert desk.gate.inflight == 8
    assert 3 <= desk.gate.queued <= 8


def test_what_failed_teaches_no_service_time() -> None:
    desk = Desk(limit=2)
    for served in (True, False):
        for _ in range(10):
            ticket = desk.gate.ticket(None, "m", desk.usage)
            desk.gate.offer(ticket, desk.clock.now)
            desk.gate.finish(ticket, desk.clock.advance(0.1 if served else 0.001), served=served)
    assert desk.gate.service_time("m", 0.0, desk.clock.now) == pytest.approx(0.1)


# Priorities, tenants and cost


@pytest.mark.parametrize(("priority", "band"), [(0, 4), (-3, 4), (1, 1), (7, 7), (8, 7), (10**9, 7)])
def test_one_is_the_highest_priority_and_none_is_in_the_middle(priority: int, band: int) -> None:
    assert band_of(priority) == band


def test_higher_bands_are_served_first() -> None:
    desk = Desk(limit=1)
    running = desk.offer()
    waiting = {priority: desk.offer(priority=priority) for priority in (0, 7, 1, 2)}
    for priority in (1, 2, 0, 7):
        assert list(desk.gate.finish(running, desk.clock.now)) == [waiting[priority]]
        running = waiting[priority]


@pytest.mark.parametrize("fair", [False, True])
def test_a_full_queue_gives_way_to_a_higher_priority_the_last_in_line_first(fair: bool) -> None:
    desk = Desk(limit=1, queue=3, fair=fair)
    desk.fill()
    last, newest, middle = desk.offer(9.0, priority=5), desk.offer(3.0, priority=5), desk.offer(priority=3)
    assert desk.refused(priority=5) is QUEUE_FULL
    assert desk.refused(priority=1) is None
    assert (list(desk.gate.take_displaced()), last.state) == ([last], State.ENDED)
    assert desk.refused(priority=2) is None
    assert list(desk.gate.take_displaced()) == [newest]
    assert desk.refused(priority=3) is QUEUE_FULL
    assert (list(desk.gate.take_displaced()), middle.state) == ([], State.QUEUED)
    assert desk.gate.queued == 3


def test_a_standing_line_gives_way_to_a_higher_priority_and_does_not_grow() -> None:
    desk = Desk(limit=8, service=0.05)
    desk.learn(20.0, every=0.002)
    desk.stand(0.5)
    before = desk.gate.queued
    assert [desk.refused(0.5, priority=1) for _ in range(5)] == [None] * 5
    assert len(desk.gate.take_displaced()) == 5
    assert desk.gate.queued == before


def test_tenants_take_turns_where_the_setting_says_so() -> None:
    for fair in (True, False):
        desk = Desk(limit=1, fair=fair)
        running = desk.offer()
        hog = [desk.offer(tenant=1) for _ in range(3)]
        polite = desk.offer(tenant=2)
        order = []
        for _ in range(4):
            (running,) = desk.gate.finish(running, desk.clock.now)
            order.append(running)
        assert order.index(polite) == (1 if fair else 3)
        assert [ticket for ticket in order if ticket is not polite] == hog


@pytest.mark.parametrize(("cost", "expected"), [(1.0, None), (10.0, DEADLINE), (1e9, DEADLINE)])
def test_a_costly_request_needs_more_time(cost: float, expected: Outcome | None) -> None:
    desk = Desk(limit=2, service=0.1)
    desk.learn()
    desk.fill()
    assert desk.refused(0.4, cost=cost) is expected


# Lanes


def test_a_model_at_its_own_limit_holds_up_nobody_else() -> None:
    desk = Desk(limit=3, model_limits={"slow": 1})
    slow = [desk.offer(model="slow") for _ in range(3)]
    assert [ticket.state for ticket in slow] == [State.RUNNING, State.QUEUED, State.QUEUED]
    assert desk.offer(model="fast").state is State.RUNNING
    assert list(desk.gate.finish(slow[0], desk.clock.now)) == [slow[1]]
    assert (desk.gate.model_limit("slow"), desk.gate.model_limit("fast")) == (1, None)


def test_lanes_share_the_total_by_deadlines() -> None:
    desk = Desk(limit=1, model_limits={"a": 1, "b": 1})
    running = desk.offer(model="c")
    waiting = [desk.offer(patience, model) for patience, model in ((5.0, "a"), (3.0, "c"), (4.0, "b"), (2.0, "a"))]
    for expected in (waiting[3], waiting[1], waiting[2], waiting[0]):
        assert list(desk.gate.finish(running, desk.clock.now)) == [expected]
        running = expected


def test_a_lane_is_judged_by_its_own_flow_while_the_total_is_free() -> None:
    desk = Desk(limit=10, service=0.2, model_limits={"slow": 1})
    end = desk.clock.now + 20.0
    while desk.clock.now < end:
        if desk.gate.queued < 3:
            desk.offer(5.0, "slow")
        desk.run(0.05)
    desk.empty()
    assert desk.offer(5.0, "slow").state is State.RUNNING
    for _ in range(5):
        desk.offer(5.0, "slow")
    assert desk.refused(0.8, "slow") is None, "first of all deadlines"
    assert [desk.refused(0.8, "slow") for _ in range(3)] == [None, DEADLINE, DEADLINE]
    assert desk.offer(0.8, "fast").state is State.RUNNING
    assert desk.gate.predicted_wait("slow") > 1.0
    assert desk.gate.predicted_wait("fast") == 0.0
    assert desk.gate.total.rate == 0.0, "nobody has waited for the total"


def test_work_in_other_lanes_counts_where_the_total_is_short() -> None:
    desk = Desk(limit=2, service=0.1, model_limits={"a": 2})
    desk.learn()
    desk.fill()
    for _ in range(10):
        desk.offer(3.0, "a")
    assert desk.refused(3.1, "b") is None
    assert desk.refused(0.5, "b") is None, "before those of the other lane"
    for _ in range(10):
        desk.offer(0.5, "a")
    assert desk.refused(0.51, "b") is DEADLINE


def test_work_that_waits_for_its_own_limit_does_not_count_at_the_total() -> None:
    desk = Desk(limit=2, service=0.1, model_limits={"a": 1})
    desk.learn()
    desk.offer(model="a")
    for _ in range(30):
        assert desk.offer(8.0, "a").state is State.QUEUED
    desk.offer(model="b")
    assert desk.refused(9.0, "b") is None
    assert desk.gate.predicted_wait("b") < 0.2


# What others are told


def test_retry_after_is_none_where_no_wait_can_help() -> None:
    desk = Desk(limit=2, service=0.1)
    desk.learn()
    desk.fill()
    hopeless, late = desk.offer(0.05), None
    assert desk.refusal is DEADLINE
    assert desk.gate.retry_after(hopeless, desk.clock.now) is None
    for _ in range(60):
        late = desk.offer(2.0)
    assert desk.refusal is DEADLINE
    assert late is not None
    after = desk.gate.retry_after(late, desk.clock.now)
    assert after == pytest.approx(desk.gate.predicted_wait("m") + desk.gate.total.pace - 1.0)
    assert after > 0.2
    desk.empty()
    assert desk.gate.retry_after(desk.gate.ticket(None, "m", desk.usage), desk.clock.now) is None, "it has no time left"
    desk.fill()
    running = desk.running[0][1]
    assert desk.gate.retry_after(running, desk.clock.now) == 0.0, "its wait is far below what it has"


def test_beliefs_are_readable() -> None:
    desk = Desk(limit=2, service=0.1)
    now = desk.clock.now
    assert (desk.gate.total.rate, desk.gate.predicted_wait("m"), desk.gate.service_time("m", 0.5, now)) == (0, 0, 0)
    assert not desk.gate.is_overloaded("m", now)
    desk.learn()
    assert desk.gate.total.rate == pytest.approx(20.0, rel=0.01)
    desk.fill()
    for _ in range(10):
        desk.offer(5.0)
    assert desk.gate.predicted_wait("m") == pytest.approx(0.5, rel=0.01)
    assert desk.gate.service_time("m", 0.9, desk.clock.now) == pytest.approx(0.1)


def test_rows_are_told_in_units_of_the_recent_mean() -> None:
    desk = Desk()
    ticket = desk.gate.ticket(None, "m", desk.usage)
    assert desk.gate.cost_of(ticket, 8) == 1.0
    assert desk.gate.cost_of(ticket, 16) == pytest.approx(16 / (8 + 8 / 64))
    for _ in range(1000):
        desk.gate.cost_of(ticket, 100)
    assert desk.gate.cost_of(ticket, 50) == pytest.approx(0.5, rel=0.02)
