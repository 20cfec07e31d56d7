"""The load page: one server's numbers as JSON, or as Prometheus text, for KEDA's metrics-api and `headgate scaler`.

It is asked over the data port, by anybody who can reach that, so it tells sums only: no model, address or version.
"""

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from agent.observe.counters import Counters
from agent.policy.admission import Admission
from agent.policy.usage import UsageTable
from agent.scale.demand import LONGEST_S, Demand, Meter, Reading, read

PATH = b"/.headgate/load"

# What is worked out is told again for this long: asking in a flood costs no more than any refusal.
_FRESH_S = 0.1
# KEDA's metrics-api drops the query when it asks the endpoints of a Service, so both windows that a scaler needs are on
# the page: a slow one to scale by, and a fast one that notices a spike.
SLOW_S, FAST_S = 60, 15

_WINDOW = re.compile(rb"(?:.*&)?window=([0-9]{1,3})s?(?:&.*)?")
_TEXT = re.compile(rb"text/plain|application/openmetrics-text")
_JSON_TYPE, _TEXT_TYPE = "application/json", "text/plain; version=0.0.4; charset=utf-8"


class Page(NamedTuple):
    """An answer of the agent's own: `allow` names the methods where the request's is none of them."""

    status: int
    content_type: str
    body: bytes
    allow: str = ""


_NOT_ALLOWED = Page(405, _JSON_TYPE, b'{"error": "this page can only be read"}', "GET, HEAD")
_BAD_WINDOW = Page(
    400, _JSON_TYPE, b'{"error": "window is a whole number of seconds from 1 to %d, such as 60s"}' % LONGEST_S
)


class Load(NamedTuple):
    """A server's load: the levels now, the demand over a window and over the last 15 s, the integrals.

    `limit` None is no limit.
    """

    inflight: int
    queued: int
    limit: int | None
    demand: Demand
    fast: Demand
    reading: Reading
    started: float

    def numbers(self) -> dict[str, tuple[float | None, str]]:
        """Every number of the page by its name, with what it means."""
        demand, reading = self.demand, self.reading
        return {
            "inflight": (self.inflight, "Requests dispatched to the predictor and not yet ended."),
            "queued": (self.queued, "Requests waiting in the agent."),
            "limit": (self.limit, "Requests that may be in flight."),
            "demand": (demand.total, "Mean concurrency that was offered in the window, refused requests included."),
            "demand_15s": (self.fast.total, "The same in the last 15 seconds."),
            "rejected": (demand.rejected, "The part of the demand that was refused."),
            "replicas": (demand.share(self.limit), "Replicas like this one that the demand asks for."),
            "replicas_15s": (self.fast.share(self.limit), "The same in the last 15 seconds."),
            "requests_per_second": (demand.arrived, "Requests that arrived in the window, refused ones included."),
            "service_time_seconds": (demand.service_s, "Seconds that a request kept its slot in the window."),
            "window_seconds": (demand.seconds, "The window; shorter than asked for while the agent is young."),
            "uptime_seconds": (reading.at - self.started, "Seconds since the agent started."),
            "inflight_seconds": (reading.inflight_seconds, "Integral of inflight over time."),
            "queued_seconds": (reading.queued_seconds, "Integral of queued over time."),
            "rejected_demand_seconds": (reading.rejected_demand_seconds, "Integral of rejected over time."),
        }


def as_json(load: Load) -> bytes:
    """One flat object; without a limit, it and the replicas are null, which no scaler takes for a number."""
    return json.dumps({name: _rounded(value) for name, (value, _) in load.numbers().items()}).encode()


def as_text(load: Load) -> bytes:
    """Prometheus text, a gauge each: a scaler reads one value and no rate. What is null is left out."""
    lines = []
    for name, (value, meaning) in load.numbers().items():
        if value is not None:
            lines += [
                f"# HELP headgate_load_{name} {meaning}",
                f"# TYPE headgate_load_{name} gauge",
                f"headgate_load_{name} {_rounded(value)!r}",
            ]
    return "\n".join([*lines, ""]).encode()


def _rounded(value: float | None) -> float | None:
    return round(value, 6) if isinstance(value, float) and isfinite(value) else value


class LoadPage:
    """Answers for one server. `tick` must be called once a second."""

    __slots__ = ("_admission", "_built", "_built_at", "_counters", "_meter", "_started", "_usages")

    def __init__(
        self, admission: Admission[Any], usages: Mapping[str, UsageTable], counters: Counters, now: float
    ) -> None:
        self._admission = admission
        self._usages = usages
        self._counters = counters
        self._started = now
        self._meter = Meter(self.reading(now))
        self._built: dict[tuple[int, bool], Page] = {}
        self._built_at = now

    def reading(self, now: float) -> Reading:
        """The integrals and counts of the server at `now`."""
        rows = [row for table in self._usages.values() for row in table.rows(now)]
        return read(rows, self._counters.models, now)

    def tick(self, now: float) -> None:
        """A second has passed."""
        self._meter.keep(self.reading(now))

    def last_second(self) -> Demand:
        """The demand between the last two ticks."""
        return self._meter.last_second()

    def load(self, seconds: float, now: float) -> Load:
        """The load, with the demand over the last `seconds`."""
        admission, latest = self._admission, self.reading(now)
        demand, fast = self._meter.over(seconds, latest), self._meter.over(FAST_S, latest)
        return Load(admission.inflight, admission.queued, admission.limit, demand, fast, latest, self._started)

    def answer(self, method: bytes, target: bytes, accept: bytes, now: float) -> Page:
        """What `target`, a path with a query perhaps, is answered with. JSON unless Accept names text and not JSON."""
        if method not in {b"GET", b"HEAD"}:
            return _NOT_ALLOWED
        seconds = _window(target.partition(b"?")[2])
        if not 1 <= seconds <= LONGEST_S:
            return _BAD_WINDOW
        text = _TEXT.search(accept) is not None and b"application/json" not in accept
        if now - self._built_at > _FRESH_S:
            self._built.clear()
            self._built_at = now
        page = self._built.get((seconds, text))
        if page is None:
            load = self.load(seconds, now)
            page = Page(200, _TEXT_TYPE, as_text(load)) if text else Page(200, _JSON_TYPE, as_json(load))
            self._built[seconds, text] = page
        return page


def _window(query: bytes) -> int:
    if b"window" not in query:
        return SLOW_S
    match = _WINDOW.fullmatch(query)
    return int(match[1]) if match else 0
