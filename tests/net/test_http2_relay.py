"""What goes in over HTTP/2 comes out: heads, bodies, trailers and their order, over both protocols on one port."""

import asyncio
import socket

import pytest
from hpack import NeverIndexedHeaderTuple

from agent.errors import Outcome
from tests.net.bed import OK, get, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    HELLO,
    LIVE,
    PREFACE,
    STREAM_INFER,
    Field,
    Http2Client,
    Http2Server,
    framed,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import FakePredictor, eventually
from tests.wire import frames_by_hand as raw

ODD: list[Field] = [
    (b"x-b", b"2"),
    (b"x-a", b"1"),
    (b"x-b", b"1"),
    (b"x-empty", b""),
    (b"trace-bin", b"AAEC,Aw"),
    (b"cookie", b"a=b"),
    (b"cookie", b"c=d"),
    (b"x-utf", "é".encode()),
    (b"user-agent", b"grpc-python/1.81 (x; y)"),
    (b"grpc-encoding", b"identity"),
    (b"x-long", b"v" * 2000),
]
SECRET = NeverIndexedHeaderTuple(b"authorization", b"Bearer secret")


def never_indexed(fields: list[Field]) -> list[Field]:
    return [each for each in fields if isinstance(each, NeverIndexedHeaderTuple)]


@pytest.mark.parametrize("path", [b"/inference.GRPCInferenceService/ModelInfer", LIVE, b"/any.Service/Method"])
async def test_a_call_is_relayed_as_it_is(h2bed: Http2Opener, path: bytes) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    for _ in range(3):  # heads that repeat take a shorter way
        half = await client.send(grpc_head(path, *ODD, SECRET), infer(b"body"))
        request = await server.request()
        assert request.fields == [*grpc_head(path), *ODD, SECRET]
        assert never_indexed(request.fields) == [SECRET]
        assert (bytes(request.body), request.trailers, request.reset) == (infer(b"body"), None, None)
        await server.respond(
            request,
            b"answer",
            fields=[*GRPC_ANSWER, *ODD, SECRET],
            trailers=[*GRPC_OK, *ODD, (b"grpc-message", b"%41")],
        )
        await client.answer(half)
        assert half.fields == [*GRPC_ANSWER, *ODD, SECRET]
        assert never_indexed(half.fields) == [SECRET]
        assert bytes(half.body) == b"answer"
        assert half.trailers == [*GRPC_OK, *ODD, (b"grpc-message", b"%41")]
    assert agent.outcomes == [Outcome.SERVED] * 3


async def test_request_trailers_are_relayed(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    trailers = [(b"x-sum", b"1"), (b"x-sum", b"2"), (b"sum-bin", b"AA")]
    half = await client.send(grpc_head(), infer(b"x"), trailers=trailers)
    request = await server.request()
    assert (bytes(request.body), request.trailers) == (infer(b"x"), trailers)
    await server.respond(request, b"y")
    await client.answer(half)


async def test_a_request_of_trailers_alone(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(), trailers=[(b"x-sum", b"1")])
    request = await server.request()
    assert (request.body, request.trailers) == (b"", [(b"x-sum", b"1")])
    await server.respond(request)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED]


@pytest.mark.parametrize("path", [b"/inference.GRPCInferenceService/ModelInfer", LIVE])
async def test_an_answer_of_trailers_alone(h2bed: Http2Opener, path: bytes) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call(path=path)
    fields = [*GRPC_ANSWER, (b"grpc-status", b"5"), (b"grpc-message", b"no such model")]
    await server.respond(await server.request(), fields=fields, trailers=None)
    await client.answer(half)
    assert (half.fields, half.body, half.trailers, half.reset) == (fields, b"", None, None)
    assert (agent.outcomes, agent.codes) == ([Outcome.SERVED], [5])


