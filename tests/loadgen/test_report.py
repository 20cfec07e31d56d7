"""The report says what was measured, and nothing that was not."""

import json
import math
from pathlib import Path

from loadgen.payload import Tensor
from loadgen.record import Cause, Outcome, Recorder, Result, Sample
from loadgen.report import render_json, render_text, warnings
from loadgen.schedule import Arrivals, Step
from loadgen.settings import Settings, Url

MS = 1_000_000
TENSORS = [Tensor("in", "FP32", (1, 16))]
BODIES = [b"x" * 100, b"x" * 300]


def settings(*steps: Step, concurrency: int = 0) -> Settings:
    return Settings(
        url=Url("127.0.0.1", 8480, ""),
        model="m",
        concurrency=concurrency,
        steps=steps,
        arrivals=Arrivals.CONSTANT,
        duration_s=10.0 if concurrency else math.inf,
        limit=math.inf,
        timeout_s=2.0,
        shapes=(),
        headers=(),
        seed=5,
        json=Path("r.json"),
    )


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


def result(*steps: Recorder, open_loop: bool = True, **more: float) -> Result:
    sent = sum(step.count for step in steps)
    values = {"rated_s": 10.0, "elapsed_s": 10.5, "cpu_s": 2.1, "connections": 4, "sent": sent, **more}
    return Result(steps=list(steps), open_loop=open_loop, **values)  # type: ignore[arg-type]


def test_the_table_counts_outcomes_apart() -> None:
    text = render_text(settings(Step(60.0, 10.0)), TENSORS, BODIES, result(recorder(ok=500, shed=100)))
    lines = text.splitlines()
    assert lines[0] == "target   http://127.0.0.1:8480  model m"
    assert lines[1] == "request  in FP32[1,16]  2 bodies of 200 bytes"
    assert lines[2] == "load     open loop, constant arrivals, 60.0/s for 10s, timeout 2s, seed 5"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1] and line.split()[0] in set(Outcome)}
    assert rows["ok"][:3] == ["500", "83.3%", "50.0/s"]
    assert rows["ok"][6:8] == ["-", "500ms"]
    assert rows["shed"][:3] == ["100", "16.7%", "10.0/s"]
    assert rows["error"] == rows["timeout"] == ["0", "0.0%"]
    assert "ends     HTTP 200: 500, HTTP 503: 100" in lines
    assert (
        "checks   600 sent, late by 100us (p50), 100us (p99), 100us (max), generator 20% of a core, 4 connections"
        in lines
    )
    assert "WARNING" not in text


def test_a_percentile_of_too_few_samples_is_no_value() -> None:
    few = result(recorder(ok=50))
    lines = render_text(settings(Step(5.0, 10.0)), TENSORS, BODIES, few).splitlines()
    (row,) = (line.split() for line in lines if line.startswith("ok "))
    assert row[4:9] == ["25.0ms", "45.1ms", "-", "-", "50.0ms"]
    assert any("p99 needs 459, p99.9 needs 4603" in line for line in lines)
    document = json.loads(json.dumps(render_json(settings(Step(5.0, 10.0)), TENSORS, BODIES, few, "1")))
    response = document["total"]["outcomes"]["ok"]["response"]
    assert (response["p99_ms"], response["p99.9_ms"], response["max_ms"]) == (None, None, 50.0)
    assert response["p90_ms"] >= 45.0


def test_steps_have_a_table_of_their_own() -> None:
    two = settings(Step(10.0, 5.0), Step(100.0, 5.0))
    lines = render_text(two, TENSORS, BODIES, result(recorder(ok=50), recorder(ok=400, shed=100))).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("step"))
    assert lines[start + 1].split()[:9] == ["1", "10.0/s", "for", "5s", "50", "50", "0", "0", "0"]
    assert lines[start + 2].split()[4:10] == ["500", "400", "100", "0", "0", "80.0/s"]


def test_closed_loop_says_that_it_has_no_schedule() -> None:
    text = render_text(settings(concurrency=8), TENSORS, BODIES, result(recorder(ok=10), open_loop=False))
    assert "closed loop, 8 callers for 10s" in text
    assert "closed loop has no schedule" in text
    assert "late by" not in text


def test_warnings_name_what_flatters() -> None:
    plan = settings(Step(10.0, 10.0))
    assert warnings(plan, result(recorder(ok=100))) == []
    (timeout,) = warnings(plan, result(recorder(ok=75, timeout=25)))
    assert "25.0% of the requests were given up after 2s" in timeout
    (cut,) = warnings(plan, result(recorder(ok=1), unfinished=3))
    assert "3 requests were in flight" in cut
    (limited,) = warnings(plan, result(recorder(ok=1), backlogged=2))
    assert limited.startswith("generator-limited: 2 requests waited")


def test_causes_stand_beside_statuses() -> None:
    text = render_text(settings(Step(10.0, 10.0)), TENSORS, BODIES, result(recorder(ok=1, timeout=2, reset=1)))
    assert "ends     HTTP 200: 1, connection reset: 1, no answer in time: 2" in text


def test_a_run_without_requests_is_reported() -> None:
    text = render_text(settings(Step(10.0, 10.0)), TENSORS, BODIES, result(Recorder()))
    assert "checks   0 sent, generator" in text


def test_the_json_holds_everything_again() -> None:
    two = settings(Step(10.0, 5.0), Step(100.0, math.inf))
    document = json.loads(
        json.dumps(
            render_json(two, TENSORS, BODIES, result(recorder(ok=50, reset=1), recorder(ok=400, shed=100)), "0.1")
        )
    )
    assert document["version"] == "0.1"
    assert document["settings"]["steps"] == [{"rate": 10.0, "duration_s": 5.0}, {"rate": 100.0, "duration_s": None}]
    assert document["settings"]["inputs"] == [{"name": "in", "datatype": "FP32", "shape": [1, 16]}]
    assert (document["sent"], document["total"]["count"], document["settings"]["seed"]) == (551, 551, 5)
    assert document["total"]["statuses"] == {"200": 450, "503": 100}
    assert document["total"]["causes"] == {"connection reset": 1}
    assert [step["count"] for step in document["steps"]] == [51, 500]
    assert document["steps"][0]["outcomes"]["ok"]["rate"] == 10.0
    assert document["generator"] == {"cpu_share": 0.2, "connections": 4, "backlogged": 0, "limited": False}
    buckets = document["total"]["outcomes"]["ok"]["response"]["buckets_ns"]
    assert sum(count for _, count in buckets) == 450
