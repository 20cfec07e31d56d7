"""Clients that drip lose their slot; those that wait for somebody else, or are slow and steady, keep it."""

import asyncio

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, Bed, Opener, get, ok, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    HELLO,
    STREAM_INFER,
    Http2Client,
    Http2Server,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import Peer, eventually
from tests.wire import frames_by_hand as raw

CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = b"x" * 200_000
# A look counts for no more than twice its usual distance.
STEP_S = 0.4


def look(agent: Bed, seconds: float) -> None:
    """Let time pass as the sweeper sees it."""
    for _ in range(round(seconds / STEP_S)):
        agent.later(STEP_S)


async def is_serving(agent: Bed, predictor: Peer | None = None) -> None:
    """A request of somebody else gets the slot and its answer."""
    client = await agent.client()
    await client.send(post(b"other"))
    if predictor is None:
        predictor = await agent.predictor.accept()
    assert (await predictor.request()).body == b"other"
    await predictor.send(OK)
    assert (await client.response()).raw == OK


UPLOADS = {
    "length": (post(b"x" * 100_000)[:-100_000] + b"abc", b"x"),
    "chunked": (CHUNKED + b"3\r\nabc\r\n", b"1\r\nx\r\n"),
}


@pytest.mark.parametrize("kind", UPLOADS)
async def test_a_dripping_upload_loses_its_slot(bed: Opener, kind: str) -> None:
    begin, drip = UPLOADS[kind]
    agent = await bed(limit="1", deadline="1h")
    client = await agent.client()
    await client.send(begin)
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc")
    waiting = await agent.client()
    await waiting.send(post(b"waits"))
    await eventually(lambda: agent.admission.queued)
    for _ in range(14):
        look(agent, 2)
        await client.send(drip)
        await predictor.until(b"x")
    assert not agent.outcomes
    look(agent, 4)
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (408, [b"client_slow"])
    assert reply.values(b"Connection") == [b"close"]
    assert (await predictor.ended()).was_reset
    second = await agent.predictor.accept()
    assert (await second.request()).body == b"waits"
    await second.send(OK)
    assert (await waiting.response()).raw == OK
    assert agent.outcomes == [Outcome.CLIENT_SLOW, Outcome.SERVED]


async def test_a_dripping_reader_loses_its_slot(bed: Opener) -> None:
    agent = await bed(limit="1")
    client, transport = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + BIG)
    await eventually(transport.get_write_buffer_size)
    for _ in range(7):
        look(agent, 4)
        await client.exactly(10)
    assert not agent.outcomes
    look(agent, 8)
    assert agent.outcomes == [Outcome.CLIENT_SLOW]
    assert (await predictor.ended()).was_reset
    assert (await client.ended()).was_reset
    await is_serving(agent)


async def test_a_slow_but_steady_upload_is_served(bed: Opener) -> None:
    agent = await bed(limit="1")
    client = await agent.client()
    body = bytes(1_000_000)
    request = post(body)
    await client.send(request[: -len(body)])
    predictor = await agent.predictor.accept()
    await predictor.head()
    for at in range(0, len(body), 10_000):
        look(agent, 4)  # 2.5 KB/s
        await client.send(body[at : at + 10_000])
        await predictor.exactly(10_000)
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_slow_but_steady_reader_gets_all_of_its_answer(bed: Opener) -> None:
    agent = await bed(limit="1")
    client, transport = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    agent.start(predictor.send(ok(bytes(600_000))))
    await eventually(transport.get_write_buffer_size)
    looks = 0
    while not agent.outcomes:
        before = len(client.received)
        while len(client.received) < before + 4_000:  # 2 KB/s
            await client.more()
        look(agent, 2)
        looks += 1
    assert looks > 20
    assert (await client.response()).body == bytes(600_000)


async def test_what_the_kernel_still_holds_is_not_taken_yet(bed: Opener) -> None:
    """It takes a megabyte at once, and then nothing for as long as a slow client needs for that."""
    agent = await bed(limit="1")
    client = await agent.client(kernel_buffer=4096)
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    agent.start(predictor.send(ok(bytes(8_000_000))))
    [connection] = agent.server.connections
    await eventually(lambda: connection.unsent)
    look(agent, 2)
    for _ in range(20):
        before = len(client.received)
        while len(client.received) < before + 10_000:  # 2.5 KB/s
            await client.more()
        look(agent, 4)
    assert not agent.outcomes
    assert (await client.response()).body == bytes(8_000_000)


