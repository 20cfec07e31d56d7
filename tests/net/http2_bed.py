"""An agent between HTTP/2 peers: the bed, with connections that speak HTTP/2 on both sides."""

import socket
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import pytest

from tests.net.afterwards import nothing_left
from tests.net.bed import Bed
from tests.net.http2_peers import LIVE, FrameReader, Half, Http2Client, Http2Server, grpc_head
from tests.sockets import FakePredictor, eventually


class Http2Bed(Bed):
    """A running agent whose predictor speaks HTTP/2."""

    async def caller(self, settings: Mapping[int, int] | None = None) -> Http2Client:
        """A new client connection."""
        client = Http2Client(await self.client(), settings)
        await client.flush()
        await client.until(lambda: client.has_settings)
        return client

    async def raw_caller(self) -> FrameReader:
        """A new client connection that has sent nothing."""
        return FrameReader(await self.client())

    async def connection(self, settings: Mapping[int, int] | None = None) -> Http2Server:
        """The agent's next connection to the predictor."""
        peer = await self.predictor.accept()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = Http2Server(peer, settings)
        await server.flush()
        return server

    async def pair(
        self, settings: Mapping[int, int] | None = None, client_settings: Mapping[int, int] | None = None
    ) -> tuple[Http2Client, Http2Server]:
        """Both ends, after a call that bypasses admission; all SETTINGS are in force. What happened is forgotten."""
        client = await self.caller(client_settings)
        half = await client.send(grpc_head(LIVE))
        server = await self.connection(settings)
        await server.respond(await server.request())
        await client.answer(half)
        await server.until(lambda: server.is_acknowledged)
        self.forget()
        return client, server

    async def occupy_slot(self, client: Http2Client, server: Http2Server) -> tuple[Half, Half]:
        """A call that the predictor has and does not answer; both sides of it."""
        half = await client.call(b"running")
        return half, await server.request()

    async def queue_calls(self, client: Http2Client, count: int) -> list[Half]:
        """Calls that wait, in this order."""
        halves = []
        for index in range(count):
            halves.append(await client.call(b"queued %d" % index))
            await eventually(lambda: self.admission.queued > index)  # noqa: B023 - looked at in this turn only
        return halves


class Http2Opener(Protocol):
    """Starts an agent; `scheme` and `other` make its route, further keywords are settings by name, as text."""

    async def __call__(
        self,
        predictor: FakePredictor | None = None,
        *,
        scheme: str = "h2c",
        other: FakePredictor | None = None,
        **settings: str,
    ) -> Http2Bed: ...


def route(predictor: FakePredictor, scheme: str, other: FakePredictor | None) -> str:
    """What a route forwards to: `other` over HTTP/1.1 beside the predictor over HTTP/2, if it is given."""
    upstream = predictor.url.replace("http", scheme, 1)
    return upstream if other is None else f"{other.url},{upstream}"


@pytest.fixture
async def h2bed() -> AsyncIterator[Http2Opener]:
    """Starts agents in front of a predictor that listens unless told otherwise. Each is checked after the test."""
    beds: list[tuple[Http2Bed, FakePredictor | None]] = []

    async def open_bed(
        predictor: FakePredictor | None = None,
        *,
        scheme: str = "h2c",
        other: FakePredictor | None = None,
        **settings: str,
    ) -> Http2Bed:
        predictor = predictor or FakePredictor().listen()
        new = Http2Bed(settings, predictor, route(predictor, scheme, other))
        beds.append((new, other))
        await new.server.start()
        return new

    async with nothing_left():
        yield open_bed
        for each, other in beds:
            if other is not None:
                other.close()
            await each.close()
