"""The report says what was measured, and nothing that was not."""

import argparse

import pytest

from loadgen.document import Facts
from loadgen.level import Level
from loadgen.payload import Tensor
from loadgen.record import Cause, Outcome, Recorder, Sample, merged
from loadgen.report import render_run, warnings
from loadgen.settings import Settings, read_settings

MS = 1_000_000
FACTS = Facts("n", "2026-01-01T00:00:00Z", "1", [Tensor("in", "FP32", (1, 16))], 2, 200.0)


def settings(**flags: object) -> Settings:
    defaults = {"url": "http://127.0.0.1:8480", "model": "m", "seed": "5", "timeout": "2s"}
    given = argparse.Namespace(**{**defaults, **flags})
    return read_settings("run", given)


def recorder(ok: int = 0, shed: int = 0, timeout: int = 0, reset: int = 0) -> Recorder:
    """`ok` answers of 1, 2, 3 ... ms, refusals of 1 ms, timeouts of 2 s."""
    made = Recorder()
    for outcome, count, status, cause in (
        (Outcome.OK, ok, 200, None),
        (Outcome.SHED, shed, 503, None),
        (Outcome.TIMEOUT, timeout, 0, Cause.TIMEOUT),
        (Outcome.ERROR, reset, 0, Cause.RESET),
    ):
        for number in range(count):
            sample = Sample(0)
            sample.sent_ns = 100_000
            sample.done_ns = (number + 1) * MS if outcome is Outcome.OK else 2000 * MS if cause else MS
            sample.outcome, sample.status, sample.cause = outcome, status, cause
            made.add(sample)
    return made


def level(*steps: Recorder, callers: int = 0, **more: float) -> Level:
    total = merged(steps)
    values = {"rate": 0 if callers else 60.0, "seconds": 10.0, "cpu_share": 0.2, "sent": total.count, **more}
    return Level(callers=callers, total=total, steps=steps, connections=4, **values)  # type: ignore[arg-type]


def text_of(plan: Settings, measured: Level) -> str:
    return render_run(plan, FACTS, measured, "in FP32[1,16]")


def test_the_table_counts_outcomes_apart() -> None:
    text = text_of(settings(rate="60", arrivals="constant"), level(recorder(ok=500, shed=100)))
    lines = text.splitlines()
    assert lines[0] == "target   http://127.0.0.1:8480  http  model m"
    assert lines[1] == "request  in FP32[1,16]  2 bodies of 200 bytes"
    assert lines[2] == "load     open loop, constant arrivals, 60.0/s for 10s, timeout 2s, seed 5"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] and line.split()[0] in set(Outcome)}
    assert rows["ok"][:3] == ["500", "83.3%", "50.0/s"]
    assert rows["ok"][6:8] == ["<=500ms", "500ms"]
    assert rows["shed"][:3] == ["100", "16.7%", "10.0/s"]
    assert rows["error"] == rows["timeout"] == ["0", "0.0%"]
    assert "cancelled" not in rows
    assert "ends     HTTP 200: 500, HTTP 503: 100" in lines
    assert any(line.startswith("checks   600 sent, late by 100us (p50), 100us (p99), 100us (max), ") for line in lines)
    assert "WARNING" not in text


def test_a_percentile_of_too_few_samples_is_a_bound() -> None:
    lines = text_of(settings(rate="5"), level(recorder(ok=50))).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("ok "))
    assert row[4:9] == ["25.0ms", "45.1ms", "<=50.0ms", "<=50.0ms", "50.0ms"]
    assert any("p99 needs 459, p99.9 needs 4603" in line for line in lines)


def test_steps_have_a_table_of_their_own() -> None:
    measured = level(recorder(ok=50), recorder(ok=400, shed=100))
    lines = text_of(settings(steps="10:5s,100-200:5s"), measured).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("step"))
    assert lines[start + 1].split()[:9] == ["1", "10.0/s", "for", "5s", "50", "50", "0", "0", "0"]
    assert lines[start + 2].split()[:11] == ["2", "100/s", "to", "200/s", "for", "5s", "500", "400", "100", "0", "0"]


def test_models_have_tables_of_their_own() -> None:
    measured = Level(0, 60.0, recorder(ok=70), 10.0, models={"a": recorder(ok=50), "b": recorder(ok=20)})
    text = text_of(settings(rate="5", model="a=5,b=2"), measured)
    assert "models a x5, b x2" in text
    assert text.count("\nok ") == 3


def test_closed_loop_says_that_it_has_no_schedule() -> None:
    text = text_of(settings(concurrency="8"), level(recorder(ok=10), callers=8))
    assert "closed loop, 8 callers for 10s" in text
    assert "closed loop has no schedule" in text
    assert "late by" not in text


def test_warnings_name_what_flatters() -> None:
    plan = settings(rate="10")
    assert warnings(plan, level(recorder(ok=100))) == []
    (timeout,) = warnings(plan, level(recorder(ok=75, timeout=25)))
    assert "25.0% of the requests were given up after 2s" in timeout
    (cut,) = warnings(plan, level(recorder(ok=1), unfinished=3))
    assert "3 requests were in flight" in cut
    (limited,) = warnings(plan, level(recorder(ok=1), backlogged=2))
    assert limited.startswith("generator-limited: 2 requests waited")


def test_causes_stand_beside_statuses() -> None:
    text = text_of(settings(rate="10"), level(recorder(ok=1, timeout=2, reset=1)))
    assert "ends     HTTP 200: 1, connection reset: 1, no answer in time: 2" in text


def test_a_run_without_requests_is_reported() -> None:
    assert "checks   0 sent, generator" in text_of(settings(rate="10"), level(Recorder()))


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        ("p50<1s", "kept, 25"),
        ("p99<1s", "kept, "),
        ("p99<49.9ms", "not kept: too few samples"),
        ("p99<20ms", "NOT KEPT, "),
        ("errors<1%", "kept, 0.00%"),
        ("rps>10", "NOT KEPT, 5.00/s"),
    ],
)
def test_objectives_are_told_with_their_values(slo: str, said: str) -> None:
    assert f"slo      {slo}: {said}" in text_of(settings(rate="5", slo=[slo]), level(recorder(ok=50)))