async def test_the_clients_wait_for_others_does_not_count(bed: Opener) -> None:
    """For its turn, for a predictor that does not read, for an answer, and for each of its pieces."""
    agent = await bed(limit="1", deadline="1h")
    first, predictor = await agent.occupy()
    client = await agent.client()
    body = bytes(8_000_000)
    agent.start(client.send(post(body)))
    await eventually(lambda: agent.admission.queued_bytes > 50_000)
    look(agent, 60)
    await predictor.send(OK)
    assert (await first.response()).raw == OK
    await predictor.head()
    [connection] = [one for one in agent.server.connections if one.exchange is not None]  # type: ignore[attr-defined]
    await eventually(lambda: connection._paused)
    look(agent, 60)
    await predictor.exactly(len(body))
    look(agent, 60)
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        look(agent, 60)
        await predictor.send(event)
        await client.until(event)
    predictor.half_close()
    assert await client.rest() == b""
    assert agent.outcomes == [Outcome.SERVED] * 2


async def test_a_tunnel_may_rest(bed: Opener) -> None:
    agent = await bed(limit="1")
    client = await agent.client()
    await client.send(get(b"/ws", b"Connection: upgrade", b"Upgrade: x"))
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    await client.head()
    look(agent, 120)
    for one, other in ((client, predictor), (predictor, client)):
        await one.send(b"hello")
        assert await other.exactly(5) == b"hello"


async def test_without_a_rate_a_drip_is_progress(bed: Opener) -> None:
    agent = await bed(limit="1", min_rate="0")
    client = await agent.client()
    await client.send(post(b"abcdefghij")[:-10])
    predictor = await agent.predictor.accept()
    await predictor.head()
    for byte in b"abcdefghij":
        agent.later(100)
        await client.send(bytes([byte]))
        assert await predictor.exactly(1) == bytes([byte])
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_what_has_no_slot_is_not_hurried(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"abc", target=b"/upload")[:-1])
    predictor = await agent.predictor.accept()
    await predictor.until(b"ab")
    look(agent, 120)
    await client.send(b"c")
    await predictor.exactly(1)
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_it_is_found_without_help(bed: Opener) -> None:
    """By the sweeper's own timer, in short seconds."""
    agent = await bed(slow_grace="200ms")
    client = await agent.client()
    await client.send(CHUNKED)
    predictor = await agent.predictor.accept()
    await predictor.head()
    drips = 0
    while not agent.outcomes:
        await client.send(b"1\r\nx\r\n")
        drips += 1
        await asyncio.sleep(0.01)
    assert (await client.response()).status == 408
    assert drips < 200


async def test_a_loop_that_stood_still_is_not_the_clients_fault(bed: Opener) -> None:
    agent = await bed(idle_timeout="1h")
    client = await agent.client()
    await client.send(post(b"abc")[:-1])
    predictor = await agent.predictor.accept()
    await predictor.until(b"ab")
    for _ in range(10):
        agent.later(100)
    assert not agent.outcomes


# HTTP/2


async def is_calling(client: Http2Client, server: Http2Server) -> None:
    """Another call on the same connection gets the slot and its answer."""
    half = await client.call(b"other")
    await server.respond(await server.request(), b"served")
    await client.answer(half)
    assert (half.grpc_status, bytes(half.body)) == (0, b"served")


@pytest.mark.parametrize("grpc", [True, False])
async def test_a_dripping_upload_on_a_stream_loses_its_slot(h2bed: Http2Opener, *, grpc: bool) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    half = await client.send(grpc_head() if grpc else plain_head(), infer(bytes(1000))[:20], end=False)
    request = await server.head()
    for _ in range(14):
        look(agent, 2)
        await client.send_data(half, b"x")
    await client.settled()
    assert not half.is_over
    look(agent, 4)
    await client.answer(half)
    assert half.reason == b"client_slow"
    assert (half.status, half.grpc_status) == ((200, 4) if grpc else (408, None))
    await server.until(lambda: request.reset is not None)
    await is_calling(client, server)
    assert agent.outcomes == [Outcome.CLIENT_SLOW, Outcome.SERVED]


