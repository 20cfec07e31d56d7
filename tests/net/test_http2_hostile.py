"""Clients that break rules over HTTP/2: what they are told, and that nothing of it reaches the predictor."""

import json

import pytest

from agent.errors import Outcome
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    HELLO,
    INFER,
    LIVE,
    PREFACE,
    Field,
    FrameReader,
    Http2Server,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import eventually
from tests.wire import frames_by_hand as raw

GRPC = raw.block(grpc_head())


def without(name: bytes, *more: Field) -> bytes:
    return raw.block([*(field for field in grpc_head() if field[0] != name), *more])


async def is_served(agent: Http2Bed, client: FrameReader, server: Http2Server | None = None) -> Http2Server:
    """The connection goes on: a call on stream 101 is served. Returns the predictor's connection."""
    await client.peer.send(raw.headers(101, GRPC) + raw.data(101, infer(b"after"), end=True))
    if server is None:
        server = await agent.connection()
    request = await server.request()
    assert bytes(request.body) == infer(b"after")
    await server.respond(request)
    assert await client.until(raw.HEADERS, 101)
    return server


MALFORMED = {
    "no :method": raw.headers(1, without(b":method")),
    "no :scheme": raw.headers(1, without(b":scheme")),
    "no :path": raw.headers(1, without(b":path")),
    "an empty :path": raw.headers(1, without(b":path", (b":path", b""))),
    "a :path without a slash": raw.headers(1, without(b":path", (b":path", b"v2"))),
    "a :path with a space": raw.headers(1, raw.block(grpc_head(b"/a b"))),
    "a :path with a line break": raw.headers(1, raw.block(grpc_head(b"/a\r\nHost: x"))),
    ":path twice": raw.headers(1, raw.block([(b":path", b"/x"), *grpc_head()])),
    "a late pseudo-header": raw.headers(1, without(b":path", (b":path", b"/x"))),
    "an unknown pseudo-header": raw.headers(1, raw.block([(b":x", b"y"), *grpc_head()])),
    ":status": raw.headers(1, raw.block([(b":status", b"200"), *grpc_head()])),
    "a bad :authority": raw.headers(1, raw.block([(b":authority", b"a b"), *grpc_head()[:3]])),
    "host and :authority differ": raw.headers(1, raw.block(grpc_head(INFER, (b"host", b"evil")))),
    "an upper-case name": raw.headers(1, raw.block(grpc_head(INFER, (b"X-A", b"1")))),
    "an empty name": raw.headers(1, raw.block(grpc_head(INFER, (b"", b"1")))),
    "a name with a colon": raw.headers(1, raw.block(grpc_head(INFER, (b"x:", b"1")))),
    "a value with a line break": raw.headers(1, raw.block(grpc_head(INFER, (b"x", b"1\r\ny: 2")))),
    "a value with NUL": raw.headers(1, raw.block(grpc_head(INFER, (b"x", b"\0")))),
    "a value with a space before": raw.headers(1, raw.block(grpc_head(INFER, (b"x", b" 1")))),
    "transfer-encoding": raw.headers(1, raw.block(grpc_head(INFER, (b"transfer-encoding", b"chunked")))),
    "connection": raw.headers(1, raw.block(grpc_head(INFER, (b"connection", b"keep-alive")))),
    "upgrade": raw.headers(1, raw.block(grpc_head(INFER, (b"upgrade", b"h2c")))),
    "te: gzip": raw.headers(1, raw.block(grpc_head(INFER, (b"te", b"gzip")))),
    "content-length twice": raw.headers(1, raw.block(plain_head() + [(b"content-length", b"1")] * 2)),
    "content-length: +1": raw.headers(1, raw.block([*plain_head(), (b"content-length", b"+1")])),
    "content-length and no body": raw.headers(1, raw.block([*plain_head(), (b"content-length", b"1")]), end=True),
    ":protocol without CONNECT": raw.headers(1, raw.block([(b":protocol", b"websocket"), *grpc_head()])),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
async def test_a_malformed_request_reaches_nobody(h2bed: Http2Opener, data: bytes) -> None:
    agent = await h2bed()
    client = await agent.raw_caller()
    await client.peer.send(HELLO + data + raw.data(1, infer(), end=True))
    assert (await client.until(raw.RST_STREAM, 1)).number == raw.PROTOCOL_ERROR
    assert (agent.begun, agent.faults) == (0, [Outcome.BAD_REQUEST])
    assert agent.predictor.is_left_alone()
    server = await is_served(agent, client)
    assert len(server.requests) == 1


TOO_MUCH = [(b"x-%d" % index, b"y" * 900) for index in range(75)]
ANSWERED = {
    "CONNECT": ([(b":method", b"CONNECT"), (b":authority", b"a:1")], 501, None),
    "a WebSocket": ([(b":protocol", b"websocket"), *plain_head(b"CONNECT", b"/ws")], 501, None),
    "too large a head": (plain_head() + TOO_MUCH, 431, 8),
    "too many fields": (plain_head() + [(b"x", b"")] * 128, 431, 8),
    "too long a path": (plain_head(b"GET", b"/" + b"x" * 16_384), 414, 13),
}


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize("name", ANSWERED)
async def test_what_is_not_done_is_answered(h2bed: Http2Opener, name: str, *, grpc: bool) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    fields, status, code = ANSWERED[name]
    half = await client.send([*fields, *([(b"content-type", b"application/grpc")] if grpc else [])], end=False)
    await client.until(lambda: half.reset is not None)
    assert (half.is_complete, half.reset) == (True, raw.NO_ERROR)
    is_call = grpc and code is not None  # a call is never CONNECT
    assert (half.status, half.grpc_status) == ((200, code) if is_call else (status, None))
    assert is_call or list(json.loads(half.body)) == ["error"]
    assert (agent.begun, len(agent.faults)) == (0, 1)
    after = await client.call()
    await server.respond(await server.request())
    assert (await client.answer(after)).grpc_status == 0
    assert len(server.requests) == 2


BODIES = {
    "more than content-length": ([*plain_head(), (b"content-length", b"3")], raw.data(1, b"xxxx"), raw.PROTOCOL_ERROR),
    "less than content-length": (
        [*plain_head(), (b"content-length", b"3")],
        raw.data(1, b"xx", end=True),
        raw.PROTOCOL_ERROR,
    ),
    "trailers and less than content-length": (
        [*plain_head(), (b"content-length", b"3")],
        raw.data(1, b"xx") + raw.headers(1, raw.block([(b"x", b"1")]), end=True),
        raw.PROTOCOL_ERROR,
    ),
    "trailers that end nothing": (plain_head(), raw.headers(1, raw.block([(b"x", b"1")])), raw.PROTOCOL_ERROR),
    "trailers with :path": (plain_head(), raw.headers(1, raw.block([(b":path", b"/")]), end=True), raw.PROTOCOL_ERROR),
    "trailers with an upper-case name": (
        plain_head(),
        raw.headers(1, raw.block([(b"X", b"1")]), end=True),
        raw.PROTOCOL_ERROR,
    ),
    "no window increment": (plain_head(), raw.window_update(1, 0), raw.PROTOCOL_ERROR),
    "too large a window": (plain_head(), raw.window_update(1, 2**31 - 1), raw.FLOW_CONTROL_ERROR),
    "a malformed PRIORITY": (plain_head(), raw.priority(1, 1), raw.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_request_that_goes_wrong_is_undone(h2bed: Http2Opener, name: str) -> None:
    agent = await h2bed(limit="1")
    fields, data, code = BODIES[name]
    client = await agent.raw_caller()
    await client.peer.send(HELLO + raw.headers(1, raw.block(fields)))
    server = await agent.connection()
    request = await server.head()
    await client.peer.send(data)
    assert (await client.until(raw.RST_STREAM, 1)).number == code
    await server.until(lambda: request.reset is not None)
    assert (request.is_complete, request.reset) == (False, raw.CANCEL)
    assert (agent.outcomes, agent.statuses) == ([Outcome.BAD_REQUEST], [400])
    await is_served(agent, client, server)


async def test_data_after_the_end_resets_the_stream(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client = await agent.raw_caller()
    await client.peer.send(HELLO + raw.headers(1, GRPC) + raw.data(1, infer(), end=True))
    server = await agent.connection()
    request = await server.request()
    await client.peer.send(raw.data(1, b"more"))
    assert (await client.until(raw.RST_STREAM, 1)).number == raw.STREAM_CLOSED
    await server.until(lambda: request.reset is not None)
    assert agent.outcomes == [Outcome.BAD_REQUEST]
    await is_served(agent, client, server)


async def test_more_than_the_window_resets_the_stream(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client = await agent.raw_caller()
    await client.peer.send(HELLO + raw.headers(1, GRPC) + raw.data(1, infer(), end=True))
    server = await agent.connection()
    running = await server.request()
    await client.peer.send(raw.headers(3, GRPC) + raw.data(3, infer(b"x" * 10_000)) + raw.data(3, b"x" * 10_000) * 6)
    assert (await client.until(raw.RST_STREAM, 3)).number == raw.FLOW_CONTROL_ERROR
    assert (agent.outcomes, agent.admission.queued_bytes) == ([Outcome.BAD_REQUEST], 0)
    await server.respond(running)
    await is_served(agent, client, server)
    assert len(server.requests) == 2


BREAKING = {
    "garbage": (b"\xff" * 40, raw.FRAME_SIZE_ERROR),
    "a large frame": (raw.frame(raw.DATA, 1, b"x" * 16_385), raw.FRAME_SIZE_ERROR),
    "DATA on stream 0": (raw.data(0, b"x"), raw.PROTOCOL_ERROR),
    "DATA on an idle stream": (raw.data(7, b"x"), raw.PROTOCOL_ERROR),
    "HEADERS on stream 0": (raw.headers(0, GRPC), raw.PROTOCOL_ERROR),
    "an even stream": (raw.headers(4, GRPC), raw.PROTOCOL_ERROR),
    "a frame inside a block": (raw.headers(3, GRPC, flags=0) + raw.ping(), raw.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (raw.continuation(1, GRPC), raw.PROTOCOL_ERROR),
    "a block that cannot be decoded": (raw.headers(3, b"\xff\xff\xff\xff\xff"), raw.COMPRESSION_ERROR),
    "PUSH_PROMISE": (raw.frame(raw.PUSH_PROMISE, 1, raw.long(2)), raw.PROTOCOL_ERROR),
    "a long PING": (raw.frame(raw.PING, 0, b"123456789"), raw.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (raw.frame(raw.SETTINGS, 1), raw.PROTOCOL_ERROR),
    "a bad setting": (raw.settings((raw.MAX_FRAME_SIZE, 1)), raw.PROTOCOL_ERROR),
    "no window increment": (raw.window_update(0, 0), raw.PROTOCOL_ERROR),
    "too large a window": (raw.window_update(0, 2**31 - 1), raw.FLOW_CONTROL_ERROR),
    "padding beyond the frame": (raw.frame(raw.DATA, 1, b"\xffx", raw.PADDED), raw.PROTOCOL_ERROR),
    "a short RST_STREAM": (raw.frame(raw.RST_STREAM, 1, b"x"), raw.FRAME_SIZE_ERROR),
    "a flood of CONTINUATION": (
        raw.headers(3, b"", flags=0) + raw.continuation(3, b"", last=False) * 20,
        raw.ENHANCE_YOUR_CALM,
    ),
    "a huge block": (
        raw.headers(3, b"x" * 16_000, flags=0) + raw.continuation(3, b"x" * 16_000, last=False) * 5,
        raw.ENHANCE_YOUR_CALM,
    ),
    "a flood of PING": (raw.ping() * 4000, raw.ENHANCE_YOUR_CALM),
    "a flood of SETTINGS": (raw.settings() * 4000, raw.ENHANCE_YOUR_CALM),
    "a flood of empty DATA": (raw.data(1) * 4000, raw.ENHANCE_YOUR_CALM),
    "a flood of PRIORITY": (raw.priority(9) * 4000, raw.ENHANCE_YOUR_CALM),
    "a flood of unknown frames": (raw.frame(200) * 4000, raw.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("name", BREAKING)
async def test_a_connection_that_breaks_a_rule_ends_with_all_its_calls(h2bed: Http2Opener, name: str) -> None:
    agent = await h2bed(limit="1")
    client = await agent.raw_caller()
    data, code = BREAKING[name]
    await client.peer.send(HELLO + raw.headers(1, GRPC) + raw.data(1, infer()))
    server = await agent.connection()
    request = await server.head()
    await client.peer.send(data)
    goaway = await client.until(raw.GOAWAY)
    assert goaway.number == code
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    assert agent.outcomes == [Outcome.CLIENT_GONE]
    assert agent.faults == [Outcome.BAD_REQUEST]
    await client.peer.ended()
    other = await agent.caller()
    half = await other.call()
    await server.respond(await server.request())
    assert (await other.answer(half)).grpc_status == 0


async def test_goaway_arrives_although_the_client_goes_on_sending(h2bed: Http2Opener) -> None:
    """The connection is not closed over bytes that nobody reads, for the reset would overtake GOAWAY."""
    agent = await h2bed()
    client = await agent.raw_caller()
    await client.peer.send(HELLO + raw.data(0, b"x"))
    await eventually(lambda: agent.faults)
    for _ in range(20):
        await client.peer.send(raw.data(1, b"x" * 16_000))
    assert (await client.until(raw.GOAWAY)).number == raw.PROTOCOL_ERROR
    assert await client.peer.rest() == b""
    agent.later(60)
    await eventually(lambda: not agent.server.connections)


async def test_rapid_resets_end_the_connection(h2bed: Http2Opener) -> None:
    """CVE-2023-44487."""
    agent = await h2bed(limit="1", queue="10")
    client, server = await agent.pair()
    running = await client.call(b"running")
    request = await server.request()
    flood = [
        raw.headers(number, GRPC) + raw.data(number, infer(), end=True) + raw.rst_stream(number)
        for number in range(running.id + 2, 4001, 2)
    ]
    await client.peer.send(b"".join(flood))
    await client.until(lambda: client.goaways)
    assert client.goaways[-1].code == raw.ENHANCE_YOUR_CALM
    assert agent.begun < 1200
    await server.until(lambda: request.reset is not None)
    await eventually(lambda: not agent.gate.active)
    assert set(agent.outcomes) == {Outcome.CLIENT_GONE}
    assert len(server.requests) == 2


async def test_honest_work_is_no_flood(h2bed: Http2Opener) -> None:
    """Calls of many small messages, each of which is answered with window updates and a ping."""
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call(end=False)
    request = await server.head()
    await server.send_head(request, GRPC_ANSWER)
    for number in range(4000):
        server.h2.send_data(request.id, b"token")
        if number % 50 == 49:
            await server.flush()
            await client.until(lambda: len(half.body) == 5 * (number + 1))  # noqa: B023 - waited for in this turn
            for _ in range(50):
                client.h2.increment_flow_control_window(5, half.id)
                client.h2.increment_flow_control_window(5)
            await client.settled()
    await client.send_data(half, b"", end=True)
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_OK, end=True)
    assert (await client.answer(half)).grpc_status == 0
    assert not client.goaways


async def test_more_streams_than_a_connection_may_have_are_refused(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", queue="5000")
    client = await agent.raw_caller()
    calls = [raw.headers(number, GRPC) + raw.data(number, infer(), end=True) for number in range(1, 2003, 2)]
    await client.peer.send(HELLO + b"".join(calls))
    assert (await client.until(raw.RST_STREAM)).number == raw.REFUSED_STREAM
    assert client.seen[-1].stream == 2001
    server = await agent.connection()
    assert (agent.admission.inflight, agent.admission.queued) == (1, 999)
    client.peer.reset()
    await eventually(lambda: not agent.gate.active)
    assert bytes((await server.request()).body) == infer()
    await server.settled()
    assert len(server.requests) == 1


# Time


@pytest.mark.parametrize("start", [PREFACE[:1], PREFACE[:10], PREFACE[:-1]])
async def test_a_preface_that_does_not_go_on(h2bed: Http2Opener, start: bytes) -> None:
    agent = await h2bed(head_timeout="100s")
    client = await agent.client()
    await client.send(start)
    await eventually(lambda: any(getattr(each, "head_since", 0) for each in agent.server.connections))
    agent.later(90)
    assert agent.server.connections
    agent.later(20)
    assert (await client.response()).status == 408
    assert await client.rest() == b""
    assert agent.faults == [Outcome.HEAD_TIMEOUT]


async def test_settings_that_do_not_come(h2bed: Http2Opener) -> None:
    agent = await h2bed(head_timeout="100s")
    client = await agent.raw_caller()
    await client.peer.send(PREFACE)
    await client.until(raw.SETTINGS)
    agent.later(90)
    assert len(agent.server.connections) == 1
    agent.later(20)
    assert (await client.until(raw.GOAWAY)).number == raw.NO_ERROR
    assert await client.peer.rest() == b""


async def test_an_idle_connection_is_told_and_closed(h2bed: Http2Opener) -> None:
    agent = await h2bed(idle_timeout="100s")
    client, _ = await agent.pair()
    agent.later(90)
    await client.settled()
    agent.later(20)
    await client.until(lambda: client.goaways)
    assert client.goaways == [(1, raw.NO_ERROR)]
    await client.peer.rest()


async def test_a_busy_connection_is_not_idle(h2bed: Http2Opener) -> None:
    agent = await h2bed(idle_timeout="100s", limit="1", deadline="1h")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    [waiting] = await agent.queue_calls(client, 1)
    for _ in range(3):
        agent.later(90)
    await server.respond(request)
    await server.respond(await server.request())
    for half in (running, waiting):
        assert (await client.answer(half)).grpc_status == 0


async def test_a_client_that_ends_its_side_is_gone(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    await client.call()
    request = await server.request()
    client.peer.half_close()
    await server.until(lambda: request.reset is not None)
    assert (request.reset, agent.outcomes) == (raw.CANCEL, [Outcome.CLIENT_GONE])
    await eventually(lambda: not agent.server.connections)


async def test_a_probe_is_counted_as_one(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(LIVE))
    await server.respond(await server.request())
    await client.answer(half)
    assert b'headgate_bypassed_total{kind="health"} 2.0' in (await agent.page(b"/metrics")).splitlines()
