"""PURE: results as JSON documents, which files, the history and reports hold, and levels read back from them.

Times are milliseconds, rates per second, shares 0..1. A percentile that its sample is too small for is null; histograms
are there whole, as HdrHistogram (V2, base64, nanoseconds).
"""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadgen import hdr
from loadgen.histogram import Histogram
from loadgen.level import Level, Split, Window, generator_problem, little
from loadgen.payload import Tensor
from loadgen.record import Cause, Outcome, Recorder
from loadgen.settings import Settings
from loadgen.values import Slo

SCHEMA = 1
QUANTILES: tuple[tuple[str, float], ...] = (
    ("p50", 0.5),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
)
_NS_PER_MS = 1e6
# So many windows have their histograms with them; a day of seconds would fill 50 MB.
_WHOLE_WINDOWS = 1000


class DocumentError(Exception):
    """A file holds no result of this program; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a document says beside what was measured. `started` is an ISO date and time."""

    name: str
    started: str
    version: str | None
    tensors: Sequence[Tensor] = ()
    bodies: int = 0
    mean_bytes: float = 0.0
    host: str = field(default_factory=platform.node)


def make_document(
    settings: Settings, facts: Facts, levels: Sequence[Level], warnings: Sequence[str], **more: object
) -> dict[str, Any]:
    """The whole result. `more` are parts that only some commands have."""
    return {
        "schema": SCHEMA,
        "kind": settings.command,
        "name": facts.name,
        "started": facts.started,
        "version": facts.version,
        "python": platform.python_version(),
        "host": facts.host,
        "tags": dict(settings.tag),
        "settings": settings_json(settings),
        "request": {
            "inputs": [tensor._asdict() for tensor in facts.tensors],
            "bodies": facts.bodies,
            "mean_bytes": facts.mean_bytes,
        },
        "levels": [level_json(level) for level in levels],
        "verdict": [_verdict_json(slo, levels) for slo in settings.slo]
        if settings.command in {"run", "replay"}
        else [],
        "warnings": list(warnings),
        **more,
    }


def settings_json(settings: Settings) -> dict[str, Any]:
    """What a result says of how it came about."""
    return {
        "url": str(settings.url),
        "protocol": str(settings.protocol),
        "models": [{"name": name, "weight": weight} for name, weight in settings.model],
        "concurrency": list(settings.concurrency),
        "rate": list(settings.rate),
        "steps": [
            {"rate": step.rate, "duration_s": finite(step.duration_s), "end_rate": step.end_rate}
            for step in settings.steps
        ],
        "arrivals": str(settings.arrivals),
        "duration_s": finite(settings.duration),
        "requests": finite(settings.requests),
        "warmup_s": settings.warmup,
        "window_s": settings.window,
        "timeout_s": settings.timeout,
        "retry": settings.retry,
        "slo": [slo.text for slo in settings.slo],
        "seed": settings.seed,
    }


def _verdict_json(slo: Slo, levels: Sequence[Level]) -> dict[str, Any]:
    values = [level.value(slo) for level in levels]
    return {"slo": slo.text, "value": values[0] if values else None, "held": all(map(slo.holds, values))}


def level_json(level: Level) -> dict[str, Any]:
    """One level."""
    had, law = little(level)
    return {
        "name": level.name,
        "kind": level.kind,
        "callers": level.callers or None,
        "rate": level.rate or None,
        "seconds": level.seconds,
        "throughput": level.throughput,
        "half_width": level.half_width,
        "sent": level.sent,
        "unfinished": level.unfinished,
        **recorder_json(level.total, level.seconds),
        "windows": [_window_json(window, whole=len(level.windows) <= _WHOLE_WINDOWS) for window in level.windows],
        "window_s": level.window_s,
        "steps": [recorder_json(step, 0.0) for step in level.steps] if len(level.steps) > 1 else [],
        "models": {name: recorder_json(recorder, level.seconds) for name, recorder in level.models.items()},
        "generator": {
            "cpu_share": level.cpu_share,
            "connections": level.connections,
            "backlogged": level.backlogged,
            "stall_ms": level.stall_s * 1e3,
            "inflight": had,
            "little": law,
            "limited": generator_problem(level),
        },
        "unstable": level.problem,
        "server": None
        if level.server is None
        else {
            "queue_ms": level.server.queue_s * 1e3,
            "compute_ms": level.server.compute_s * 1e3,
            "source": level.server.source,
        },
    }


