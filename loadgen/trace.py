"""PURE: traces, read: what was sent when.

A trace has a line of JSON for each request, with its time `t` in seconds and, where they matter, `model`, `batch` or
`body`; or it is an access log in the common or combined format, or Headgate's own, of which the times and models count.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

_COMMON = re.compile(r'\[(\d{2}/\w{3}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4})\] "(?:POST|GET) (\S+)')
_MODEL = re.compile(r"/v[12]/models/([^/:]+)")
_STAMPS = ("t", "time", "ts", "timestamp")


class TraceError(Exception):
    """The text says which line cannot be read and why."""


class Arrival(NamedTuple):
    """One request: `at_s` from the first of the trace; an empty model, no batch and no body mean the command's own."""

    at_s: float
    model: str
    batch: int
    body: bytes


def read_trace(text: str) -> list[Arrival]:
    """In order of time, from 0 on. Raises TraceError."""
    found = list(_entries(text))
    if not found:
        raise TraceError("it holds no requests")
    first = min(arrival.at_s for arrival in found)
    return sorted((arrival._replace(at_s=arrival.at_s - first) for arrival in found), key=lambda arrival: arrival.at_s)


def _entries(text: str) -> Iterator[Arrival]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        arrival = _json(number, line) if line.lstrip().startswith("{") else _common(number, line)
        if arrival is not None:
            yield arrival


def _json(number: int, line: str) -> Arrival | None:
    try:
        entry = json.loads(line)
        stamp = next(entry[name] for name in _STAMPS if name in entry)
        at_s = float(stamp) if isinstance(stamp, int | float) else datetime.fromisoformat(stamp).timestamp()
        batch = int(entry.get("batch", 0))
    except StopIteration:
        raise TraceError(f"line {number} has no time: one of {', '.join(_STAMPS)}") from None
    except (ValueError, TypeError) as error:
        raise TraceError(f"line {number}: {error}") from None
    if not 0 <= at_s < float("inf") or batch < 0:
        raise TraceError(f"line {number}: a time and a batch are at least 0")
    return Arrival(at_s, str(entry.get("model") or ""), batch, _body(entry.get("body")))


def _body(given: Any) -> bytes:
    if given is None:
        return b""
    return given.encode() if isinstance(given, str) else json.dumps(given, separators=(",", ":")).encode()


def _common(number: int, line: str) -> Arrival | None:
    match = _COMMON.search(line)
    if match is None:
        raise TraceError(f"line {number} is neither JSON nor of an access log")
    at_s = datetime.strptime(match[1], "%d/%b/%Y:%H:%M:%S %z").timestamp()
    model = _MODEL.search(match[2])
    # What asks no model is no load of this kind: probes, metrics.
    return Arrival(at_s, model[1], 0, b"") if model else None
