"""Answers that come too early, are too long, too short or make no sense."""

import asyncio
import socket
from typing import Any

import pytest

from agent.errors import Outcome
from agent.net.connection import HIGH_WATER
from tests.net.bed import OK, Opener, get, ok, post
from tests.sockets import Message, Peer, eventually

MIB = 1 << 20


def shrink(sock: Any) -> None:
    """Have the kernel hold next to nothing for this end."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4096)


# Answers at the wrong time


async def test_an_early_answer_is_delivered_and_its_connection_not_reused(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    body = b"x" * 1_000_000
    await client.send(post(body)[:-500_000])
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    reply = await client.response()
    assert (reply.status, reply.body, reply.values(b"Connection")) == (413, b"no", [b"close"])
    assert (await predictor.ended()).was_reset
    other = await agent.client()
    await other.send(post(b"y"))
    fresh = await agent.predictor.accept()
    assert (await fresh.request()).body == b"y"
    await fresh.send(OK)
    assert (await other.response()).raw == OK


async def test_an_early_answer_is_delivered_when_the_predictor_then_closes(bed: Opener) -> None:
    """Without reading the rest: its close resets the connection while the agent still writes to it."""
    agent = await bed()
    client = await agent.client()
    await client.send(post().replace(b"Length: 0", b"Length: %d" % (64 * MIB)))
    predictor = await agent.predictor.accept()
    await predictor.head()
    [connection] = agent.pool.connections
    await client.stuff(b"x" * 100_000, most=48 * MIB, until=lambda: connection.congested)
    await predictor.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    predictor.close()
    reply = await client.response()
    assert (reply.status, reply.body) == (413, b"no")


async def test_an_early_answer_to_a_request_that_is_all_sent_but_not_all_taken(bed: Opener) -> None:
    """What the predictor did not read would stand before the next request."""
    agent = await bed()
    predictor = await agent.warm()
    [connection] = agent.pool.connections
    shrink(predictor.sock)
    shrink(connection._transport.get_extra_info("socket"))
    client = await agent.client()
    await client.send(post(b"x" * (HIGH_WATER + 30_000)))
    await predictor.head()
    await eventually(lambda: connection.congested and not connection.exchange.lacks_body)
    await predictor.send(OK)
    assert (await client.response()).raw == OK
    await eventually(lambda: not agent.pool.connections)


@pytest.mark.parametrize("surplus", [OK, b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_surplus_bytes_never_reach_the_next_request(bed: Opener, surplus: bytes, when: str) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"1"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    if when == "at once":
        await predictor.send(ok(b"first") + surplus)
    else:
        await predictor.send(ok(b"first"))
        await eventually(lambda: agent.pool.idle)
        await predictor.send(surplus)
    assert (await client.response()).raw == ok(b"first")
    assert (await predictor.ended()).was_reset
    await client.send(post(b"2"))
    fresh = await agent.predictor.accept()
    assert (await fresh.request()).body == b"2"
    await fresh.send(ok(b"second"))
    assert (await client.response()).raw == ok(b"second")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_where_none_may_be_is_surplus(bed: Opener, status: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status)
    assert (await client.response()).body == b""
    assert (await predictor.ended()).was_reset


# Answers that are none


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 99 Low\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_what_is_no_answer_is_told_as_502(bed: Opener, garbage: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x") + get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(garbage)
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (502, [b"upstream_invalid"])
    assert (await predictor.ended()).was_reset
    fresh = await agent.predictor.accept()
    await fresh.request()
    await fresh.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize(
    "part", [b"", b"HTT", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", b"HTTP/1.1 103 Hints\r\n\r\n"]
)
@pytest.mark.parametrize("end", ["half_close", "reset"])
async def test_half_a_head_is_no_answer(bed: Opener, part: bytes, end: str) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(part)
    if part:
        [connection] = agent.pool.connections
        await eventually(lambda: connection._answered)
    getattr(predictor, end)()
    reply = await client.response()
    if reply.status == 103:
        reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (502, [b"upstream_closed"])


@pytest.mark.parametrize("piece", [b"zz\r\n", b"-1\r\n", b"3\r\nabcd\r\n", b"1\nx\r\n", b"f" * 16 + b"\r\n"])
async def test_a_broken_chunk_cuts_the_answer(bed: Opener, piece: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" + piece + b"0\r\n\r\n")
    end = await client.ended()
    assert end.was_reset
    assert b"0\r\n\r\n" not in end.data
    assert agent.outcomes == [Outcome.UPSTREAM_INVALID]


async def test_a_predictor_that_speaks_first_does_not_answer_a_request(bed: Opener) -> None:
    """A banner: at best it is invalid; it must not stay to be somebody's answer."""
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.send(b"220 ready\r\n\r\n")
    assert (await client.response()).status == 502
    assert (await predictor.ended()).was_reset


async def test_chaos_is_accounted_for(bed: Opener) -> None:
    """A predictor that fails in turn in every way under load: each request ends once, none is delivered twice."""
    agent = await bed(limit="3", queue="100")
    seen: list[bytes] = []

    async def fail_in_turn(request: Message, peer: Peer) -> None:
        seen.append(request.body)
        turn = int(request.body) % 7
        if turn == 0:
            peer.reset()
            raise ConnectionResetError
        if turn == 1:
            peer.close()
            raise ConnectionResetError
        answers = {2: b"garbage\r\n\r\n", 3: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 4: OK + b"surplus"}
        await peer.send(answers.get(turn, OK))
        if turn in {2, 3}:
            peer.half_close()

    async def ask(number: int) -> str:
        client = await agent.client()
        await client.send(post(b"%d" % number))
        try:
            return str((await client.response()).status)
        except Exception:
            return "cut"

    async with agent.predictor.serve(fail_in_turn):
        results = await asyncio.gather(*[ask(number) for number in range(70)])
    expected = {0: "502", 1: "502", 2: "502", 3: "cut", 4: "200", 5: "200", 6: "200"}
    assert results == [expected[number % 7] for number in range(70)]
    assert sorted(seen) == sorted(b"%d" % number for number in range(70))