async def test_a_slow_but_steady_stream_is_served(h2bed: Http2Opener) -> None:
    """Both ways, at 2.5 KB/s."""
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.send(grpc_head(), infer(bytes(200_000))[:20], end=False)
    request = await server.head()
    for number in range(20):
        look(agent, 4)
        await client.send_data(half, bytes(10_000), end=number == 19)
        await client.settled()
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_ANSWER)
    agent.start(server.send_data(request, bytes(300_000)))
    await client.until(lambda: len(half.body) == 65_535)
    for _ in range(24):
        look(agent, 4)
        await client.grant(10_000)
        await client.grant(10_000, half)
        await client.settled()
    await agent.sent()
    await server.send_head(request, GRPC_OK, end=True)
    await client.answer(half)
    assert half.grpc_status == 0


@pytest.mark.parametrize("window", [0, 100])
async def test_a_stream_without_window_loses_its_slot(h2bed: Http2Opener, window: int) -> None:
    """A client asks for much and lets nothing come."""
    agent = await h2bed(limit="1")
    client, server = await agent.pair(client_settings={raw.INITIAL_WINDOW_SIZE: window})
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, BIG)
    await client.until(lambda: half.fields)
    for _ in range(7):
        look(agent, 4)
        if window:
            await client.grant(1, half)
    await client.settled()
    assert not half.is_over
    look(agent, 8)
    await client.until(lambda: half.is_over)
    assert (half.reset, half.is_complete) == (raw.CANCEL, False)
    await server.until(lambda: request.reset is not None)
    assert agent.outcomes == [Outcome.CLIENT_SLOW]
    await client.configure(INITIAL_WINDOW_SIZE=65_535)
    await is_calling(client, server)


async def test_a_connection_that_is_not_read_loses_its_slots(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", deadline="1h")
    peer, transport = await agent.narrow_client()
    client = Http2Client(peer, {raw.INITIAL_WINDOW_SIZE: 2**31 - 1})
    await client.grant(2**30)
    await client.call()
    server = await agent.connection()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, BIG)
    await eventually(transport.get_write_buffer_size)
    await client.call(b"waits, and must not be sent in the other's place")
    await eventually(lambda: agent.admission.queued)
    for _ in range(7):
        look(agent, 4)
        await peer.exactly(1)
    assert not agent.outcomes
    look(agent, 8)
    assert agent.outcomes == [Outcome.CLIENT_GONE, Outcome.CLIENT_SLOW]
    await server.until(lambda: request.reset is not None)
    assert len(server.requests) == 1
    assert (await peer.ended()).was_reset


@pytest.mark.parametrize(
    "fields",
    [grpc_head(STREAM_INFER), grpc_head(b"/any.Service/Talk", (b"mm-model-id", b"m"))],
    ids=["inference", "unknown"],
)
async def test_a_stream_that_is_idle_by_design_stays(h2bed: Http2Opener, fields: list[tuple[bytes, bytes]]) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    half = await client.send(fields, infer(b"1"), end=False)
    request = await server.head()
    assert agent.admission.inflight == 1
    look(agent, 120)
    await client.send_data(half, infer(b"2"), end=True)
    await server.until(lambda: request.is_complete)
    await server.respond(request)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED]


async def test_an_answer_in_pieces_may_take_its_time(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    half = await client.call()
    request = await server.request()
    look(agent, 120)
    await server.send_head(request, GRPC_ANSWER)
    for number in range(3):
        look(agent, 60)
        await server.send_data(request, b"token")
        await client.until(lambda: len(half.body) == 5 * (number + 1))  # noqa: B023 - waited for in this turn
    await server.send_head(request, GRPC_OK, end=True)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED]


@pytest.mark.parametrize("start", ["half a frame", "a frame without its end"])
async def test_a_header_section_that_does_not_end_is_cut(h2bed: Http2Opener, start: str) -> None:
    agent = await h2bed(head_timeout="10s")
    client = await agent.raw_caller()
    head = raw.headers(1, raw.block(grpc_head()))
    begun = head[:-1] if start == "half a frame" else raw.headers(1, raw.block(grpc_head())[:10], flags=0)
    await client.peer.send(HELLO + begun)
    await client.until(raw.SETTINGS)
    await eventually(lambda: [one for one in agent.server.connections if one._machine.open_section])  # type: ignore[attr-defined]
    for _ in range(9):
        agent.later(1)
    assert agent.server.connections
    agent.later(3)
    assert (await client.peer.ended()).was_reset
