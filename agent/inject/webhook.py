"""`headgate webhook`: answers the API server's AdmissionReviews over TLS."""

import asyncio
import datetime
import gc
import logging
import os
import signal
import socket
from functools import partial
from time import perf_counter

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from agent import __version__, logs
from agent.errors import CertificateError
from agent.inject.certificates import Certificates, self_made
from agent.inject.cluster import ClusterError, has_native_sidecars
from agent.inject.patch.sidecar import Defaults
from agent.inject.review import MalformedError, review
from agent.inject.settings import WebhookSettings

# A pod is at most 1.5 MiB, etcd's limit; a review holds it once, and the old one's place is empty.
_MAX_BODY = 4 << 20
# How often the certificate's files are looked at, which costs two stat calls.
_LOOK_S = 1.0
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5)


class Webhook:
    """Answers reviews, and tells of itself under /healthz, /readyz and /metrics on the same port."""

    def __init__(self, defaults: Defaults, certificates: Certificates) -> None:
        self._defaults = defaults
        self._certificates = certificates
        self._is_ready = True
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        self._reviews = counter("headgate_webhook_reviews", "Reviews answered.", ["mode", "verdict"])
        self._malformed = counter("headgate_webhook_malformed", "Requests that are no AdmissionReview.")
        self._seconds = Histogram(
            "headgate_webhook_review_seconds", "Time to answer one.", buckets=_BUCKETS, registry=self._registry
        )
        expiry = Gauge(
            "headgate_webhook_certificate_not_after_seconds",
            "When the certificate ends, in seconds since 1970.",
            registry=self._registry,
        )
        expiry.set_function(lambda: self._certificates.not_after)
        info = Gauge("headgate_build_info", "Always 1.", ["version"], registry=self._registry)
        info.labels(__version__).set(1)
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/mutate", self._mutate)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)

    async def start(self, sock: socket.socket) -> None:
        """Serve on a socket that is bound."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock, ssl_context=self._certificates.context).start()

    def drain(self) -> None:
        """Fail readiness, so that the Service sends nothing new."""
        self._is_ready = False

    async def stop(self) -> None:
        """Answer what is being asked, then close."""
        await self._runner.cleanup()

    def look(self) -> None:
        """Take new certificates up; half-written ones change nothing."""
        try:
            if self._certificates.refresh():
                logs.event("certificate exchanged", not_after=self._certificates.not_after)
        except CertificateError as error:
            logs.event("certificate kept", logging.WARNING, reason=str(error))

    async def _mutate(self, request: web.Request) -> web.Response:
        begun = perf_counter()
        body = await request.read()
        try:
            reviewed = review(body, self._defaults)
        except MalformedError as error:
            self._malformed.inc()
            logs.event("review malformed", logging.WARNING, reason=str(error), bytes=len(body))
            return web.Response(status=400, text=f"{error}\n")
        seconds = perf_counter() - begun
        decision = reviewed.decision
        self._reviews.labels(decision.mode.value, decision.verdict.value).inc()
        self._seconds.observe(seconds)
        logs.event(
            "review",
            **reviewed.facts,
            mode=decision.mode.value,
            verdict=decision.verdict.value,
            reason=decision.reason,
            warnings=decision.warnings,
            ms=round(seconds * 1000, 3),
        )
        if reviewed.error is not None:
            logs.failure("review failed", reviewed.error)
        return web.Response(body=reviewed.body, content_type="application/json")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        return web.Response(text="serving\n") if self._is_ready else web.Response(text="draining\n", status=503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})


def run(settings: WebhookSettings) -> int:
    """Serve until a signal, or print certificates. Returns the exit code."""
    if settings.bootstrap_certs:
        now = datetime.datetime.now(datetime.UTC)
        print(self_made(settings.namespace, settings.service, now), end="")
        return 0
    logs.setup(settings.log_level)
    return uvloop.run(_serve(settings))


async def _serve(settings: WebhookSettings) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        certificates = Certificates(settings.tls_cert, settings.tls_key)
        sock = _bind(settings)
    except (CertificateError, OSError) as error:
        logs.event("cannot start", logging.CRITICAL, error=str(error))
        return 1
    kind = await _kind(settings.sidecar)
    webhook = Webhook(Defaults(settings.image, settings.cpu, kind, settings.image_pull_policy), certificates)
    await webhook.start(sock)
    host, port = sock.getsockname()[:2]
    logs.event("listening", version=__version__, listen=f"{host}:{port}", image=settings.image, sidecar=kind)
    # What start-up made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    while not await _within(ended, _LOOK_S):
        webhook.look()
    logs.event("draining")
    webhook.drain()
    ended.clear()
    await _within(ended, settings.drain_delay)
    await webhook.stop()
    logs.event("ended")
    return 0


async def _kind(wanted: str) -> str:
    """`native` or `container`. An ordinary container runs everywhere, so it is taken when nothing can be learned."""
    if wanted != "auto":
        return wanted
    try:
        return "native" if await has_native_sidecars(os.environ) else "container"
    except ClusterError as error:
        logs.event("cluster's version unknown", logging.WARNING, reason=str(error), sidecar="container")
        return "container"


def _bind(settings: WebhookSettings) -> socket.socket:
    listen = settings.listen
    sock = socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror}") from None
    return sock


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether it happens within this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
