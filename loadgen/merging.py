"""PURE: what several generators measured of one load at the same time, as one measurement.

Histograms are added count by count, so the percentiles are those that one generator would have seen: never a mean of
percentiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loadgen.document import DocumentError, level_json, read_levels
from loadgen.level import Level, Window
from loadgen.record import Recorder, merged
from loadgen.stats import mean


def merge_levels(parts: Sequence[Level]) -> Level:
    """One level from its parts; callers and rates add up, the generator's own figures are those of the worst."""
    first = parts[0]
    names = dict.fromkeys(name for part in parts for name in part.models)
    return replace(
        first,
        callers=sum(part.callers for part in parts),
        rate=sum(part.rate for part in parts),
        total=merged(part.total for part in parts),
        seconds=mean([part.seconds for part in parts]),
        windows=_windows(parts),
        steps=[merged(steps) for steps in zip(*(part.steps for part in parts), strict=False)],
        models={name: merged(part.models[name] for part in parts if name in part.models) for name in names},
        inflight=sum(part.inflight for part in parts),
        cpu_share=max(part.cpu_share for part in parts),
        stall_s=max(part.stall_s for part in parts),
        backlogged=sum(part.backlogged for part in parts),
        connections=sum(part.connections for part in parts),
        sent=sum(part.sent for part in parts),
        unfinished=sum(part.unfinished for part in parts),
        problem=next((part.problem for part in parts if part.problem), ""),
    )


def _windows(parts: Sequence[Level]) -> list[Window]:
    by_start: dict[float, list[Recorder]] = {}
    for window in _all(part.windows for part in parts):
        by_start.setdefault(round(window.start_s, 6), []).append(window.recorder)
    return [Window(start_s, merged(recorders)) for start_s, recorders in sorted(by_start.items())]


def _all(groups: Iterable[Sequence[Window]]) -> Iterable[Window]:
    return (window for group in groups for window in group)


def merge_documents(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result of several generators that ran the same command side by side, such as the pods of a Job. Raises
    DocumentError where they did not."""
    first = documents[0]
    whole = [read_levels(document) for document in documents]
    for document, levels in zip(documents, whole, strict=True):
        same = document["kind"] == first["kind"] and document["settings"]["url"] == first["settings"]["url"]
        if not same or len(levels) != len(whole[0]):
            raise DocumentError(f"{document['name']} is not a part of the same load as {first['name']}")
    return {
        **first,
        "summary": "",
        "name": f"{first['name']}-merged",
        "tags": {**first["tags"], "merged": f"{len(documents)}"},
        "levels": [level_json(merge_levels(parts)) for parts in zip(*whole, strict=True)],
        "warnings": list(dict.fromkeys(warning for document in documents for warning in document["warnings"])),
    }
