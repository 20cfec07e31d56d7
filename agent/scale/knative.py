"""The Stat that Knative's autoscaler scrapes from a pod every second, on a port of its own.

Its scraper wants status 200, the content type to the letter, and 336 bytes at most; 502 and 503 make it look for a mesh
(knative/serving, pkg/autoscaler/metrics/http_scrape_client.go). As queue-proxy does, every path but /metrics is 404 and
the method does not matter.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping

from aiohttp import web

from agent.scale.page import SLOW_S, LoadPage
from agent.scale.stat import Proxied, numbers
from protos.stat_pb2 import Stat

# What a Kubernetes name may have.
_MAX_NAME = 253


class KnativeStats:
    """Serves the last whole second. `tick` must be called once a second, after the page's.

    The pod's name comes from `env`: as queue-proxy is told it, from the downward API, or the host's name.
    """

    def __init__(self, page: LoadPage, proxied: Proxied, env: Mapping[str, str], now: float) -> None:
        self._page = page
        self._proxied = proxied
        pod = env.get("SERVING_POD") or env.get("POD_NAME") or env.get("HOSTNAME") or socket.gethostname()
        self._pod = pod[:_MAX_NAME]
        self._started = now
        self._seen = proxied.read(now)
        self._body = Stat(pod_name=self._pod).SerializeToString()
        app = web.Application()
        app.router.add_route("*", "/metrics", self._stat)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._listener: asyncio.Server | None = None

    def tick(self, now: float) -> None:
        """A second has passed."""
        seen = self._proxied.read(now)
        second, usual = self._page.last_second(), self._page.load(SLOW_S, now).demand
        found = numbers(second, usual.service_s, seen[0] - self._seen[0], seen[1] - self._seen[1])
        self._seen = seen
        self._body = Stat(
            pod_name=self._pod,
            average_concurrent_requests=found.concurrency,
            average_proxied_concurrent_requests=found.proxied_concurrency,
            request_count=found.requests,
            proxied_request_count=found.proxied_requests,
            process_uptime=now - self._started,
        ).SerializeToString()

    async def start(self, sock: socket.socket, accept: Callable[[asyncio.Protocol], asyncio.Protocol]) -> None:
        """Serve on a socket that listens already. `accept` is given what a new connection is for."""
        await self._runner.setup()
        pages = self._runner.server
        assert pages is not None
        self._listener = await asyncio.get_running_loop().create_server(lambda: accept(pages()), sock=sock)

    async def stop(self) -> None:
        """Answer what is being asked, then close."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()

    async def _stat(self, _: web.Request) -> web.Response:
        return web.Response(body=self._body, content_type="application/protobuf")
