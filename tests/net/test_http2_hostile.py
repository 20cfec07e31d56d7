"""Clients that break rules over HTTP/2: what they are told, and that nothing of it reaches the predictor."""

import json

import pytest

from agent.errors import Outcome
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    HELLO,
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
