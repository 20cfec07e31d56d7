"""The composition root of `headgate serve`: builds every part in visible order, runs it, and takes it down."""

import asyncio
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from agent import __version__, logs
from agent.errors import CertificateError
from agent.net.arrival import Arrival
from agent.net.clear import HTTP1, HTTP2, secured
from agent.net.connection import ClientConnection, Shared
from agent.net.drain import Drain, Stage
from agent.net.gate import Gate
from agent.net.guests import MOST, Guest, Guests
from agent.net.http1_upstream import Http1Pool
from agent.net.http2_downstream import BULK_WINDOW
from agent.net.http2_upstream import Http2Pool
from agent.net.live import LiveSettings, admission_of
from agent.net.orca import Orca
from agent.net.pulse import Pulse
from agent.net.replies import Replies
from agent.net.sides import Pool
from agent.net.startup import Startup
from agent.net.sweep import Sweeper
from agent.observe.accesslog import AccessLog, Mode
from agent.observe.counters import Counters
from agent.observe.hooks import Hooks, Observer
from agent.policy.classify import Classifier
from agent.policy.stated import Reader
from agent.policy.usage import UsageTable
from agent.scale import page
from agent.scale.stat import Proxied
from agent.settings import Settings
from agent.values import Address, Listen, Route
from agent.wire.hints import HintReader
from agent.wire.message import Limits
from agent.wire.stream import Bounds

if TYPE_CHECKING:
    from agent.admin.app import Admin
    from agent.scale.knative import KnativeStats

# Descriptors that are not for clients: listeners, logs, dials that fail; the admin port's, and its handshakes.
_RESERVED_DESCRIPTORS = 64 + 2 * MOST
_BACKLOG = 4096
# How often the demand is read (scale.demand.Meter).
_TICK_S = 1.0
# The kubelet also runs a predictor's preStop hook, /wait-for-drain, when it only restarts the predictor. An agent that
# is still here so long after its drain has been left behind: it ends, and is started again to serve.
_LEFT_BEHIND_S = 10.0


