"""PURE: results as text for people.

A percentile that its sample is too small for is never printed as a value: it is a bound, `<=` the largest.
"""

import math
from collections.abc import Sequence

from loadgen.document import Facts, finite
from loadgen.histogram import Histogram, samples_needed
from loadgen.level import Level, generator_problem
from loadgen.record import Outcome, Recorder, status_name
from loadgen.settings import Settings
from loadgen.units import NS_PER_S, format_duration, format_latency, format_rate
from loadgen.values import Slo, describe_step

QUANTILES: tuple[tuple[str, float], ...] = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
_COLUMNS = ("outcome", "count", "share", "rate", *(name for name, _ in QUANTILES), "max", "mean")
# Shown even when there are none, so that their absence is said.
_ALWAYS = frozenset({Outcome.OK, Outcome.SHED, Outcome.ERROR, Outcome.TIMEOUT})


def render_run(settings: Settings, facts: Facts, level: Level, request: str) -> str:
    """One run's table for a terminal, without a trailing newline; `request` says what was sent."""
    total = level.total
    lines = [
        f"target   {settings.url}  {settings.protocol}{_models(settings)}",
        f"request  {request}  {facts.bodies} bodies of {facts.mean_bytes:,.0f} bytes",
        f"load     {describe_load(settings)}, timeout {format_duration(settings.timeout)}, seed {settings.seed}",
        "",
        *table([_COLUMNS, *_outcome_rows(total, level.seconds)]),
    ]
    if len(settings.steps) > 1:
        lines += ["", *_steps_table(settings, level)]
    for name, recorder in level.models.items():
        lines += ["", f"model {name}", *table([_COLUMNS, *_outcome_rows(recorder, level.seconds)])]
    lines += ["", *_ends(total), *_streamed(level), _checks(level)]
    if level.server is not None:
        queue, compute = (
            format_latency(level.server.queue_s * NS_PER_S),
            format_latency(level.server.compute_s * NS_PER_S),
        )
        lines.append(f"server   queue {queue}, compute {compute} a request ({level.server.source})")
    lines += [f"slo      {slo.text}: {verdict(slo, level)}" for slo in settings.slo]
    lines += [f"note     {note}" for note in _notes(level)]
    lines += [f"WARNING  {warning}" for warning in warnings(settings, level)]
    return "\n".join(lines)


def _models(settings: Settings) -> str:
    if not settings.model:
        return ""
    if len(settings.model) == 1:
        return f"  model {settings.models[0]}"
    return "  models " + ", ".join(f"{name} x{weight:g}" for name, weight in settings.model)


def verdict(slo: Slo, level: Level) -> str:
    """`kept, 84.2ms`, or why not."""
    value = level.value(slo)
    if value is None:
        return "not kept: nothing was answered" if not level.answers.count else "not kept: too few samples to say so"
    return f"{'kept' if slo.holds(value) else 'NOT KEPT'}, {format_value(slo, value)}"


def format_value(slo: Slo, value: float) -> str:
    """A value in the unit of what `slo` bounds."""
    if slo.metric == "rps":
        return format_rate(value)
    if slo.metric in {"errors", "shed", "timeouts"}:
        return f"{value:.2%}"
    return format_latency(value * NS_PER_S)


def warnings(settings: Settings, level: Level) -> list[str]:
    """What a reader must know before believing the numbers."""
    found = []
    if problem := generator_problem(level):
        found.append(f"generator-limited: {problem}")
    if level.unfinished:
        found.append(f"interrupted: {level.unfinished} requests were in flight and are in no row")
    if level.problem:
        found.append(f"not stable: {level.problem}")
    if level.total.count_of(Outcome.TIMEOUT):
        found.append(
            f"{level.share(Outcome.TIMEOUT):.1%} of the requests were given up after "
            f"{format_duration(settings.timeout)}; the ok row leaves them out, so its percentiles flatter the target"
        )
    return found


