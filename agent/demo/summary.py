"""PURE: the demo's ending: a table of phases, what was seen in this run's own numbers, and commands to go on with."""

from collections.abc import Sequence
from typing import NamedTuple

from agent.demo.story import FLOOD, NO_GATE, Phase, Script, calls_of, cell
from loadgen.record import Outcome, Recorder, merged
from loadgen.schedule import Step
from loadgen.units import format_duration, format_rate

NEXT_STEPS = (
    "In front of your own model server, here on port 8080, 8 requests at a time:",
    "    headgate serve --route 8480=http://127.0.0.1:8080 --limit 8 --deadline 2s",
    "Send it load, and read what an autoscaler reads:",
    "    headgate-load run http://127.0.0.1:8480 --model NAME --rate 50",
    "    curl http://127.0.0.1:8481/metrics",
)


class Chapter(NamedTuple):
    """A phase that is over: the account of the load and of the gRPC calls besides, and the mean numbers in the gate
    from its integral counters, which count both."""

    phase: Phase
    step: Step
    recorder: Recorder
    calls: Recorder
    executing: float
    queued: float


def summary_rows(chapters: Sequence[Chapter]) -> list[tuple[str, ...]]:
    """The table of phases, its header first."""
    rows: list[tuple[str, ...]] = [
        ("phase", "load", "offered", "in time", "refused", "gave up", "p50", "p99", "executing + queued")
    ]
    for chapter in chapters:
        recorder = chapter.recorder
        failed = recorder.count_of(Outcome.TIMEOUT) + recorder.count_of(Outcome.ERROR)
        rows.append(
            (
                chapter.phase.name,
                f"{chapter.phase.factor:g}x",
                format_rate(recorder.count / chapter.step.duration_s),
                _percent(recorder.count_of(Outcome.OK), recorder.count),
                _percent(recorder.count_of(Outcome.SHED), recorder.count),
                _percent(failed, recorder.count),
                cell(recorder, Outcome.OK, 0.5),
                cell(recorder, Outcome.OK, 0.99),
                f"{_mean(chapter.executing)} + {_mean(chapter.queued)}" if chapter.phase.gated else "no gate",
            )
        )
    return rows


def conclusions(script: Script, chapters: Sequence[Chapter], rejected: float) -> list[str]:
    """What was seen, in numbers of this run; `rejected` is the agent's own count of refusals."""
    flood, bare = chapters[FLOOD], chapters[NO_GATE]
    goodput = (flood.recorder.count_of(Outcome.OK) + flood.calls.count_of(Outcome.OK)) / flood.step.duration_s
    calls = calls_of(merged(chapter.calls for chapter in chapters))
    refused = sum(chapter.recorder.count_of(Outcome.SHED) for chapter in chapters) + calls.refused
    errors = sum(chapter.recorder.count_of(Outcome.ERROR) for chapter in chapters)
    refusal = cell(flood.recorder, Outcome.SHED, 0.5)
    in_time = [_percent(chapter.recorder.count_of(Outcome.OK), chapter.recorder.count) for chapter in (flood, bare)]
    patience = format_duration(script.patience_s)
    points = [
        (
            f"With the gate, the flood got {format_rate(goodput)} answered: {goodput / script.capacity:.0%} of what "
            f"the model can do. The rest was refused, typically in {refusal}, in time to try elsewhere."
        ),
        (
            f"Without it, {in_time[1]} of the very same requests were answered before their callers gave up, after "
            f"{patience}, against {in_time[0]} with it. The model worked as hard, on answers nobody waited for."
        ),
        (
            f"gRPC calls on the same port, {script.calls_rate:g}/s: {calls.answered} answered, "
            f"{calls.refused} refused (UNAVAILABLE{f', typically in {calls.refusal_p50}' if calls.refused else ''}), "
            f"{calls.late} late{f', {calls.failed} failed' if calls.failed else ''}."
        ),
        (
            f"Autoscalers read the true demand from /metrics: executing and queued apart, and {rejected:.0f} refusals "
            f"in headgate_rejected_total (the load counted {refused})."
        ),
    ]
    if errors:
        points.append(f"{errors} requests failed in other ways; the column 'gave up' includes them.")
    return points


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _percent(part: int, whole: int) -> str:
    """A share; what rounds to 0 % without being 0 is said to be below 1 %."""
    if not part:
        return "0%"
    return f"{part / whole:.0%}" if part / whole >= 0.005 else "<1%"


def _mean(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