class Server:
    """The whole agent in one process. `start`, then `drain.begin` and `drain.wait`, then `stop`."""

    def __init__(self, settings: Settings) -> None:
        loop = self._loop = asyncio.get_running_loop()
        now = monotonic()
        self.settings = settings
        self.counters = Counters()
        names = [name for name, _ in settings.model_limits]
        self.usages = {protocol: UsageTable(names, now, protocol) for protocol in ("http", "grpc")}
        self.admission = admission_of(settings)
        self.load = page.LoadPage(self.admission, self.usages, self.counters, now)
        self.proxied = Proxied(now) if settings.knative_metrics else None
        self._shared = shared = Shared(partial(logs.failure, "connection failed"))
        self.gate = Gate(
            loop=loop,
            shared=shared,
            admission=self.admission,
            classifier=_classifier_of(settings),
            stated=_reader_of(settings),
            hints=HintReader(frozenset(settings.v2_hints)) if settings.v2_hints else None,
            usages=self.usages,
            load=self.load,
            proxied=self.proxied,
            orca=None if settings.orca == "off" else Orca(self.load, always=settings.orca == "always"),
            hooks=Hooks(_observers_of(settings, self.counters, now), partial(logs.failure, "observer dropped")),
            replies=Replies(settings.overload_status),
            queued_body=settings.queued_body,
            retry_stale=settings.retry_stale,
            max_connections=min(settings.max_connections, _room_for_connections()),
            times_answers=settings.response_timeout > 0,
        )
        self.secure = secured(loop, settings, shared.small)
        self._limits = Limits(head=settings.max_head)
        # What a client may send ahead of its dispatch is what may be read of a queued body.
        self._bounds = Bounds(stream_window=settings.queued_body)
        self._ways = [self._way(route) for route in settings.routes]
        pools = _acquainted(pool for way in self._ways for pool in way if pool is not None)
        self.pools: list[Pool] = [*pools]
        self.startup = Startup(pools, _asked(settings), settings.ready_path, self._on_started)
        self.drain = self._drain_of(settings)
        self.gate.holds = bool(settings.ready_path)
        if settings.startup_timeout:
            self.admission.hold_until = now + settings.startup_timeout
        self.pulse = Pulse(self.admission, self.usages, self.counters)
        self.sweeper: Sweeper | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._listeners: list[asyncio.Server] = []
        self.guests = Guests()
        self._admin: Admin | None = None
        self._knative: KnativeStats | None = None
        self.addresses: list[str] = []
        self.admin_address = self.knative_address = ""

    async def start(self) -> None:
        """Listen. Raises OSError, naming the address, when one is taken; then nothing is left listening."""
        sockets: list[socket.socket] = []
        try:
            for listen in self.settings.listens:
                sockets.append(_bind(listen))  # noqa: PERF401 - those bound so far must be closed when one fails
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        knative = sockets.pop() if self.proxied is not None else None
        *data, admin = sockets
        for sock, (http1, http2) in zip(data, self._ways, strict=True):
            factory = self._accepting(http1, http2)
            self._listeners.append(await self._loop.create_server(factory, sock=sock, backlog=_BACKLOG))
        self.sweeper = Sweeper(self._loop, self.settings, self.gate, self.pools)
        self._tick()
        # aiohttp takes 0.15 s to import; in a thread, the data port answers meanwhile.
        self._admin = (await asyncio.to_thread(_load_admin))(self)
        await self._admin.start(admin)
        if self.proxied is not None and knative is not None:
            load_stats = await asyncio.to_thread(_load_knative)
            self._knative = load_stats(self.load, self.proxied, os.environ, monotonic())
            await self._knative.start(knative, partial(Guest, self.guests))
            self.knative_address = _name(knative)
        self.addresses = [_name(sock) for sock in data]
        self.admin_address = _name(admin)
        logs.event(
            "listening",
            version=__version__,
            listen=self.addresses,
            upstream=[route.upstream for route in self.settings.routes],
            admin=self.admin_address,
            tls=bool(self.settings.tls_cert),
            knative=self.knative_address or None,
            limit=self.admission.limit,
            queue=self.settings.queue,
        )
        is_awaited = self.gate.holds or self.admission.hold_until > 0.0
        self.startup.begin(looks=is_awaited or self.drain.stage is Stage.STARTING)
        self.secure.warn()

    async def stop(self) -> None:
        """Take everything down at once."""
        self.startup.stop()
        if self._ticker is not None:
            self._ticker.cancel()
        if self.sweeper is not None:
            self.sweeper.stop()
        self.pulse.stop()
        self._close_listeners()
        for connection in list(self.connections):
            connection.close()
        for pool in self.pools:
            pool.close()
        for part in (self._admin, self._knative):
            if part is not None:
                await part.stop()
        self.secure.stop("admin")

    @property
    def connections(self) -> set[ClientConnection]:
        """The clients'."""
        return self.gate.connections

    def _on_started(self) -> None:
        """The predictor is there, for the first time."""
        self.admission.hold_until = 0.0
        self.gate.let_go()
        self.drain.serve()

    def _drain_of(self, settings: Settings) -> Drain:
        return Drain(
            self.gate,
            self.pools,
            self._close_listeners,
            delay=settings.drain_delay,
            timeout=settings.drain_timeout,
            stage=Stage.STARTING if settings.ready_when == "reachable" else Stage.SERVING,
        )

    def _way(self, route: Route) -> tuple[Http1Pool | None, Http2Pool | None]:
        return self._http1(route.http1), self._http2(route.http2)

    def _http1(self, address: Address | None) -> Http1Pool | None:
        if address is None:
            return None
        return Http1Pool(self._loop, self._shared, address, self._limits, self.secure.way(address, HTTP1))

    def _http2(self, address: Address | None) -> Http2Pool | None:
        if address is None:
            return None
        bounds = Bounds(stream_window=BULK_WINDOW)
        return Http2Pool(self._loop, self._shared, address, self._limits, bounds, self.secure.way(address, HTTP2))

    def _accepting(self, http1: Http1Pool | None, http2: Http2Pool | None) -> Callable[[], asyncio.BaseProtocol]:
        """What a connection to a data port begins as."""
        clear = partial(Arrival, self.gate, self._limits, self._bounds)
        secured = self.secure.data_port(
            lambda is_http2: clear(None, http2) if is_http2 else clear(http1, None),
            http1=http1 is not None,
            http2=http2 is not None,
            room_for=lambda handshakes: len(self.connections) + handshakes < self.gate.max_connections,
        )
        return secured or partial(clear, http1, http2)

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_S, self._tick)
        now = monotonic()
        self.load.tick(now)
        self.pulse.beat(now)
        self.secure.look()
        if self._knative is not None:
            self._knative.tick(now)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self.secure.stop("data")


