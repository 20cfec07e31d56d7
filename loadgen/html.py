"""Results as one page of HTML that opens offline: all data, style and script are in it."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from loadgen.document import QUANTILES, read_levels
from loadgen.histogram import Histogram
from loadgen.level import Level
from loadgen.record import Outcome
from loadgen.values import parse_slo

_POINTS = 60


def render_page(documents: Sequence[Mapping[str, Any]], summaries: Sequence[str]) -> str:
    """One page for all of them, with a choice where there are several. Raises DocumentError."""
    data = [_run(document, summary) for document, summary in zip(documents, summaries, strict=True)]
    # "<" must not end the script element that holds the data.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return files("loadgen").joinpath("page.html").read_text().replace("__DATA__", text)


def _run(document: Mapping[str, Any], summary: str) -> dict[str, Any]:
    settings = document["settings"]
    slos = [parse_slo(text) for text in settings["slo"]]
    return {
        "name": document["name"],
        "kind": document["kind"],
        "started": document["started"],
        "tags": document["tags"],
        "url": settings["url"],
        "protocol": settings["protocol"],
        "models": [model["name"] for model in settings["models"]],
        "seed": settings["seed"],
        "slos": [{"text": slo.text, "ms": slo.bound * 1e3} for slo in slos if slo.quantile is not None],
        "knee": document.get("knee"),
        "warnings": document["warnings"],
        "summary": summary,
        "levels": [
            _level(entry, level) for entry, level in zip(document["levels"], read_levels(document), strict=True)
        ],
    }


def _level(entry: Mapping[str, Any], level: Level) -> dict[str, Any]:
    times = entry["outcomes"]["ok"]["service" if level.callers else "response"]
    return {
        "name": level.name,
        "kind": level.kind,
        "callers": level.callers,
        "load": level.load,
        "throughput": level.throughput,
        "count": level.total.count,
        "outcomes": {str(outcome): level.total.count_of(outcome) for outcome in Outcome},
        **{name: times[f"{name}_ms"] for name in ("p50", "p90", "p99", "mean", "max")},
        "tail": times["p99_ms"] if times["p99_ms"] is not None else times["max_ms"],
        "curve": _curve(level.answers),
        "nines": _nines(level.answers),
        "windows": [{name: value for name, value in window.items() if name != "hdr"} for window in entry["windows"]],
        "window_s": level.window_s,
        "cpu": level.cpu_share,
        "server": entry["server"],
        "problem": entry["generator"]["limited"] or entry["unstable"],
    }


def _nines(answers: Histogram) -> float:
    """How far a percentile curve may go: to the last percentile that there are samples for, in nines."""
    told = [quantile for _, quantile in QUANTILES if answers.is_enough_for(quantile)]
    return -math.log10(1 - max(told)) if told else 1.0


def _curve(answers: Histogram) -> list[tuple[float, float]]:
    """(quantile, milliseconds), evenly spread in nines."""
    if not answers.count:
        return []
    top = _nines(answers)
    quantiles = [1 - 10 ** (-top * number / _POINTS) for number in range(_POINTS + 1)]
    return [(quantile, answers.percentile(quantile) / 1e6) for quantile in quantiles]
