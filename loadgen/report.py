"""PURE: a run's result as text for people and as JSON for programs.

A percentile that its sample is too small for is never printed as a value: `-` in the text, null in the JSON.
"""

import platform
from collections.abc import Sequence

from loadgen.payload import Tensor
from loadgen.record import Histogram, Outcome, Recorder, Result, samples_needed
from loadgen.settings import Settings
from loadgen.units import format_duration, format_latency, format_rate

QUANTILES: tuple[tuple[str, float], ...] = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999))
_COLUMNS = ("outcome", "count", "share", "rate", *(name for name, _ in QUANTILES), "max", "mean")


def render_text(settings: Settings, tensors: Sequence[Tensor], bodies: Sequence[bytes], result: Result) -> str:
    """The table for a terminal, without a trailing newline."""
    total = result.total
    size = sum(map(len, bodies)) / len(bodies)
    lines = [
        f"target   {settings.url}  model {settings.model}",
        f"request  {', '.join(map(str, tensors))}  {len(bodies)} bodies of {size:,.0f} bytes",
        f"load     {_describe_load(settings)}, timeout {format_duration(settings.timeout_s)}, seed {settings.seed}",
        "",
        *_table([_COLUMNS, *(_outcome_row(total, outcome, result.rated_s) for outcome in Outcome)]),
    ]
    if len(settings.steps) > 1:
        lines += ["", *_steps_table(settings, result)]
    lines += ["", *_ends(total), _checks(result)]
    lines += [f"note     {note}" for note in _notes(settings, total)]
    lines += [f"WARNING  {warning}" for warning in warnings(settings, result)]
    return "\n".join(lines)


def render_json(
    settings: Settings, tensors: Sequence[Tensor], bodies: Sequence[bytes], result: Result, version: str | None
) -> dict[str, object]:
    """The whole result; times in milliseconds, histograms as [largest value of the bucket in ns, count]. `version` is
    the generator's own."""
    total = result.total
    return {
        "version": version,
        "python": platform.python_version(),
        "settings": {
            "url": str(settings.url),
            "model": settings.model,
            "concurrency": settings.concurrency or None,
            "steps": [{"rate": step.rate, "duration_s": _finite(step.duration_s)} for step in settings.steps],
            "arrivals": str(settings.arrivals) if settings.steps else None,
            "duration_s": None if settings.steps else _finite(settings.duration_s),
            "requests": _finite(settings.limit),
            "timeout_s": settings.timeout_s,
            "seed": settings.seed,
            "inputs": [tensor._asdict() for tensor in tensors],
            "bodies": len(bodies),
        },
        "sent": result.sent,
        "unfinished": result.unfinished,
        "rated_s": result.rated_s,
        "elapsed_s": result.elapsed_s,
        "generator": {
            "cpu_share": _share(result.cpu_s, result.elapsed_s),
            "connections": result.connections,
            "backlogged": result.backlogged,
            "limited": bool(result.generator_limit),
        },
        "total": _recorder_json(total, result.rated_s),
        "steps": [
            _recorder_json(recorder, step.duration_s if len(settings.steps) > 1 else result.rated_s)
            for step, recorder in zip(settings.steps, result.steps, strict=bool(settings.steps))
        ],
        "warnings": warnings(settings, result),
    }


def warnings(settings: Settings, result: Result) -> list[str]:
    """What a reader must know before believing the numbers."""
    total = result.total
    found = []
    if result.generator_limit:
        found.append(f"generator-limited: {result.generator_limit}")
    if result.unfinished:
        found.append(f"interrupted: {result.unfinished} requests were in flight and are in no row")
    timeouts = total.count_of(Outcome.TIMEOUT)
    if timeouts:
        share = timeouts / total.count
        found.append(
            f"{share:.1%} of the requests were given up after {format_duration(settings.timeout_s)}; "
            "the ok row leaves them out, so its percentiles flatter the target"
        )
    return found


def _describe_load(settings: Settings) -> str:
    limit = "" if settings.limit == float("inf") else f", at most {settings.limit} requests"
    if settings.steps:
        steps = ", ".join(
            format_rate(step.rate) + (f" for {format_duration(step.duration_s)}" if _finite(step.duration_s) else "")
            for step in settings.steps
        )
        return f"open loop, {settings.arrivals} arrivals, {steps}{limit}"
    duration = f" for {format_duration(settings.duration_s)}" if _finite(settings.duration_s) else ""
    return f"closed loop, {settings.concurrency} callers{duration}{limit}"


