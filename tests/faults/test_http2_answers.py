"""Predictors that break the rules of HTTP/2: it costs the stream or the connection, and never looks like an answer."""

import pytest

from agent.errors import Outcome
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import GRPC_OK, FrameReader, Half, Http2Client
from tests.wire import frames_by_hand as raw

HEAD = raw.response(200, (b"content-type", b"application/grpc"))
# What a predictor sends on stream 1, after its SETTINGS.
STREAM_FAULTS = {
    "no :status": raw.headers(1, raw.block([(b"content-type", b"application/grpc")])),
    ":status twice": raw.headers(1, raw.block([(b":status", b"200"), (b":status", b"200")])),
    "a :status of words": raw.headers(1, raw.block([(b":status", b"ok")])),
    "101": raw.headers(1, raw.response(101)),
    "DATA first": raw.data(1, b"x"),
    "DATA first, and the end": raw.data(1, b"x", end=True),
    "an upper-case name": raw.headers(1, raw.response(200, (b"X-A", b"1"))),
    "a connection field": raw.headers(1, raw.response(200, (b"connection", b"close"))),
    "a line break": raw.headers(1, raw.response(200, (b"x-a", b"1\r\nx: y"))),
    "an end with 1xx": raw.headers(1, raw.response(103), end=True),
    "a flood of 1xx": raw.headers(1, raw.response(103)) * 30,
    "content-length and no body": raw.headers(1, raw.response(200, (b"content-length", b"5")), end=True),
}
LATE_STREAM_FAULTS = {
    "too much": raw.headers(1, raw.response(200, (b"content-length", b"2"))) + raw.data(1, b"xyz"),
    "too little": raw.headers(1, raw.response(200, (b"content-length", b"5"))) + raw.data(1, b"xy", end=True),
    "trailers that end nothing": raw.headers(1, HEAD) + raw.headers(1, raw.block(GRPC_OK)),
    "trailers with :status": raw.headers(1, HEAD) + raw.headers(1, raw.response(200), end=True),
}
CONNECTION_FAULTS = {
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "garbage": b"\xff" * 64,
    "no SETTINGS": raw.ping(),
    "PUSH_PROMISE": raw.settings() + raw.frame(raw.PUSH_PROMISE, 1, raw.long(2) + raw.response(200), raw.END_HEADERS),
    "an idle stream": raw.settings() + raw.headers(99, raw.response(200)),
    "an even stream": raw.settings() + raw.headers(2, raw.response(200)),
    "stream 0": raw.settings() + raw.headers(0, raw.response(200)),
    "a broken block": raw.settings() + raw.headers(1, b"\xff\xff\xff\xff\xff\xff"),
    "a large frame": raw.settings() + raw.frame(raw.DATA, 1, b"x" * 16_385),
    "a frame inside a block": raw.settings() + raw.headers(1, HEAD, flags=0) + raw.ping(),
    "no window increment": raw.settings() + raw.window_update(0, 0),
    "bad SETTINGS": raw.settings((raw.INITIAL_WINDOW_SIZE, 2**31)),
}


async def misbehave(agent: Http2Bed, data: bytes) -> tuple[Http2Client, Half, Half, FrameReader]:
    """A predictor that sends this once it has two calls, on streams 1 and 3."""
    client = await agent.caller()
    half = await client.call(b"1")
    server = FrameReader(await agent.predictor.accept())
    await server.peer.exactly(24)
    await server.until(raw.DATA, 1)
    other = await client.call(b"2")
    await server.until(raw.DATA, 3)
    await server.peer.send(data)
    return client, half, other, server


async def check_other(client: Http2Client, other: Half, server: FrameReader) -> None:
    """The stream beside the one that failed is served."""
    assert (await server.until(raw.RST_STREAM, 1)).number == raw.PROTOCOL_ERROR
    await server.peer.send(raw.headers(3, HEAD) + raw.headers(3, raw.block(GRPC_OK), end=True))
    assert (await client.answer(other)).grpc_status == 0


@pytest.mark.parametrize("data", STREAM_FAULTS.values(), ids=list(STREAM_FAULTS))
async def test_an_answer_that_breaks_a_rule_is_no_answer(h2bed: Http2Opener, data: bytes) -> None:
    agent = await h2bed()
    client, half, other, server = await misbehave(agent, raw.settings() + data)
    await client.answer(half)
    assert (half.status, half.grpc_status, half.reason) == (200, 13, b"upstream_invalid")
    await check_other(client, other, server)
    assert agent.outcomes == [Outcome.UPSTREAM_INVALID, Outcome.SERVED]


@pytest.mark.parametrize("data", LATE_STREAM_FAULTS.values(), ids=list(LATE_STREAM_FAULTS))
async def test_an_answer_that_breaks_a_rule_later_on(h2bed: Http2Opener, data: bytes) -> None:
    agent = await h2bed()
    client, half, other, server = await misbehave(agent, raw.settings() + data)
    await client.answer(half)
    assert (half.status, half.grpc_status) == (200, 13)
    assert half.trailers is not None
    await check_other(client, other, server)
    assert agent.outcomes == [Outcome.UPSTREAM_INVALID, Outcome.SERVED]


@pytest.mark.parametrize("data", CONNECTION_FAULTS.values(), ids=list(CONNECTION_FAULTS))
async def test_a_connection_that_breaks_a_rule_ends(h2bed: Http2Opener, data: bytes) -> None:
    agent = await h2bed()
    client, half, other, server = await misbehave(agent, data)
    for each in (half, other):
        await client.answer(each)
        assert (each.grpc_status, each.reason) == (13, b"upstream_invalid")
    await server.until(raw.GOAWAY)
    await server.peer.ended()
    after = await client.call(b"after")
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    assert (await client.answer(after)).grpc_status == 0
    assert agent.outcomes == [*[Outcome.UPSTREAM_INVALID] * 2, Outcome.SERVED]
