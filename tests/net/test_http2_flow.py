"""Flow control: what a slow side makes the agent hold is bounded by windows, and slows nobody else down."""

import pytest

from agent.errors import Outcome
from agent.net.connection import HIGH_WATER, LARGE_READ
from agent.net.http2_downstream import BULK_WINDOW
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    STREAM_INFER,
    Half,
    Http2Client,
    Http2Peer,
    Http2Server,
    grpc_head,
    infer,
)
from tests.sockets import eventually
from tests.wire import frames_by_hand as raw

DEFAULT = 65_535
BIG = bytes(range(251)) * 16_000


async def fill(sender: Http2Peer, half: Half, receiver: Http2Peer, body: bytes) -> int:
    """Send until the agent gives no more window, however often it is asked. Returns how many bytes went."""
    sent = 0
    while more := await sender.stuff(half, body[sent:]):
        sent += more
        await sender.settled()
        await receiver.settled()
        await sender.settled()
    return sent


async def send_rest(server: Http2Server, request: Half, body: bytes) -> None:
    """The rest of an answer, and its end."""
    await server.send_data(request, body)
    await server.send_head(request, GRPC_OK, end=True)


async def serve_another(client: Http2Client, server: Http2Server) -> None:
    """A call on the same two connections goes through meanwhile."""
    was_eager, client.is_eager, server.is_eager = (client.is_eager, server.is_eager), True, True
    half = await client.call(b"another")
    request = await server.request()
    await server.respond(request, b"its answer")
    assert bytes((await client.answer(half)).body) == b"its answer"
    client.is_eager, server.is_eager = was_eager