def _outcome_row(recorder: Recorder, outcome: Outcome, seconds: float) -> tuple[str, ...]:
    histogram = recorder.response[outcome]
    row = (str(outcome), f"{histogram.count}", f"{_share(histogram.count, recorder.count):.1%}")
    if not histogram.count:
        return (*row, *("" for _ in _COLUMNS[3:]))
    return (
        *row,
        format_rate(histogram.count / seconds),
        *(_cell(histogram, quantile) for _, quantile in QUANTILES),
        format_latency(histogram.max),
        format_latency(histogram.mean()),
    )


def _steps_table(settings: Settings, result: Result) -> list[str]:
    rows: list[tuple[str, ...]] = [("step", "planned", "sent", *map(str, Outcome), "ok rate", "ok p50", "ok p99")]
    for number, (step, recorder) in enumerate(zip(settings.steps, result.steps, strict=True), 1):
        answered = recorder.response[Outcome.OK]
        rows.append(
            (
                f"{number}",
                f"{format_rate(step.rate)} for {format_duration(step.duration_s)}",
                f"{recorder.count}",
                *(f"{recorder.count_of(outcome)}" for outcome in Outcome),
                format_rate(answered.count / step.duration_s),
                _cell(answered, 0.5),
                _cell(answered, 0.99),
            )
        )
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned first column, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cell(histogram: Histogram, quantile: float) -> str:
    return format_latency(histogram.percentile(quantile)) if histogram.is_enough_for(quantile) else "-"


def _ends(total: Recorder) -> list[str]:
    ends = [f"HTTP {status}: {count}" for status, count in sorted(total.statuses.items())]
    ends += [f"{cause}: {count}" for cause, count in sorted(total.causes.items())]
    return [f"ends     {', '.join(ends)}"] if ends else []


def _checks(result: Result) -> str:
    lag = result.total.lag
    late = ""
    if result.open_loop and lag.count:
        late = f"late by {_cell(lag, 0.5)} (p50), {_cell(lag, 0.99)} (p99), {format_latency(lag.max)} (max), "
    return (
        f"checks   {result.sent} sent, {late}generator {_share(result.cpu_s, result.elapsed_s):.0%} of a core, "
        f"{result.connections} connections"
    )


def _notes(settings: Settings, total: Recorder) -> list[str]:
    clock = "the intended send time" if settings.steps else "the send (closed loop has no schedule to be late for)"
    notes = [f"latency counts from {clock}"]
    short = [
        f"{name} needs {samples_needed(quantile)}"
        for name, quantile in QUANTILES
        if any(0 < histogram.count < samples_needed(quantile) for histogram in total.response.values())
    ]
    if short:
        notes.append(f"'-' stands where there are too few samples for that percentile: {', '.join(short)}")
    return notes


def _recorder_json(recorder: Recorder, seconds: float) -> dict[str, object]:
    return {
        "count": recorder.count,
        "outcomes": {str(outcome): _outcome_json(recorder, outcome, seconds) for outcome in Outcome},
        "statuses": {str(status): count for status, count in sorted(recorder.statuses.items())},
        "causes": {str(cause): count for cause, count in sorted(recorder.causes.items())},
        "lag": _histogram_json(recorder.lag),
    }


def _outcome_json(recorder: Recorder, outcome: Outcome, seconds: float) -> dict[str, object]:
    response = recorder.response[outcome]
    return {
        "count": response.count,
        "share": _share(response.count, recorder.count),
        "rate": response.count / seconds,
        "response": _histogram_json(response),
        "service": _histogram_json(recorder.service[outcome]),
    }


def _histogram_json(histogram: Histogram) -> dict[str, object]:
    return {
        **{
            f"{name}_ms": histogram.percentile(quantile) / 1e6 if histogram.is_enough_for(quantile) else None
            for name, quantile in QUANTILES
        },
        "min_ms": histogram.min / 1e6 if histogram.count else None,
        "mean_ms": histogram.mean() / 1e6 if histogram.count else None,
        "max_ms": histogram.max / 1e6 if histogram.count else None,
        "buckets_ns": histogram.buckets(),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
