"""The script and its numbers."""

import pytest

from agent.demo.story import (
    FLOOD,
    NO_GATE,
    PHASES,
    Calls,
    Column,
    Frame,
    Gate,
    Model,
    Rates,
    Script,
    opening,
    plain_line,
)
from loadgen.units import NS_PER_S

SCRIPT = Script(duration_s=20.0, slots=16, service_s=0.05, seed=1)


def test_phases_fill_the_duration_in_order() -> None:
    assert sum(step.duration_s for step in SCRIPT.steps) == pytest.approx(20.0)
    assert [SCRIPT.start_s(number) for number in range(len(PHASES))] == pytest.approx([0, 3, 6, 9, 13, 16])
    assert [step.rate for step in SCRIPT.steps] == pytest.approx(
        [factor * 320 for factor in (0.5, 0.8, 1.5, 3, 0.7, 3)]
    )
    assert [phase.gated for phase in PHASES] == [True] * 5 + [False]


def test_the_flood_without_the_gate_has_the_very_same_arrivals() -> None:
    gated, bare = SCRIPT.schedules()
    assert len(gated.steps) == NO_GATE
    first, after = gated.first[FLOOD], gated.first[FLOOD + 1]
    start_ns = round(SCRIPT.start_s(FLOOD) * NS_PER_S)
    assert [offset + start_ns for offset in bare.offsets_ns] == list(gated.offsets_ns[first:after])
    assert 0 <= bare.offsets_ns[0] < NS_PER_S
    assert bare.offsets_ns[-1] < SCRIPT.steps[NO_GATE].duration_s * NS_PER_S
    assert bare.steps == (SCRIPT.steps[FLOOD],)


def test_a_caller_waits_longer_than_any_answer_through_the_gate_takes() -> None:
    rounds = 1 + SCRIPT.queue / SCRIPT.slots
    assert SCRIPT.patience_s > 2 * rounds * SCRIPT.service_s


def test_short_demos_beat_faster() -> None:
    assert SCRIPT.beat_s == 1.0
    short = Script(duration_s=4.0, slots=16, service_s=0.05, seed=1)
    assert short.beat_s < min(step.duration_s for step in short.steps) / 2


def test_grpc_calls_are_few_beside_the_load() -> None:
    assert SCRIPT.calls_rate == SCRIPT.capacity / 16 == 20.0
    assert Script(duration_s=20.0, slots=64, service_s=0.05, seed=1).calls_rate == 20.0
    assert Script(duration_s=20.0, slots=4, service_s=0.05, seed=1).calls_rate == 5.0


def frame(phase: int, columns: tuple[Column, ...] = ()) -> Frame:
    return Frame(
        elapsed_s=12.34,
        phase=phase,
        gate=Gate(executing=16, queued=31, limit=16, queue_limit=32, rejected=5),
        model=Model(executing=16, waiting=1733),
        rates=Rates(954.0, 312.0, 640.0, 2.0),
        p50="154ms",
        p99="-",
        refusal_p50="420us",
        columns=columns,
        calls=Calls(answered=123, refused=45, late=6, refusal_p50="820us"),
    )


def test_a_plain_line_says_where_the_requests_are() -> None:
    assert plain_line(SCRIPT, frame(FLOOD)) == (
        " 12.3s     954/s     312/s     640/s    2.00/s    154ms        -  gate: 16/16 executing, 31/32 queued"
    )
    assert plain_line(SCRIPT, frame(NO_GATE)).endswith("model: 16/16 executing, 1733 waiting inside")


def test_the_opening_names_capacity_and_the_gates_settings() -> None:
    assert opening(SCRIPT) == "a model with 16 slots of 50ms = 320/s; the gate lets 16 in and 32 wait"
    assert len(opening(SCRIPT)) <= 76


def test_every_text_fits_the_page() -> None:
    assert max(len(phase.text) for phase in PHASES) <= 74


def test_what_waits_is_what_has_not_ended() -> None:
    assert Column(offered=10, answered=3, refused=2, failed=1, slowest_ns=0).waiting == 4
