"""`headgate scaler`: KEDA's external scaler over gRPC. It asks the agents of a workload and tells KEDA the sum."""

import asyncio
import signal
from collections import OrderedDict
from collections.abc import AsyncIterator
from math import ceil
from typing import Any

import aiohttp
import grpc
from grpc import StatusCode

from agent import __version__, logs
from agent.certificates import server_context
from agent.errors import CertificateError
from agent.files import Watched, contents
from agent.scale import trigger as triggers
from agent.scale.access import Access
from agent.scale.discovery import Discovery, in_cluster
from agent.scale.fleet import Fleet, UnknownLoadError
from agent.scale.ledger import Total
from agent.scale.settings import ScalerSettings
from agent.scale.trigger import MetadataError, Source, Trigger
from protos import external_scaler_pb2 as messages
from protos import external_scaler_pb2_grpc as services
from protos import health_pb2, health_pb2_grpc

# Workloads that are remembered; the one that nobody has asked about for the longest time is forgotten first.
MAX_FLEETS = 1000
_MAX_CALLS = 4096
_MAX_REQUEST = 64 * 1024
# Connections to agents at one time; more wait for one, within their time-out.
_MAX_SCRAPES = 256
# Calls take a scrape, and streams are ended at once.
_GRACE_S = 2.0


