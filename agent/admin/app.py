"""The admin port: /metrics /healthz /readyz /wait-for-drain /status /debug/state, GET only, and grpc.health.v1."""

import asyncio
import logging
import socket
from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from agent import __version__
from agent.admin.exposition import Exposition
from agent.admin.guard import Guard
from agent.admin.health import Door, HealthPort
from agent.admin.merge import MERGING, Merged, Merger
from agent.admin.status import Status, waits_for
from agent.admin.text import OPENMETRICS, PLAIN, wants_openmetrics
from agent.errors import Outcome
from agent.net.drain import Stage
from agent.scale.page import PATH

if TYPE_CHECKING:
    from agent.net.server import Server


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's is about a mistake of the agent's.

    A client's broken syntax is answered with 400; with a traceback for each, anybody could fill the log.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _logger() -> logging.Logger:
    logger = logging.getLogger("headgate.admin")
    logger.addFilter(_is_ours)
    return logger


class Admin:
    """Serves the admin pages of one server."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._exposition = Exposition(server)
        self._merger = Merger(server.settings.merge_metrics)
        app = web.Application(middlewares=[Guard(server.secure).check])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/wait-for-drain", self._wait_for_drain, allow_head=False)
        app.router.add_get("/debug/state", self._state)
        status = Status(server)
        app.router.add_get("/status", status.page)
        app.router.add_get("/status/events", status.events, allow_head=False)
        app.router.add_get(PATH.decode(), self._load)
        # handler_cancellation: a kubelet that gives up on /wait-for-drain leaves no coroutine behind.
        self._listener: asyncio.Server | None = None
        self._health: set[HealthPort] = set()
        self._runner = web.AppRunner(
            app, access_log=None, logger=_logger(), handler_cancellation=True, shutdown_timeout=1.0
        )

    async def start(self, sock: socket.socket) -> None:
        """Serve on a socket that listens already."""
        await self._runner.setup()
        pages = self._runner.server
        assert pages is not None
        loop = asyncio.get_running_loop()
        door = self._server.secure.admin_port(
            lambda: Door(self._server.guests, self._server.drain, pages, self._health)
        )
        self._listener = await loop.create_server(door, sock=sock)

    async def stop(self) -> None:
        """Answer what is being asked, then close."""
        if self._listener is not None:
            self._listener.close()
        for port in list(self._health):
            port.close()
        await self._merger.close()
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        merged = Merged([], [])
        if self._merger.has_pages and MERGING not in request.headers:
            # What predictors say is seldom good OpenMetrics, so it is told, with ours, in the format that forgives.
            accept, merged = "", await self._merger.merged()
        openmetrics = wants_openmetrics(accept)
        text = self._exposition.text(openmetrics=openmetrics, pages=merged.pages)
        content_type = OPENMETRICS if openmetrics else PLAIN
        return web.Response(body=text.encoded(merged.lines), headers={"Content-Type": content_type})

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        stage = self._server.drain.stage
        words = [f"{stage}", *(f"waits for {one}" for one in waits_for(self._server))]
        return web.Response(text="\n".join([*words, ""]), status=200 if stage is Stage.SERVING else 503)

    async def _wait_for_drain(self, request: web.Request) -> web.Response:
        # A preStop hook can only GET, so asking is what starts the drain, as with Knative's queue-proxy.
        self._server.drain.begin()
        with self._server.guests.excused(request.protocol):
            await self._server.drain.wait()
        return web.Response(text="drained\n")

    async def _load(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "").encode()
        page = self._server.load.answer(b"GET", request.path_qs.encode(), accept, monotonic())
        return web.Response(status=page.status, body=page.body, headers={"Content-Type": page.content_type})

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(state(self._server))


def state(server: "Server") -> dict[str, object]:
    """What /debug/state shows."""
    admission = server.admission
    return {
        "version": __version__,
        "state": server.drain.stage.value,
        "waits_for": waits_for(server),
        "inflight": admission.inflight,
        "queued": admission.queued,
        "queued_bytes": admission.queued_bytes,
        "limit": admission.limit,
        "queue_limit": admission.queue_limit,
        "active": server.gate.active,
        "models": _models(server),
        "outcomes": {outcome.label: server.counters.outcomes[outcome] for outcome in Outcome},
        "connections": {
            "client": len(server.connections),
            "upstream": sum(sum(pool.counts()) for pool in server.pools),
            "upstream_idle": sum(pool.counts()[1] for pool in server.pools),
        },
    }


def _models(server: "Server") -> dict[str, dict[str, int | None]]:
    """What each model is doing, over all protocols."""
    models: dict[str, dict[str, int | None]] = {}
    for usage in (row for table in server.usages.values() for row in table.rows(monotonic())):
        limit = server.admission.model_limit(usage.name)
        model = models.setdefault(usage.name, {"inflight": 0, "queued": 0, "outstanding": 0, "limit": limit})
        for level in ("inflight", "queued", "outstanding"):
            model[level] = (model[level] or 0) + getattr(usage, level)
    return models