def _window_json(window: Window, *, whole: bool) -> dict[str, Any]:
    answers = window.recorder.response[Outcome.OK]
    return {
        "start_s": window.start_s,
        "hdr": hdr.encode(answers) if whole and answers.count else "",
        **{str(outcome): window.recorder.count_of(outcome) for outcome in Outcome},
        **{
            f"{name}_ms": answers.percentile(quantile) / _NS_PER_MS if answers.count else None
            for name, quantile in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
    }


def recorder_json(recorder: Recorder, seconds: float) -> dict[str, Any]:
    """What was counted; rates are over `seconds`, where that is not 0."""
    return {
        "count": recorder.count,
        "outcomes": {
            str(outcome): {
                "count": recorder.count_of(outcome),
                "share": recorder.share_of(outcome),
                "rate": recorder.count_of(outcome) / seconds if seconds else None,
                "response": histogram_json(recorder.response[outcome]),
                "service": histogram_json(recorder.service[outcome]),
            }
            for outcome in Outcome
            if recorder.count_of(outcome) or outcome is Outcome.OK
        },
        "statuses": {str(status): count for status, count in sorted(recorder.statuses.items())},
        "causes": {str(cause): count for cause, count in sorted(recorder.causes.items())},
        "lag": histogram_json(recorder.lag),
        "first": histogram_json(recorder.first) if recorder.first.count else None,
        "tokens": recorder.tokens,
        "retried": recorder.retried,
    }


def histogram_json(histogram: Histogram) -> dict[str, Any]:
    """Percentiles that the sample is large enough for, exact extremes, and the whole."""
    return {
        "count": histogram.count,
        **{
            f"{name}_ms": histogram.percentile(quantile) / _NS_PER_MS if histogram.is_enough_for(quantile) else None
            for name, quantile in QUANTILES
        },
        "min_ms": histogram.min / _NS_PER_MS if histogram.count else None,
        "mean_ms": histogram.mean() / _NS_PER_MS if histogram.count else None,
        "max_ms": histogram.max / _NS_PER_MS if histogram.count else None,
        "total_ns": histogram.total,
        "hdr": hdr.encode(histogram) if histogram.count else "",
    }


def finite(value: float) -> float | None:
    """None for infinity, which JSON has not."""
    return value if value < float("inf") else None


def read_levels(document: Mapping[str, Any]) -> list[Level]:
    """The levels of a document, with everything that percentiles and merging need. Raises DocumentError."""
    if document.get("schema") != SCHEMA:
        raise DocumentError(f"schema {document.get('schema')!r}; this version reads {SCHEMA}")
    try:
        return [_level(entry) for entry in document["levels"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DocumentError(f"a level cannot be read: {error!r}") from None


def _level(entry: Mapping[str, Any]) -> Level:
    generator, server = entry["generator"], entry["server"]
    return Level(
        callers=entry["callers"] or 0,
        rate=entry["rate"] or 0.0,
        total=_recorder(entry),
        seconds=entry["seconds"],
        windows=[Window(one["start_s"], _counted(one)) for one in entry["windows"]],
        window_s=entry["window_s"],
        models={name: _recorder(one) for name, one in entry["models"].items()},
        steps=[_recorder(one) for one in entry["steps"]],
        inflight=generator["inflight"],
        cpu_share=generator["cpu_share"],
        stall_s=generator["stall_ms"] / 1e3,
        backlogged=generator["backlogged"],
        connections=generator["connections"],
        sent=entry["sent"],
        unfinished=entry["unfinished"],
        problem=entry["unstable"],
        server=None
        if server is None
        else Split(server["queue_ms"] / 1e3, server["compute_ms"] / 1e3, server["source"]),
        kind=entry["kind"],
    )


def _recorder(entry: Mapping[str, Any]) -> Recorder:
    made = Recorder()
    for outcome, counted in entry["outcomes"].items():
        made.response[Outcome(outcome)] = _histogram(counted["response"])
        made.service[Outcome(outcome)] = _histogram(counted["service"])
    made.lag = _histogram(entry["lag"])
    if entry["first"] is not None:
        made.first = _histogram(entry["first"])
    made.statuses = Counter({int(status): count for status, count in entry["statuses"].items()})
    made.causes = Counter({Cause(cause): count for cause, count in entry["causes"].items()})
    made.tokens, made.retried = entry["tokens"], entry["retried"]
    return made


def _histogram(entry: Mapping[str, Any]) -> Histogram:
    if not entry["count"]:
        return Histogram()
    made = hdr.decode(entry["hdr"])
    made.min, made.max = round(entry["min_ms"] * _NS_PER_MS), round(entry["max_ms"] * _NS_PER_MS)
    made.total = entry["total_ns"]
    return made


def _counted(entry: Mapping[str, Any]) -> Recorder:
    """A window as far as it is kept: how many ended how, and the times of what was answered."""
    made = Recorder()
    for outcome in Outcome:
        if count := entry[str(outcome)]:
            made.lag.add_many(0, count)
            made.response[outcome].add_many(round((entry["p50_ms"] or 0.0) * _NS_PER_MS), count)
    if entry["hdr"]:
        made.response[Outcome.OK] = hdr.decode(entry["hdr"])
    return made