class Scaler(services.ExternalScalerServicer):
    """The service. `stopping` ends the streams."""

    def __init__(self, settings: ScalerSettings, discovery: Discovery, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._discovery = discovery
        self._session = session
        self._access = Access(settings.agent_ca, settings.agent_server_name, settings.agent_token_file)
        self._fleets: OrderedDict[tuple[Source, int], Fleet] = OrderedDict()
        self.stopping = asyncio.Event()

    async def IsActive(self, request: Any, context: Any) -> Any:
        """Whether the demand is above the trigger's activation."""
        trigger = await self._trigger(request, context)
        total = await self._read(trigger, context)
        return messages.IsActiveResponse(result=total.demand > trigger.activation)

    async def StreamIsActive(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The same at once and after each change. A look that fails changes nothing."""
        trigger = await self._trigger(request, context)
        told: bool | None = None
        while not self.stopping.is_set():
            try:
                active = (await self._fleet(trigger).read()).demand > trigger.activation
            except UnknownLoadError as error:
                if told is None:
                    await context.abort(StatusCode.UNAVAILABLE, str(error))
            else:
                if active is not told:
                    told = active
                    yield messages.IsActiveResponse(result=active)
            await _wait_at_most(self.stopping, self._settings.interval)

    async def GetMetricSpec(self, request: Any, context: Any) -> Any:
        """The metric's name and target."""
        trigger = await self._trigger(request, context)
        target = 1.0 if trigger.target is None else trigger.target
        spec = messages.MetricSpec(metricName=trigger.metric, targetSize=ceil(target), targetSizeFloat=target)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: Any, context: Any) -> Any:
        """The sum over all agents."""
        trigger = await self._trigger(request.scaledObjectRef, context)
        if request.metricName not in {"", trigger.metric}:
            text = f"metricName {request.metricName!r} is not known: expected {trigger.metric}"
            await context.abort(StatusCode.INVALID_ARGUMENT, text)
        total = await self._read(trigger, context)
        value = total.demand if trigger.target is not None else total.replicas
        if value is None:
            text = "an agent has no limit and cannot tell how many replicas it needs: give targetPerReplica"
            await context.abort(StatusCode.FAILED_PRECONDITION, text)
            raise RuntimeError(text)  # abort has raised
        # A float of 0 makes KEDA take the whole number.
        metric = messages.MetricValue(metricName=trigger.metric, metricValue=ceil(value), metricValueFloat=value)
        return messages.GetMetricsResponse(metricValues=[metric])

    async def _trigger(self, reference: Any, context: Any) -> Trigger:
        try:
            return triggers.read(reference.namespace, reference.scalerMetadata)
        except MetadataError as error:
            await context.abort(StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def _read(self, trigger: Trigger, context: Any) -> Total:
        try:
            return await self._fleet(trigger).read()
        except UnknownLoadError as error:
            await context.abort(StatusCode.UNAVAILABLE, str(error))
            raise

    def _fleet(self, trigger: Trigger) -> Fleet:
        key = (trigger.source, trigger.window)
        fleet = self._fleets.get(key)
        if fleet is None:
            settings = self._settings
            fleet = self._fleets[key] = Fleet(
                trigger.source,
                trigger.window,
                self._discovery,
                self._session,
                self._access,
                timeout_s=settings.scrape_timeout,
                interval_s=settings.interval,
                hold_s=settings.hold,
            )
            if len(self._fleets) > MAX_FLEETS:
                self._fleets.popitem(last=False)
        self._fleets.move_to_end(key)
        return fleet


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 for the kubelet's probe: serving until it stops."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    async def Check(self, request: Any, context: Any) -> Any:
        """The state of the server as a whole."""
        if request.service not in {"", "externalscaler.ExternalScaler"}:
            await context.abort(StatusCode.NOT_FOUND, "unknown service")
        states = health_pb2.HealthCheckResponse
        return states(status=states.NOT_SERVING if self._stopping.is_set() else states.SERVING)


class Server:
    """The scaler in one process: `start`, then `stop`. `port` is the one that was taken."""

    def __init__(self, settings: ScalerSettings, discovery: Discovery, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self.scaler = Scaler(settings, discovery, session)
        self.port = 0
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=_MAX_CALLS,
            # With SO_REUSEPORT a second scaler on the port would take half of the calls and nobody would know.
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_REQUEST)],
        )
        services.add_ExternalScalerServicer_to_server(self.scaler, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(Health(self.scaler.stopping), self._server)

    async def start(self) -> None:
        """Listen. Raises RuntimeError where the port is taken, CertificateError where the files are no good."""
        settings, address = self._settings, str(self._settings.listen)
        if settings.tls_cert:
            self.port = self._server.add_secure_port(address, _Certificates(settings).credentials())
        else:
            self.port = self._server.add_insecure_port(address)
        await self._server.start()

    async def stop(self) -> None:
        """End the streams, let the calls end, and close."""
        self.scaler.stopping.set()
        await self._server.stop(_GRACE_S)


class _Certificates:
    """The files of the settings, read again when they change: certificates are replaced long before they end."""

    def __init__(self, settings: ScalerSettings) -> None:
        self._settings = settings
        self._watched = Watched([settings.tls_cert, settings.tls_key, settings.tls_client_ca], self._read)

    def credentials(self) -> Any:
        """What a port is opened with."""
        demands = bool(self._settings.tls_client_ca)
        return grpc.dynamic_ssl_server_credentials(_configuration(self._watched.made), self._fetch, demands)

    def _fetch(self) -> Any:
        """Called by gRPC before each handshake, from a thread of its own; None goes on with what there is."""
        try:
            return _configuration(self._watched.made) if self._watched.refresh() else None
        except CertificateError as error:
            logs.event("files kept", level=30, reason=str(error))
            return None

    def _read(self) -> tuple[bytes, bytes, bytes | None]:
        settings = self._settings
        # gRPC itself would find out with the first client, and tell nobody.
        server_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        roots = contents(settings.tls_client_ca) if settings.tls_client_ca else None
        return contents(settings.tls_key), contents(settings.tls_cert), roots


def _configuration(files: tuple[bytes, bytes, bytes | None]) -> Any:
    key, chain, roots = files
    return grpc.ssl_server_certificate_configuration([(key, chain)], roots)


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def session() -> aiohttp.ClientSession:
    """What asks agents and the API server. It follows no proxy: both are neighbours."""
    connector = aiohttp.TCPConnector(limit=_MAX_SCRAPES)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def serve(settings: ScalerSettings) -> int:
    """Run until a signal ends it. Returns the exit code."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    async with session() as http:
        cluster = in_cluster(http)
        try:
            server = Server(settings, Discovery(cluster), http)
            await server.start()
        except (RuntimeError, CertificateError) as error:
            logs.event("cannot start", level=40, error=str(error))
            return 1
        logs.event(
            "listening",
            version=__version__,
            listen=str(settings.listen._replace(port=server.port)),
            tls=bool(settings.tls_cert),
            in_cluster=cluster is not None,
        )
        await asked.wait()
        logs.event("draining")
        await server.stop()
    logs.event("ended")
    return 0


def run(settings: ScalerSettings) -> int:
    """The sub-command. Returns the exit code."""
    logs.setup(settings.log_level)
    return asyncio.run(serve(settings))
