"""The gRPC client of the load, against servers of grpcio and ones that hold or hang up."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest

from loadgen.record import Cause, Sample
from tests.bench.grpc_backend import BEHAVIOURS
from tests.bench.grpc_payload import SMALL
from tests.bench.h2connection import Connection
from tests.bench.listening import listening

from .calls import Client, status_of


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({b":status": b"200", b"grpc-status": b"0"}, 200),
        ({b":status": b"200", b"grpc-status": b"14"}, 503),
        ({b":status": b"200", b"grpc-status": b"8"}, 429),
        ({b":status": b"200", b"grpc-status": b"4"}, 504),
        ({b":status": b"200", b"grpc-status": b"13"}, 500),
        ({b":status": b"503"}, 503),
        ({b":status": b"200"}, 500),
        ({}, 500),
    ],
)
def test_a_call_has_the_status_of_http_that_means_the_same(fields: dict[bytes, bytes], status: int) -> None:
    assert status_of(fields) == status


class Collected:
    """Samples as they end."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._event = asyncio.Event()

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._event.set()

    async def wait(self, count: int) -> list[Sample]:
        async with asyncio.timeout(10):
            while len(self.samples) < count:
                self._event.clear()
                await self._event.wait()
        return self.samples


@asynccontextmanager
async def calling(port: int, patience_s: float = 10.0) -> AsyncIterator[tuple[Client, Collected]]:
    ended = Collected()
    client = Client(port, ended.add, patience_s=patience_s, told_s=0.5)
    try:
        await client.connect()
        yield client, ended
    finally:
        client.close()
        # The transports report their end a turn later.
        await asyncio.sleep(0)


@asynccontextmanager
async def grpcio(code: grpc.StatusCode) -> AsyncIterator[tuple[int, list[float]]]:
    """A server that ends every call with `code`; yields its port and the deadlines that it was told."""
    told: list[float] = []

    async def infer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        told.append(context.time_remaining())
        if request != SMALL.request:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not what was sent")
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "as it was told to")
        return SMALL.answer

    _, service, method = SMALL.method.split("/")
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(infer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, told
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.OK, 200),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.INTERNAL, 500),
    ],
)
async def test_every_call_ends_once_with_the_servers_status(code: grpc.StatusCode, status: int) -> None:
    async with grpcio(code) as (port, told), calling(port) as (client, ended):
        for _ in range(100):
            client.send(Sample(time.monotonic_ns()))
        samples = await ended.wait(100)
        assert not client.inflight
    assert [sample.status for sample in samples] == [status] * 100
    assert all(sample.intended_ns <= sample.sent_ns < sample.done_ns for sample in samples)
    assert all(0.3 < seconds <= 0.5 for seconds in told)


async def test_a_call_that_is_not_answered_is_given_up_after_its_patience() -> None:
    async with listening(BEHAVIOURS["hold"]) as port, calling(port, patience_s=0.1) as (client, ended):
        now_ns = time.monotonic_ns()
        client.send(Sample(now_ns))
        client.send(Sample(now_ns + 200_000_000))
        first, second = await ended.wait(2)
    for sample, due_ns in ((first, now_ns), (second, now_ns + 200_000_000)):
        assert (sample.intended_ns, sample.status, sample.cause) == (due_ns, 0, Cause.TIMEOUT)
        assert sample.response_ns >= 100_000_000


class HangingUp(Connection):
    """Ends the connection at the first call."""

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self.transport.abort()


async def test_calls_on_a_connection_that_ends_fail_and_later_ones_too() -> None:
    async with listening(partial(HangingUp, server=True)) as port, calling(port) as (client, ended):
        for count in range(1, 18):
            client.send(Sample(time.monotonic_ns()))
            await ended.wait(count)
        causes = [sample.cause for sample in ended.samples]
    assert set(causes[:16]) <= {Cause.RESET, Cause.CLOSED}
    assert causes[16] is Cause.CONNECT