def _acquainted(pools: Iterable[Http1Pool | Http2Pool]) -> list[Http1Pool | Http2Pool]:
    """Ports of one host are taken for one predictor's, which opens and closes them together."""
    known = list(pools)
    for pool in known:
        pool.siblings = [each for each in known if each is not pool and each.address.host == pool.address.host]
    return known


def _observers_of(settings: Settings, counters: Counters, now: float) -> list[Observer]:
    if settings.access_log is Mode.OFF:
        return [counters]
    return [counters, AccessLog(settings.access_log, partial(print, end="", flush=True), time.time() - now)]


def _asked(settings: Settings) -> list[Address]:
    """Where `--ready-path` is asked for."""
    return [route.http1 for route in settings.routes if route.http1 is not None]


def _classifier_of(settings: Settings) -> Classifier:
    return Classifier(admit_unknown=settings.unknown_route == "admit", page=page.PATH if settings.load_page else b"")


def _reader_of(settings: Settings) -> Reader:
    return Reader(
        deadline=settings.deadline_header.encode(),
        priority=settings.priority_header.encode(),
        tenant=settings.tenant_header.encode(),
        activator=settings.knative_metrics is not None,
        load=settings.orca != "off",
    )


def _load_admin() -> "type[Admin]":
    from agent.admin.app import Admin  # noqa: PLC0415

    return Admin


def _load_knative() -> "type[KnativeStats]":
    from agent.scale.knative import KnativeStats  # noqa: PLC0415

    return KnativeStats


def _bind(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off on what is accepted; uvloop always does.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {listen}: {error.strerror}") from None
    return sock


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return str(Listen(host, port))


def _room_for_connections() -> int:
    """How many clients fit in the descriptors of this process, when each may need one towards the predictor too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1_000_000 if hard == resource.RLIM_INFINITY else max(1, (hard - _RESERVED_DESCRIPTORS) // 2)


async def _first(*tasks: asyncio.Task[object]) -> None:
    """Wait for one of these; whoever waits for nothing else is cancelled with the loop."""
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)


async def serve(settings: Settings, resolve: Callable[[], Settings]) -> int:
    """Run until a signal ends it. Returns the exit code. `resolve` builds the settings anew; see `live`."""
    try:
        server = Server(settings)
    except CertificateError as error:  # the files have changed since the settings were read
        logs.event("cannot start", level=40, error=str(error))
        return 1
    live = LiveSettings(server, resolve)
    asked, ended = asyncio.Event(), asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if asked.is_set():
            ended.set()  # a second signal ends it now
            return
        asked.set()
        logs.event("draining", signal=number.name)
        server.drain.begin(hurry=number is signal.SIGINT)

    def on_hangup() -> None:
        live.reload()
        server.secure.look()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        await server.start()
    except OSError as error:
        logs.event("cannot start", level=40, error=error.strerror or str(error))
        await server.stop()
        return 1
    # What start-up made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    drained = loop.create_task(server.drain.wait())
    await _first(drained, loop.create_task(asked.wait()))
    if not asked.is_set():
        await _first(loop.create_task(asked.wait()), loop.create_task(asyncio.sleep(_LEFT_BEHIND_S)))
    await _first(drained, loop.create_task(ended.wait()))
    live.stop()
    await server.stop()
    logs.event("ended")
    return 0