async def test_an_answer_may_end_with_an_empty_frame(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(plain_head(), b"x", end=False)
    request = await server.head()
    await server.until(lambda: request.body)
    await client.send_data(half, b"", end=True)
    await server.until(lambda: request.is_complete)
    await server.send_head(request, [(b":status", b"200")])
    await server.send_data(request, b"part")
    await client.until(lambda: half.body)
    await server.send_data(request, b"", end=True)
    await client.answer(half)
    assert (half.body, half.is_complete, half.reset) == (b"part", True, None)


async def test_interim_answers_are_relayed(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(plain_head(b"POST", b"/v2/models/m/infer", (b"expect", b"100-continue")), end=False)
    request = await server.head()
    assert request.value(b"expect") == b"100-continue"
    hints = [(b":status", b"103"), (b"link", b"</a>"), (b"link", b"</b>")]
    await server.send_head(request, [(b":status", b"100")])
    await client.until(lambda: half.interim)
    await server.send_head(request, hints)
    await client.until(lambda: len(half.interim) > 1)
    await client.send_data(half, b"body", end=True)
    await server.until(lambda: request.is_complete)
    await server.respond(request, b"ok", fields=[(b":status", b"200")], trailers=None)
    await client.answer(half)
    assert half.interim == [[(b":status", b"100")], hints]
    assert (half.status, half.body) == (200, b"ok")


@pytest.mark.parametrize(
    ("method", "status", "length"), [(b"HEAD", b"200", b"1000"), (b"GET", b"204", None), (b"GET", b"304", b"1000")]
)
async def test_answers_without_a_body(h2bed: Http2Opener, method: bytes, status: bytes, length: bytes | None) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(plain_head(method, b"/v2/models/m"))
    fields = [(b":status", status), *([(b"content-length", length)] if length else [])]
    await server.respond(await server.request(), fields=fields, trailers=None)
    await client.answer(half)
    assert (half.fields, half.body, half.reset) == (fields, b"", None)


async def test_streams_of_a_connection_do_not_mix_or_wait(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="none")
    client, server = await agent.pair()
    halves = [await client.send(grpc_head(), infer(b"%d begun" % n), end=False) for n in range(20)]
    for number, half in enumerate(halves):
        await client.send_data(half, b" and ended %d" % number, end=number % 2 == 0)
    requests = [await server.head() for _ in halves]
    await server.until(lambda: all(each.is_complete for each in requests[::2]))
    for number in reversed(range(0, 20, 2)):
        await server.respond(requests[number], b"answer %d" % number)
    for number in range(0, 20, 2):
        await client.answer(halves[number])
        assert bytes(requests[number].body) == infer(b"%d begun" % number) + b" and ended %d" % number
        assert bytes(halves[number].body) == b"answer %d" % number
    for number in range(1, 20, 2):
        await client.send_data(halves[number], b"!", end=True)
        await server.until(lambda: requests[number].is_complete)  # noqa: B023 - waited for in this turn
        assert bytes(requests[number].body) == infer(b"%d begun" % number) + b" and ended %d!" % number
        await server.respond(requests[number], b"answer %d" % number)
        assert bytes((await client.answer(halves[number])).body) == b"answer %d" % number


async def test_both_directions_of_a_call_are_open_at_once(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(STREAM_INFER), end=False)
    await client.send_data(half, infer(b"0"))
    request = await server.head()
    await server.send_head(request, GRPC_ANSWER)
    sent = received = b""
    for number in range(5):
        sent += infer(b"%d" % number)
        await server.until(lambda: bytes(request.body) == sent)  # noqa: B023 - waited for in this turn
        received += framed(b"answer %d" % number)
        await server.send_data(request, framed(b"answer %d" % number))
        await client.until(lambda: bytes(half.body) == received)  # noqa: B023 - waited for in this turn
        await client.send_data(half, infer(b"%d" % (number + 1)))
    await client.send_data(half, b"", end=True)
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_OK, end=True)
    await client.answer(half)
    assert agent.outcomes == [Outcome.SERVED]


@pytest.mark.parametrize("size", [100_000, 3_000_000])
async def test_big_bodies_go_both_ways(h2bed: Http2Opener, size: int) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    body = infer(bytes(range(251)) * (size // 251))
    half = client.half(client.h2.get_next_available_stream_id())
    await client.send_head(half, grpc_head())

    async def upload() -> None:
        await client.send_data(half, body, end=True)
        await client.answer(half)

    agent.start(upload())
    request = await server.request()
    assert bytes(request.body) == body
    await server.respond(request, body)
    await eventually(lambda: half.is_over)
    assert bytes(half.body) == body
    assert agent.outcomes == [Outcome.SERVED]


# One port, two protocols


async def one_of_each(client: Http2Client, server: Http2Server) -> None:
    half = await client.call(b"x")
    request = await server.request()
    await server.respond(request, b"y")
    assert bytes((await client.answer(half)).body) == b"y"


@pytest.mark.parametrize("scheme", ["auto", "http,h2c"])
async def test_both_protocols_on_one_port(h2bed: Http2Opener, scheme: str) -> None:
    other = FakePredictor().listen() if scheme == "http,h2c" else None
    agent = await h2bed(scheme="auto" if other is None else "h2c", other=other)
    client, server = await agent.pair()
    for _ in range(2):
        old = await agent.client()
        await old.send(post(b"x"))
        peer = await (other or agent.predictor).accept()
        assert (await peer.request()).raw == post(b"x")
        await peer.send(OK + b"")
        assert (await old.response()).raw == OK
        old.close()
        peer.close()
        await one_of_each(client, server)
    assert agent.outcomes == [Outcome.SERVED] * 4
    assert agent.server.usages["http"].of("m").name == agent.server.usages["grpc"].of("m").name == "m"


async def test_a_route_without_http2_says_so(h2bed: Http2Opener) -> None:
    agent = await h2bed(scheme="http")
    client = await agent.raw_caller()
    await client.peer.send(HELLO)
    assert (await client.next()).kind == raw.SETTINGS
    goaway = await client.next()
    assert (goaway.kind, goaway.payload) == (raw.GOAWAY, raw.long(0) + raw.long(13))
    await client.peer.ended()
    assert agent.predictor.is_left_alone()


async def test_a_route_without_http1_says_so(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client = await agent.client()
    await client.send(get())
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (505, [b"version_unsupported"])
    assert reply.values(b"Connection") == [b"close"]
    assert await client.rest() == b""
    assert agent.faults == [Outcome.VERSION_UNSUPPORTED]
    assert agent.predictor.is_left_alone()


async def test_a_preface_byte_by_byte(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client = await agent.raw_caller()
    request = raw.headers(1, raw.block(grpc_head(LIVE)), end=True)
    for byte in HELLO + request:
        await client.peer.send(bytes([byte]))
        await asyncio.sleep(0)
    server = await agent.connection()
    await server.respond(await server.request())
    assert (await client.until(raw.HEADERS)).stream == 1
    assert agent.outcomes == [Outcome.SERVED]


async def test_a_preface_with_a_request_behind_it(h2bed: Http2Opener) -> None:
    """The first request comes with the preface, before any SETTINGS of the agent's."""
    agent = await h2bed()
    client = await agent.raw_caller()
    body = infer(b"x" * 60_000)
    pieces = [raw.data(1, body[at : at + 16_384]) for at in range(0, len(body), 16_384)]
    await client.peer.send(HELLO + raw.headers(1, raw.block(grpc_head())) + b"".join(pieces) + raw.data(1, end=True))
    server = await agent.connection()
    request = await server.request()
    assert bytes(request.body) == body
    await server.respond(request)
    await client.until(raw.HEADERS)
    assert agent.outcomes == [Outcome.SERVED]


async def test_small_frames_are_not_held_back(h2bed: Http2Opener) -> None:
    """Nagle's algorithm would keep the second of two tokens for as long as the other side delays its ACK."""
    agent = await h2bed()
    await agent.pair()
    for connection in (*agent.server.connections, *agent.pool.connections):
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_large_heads_are_split_into_frames(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    fields = grpc_head(LIVE, *[(b"x-%d" % n, b"%d" % n * 200) for n in range(60)])
    half = await client.send(fields)
    request = await server.request()
    assert request.fields == fields
    assert [frame.kind for frame in server.frames if frame.stream == request.id] == [raw.HEADERS, raw.CONTINUATION]
    answer = [*GRPC_ANSWER, *fields[6:], *GRPC_OK]
    await server.respond(request, fields=answer, trailers=None)
    await client.answer(half)
    assert half.fields == answer


@pytest.mark.parametrize("sent", ["alone", "with SETTINGS"])
async def test_pings_are_answered(h2bed: Http2Opener, sent: str) -> None:
    agent = await h2bed()
    client = await agent.raw_caller()
    await client.peer.send(PREFACE + raw.settings() + (raw.ping(b"12345678") if sent == "with SETTINGS" else b""))
    if sent == "alone":
        await client.until(raw.SETTINGS)
        await client.peer.send(raw.ping(b"12345678"))
    pong = await client.until(raw.PING)
    assert (pong.flags, pong.payload) == (raw.ACK, b"12345678")
