"""The demo's memory, fed by hand."""

import asyncio

import pytest

from agent.demo.story import Calls, Column, Frame, Script
from agent.demo.watch import COLUMNS, Watch, read_gate
from loadgen.record import Outcome, Sample
from loadgen.run import OpenLoop, Target
from loadgen.units import NS_PER_S
from tests.sockets import eventually

SCRIPT = Script(duration_s=20.0, slots=16, service_s=0.05, seed=1)
COLUMN_S = 20.0 / COLUMNS

METRICS = b"""# HELP headgate_rejected Refusals.
# TYPE headgate_rejected counter
headgate_rejected_total{reason="queue_full"} 40.0
headgate_rejected_total{reason="expired"} 2.0
# TYPE headgate_inflight_seconds counter
headgate_inflight_seconds_total{model="a",protocol="http"} 12.5
headgate_inflight_seconds_total{model="b",protocol="http"} 0.5
# TYPE headgate_queued_seconds counter
headgate_queued_seconds_total{model="a",protocol="http"} 7.25
"""


def sample(outcome: Outcome, took_ns: int = 0) -> Sample:
    made = Sample(0)
    made.outcome, made.done_ns = outcome, took_ns
    return made


def watch() -> Watch:
    frames: list[Frame] = []
    return Watch(SCRIPT, ("127.0.0.1", 1), ("127.0.0.1", 2), frames.append, Calls)


def test_the_agents_account_is_read_from_both_pages() -> None:
    gate = read_gate(b'{"inflight": 3, "queued": 4, "limit": 16, "queue_limit": 32}', METRICS)
    assert (gate.executing, gate.queued, gate.limit, gate.queue_limit) == (3, 4, 16, 32)
    assert (gate.rejected, gate.executing_s, gate.queued_s) == (42.0, 13.0, 7.25)


def test_samples_land_in_the_column_they_were_due_in() -> None:
    memory = watch()
    memory.add(sample(Outcome.OK, 5), 0.5 * COLUMN_S * NS_PER_S)
    memory.add(sample(Outcome.OK, 9), 0.9 * COLUMN_S * NS_PER_S)
    memory.add(sample(Outcome.SHED, 7), 1.5 * COLUMN_S * NS_PER_S)
    memory.add(sample(Outcome.TIMEOUT), 1.6 * COLUMN_S * NS_PER_S)
    memory.add(sample(Outcome.ERROR), 19.999 * NS_PER_S)
    memory.add(sample(Outcome.ERROR), 20.0 * NS_PER_S)
    first, second, *_, last = memory._columns(20.0)
    assert (first.answered, first.refused, first.failed, first.slowest_ns) == (2, 0, 0, 9)
    assert (second.answered, second.refused, second.failed, second.slowest_ns) == (0, 1, 1, 0)
    assert last.failed == 2


def test_columns_offer_what_the_schedule_had_due_until_now() -> None:
    memory = watch()
    gated, bare = SCRIPT.schedules()
    assert memory._columns(0.0) == (Column(0, 0, 0, 0, 0),)
    whole = memory._columns(20.0)
    assert len(whole) == COLUMNS
    assert sum(column.offered for column in whole) == len(gated.offsets_ns) + len(bare.offsets_ns)
    half = memory._columns(10.0)
    assert sum(column.offered for column in half) == sum(offset < 10 * NS_PER_S for offset in gated.offsets_ns)
    assert half[:-1] == whole[: len(half) - 1]


def test_means_come_from_the_integrals_between_the_marks_of_a_phase() -> None:
    memory = watch()
    for elapsed_s, executing_s, queued_s in (
        (0.0, 0.0, 0.0),
        (1.0, 4.0, 0.0),
        (2.9, 15.4, 1.9),
        (3.1, 18.0, 2.0),
        (5.9, 60.0, 16.0),
    ):
        memory.gate = memory.gate._replace(executing_s=executing_s, queued_s=queued_s)
        memory._mark(elapsed_s)
    assert memory.means(0) == pytest.approx((15.4 / 2.9, 1.9 / 2.9))
    assert memory.means(1) == pytest.approx((42.0 / 2.8, 14.0 / 2.8))
    assert memory.means(2) == (0.0, 0.0)


async def test_a_frame_tells_how_the_grpc_calls_have_ended() -> None:
    frames: list[Frame] = []
    nobody = ("127.0.0.1", 1)
    memory = Watch(SCRIPT, nobody, nobody, frames.append, lambda: Calls(answered=7, refused=2))
    load = OpenLoop(Target(nobody, [b""], 1.0), SCRIPT.schedules()[0])
    following = asyncio.create_task(memory.follow(load, 0, lambda: None))
    await eventually(lambda: frames)
    following.cancel()
    await asyncio.wait([following])
    assert frames[0].calls == Calls(answered=7, refused=2)


def test_time_that_stands_still_adds_no_mark() -> None:
    memory = watch()
    memory._mark(3.0)
    memory.gate = memory.gate._replace(executing_s=99.0)
    memory._mark(3.0)
    assert [mark.gate.executing_s for mark in memory._marks] == [0.0]
