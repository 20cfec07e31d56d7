"""Results as CSV, JUnit and Prometheus text, and the folder that holds everything."""

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from loadgen import hdr
from loadgen.html import render_page
from loadgen.level import Level
from loadgen.record import Outcome
from loadgen.settings import Settings

_WRITES = frozenset({"sweep", "search", "tune"})
_TIMES = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms", "mean_ms", "max_ms")
_COLUMNS = (
    "kind", "level", "callers", "rate", "seconds", "throughput", "count",
    *(f"{outcome}_count" for outcome in Outcome), *_TIMES,
    "queue_ms", "compute_ms", "generator_cpu", "lag_p99_ms", "generator_problem", "unstable",
)  # fmt: skip


def printed(form: str, document: Mapping[str, Any]) -> str:
    """A document as json, csv, junit or prom."""
    match form:
        case "json":
            return json.dumps(document, indent=1) + "\n"
        case "csv":
            return as_csv(document)
        case "junit":
            return as_junit(document)
    return as_prometheus(document)


def times_of(level: Mapping[str, Any]) -> Mapping[str, Any]:
    """The times that verdicts use: of answers, from the send in closed loop, from the intended time in open loop."""
    found: Mapping[str, Any] = level["outcomes"]["ok"]["service" if level["callers"] else "response"]
    return found


def as_csv(document: Mapping[str, Any]) -> str:
    """A line for each level; times in milliseconds, empty where there were too few samples."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for level in document["levels"]:
        times, server, generator = times_of(level), level["server"] or {}, level["generator"]
        counts = [level["outcomes"].get(str(outcome), {}).get("count", 0) for outcome in Outcome]
        writer.writerow(
            [
                level["kind"], level["name"], level["callers"], level["rate"], f"{level['seconds']:.3f}",
                f"{level['throughput']:.3f}", level["count"], *counts, *(_number(times[name]) for name in _TIMES),
                _number(server.get("queue_ms")), _number(server.get("compute_ms")), f"{generator['cpu_share']:.3f}",
                _number(level["lag"]["p99_ms"]), generator["limited"], level["unstable"],
            ]
        )  # fmt: skip
    return out.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def as_junit(document: Mapping[str, Any]) -> str:
    """A test for each objective, and one for each level: whether its numbers can be trusted."""
    suite = ET.Element("testsuite", name=f"headgate-load {document['kind']} {document['settings']['url']}")
    failures = 0

    def case(group: str, name: str, problem: str) -> None:
        nonlocal failures
        entry = ET.SubElement(suite, "testcase", classname=f"headgate-load.{group}", name=name)
        if problem:
            failures += 1
            ET.SubElement(entry, "failure", message=problem)

    for verdict in document["verdict"]:
        value = "nothing measured" if verdict["value"] is None else f"{verdict['value']:g}"
        case("slo", verdict["slo"], "" if verdict["held"] else f"not kept: {value}")
    for level in document["levels"]:
        case("trust", f"{level['kind']} {level['name']}", level["generator"]["limited"] or level["unstable"])
    suite.set("tests", f"{len(suite)}")
    suite.set("failures", f"{failures}")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def as_prometheus(document: Mapping[str, Any]) -> str:
    """For a textfile collector or a push gateway; levels are told apart by a label."""
    metrics: dict[str, tuple[str, list[str]]] = {
        "throughput": ("Answered requests per second.", []),
        "requests": ("Requests by outcome.", []),
        "latency_seconds": ("Latency of answered requests.", []),
        "generator_cpu_ratio": ("CPU that the generator itself used, in cores.", []),
        "trusted": ("Whether the numbers of the level can be trusted.", []),
    }
    for number, level in enumerate(document["levels"]):
        labels = f'level="{level["name"]}",kind="{level["kind"]}",position="{number}"'
        _sample(metrics, "throughput", labels, level["throughput"])
        for outcome, counted in level["outcomes"].items():
            _sample(metrics, "requests", f'{labels},outcome="{outcome}"', counted["count"])
        times = times_of(level)
        for name, quantile in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"), ("p99.9", "0.999")):
            if times[f"{name}_ms"] is not None:
                _sample(metrics, "latency_seconds", f'{labels},quantile="{quantile}"', times[f"{name}_ms"] / 1e3)
        _sample(metrics, "generator_cpu_ratio", labels, level["generator"]["cpu_share"])
        trusted = not level["generator"]["limited"] and not level["unstable"]
        _sample(metrics, "trusted", labels, int(trusted))
    lines = []
    for name, (text, samples) in metrics.items():
        lines += [f"# HELP headgate_load_{name} {text}", f"# TYPE headgate_load_{name} gauge", *samples]
    return "\n".join(lines) + "\n"


def _sample(metrics: Mapping[str, tuple[str, list[str]]], name: str, labels: str, value: float) -> None:
    metrics[name][1].append(f"headgate_load_{name}{{{labels}}} {value:.10g}")


def write(settings: Settings, document: Mapping[str, Any], text: str, levels: Sequence[Level]) -> str:
    """Write what was asked for, and for commands with many levels the folder in any case; the folder and its files in
    words. Raises OSError."""
    if settings.json is not None:
        settings.json.write_text(json.dumps(document) + "\n")
    folder = settings.output
    if folder is None and settings.command in _WRITES:
        folder = _fresh(Path(time.strftime("loadgen-%Y%m%d-%H%M%S")))
    if folder is None:
        return ""
    folder.mkdir(exist_ok=True)
    files = {
        "result.json": json.dumps(document) + "\n",
        "summary.txt": text + "\n",
        "levels.csv": as_csv(document),
        **(document.get("files") or {}),
    }
    files["report.html"] = render_page([document], [text])
    for name, content in files.items():
        (folder / name).write_text(content)
    hdr.write_log(folder / "response.hlog", _histograms(levels))
    return f"{folder}/{{{','.join([*files, 'response.hlog'])}}}"


def _fresh(folder: Path) -> Path:
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _histograms(levels: Sequence[Level]) -> dict[str, tuple[float, float, Any]]:
    """By level, one after the other on a time axis that begins with 0."""
    found, start_s = {}, 0.0
    for number, level in enumerate(levels):
        if level.answers.count:
            tag = f"{number}-{level.name}".replace(" ", "-").replace(",", ".").replace("/", "-per-")
            found[tag] = (start_s, start_s + level.seconds, level.answers)
        start_s += level.seconds
    return found
