"""Peers of the scaler: pages that say what a test tells them to, and an API server of a cluster."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Answer every GET with the handler; yields host:port."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Page:
    """An agent's load page, as the test wants it. `asked` are the queries that came."""

    def __init__(self, demand: float, limit: int | None = 8) -> None:
        self.demand = demand
        self.limit = limit
        self.asked: list[str] = []
        self.is_silent = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.path == "/.headgate/load"
        self.asked.append(request.query_string)
        if self.is_silent:
            await asyncio.Event().wait()
        replicas = self.demand / (self.limit * 0.7) if self.limit else None
        return web.json_response({"demand": self.demand, "replicas": replicas, "limit": self.limit})


class ApiServer:
    """The part of a Kubernetes API server that lists EndpointSlices (discovery.k8s.io/v1), over TLS, with a token.

    `slices` are by namespace and Service. Lists are told in pages of `page`, as the server does where it is asked to.
    """

    def __init__(self, directory: Path) -> None:
        self.token = "secret-1"
        self.slices: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.page = 500
        self.requests = 0
        self.account = directory
        self.env: dict[str, str] = {}
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.crt"))
        self.mount(self.token)

    def mount(self, token: str) -> None:
        """What the kubelet does when a token ends."""
        (self.account / "token").write_text(token + "\n")

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert("127.0.0.1").configure_cert(tls)
        async with serving(self._list, tls) as address:
            host, _, port = address.partition(":")
            self.env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
            yield

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"kind": "Status", "status": "Failure", "code": 401}, status=401)
        parts = request.path.split("/")
        assert parts[:5] == ["", "apis", "discovery.k8s.io", "v1", "namespaces"]
        assert parts[6:] == ["endpointslices"]
        if parts[5] == "forbidden":
            return web.json_response({"kind": "Status", "status": "Failure", "code": 403}, status=403)
        label, _, service = request.query["labelSelector"].partition("=")
        assert label == "kubernetes.io/service-name"
        found = self.slices.get((parts[5], service), [])
        at, size = int(request.query.get("continue", "0")), min(self.page, int(request.query["limit"]))
        more = str(at + size) if at + size < len(found) else ""
        return web.json_response(
            {
                "kind": "EndpointSliceList",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": {"resourceVersion": "1", **({"continue": more} if more else {})},
                "items": found[at : at + size],
            }
        )


def endpoint_slice(*endpoints: dict[str, Any], family: str = "IPv4", port: int = 8080) -> dict[str, Any]:
    """A slice as the endpoint slice controller writes it."""
    return json.loads(
        json.dumps(
            {
                "metadata": {"name": "iris-abcde"},
                "addressType": family,
                "endpoints": list(endpoints),
                "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            }
        )
    )


def endpoint(address: str, pod: str = "", **conditions: bool) -> dict[str, Any]:
    """A pod of a slice."""
    target = {"targetRef": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"}} if pod else {}
    return {"addresses": [address], "conditions": conditions, "nodeName": "node", **target}
