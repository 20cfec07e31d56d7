"""The ending: a table in numbers, and sentences that say the same."""

from agent.demo.story import FLOOD, PHASES, Script
from agent.demo.summary import Chapter, conclusions, summary_rows, table
from loadgen.record import Cause, Outcome, Recorder, Sample

SCRIPT = Script(duration_s=20.0, slots=16, service_s=0.05, seed=1)


def recorder(ok: int, shed: int = 0, timeout: int = 0, error: int = 0) -> Recorder:
    made = Recorder()
    for outcome, count, took_ns in (
        (Outcome.OK, ok, 60_000_000),
        (Outcome.SHED, shed, 400_000),
        (Outcome.TIMEOUT, timeout, 500_000_000),
        (Outcome.ERROR, error, 1_000_000),
    ):
        for _ in range(count):
            sample = Sample(0)
            sample.done_ns, sample.outcome = took_ns, outcome
            sample.cause = Cause.TIMEOUT if outcome is Outcome.TIMEOUT else None
            made.add(sample)
    return made


def chapters(error: int = 0) -> list[Chapter]:
    recorders = [
        recorder(480),
        recorder(768),
        recorder(960, shed=480),
        recorder(1266, shed=2574),
        recorder(671, shed=1),
        recorder(230, timeout=3610 - error, error=error),
    ]
    calls = [recorder(60), recorder(60), recorder(30, 30), recorder(14, 66), recorder(0, 0, 1), recorder(0)]
    means = [(8.0, 0.04), (12.6, 1.0), (16.0, 29.6), (16.0, 31.4), (11.6, 1.7), (0.0, 0.0)]
    return [
        Chapter(phase, step, made, called, *mean)
        for phase, step, made, called, mean in zip(PHASES, SCRIPT.steps, recorders, calls, means, strict=True)
    ]


def test_rows_hold_each_phases_account() -> None:
    rows = summary_rows(chapters())
    assert rows[0][:4] == ("phase", "load", "offered", "in time")
    assert rows[1] == ("calm", "0.5x", "160/s", "100%", "0%", "0%", "60.0ms", "60.0ms", "8.0 + 0.0")
    assert rows[4] == ("flood", "3x", "960/s", "33%", "67%", "0%", "60.0ms", "60.0ms", "16 + 31")
    assert rows[5][3:6] == ("100%", "<1%", "0%")
    assert rows[6] == ("no gate", "3x", "960/s", "6%", "0%", "94%", "60.0ms", "-", "no gate")


def test_sentences_use_this_runs_numbers() -> None:
    gate, bare, calls, demand = conclusions(SCRIPT, chapters(), rejected=3151.0)
    assert "320/s answered: 100% of what the model can do" in gate
    assert "refused, typically in 400us" in gate
    assert "6% of the very same requests" in bare
    assert "after 500ms, against 33% with it" in bare
    assert calls == (
        "gRPC calls on the same port, 20/s: 164 answered, 96 refused (UNAVAILABLE, typically in 400us), 1 late."
    )
    assert "3151 refusals" in demand
    assert "(the load counted 3151)" in demand


def test_other_failures_are_not_hidden() -> None:
    assert conclusions(SCRIPT, chapters(error=7), 0.0)[-1].startswith("7 requests failed in other ways")
    assert summary_rows(chapters(error=7))[6][5] == "94%"
    first, *others = chapters()
    failed = first._replace(calls=recorder(1, error=3))
    assert conclusions(SCRIPT, [failed, *others], 0.0)[2].endswith("1 late, 3 failed.")
    alone = conclusions(SCRIPT, [chapter._replace(calls=recorder(1)) for chapter in chapters()], 0.0)[2]
    assert alone.endswith("20/s: 6 answered, 0 refused (UNAVAILABLE), 0 late.")


def test_a_phase_without_requests_has_a_row() -> None:
    empty = chapters()[FLOOD]._replace(recorder=Recorder())
    assert summary_rows([empty])[1][2:8] == ("0/s", "0%", "0%", "0%", "-", "-")


def test_tables_are_aligned() -> None:
    assert table([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]
