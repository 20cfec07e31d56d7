"""grpc.health.v1 on the admin port, asked by grpcio; and the pages, which share the port."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest

from agent.net.server import Server
from agent.settings import resolve
from protos import health_pb2, health_pb2_grpc
from tests.sockets import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
PATIENCE_S = 10.0


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server(
        resolve(
            {
                "routes": ["127.0.0.1:0=http://127.0.0.1:9"],
                "admin": ["127.0.0.1:0"],
                "drain_delay": ["1h"],
                "ready_when": ["listening"],
            },
            {},
        )
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def health(server: Server) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    options = [("grpc.enable_http_proxy", 0)]
    async with grpc.aio.insecure_channel(server.admin_address, options=options) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def asking(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize(("service", "drained"), [("", NOT_SERVING), ("readiness", NOT_SERVING), ("liveness", SERVING)])
async def test_check(server: Server, health: health_pb2_grpc.HealthStub, service: str, drained: int) -> None:
    assert (await health.Check(asking(service), timeout=PATIENCE_S)).status == SERVING
    server.drain.begin()
    assert (await health.Check(asking(service), timeout=PATIENCE_S)).status == drained


async def test_an_unknown_service(health: health_pb2_grpc.HealthStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await health.Check(asking("other"), timeout=PATIENCE_S)
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(asking("other"), timeout=PATIENCE_S)
    assert (await watch.read()).status == SERVICE_UNKNOWN
    watch.cancel()


async def test_watch_tells_of_the_change(server: Server, health: health_pb2_grpc.HealthStub) -> None:
    watch = health.Watch(asking(""), timeout=PATIENCE_S)
    assert (await watch.read()).status == SERVING
    assert len(server.drain.watchers) == 1
    server.drain.begin()
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()
    await eventually(lambda: not server.drain.watchers)


async def test_a_client_that_leaves_watches_no_more(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.admin_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(asking(""), timeout=PATIENCE_S)
        await watch.read()
    await eventually(lambda: not server.drain.watchers)


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("/grpc.health.v1.Health/List", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/inference.GRPCInferenceService/ServerLive", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/grpc.health.v1.Health/Check", b"\n\xff\x27" + b"x" * 5000, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_served_here(server: Server, method: str, request_: bytes, code: grpc.StatusCode) -> None:
    async with grpc.aio.insecure_channel(server.admin_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(method)(request_, timeout=PATIENCE_S)
        assert failed.value.code() is code


async def test_the_pages_share_the_port(server: Server, health: health_pb2_grpc.HealthStub) -> None:
    assert (await health.Check(asking(""), timeout=PATIENCE_S)).status == SERVING
    async with aiohttp.ClientSession() as session:
        for path in ("/readyz", "/metrics", "/debug/state"):
            async with session.get(f"http://{server.admin_address}{path}") as answer:
                assert answer.status == 200


async def test_a_request_in_small_pieces(server: Server) -> None:
    host, _, port = server.admin_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in b"GET /healthz HTTP/1.0\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
    async with asyncio.timeout(PATIENCE_S):
        assert b"200 OK" in await reader.read()
    writer.close()
    await writer.wait_closed()