async def test_a_client_that_takes_nothing_holds_up_its_stream_alone(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await client.grant(1_000_000)
    sent = await fill(server, request, client, BIG)
    assert len(half.body) == DEFAULT
    assert BULK_WINDOW <= sent <= DEFAULT + 2 * BULK_WINDOW
    await serve_another(client, server)
    client.is_eager = True
    await client.grant(len(BIG), half)
    await client.grant(len(BIG))
    agent.start(send_rest(server, request, BIG[sent:]))
    await client.answer(half)
    assert bytes(half.body) == BIG
    assert agent.outcomes == [Outcome.SERVED] * 2


async def test_a_predictor_that_takes_nothing_holds_up_its_stream_alone(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    await server.grant(1_000_000)
    half = await client.send(grpc_head(), infer()[:8], end=False)
    server.is_eager = False
    request = await server.head()
    sent = 8 + await fill(client, half, server, BIG)
    assert len(request.body) == DEFAULT
    assert DEFAULT < sent <= 2 * DEFAULT + 2 * BULK_WINDOW
    await serve_another(client, server)
    server.is_eager = True
    await server.grant(len(BIG), request)
    await server.grant(len(BIG))
    agent.start(client.send_data(half, BIG[sent - 8 :], end=True))
    await server.until(lambda: request.is_complete)
    assert bytes(request.body) == infer()[:8] + BIG
    await agent.sent()
    await server.respond(request)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED] * 2


async def test_the_window_of_the_clients_connection_is_kept(h2bed: Http2Opener) -> None:
    """Two streams share what the connection takes; when it takes more, both go on."""
    agent = await h2bed()
    client, server = await agent.pair(client_settings={raw.INITIAL_WINDOW_SIZE: 1_000_000})
    client.is_eager = False
    halves = [await client.call() for _ in range(2)]
    requests = [await server.request() for _ in halves]
    for request in requests:
        await server.send_head(request, GRPC_ANSWER)
        await server.stuff(request, BIG[:100_000])
        await server.send_head(request, GRPC_OK, end=True)
    await server.settled()
    await client.settled()
    assert sum(len(half.body) for half in halves) == DEFAULT
    client.is_eager = True
    await client.grant(DEFAULT)
    for half in halves:
        await client.answer(half)
        assert bytes(half.body) == BIG[:100_000]


async def test_the_window_of_the_predictors_connection_is_kept(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair({raw.INITIAL_WINDOW_SIZE: 1_000_000})
    server.is_eager = False
    halves = [await client.call(BIG[:60_000]) for _ in range(2)]
    requests = [await server.head() for _ in halves]
    await client.settled()
    await server.settled()
    assert sum(len(request.body) for request in requests) == DEFAULT
    server.is_eager = True
    await server.grant(DEFAULT)
    for half, request in zip(halves, requests, strict=True):
        await server.until(lambda: request.is_complete)  # noqa: B023 - waited for in this turn
        assert bytes(request.body) == infer(BIG[:60_000])
        await server.respond(request)
        await client.answer(half)


async def test_a_client_that_does_not_read_its_socket(h2bed: Http2Opener) -> None:
    """Its windows are wide open: the high-water mark bounds what waits, and the read and the window that cross it."""
    agent = await h2bed()
    peer, transport = await agent.narrow_client()
    client = Http2Client(peer, {raw.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await client.grant(2**30)
    half = await client.call()
    server = await agent.connection()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    sent = 0
    while more := await server.stuff(request, BIG[sent:]):
        sent += more
        await server.settled()
    assert HIGH_WATER < transport.get_write_buffer_size() <= HIGH_WATER + LARGE_READ + BULK_WINDOW
    assert sent < len(BIG)
    other = await agent.caller()
    await serve_another(other, server)
    agent.start(send_rest(server, request, BIG[sent:]))
    await client.answer(half)
    assert bytes(half.body) == BIG


async def test_a_predictor_that_does_not_read_its_socket(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair({raw.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await server.grant(2**30)
    half = await client.send(grpc_head(), infer()[:8], end=False)
    request = await server.head()
    body = BIG * 3
    sent = 0
    turns = 0
    while turns < 50:
        more = await client.stuff(half, body[sent:])
        sent += more
        turns = 0 if more else turns + 1
        await client.settled()
    [connection] = agent.pool.connections
    assert HIGH_WATER < connection.unsent <= HIGH_WATER + LARGE_READ + BULK_WINDOW
    assert sent < len(body)
    agent.start(client.send_data(half, body[sent:], end=True))
    await server.until(lambda: request.is_complete)
    await agent.sent()
    assert bytes(request.body) == infer()[:8] + body
    await server.respond(request)
    await client.answer(half)


@pytest.mark.parametrize("size", [1, 100, 20_000])
async def test_tiny_windows_and_windows_that_change(h2bed: Http2Opener, size: int) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    body = BIG[: size * 20]
    await server.configure(INITIAL_WINDOW_SIZE=size)
    await client.configure(INITIAL_WINDOW_SIZE=size)
    half = client.half(client.h2.get_next_available_stream_id())
    await client.send_head(half, grpc_head())
    agent.start(client.send_data(half, infer(body), end=True))
    request = await server.request()
    await agent.sent()
    assert bytes(request.body) == infer(body)
    assert all(len(frame.payload) <= size for frame in server.frames if frame.kind == raw.DATA)
    agent.start(server.respond(request, body))
    await client.answer(half)
    assert (bytes(half.body), half.grpc_status) == (body, 0)
    await agent.sent()


async def test_a_window_that_shrinks_below_nothing_and_opens_again(h2bed: Http2Opener) -> None:
    """RFC 9113 section 6.9.2: what has been sent counts, so the window may be negative."""
    agent = await h2bed()
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, BIG[:100_000])
    await client.until(lambda: len(half.body) == DEFAULT)
    await client.configure(INITIAL_WINDOW_SIZE=1000)
    await client.grant(1_000_000)
    await client.grant(DEFAULT - 1000, half)
    await client.settled()
    assert len(half.body) == DEFAULT
    await client.grant(10, half)
    await client.settled()
    assert len(half.body) == DEFAULT + 10
    await server.send_head(request, GRPC_OK, end=True)
    await client.configure(INITIAL_WINDOW_SIZE=100_000)
    await client.answer(half)
    assert bytes(half.body) == BIG[:100_000]


async def test_larger_frames_are_not_sent_before_they_are_allowed(h2bed: Http2Opener) -> None:
    """h2 breaks the connection at a frame above what it allows, so it need not be looked for here."""
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    await server.configure(MAX_FRAME_SIZE=1_000_000, INITIAL_WINDOW_SIZE=1_000_000)
    for size in (16_384, 100_000):
        half = await client.call(BIG[:size])
        request = await server.request()
        assert bytes(request.body) == infer(BIG[:size])
        await server.respond(request, BIG[:size])
        await client.answer(half)
    await server.configure(MAX_FRAME_SIZE=16_384)
    fields = grpc_head(b"/s/m", *[(b"x-%d" % n, b"v" * 500) for n in range(60)])
    half = await client.send(fields)
    request = await server.request()
    assert request.fields == fields
    await server.respond(request)
    await client.answer(half)


async def test_padding_is_given_back(h2bed: Http2Opener) -> None:
    """It counts against the windows of stream and connection (RFC 9113 section 6.1) and is not passed on."""
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer()[:8], end=False)
    request = await server.head()
    for _ in range(2000):
        await client.until(lambda: client.h2.local_flow_control_window(half.id) > 300)
        client.h2.send_data(half.id, b"ten bytes!", pad_length=255)
        await client.flush()
    client.h2.send_data(half.id, b"", end_stream=True, pad_length=10)
    await client.flush()
    await server.until(lambda: request.is_complete)
    assert bytes(request.body) == infer()[:8] + b"ten bytes!" * 2000
    await server.respond(request)
    await client.answer(half)


async def test_bodies_that_nobody_wants_cost_the_connection_no_window(h2bed: Http2Opener) -> None:
    """More bytes of refused calls than the connection's window holds, and the next call has all of it."""
    agent = await h2bed(limit="1", queue="0")
    client, server = await agent.pair()
    running, request = await agent.occupy_slot(client, server)
    sent = 0
    while sent < 17 * 1024 * 1024:
        half = client.half(client.h2.get_next_available_stream_id())
        await client.send_head(half, grpc_head())
        sent += await client.stuff(half, BIG[:60_000])
        await client.answer(half)
        assert half.grpc_status == 14
        await client.until(lambda: half.reset is not None)  # noqa: B023 - waited for in this turn
        assert half.reset == raw.NO_ERROR
        await client.until(lambda: client.h2.outbound_flow_control_window > 60_000)
    await server.respond(request)
    await client.answer(running)
    await serve_another(client, server)


# Streams on which nothing moves


async def reach(agent: Http2Bed, what: str) -> tuple[Http2Client, Half, Half]:
    """A call that waits for its client. Returns the client and both sides."""
    client, server = await agent.pair()
    if what == "upload":
        half = await client.send(grpc_head(), infer(b"half")[:12], end=False)
        request = await server.head()
        await server.until(lambda: request.body)
    elif what == "answer":
        client.is_eager = False
        half = await client.call()
        request = await server.request()
        await server.send_head(request, GRPC_ANSWER)
        await fill(server, request, client, BIG)
    else:
        client.is_eager = False
        half = await client.call()
        request = await server.request()
        await server.send_head(request, GRPC_ANSWER)
        await server.stuff(request, BIG[:100_000])
        await server.send_head(request, GRPC_OK, end=True)
        await eventually(lambda: agent.outcomes)
    if what != "end of an answer":
        agent.start(_read_on(server, request))
    return client, half, request


async def _read_on(server: Http2Peer, request: Half) -> None:
    await server.until(lambda: request.reset is not None)


@pytest.mark.parametrize("what", ["upload", "answer", "end of an answer"])
async def test_a_stream_that_waits_for_its_client_is_given_up(h2bed: Http2Opener, what: str) -> None:
    agent = await h2bed(idle_timeout="100s")
    client, half, request = await reach(agent, what)
    agent.later(1)
    agent.later(90)
    await client.settled()
    assert half.reset is None
    agent.later(20)
    await client.until(lambda: half.is_over)
    assert half.reset == raw.CANCEL
    await agent.sent()
    ended_before = what == "end of an answer"
    assert request.reset == (None if ended_before else raw.CANCEL)
    assert agent.outcomes == [Outcome.SERVED if ended_before else Outcome.CLIENT_GONE]


async def test_a_stream_that_moves_now_and_then_is_not_given_up(h2bed: Http2Opener) -> None:
    agent = await h2bed(idle_timeout="100s")
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer()[:8], end=False)
    request = await server.head()
    for number in range(4):
        agent.later(60)
        await client.send_data(half, b"!")
        await server.until(lambda: len(request.body) == 9 + number)  # noqa: B023 - waited for in this turn
    await client.send_data(half, b"", end=True)
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_ANSWER)
    agent.later(600)  # it is the predictor's turn
    await server.send_data(request, b"late")
    await server.send_head(request, GRPC_OK, end=True)
    await client.answer(half)
    assert (half.reset, bytes(half.body)) == (None, b"late")


async def test_a_stream_of_messages_may_pause(h2bed: Http2Opener) -> None:
    agent = await h2bed(idle_timeout="100s")
    client, server = await agent.pair()
    half = await client.send(grpc_head(STREAM_INFER), infer(b"1"), end=False)
    request = await server.head()
    for _ in range(3):
        agent.later(90)
    await client.send_data(half, infer(b"2"), end=True)
    await server.until(lambda: request.is_complete)
    await server.respond(request)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED]


async def test_a_client_that_reads_nothing_for_too_long_is_dropped(h2bed: Http2Opener) -> None:
    agent = await h2bed(idle_timeout="100s")
    peer, transport = await agent.narrow_client()
    client = Http2Client(peer, {raw.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await client.grant(2**30)
    await client.call()
    server = await agent.connection()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, BIG[:200_000])
    await eventually(transport.get_write_buffer_size)
    agent.later(1)
    agent.later(110)
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    assert (await peer.ended()).was_reset
    assert agent.outcomes == [Outcome.CLIENT_GONE]