def describe_load(settings: Settings) -> str:
    """`open loop, poisson arrivals, 100/s for 10s`."""
    limit = "" if math.isinf(settings.requests) else f", at most {settings.requests} requests"
    warm = f", after {format_duration(settings.warmup)} of warm-up" if settings.warmup else ""
    if settings.trace is not None:
        return f"open loop, replay of {settings.trace} at {settings.speed:g} times its speed"
    if settings.arrivals.file is not None:
        return f"open loop, {settings.arrivals}{limit}{warm}"
    if settings.steps:
        steps = ", ".join(
            describe_step(step) + (f" for {format_duration(step.duration_s)}" if finite(step.duration_s) else "")
            for step in settings.steps
        )
        return f"open loop, {settings.arrivals}, {steps}{limit}{warm}"
    duration = f" for {format_duration(settings.duration)}" if finite(settings.duration) else ""
    callers = settings.concurrency[0]
    ramp = f", coming within {format_duration(settings.ramp)}" if settings.ramp else ""
    return f"closed loop, {callers} caller{'s' if callers > 1 else ''}{ramp}{duration}{limit}{warm}"


def _outcome_rows(recorder: Recorder, seconds: float) -> list[tuple[str, ...]]:
    shown = [outcome for outcome in Outcome if outcome in _ALWAYS or recorder.count_of(outcome)]
    return [_outcome_row(recorder, outcome, seconds) for outcome in shown]


def _outcome_row(recorder: Recorder, outcome: Outcome, seconds: float) -> tuple[str, ...]:
    histogram = recorder.response[outcome]
    row = (str(outcome), f"{histogram.count}", f"{recorder.share_of(outcome):.1%}")
    if not histogram.count:
        return (*row, *("" for _ in _COLUMNS[3:]))
    return (
        *row,
        format_rate(histogram.count / seconds),
        *(cell(histogram, quantile) for _, quantile in QUANTILES),
        format_latency(histogram.max),
        format_latency(histogram.mean()),
    )


def _steps_table(settings: Settings, level: Level) -> list[str]:
    rows: list[tuple[str, ...]] = [("step", "planned", "sent", *map(str, Outcome), "ok rate", "ok p50", "ok p99")]
    for number, (step, recorder) in enumerate(zip(settings.steps, level.steps, strict=True), 1):
        answered = recorder.response[Outcome.OK]
        rows.append(
            (
                f"{number}",
                f"{describe_step(step)} for {format_duration(step.duration_s)}",
                f"{recorder.count}",
                *(f"{recorder.count_of(outcome)}" for outcome in Outcome),
                format_rate(answered.count / step.duration_s),
                cell(answered, 0.5),
                cell(answered, 0.99),
            )
        )
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned first column, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def cell(histogram: Histogram, quantile: float) -> str:
    """A percentile, or the bound that too few samples give."""
    if not histogram.count:
        return "-"
    if histogram.is_enough_for(quantile):
        return format_latency(histogram.percentile(quantile))
    return f"<={format_latency(histogram.max)}"


def _ends(total: Recorder) -> list[str]:
    ends = [f"{status_name(status)}: {count}" for status, count in sorted(total.statuses.items())]
    ends += [f"{cause}: {count}" for cause, count in sorted(total.causes.items())]
    if total.retried:
        ends.append(f"refused and tried again: {total.retried}")
    return [f"ends     {', '.join(ends)}"] if ends else []


def _streamed(level: Level) -> list[str]:
    first = level.total.first
    if not first.count:
        return []
    pieces, answered = level.total.tokens, max(1, level.answers.count)
    told = f"{pieces} pieces, {pieces / answered:.1f} an answer, {format_rate(pieces / level.seconds)} in all"
    return [f"stream   first piece after {cell(first, 0.5)} (p50), {cell(first, 0.99)} (p99), {told}"]


def _checks(level: Level) -> str:
    lag = level.total.lag
    late = ""
    if not level.callers and lag.count:
        late = f"late by {cell(lag, 0.5)} (p50), {cell(lag, 0.99)} (p99), {format_latency(lag.max)} (max), "
    return (
        f"checks   {level.sent} sent, {late}generator {level.cpu_share:.0%} of a core, "
        f"longest pause {format_latency(level.stall_s * NS_PER_S)}, {level.connections} connections"
    )


def _notes(level: Level) -> list[str]:
    clock = "the send (closed loop has no schedule to be late for)" if level.callers else "the intended send time"
    notes = [f"latency counts from {clock}"]
    short = [
        f"{name} needs {samples_needed(quantile)}"
        for name, quantile in QUANTILES
        if any(0 < histogram.count < samples_needed(quantile) for histogram in level.total.response.values())
    ]
    if short:
        notes.append(f"'<=' stands where there are too few samples for that percentile: {', '.join(short)}")
    return notes
