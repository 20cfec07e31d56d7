"""/status: one page for people, and the stream of server-sent events that keeps it live.

The page asks nobody but this port. It gets the last five minutes at once and then a reading a second; whatever a client
has chosen, such as a model's name, is data there and never markup.
"""

import asyncio
import json
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING

from aiohttp import web

from agent import __version__
from agent.net.drain import Stage
from agent.observe.counters import BOUNDS, REFUSALS, SERVED, ModelCounters, quantile
from agent.observe.history import Event, Reading, read
from agent.scale.page import FAST_S, SLOW_S

if TYPE_CHECKING:
    from agent.net.server import Server

# Each costs half a millisecond a second; people look in twos and threes.
MAX_VIEWERS = 16
# A viewer that takes nothing for so long is gone.
_WRITE_S = 10.0
# What rates and latencies of single models are taken over, in beats.
_BEATS = 10

Counts = dict[str, tuple[int, int, int, tuple[int, ...]]]


def waits_for(server: "Server") -> list[str]:
    """What readiness waits for at the start."""
    return server.startup.missing if server.drain.stage is Stage.STARTING else []


class Status:
    """The page and its stream, for one server."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._viewers = 0
        self._past: deque[tuple[float, Counts]] = deque(maxlen=_BEATS + 1)
        # What monotonic stamps are in Unix time, and when the agent started.
        self._offset = time() - monotonic()
        self._started = monotonic()

    @cached_property
    def _html(self) -> bytes:
        return Path(__file__).with_name("status.html").read_bytes()

    @cached_property
    def _policy(self) -> str:
        """Only the style and the script of the page itself, and only this port (CSP level 2)."""
        hashes = {name: b64encode(sha256(_inside(self._html, name)).digest()).decode() for name in ("style", "script")}
        return (
            "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; " + "; ".join(f"{name}-src 'sha256-{digest}'" for name, digest in hashes.items())
        )

    async def page(self, _: web.Request) -> web.Response:
        """The page, which is the same for everybody."""
        return web.Response(
            body=self._html,
            content_type="text/html",
            charset="utf-8",
            headers={
                "Content-Security-Policy": self._policy,
                "Cache-Control": "no-cache",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
            },
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        """The past, and then a reading a second, until either side has enough."""
        pulse = self._server.pulse
        if self._viewers >= MAX_VIEWERS:
            return web.Response(status=503, text="too many viewers\n")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        self._viewers += 1
        try:
            settings = None
            while not pulse.is_stopped:
                if settings is not self._server.settings:  # at first, and when they have changed
                    settings = self._server.settings
                    await self._send(response, "past", self.past())
                await self._send(response, "now", self.now())
                await pulse.next()
        except (ConnectionError, TimeoutError):
            pass
        finally:
            self._viewers -= 1
        return response

    async def _send(self, response: web.StreamResponse, name: str, data: object) -> None:
        text = json.dumps(data, separators=(",", ":"))
        async with asyncio.timeout(_WRITE_S):
            await response.write(f"event: {name}\ndata: {text}\n\n".encode())

    def past(self) -> dict[str, object]:
        """What does not change, and the last minutes."""
        return {
            "version": __version__,
            "started": round(self._started + self._offset, 3),
            "settings": self._server.settings.shown(),
            "points": [self._point(*pair) for pair in pairwise(self._server.pulse.history.readings)],
        }

    def now(self) -> dict[str, object]:
        """The state, and the last second as a point."""
        server = self._server
        readings = server.pulse.history.readings
        at = monotonic()
        reading = read(server.admission, server.usages, server.counters, at)
        load = server.load.load(SLOW_S, at)
        share = {f"{FAST_S}s": load.fast.share(load.limit), f"{SLOW_S}s": load.demand.share(load.limit)}
        return {
            "t": round(at + self._offset, 3),
            "state": server.drain.stage.value,
            "waits_for": waits_for(server),
            "inflight": reading.inflight,
            "queued": reading.queued,
            "limit": reading.limit,
            "queue_limit": server.admission.queue_limit,
            "queued_bytes": server.admission.queued_bytes,
            "connections": len(server.connections),
            "share": share,
            "peak": server.pulse.history.peak(reading, SLOW_S),
            "rejected": {outcome.label: count for outcome, count in server.counters.rejected.items() if count},
            "point": self._point(readings[-2], readings[-1]) if len(readings) > 1 else None,
            "models": self._models(at),
            "decisions": [self._decision(event) for event in reversed(server.pulse.history.events)],
        }

    def _point(self, before: Reading, after: Reading) -> list[float | None]:
        """One second: its end, means of executing, queued and refused, the limit, rates of endings, p50 and p99."""
        seconds = max(after.at - before.at, 1e-3)
        means = [
            (late - early) / seconds
            for early, late in (
                (before.inflight_seconds, after.inflight_seconds),
                (before.queued_seconds, after.queued_seconds),
                (before.rejected_demand, after.rejected_demand),
            )
        ]
        rates = [
            (late - early) / seconds
            for early, late in (
                (before.served, after.served),
                (before.refused, after.refused),
                (before.failed, after.failed),
            )
        ]
        times = [late - early for early, late in zip(before.times, after.times, strict=True)]
        values = [after.at + self._offset, *means, after.limit, *rates, quantile(times, 0.5), quantile(times, 0.99)]
        return [None if value is None else round(value, 4) for value in values]

    def _decision(self, event: Event) -> dict[str, object]:
        return {
            "t": round(event.at + self._offset, 3),
            "model": event.model,
            "limit": event.limit,
            "reason": event.reason,
            "rate": round(event.rate, 2),
        }

    def _models(self, now: float) -> list[dict[str, object]]:
        """What each model is doing, over all protocols; rates and latencies over the last beats."""
        counts = _counts(self._server.counters.models)
        past = self._past
        if not past or now - past[-1][0] > 0.5:  # several viewers share the past
            past.append((now, counts))
        since, old = past[0]
        seconds = now - since
        levels: dict[str, list[int]] = {}
        for usage in (row for table in self._server.usages.values() for row in table.rows(now)):
            level = levels.setdefault(usage.name, [0, 0])
            level[0] += usage.inflight
            level[1] += usage.queued
        rows = []
        for name, (inflight, queued) in levels.items():
            served, refused, failed, times = counts.get(name, _NOTHING)
            before = old.get(name, _NOTHING)
            recent = [late - early for early, late in zip(before[3], times, strict=True)]
            rates = [
                round((late - early) / seconds, 3) if seconds else 0.0
                for early, late in zip(before[:3], (served, refused, failed), strict=True)
            ]
            rows.append(
                {
                    "name": name,
                    "inflight": inflight,
                    "queued": queued,
                    "limit": self._server.admission.model_limit(name),
                    "served": served,
                    "refused": refused,
                    "failed": failed,
                    "rates": rates,
                    "p50": quantile(recent, 0.5),
                    "p99": quantile(recent, 0.99),
                }
            )
        return rows


_NOTHING = (0, 0, 0, (0,) * (len(BOUNDS) + 1))


def _counts(models: Mapping[tuple[str, str], ModelCounters]) -> Counts:
    """Served, refused and failed requests of each model, and its times by bucket."""
    found: Counts = {}
    for (name, _), counters in models.items():
        served, refused, failed, times = found.get(name, _NOTHING)
        for (_, outcome), count in counters.ended.items():
            served += count if outcome is SERVED else 0
            refused += count if outcome in REFUSALS else 0
            failed += count if outcome is not SERVED and outcome not in REFUSALS else 0
        times = tuple(one + other for one, other in zip(times, counters.request.counts, strict=True))
        found[name] = served, refused, failed, times
    return found


def _inside(html: bytes, element: str) -> bytes:
    """What stands between the tags of the only element of its kind."""
    opening, closing = f"<{element}>".encode(), f"</{element}>".encode()
    begin = html.index(opening) + len(opening)
    return html[begin : html.index(closing, begin)]
