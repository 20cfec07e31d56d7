"""Bodies in motion: piece by piece without buffering, big ones byte-exact, and nobody reads what nobody takes."""

import pytest

from tests.net.bed import OK, Opener, ok, post
from tests.sockets import Message, Peer, eventually

MIB = 1 << 20
# Prime, so that no two pieces of a stream begin alike.
PATTERN = bytes(range(251)) * 1019
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b""])
async def test_server_sent_events_arrive_one_by_one(bed: Opener, framing: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\n")
    await client.head()
    for number in range(5):
        event = b"data: %d\n\n" % number
        await predictor.send(b"%x\r\n%b\r\n" % (len(event), event) if framing else event)
        assert event in await client.until(event)
    await predictor.send(b"0\r\n\r\n" if framing else b"")
    predictor.half_close()
    await (client.until(b"0\r\n\r\n") if framing else client.rest())


async def test_an_upload_arrives_piece_by_piece(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED)
    predictor = await agent.predictor.accept()
    await predictor.head()
    for number in range(5):
        piece = b"2\r\n%02d\r\n" % number
        await client.send(piece)
        assert await predictor.exactly(len(piece)) == piece
    await client.send(b"0\r\n\r\n")
    await predictor.until(b"0\r\n\r\n")
    await predictor.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_big_bodies_go_both_ways_byte_for_byte(bed: Opener, *, is_chunked: bool) -> None:
    agent = await bed()
    body = pattern(8 * MIB)

    async def echo(request: Message, peer: Peer) -> None:
        coded = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(request.body, 70_000)
        await peer.send(coded if is_chunked else ok(request.body))

    async with agent.predictor.serve(echo):
        client = await agent.client()
        await client.send(CHUNKED + chunks(body, 100_000) if is_chunked else post(body))
        assert (await client.response()).body == body
    assert agent.predictor.requests[0].body == body


async def test_a_client_that_does_not_read_stops_the_predictor(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client(kernel_buffer=16 * 1024)
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\n\r\n")
    [connection] = agent.server.connections
    sent = await predictor.stuff(PATTERN, most=48 * MIB, until=lambda: connection.congested)
    assert 0 < connection.unsent < MIB
    agent.start(predictor.send(pattern(sent + MIB)[sent:]), then=predictor.half_close)
    assert (await client.response()).body == pattern(sent + MIB)


async def test_a_predictor_that_does_not_read_stops_the_client(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    size = 64 * MIB
    await client.send(post().replace(b"Length: 0", b"Length: %d" % size))
    predictor = await agent.predictor.accept()
    await predictor.head()
    [connection] = agent.pool.connections
    sent = await client.stuff(PATTERN, most=48 * MIB, until=lambda: connection.congested)
    assert 0 < connection.unsent < MIB
    assert await predictor.exactly(sent) == pattern(sent)
    await client.send(pattern(sent + MIB)[sent:])
    client.close()
    end = await predictor.ended()
    assert end.was_reset


async def test_a_slow_reader_does_not_hold_up_others(bed: Opener) -> None:
    agent = await bed()
    slow = await agent.client(kernel_buffer=16 * 1024)
    await slow.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\n\r\n")
    [connection] = agent.server.connections
    await predictor.stuff(PATTERN, most=48 * MIB, until=lambda: connection.congested)
    other = await agent.client()
    await other.send(post(b"y"))
    second = await agent.predictor.accept()
    await second.request()
    await second.send(OK)
    assert (await other.response()).raw == OK


async def test_an_answer_may_begin_before_the_upload_ends(bed: Opener) -> None:
    """Both bodies under way at once; the client is told that this is its last exchange on the connection."""
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"1\r\na\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"a\r\n")
    await predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
    assert b"Connection: close" in await client.head()
    await client.until(b"A\r\n")
    await client.send(b"1\r\nb\r\n0\r\n\r\n")
    await predictor.until(b"b\r\n0\r\n\r\n")
    await predictor.send(b"1\r\nB\r\n0\r\n\r\n")
    assert await client.rest() == b"1\r\nB\r\n0\r\n\r\n"
    await eventually(lambda: agent.pool.idle)
