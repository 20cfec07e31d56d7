"""Every time-out over HTTP/1.1, HTTP/2 and gRPC: when it is due, what the client is told, and that the slot comes back.

Heads and idle connections are in test_limits, slow clients in test_slow_clients, the queue in test_queue.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, Bed, Opener, post
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    STREAM_INFER,
    Half,
    Http2Client,
    Http2Server,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import FakePredictor, Peer, eventually
from tests.wire import frames_by_hand as raw

PLAIN_OK = [(b":status", b"200")]
# A request that the predictor has, without its last byte or whole, and an answer that has begun.
STAGES = ["uploading", "unanswered", "answering"]


class Due(NamedTuple):
    """A time-out of 100 s, and the stages at which it is due after that."""

    setting: str
    stages: tuple[str, ...]


TIMEOUTS = {
    "whole exchange": Due("timeout", ("uploading", "unanswered", "answering")),
    "response": Due("response_timeout", ("unanswered",)),
    "none": Due("", ()),
}
CASES = [(name, stage) for name in TIMEOUTS for stage in STAGES]


def settings_of(name: str) -> dict[str, str]:
    setting = TIMEOUTS[name].setting
    return {"limit": "1", "idle_timeout": "1h", **({setting: "100s"} if setting else {})}


async def reach_http1(agent: Bed, stage: str) -> tuple[Peer, Peer]:
    """A client and the predictor at a stage."""
    client = await agent.client()
    request = post(b"body!")
    await client.send(request[:-1] if stage == "uploading" else request)
    predictor = await agent.predictor.accept()
    await predictor.until(b"body")
    if stage == "answering":
        await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await client.until(b"half")
    return client, predictor


@pytest.mark.parametrize(("name", "stage"), CASES)
async def test_over_http1(bed: Opener, name: str, stage: str) -> None:
    agent = await bed(**settings_of(name))
    client, predictor = await reach_http1(agent, stage)
    agent.later(95)
    assert not agent.outcomes
    agent.later(15)
    if stage not in TIMEOUTS[name].stages:
        assert not agent.outcomes
        return
    if stage == "answering":
        assert (await client.ended()).was_reset
    else:
        reply = await client.response()
        assert (reply.status, reply.values(b"x-headgate-reason")) == (504, [b"timeout"])
    assert (await predictor.ended()).was_reset
    assert (agent.outcomes, agent.admission.inflight) == ([Outcome.TIMEOUT], 0)


async def reach_http2(agent: Http2Bed, stage: str, *, grpc: bool) -> tuple[Http2Client, Http2Server, Half, Half]:
    """The same on a stream."""
    client, server = await agent.pair()
    half = await client.send(grpc_head() if grpc else plain_head(), infer(b"body")[:-1], end=False)
    request = await server.head()
    if stage != "uploading":
        await client.send_data(half, infer(b"body")[-1:], end=True)
        await server.until(lambda: request.is_complete)
    if stage == "answering":
        await server.send_head(request, GRPC_ANSWER if grpc else PLAIN_OK)
        await server.send_data(request, b"half")
        await client.until(lambda: half.body)
    await client.settled()
    return client, server, half, request


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize(("name", "stage"), CASES)
async def test_over_http2(h2bed: Http2Opener, name: str, stage: str, *, grpc: bool) -> None:
    agent = await h2bed(**settings_of(name))
    client, server, half, request = await reach_http2(agent, stage, grpc=grpc)
    agent.later(95)
    assert not agent.outcomes
    agent.later(15)
    if stage not in TIMEOUTS[name].stages:
        assert not agent.outcomes
        return
    await client.answer(half)
    if grpc:
        assert (half.status, half.grpc_status, half.reason) == (200, 4, b"timeout")
    elif stage == "answering":
        assert (half.status, half.is_complete, half.reset) == (200, False, raw.INTERNAL_ERROR)
    else:
        assert (half.status, half.reason) == (504, b"timeout")
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    assert (agent.outcomes, agent.admission.inflight) == ([Outcome.TIMEOUT], 0)
    other = await client.call()
    await server.respond(await server.request())
    assert (await client.answer(other)).grpc_status == 0


ENDS: dict[str, Callable[[Peer], Awaitable[None]]] = {
    "last byte": lambda client: client.send(b"0\r\n\r\n"),
    "trailers": lambda client: client.send(b"0\r\nX-Sum: 1\r\n\r\n"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_the_response_is_due_from_the_end_of_the_upload(bed: Opener, end: str) -> None:
    agent = await bed(response_timeout="100s", idle_timeout="1h")
    client = await agent.client()
    await client.send(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"x\r\n")
    agent.later(50)
    await ENDS[end](client)
    await predictor.until(b"\r\n\r\n")
    [exchange] = agent.pool.exchanges()
    assert exchange.sent > exchange.dispatched
    agent.later(60)
    assert (await client.response()).status == 504


async def test_what_the_predictor_does_not_even_take_is_not_unanswered(h2bed: Http2Opener) -> None:
    agent = await h2bed(response_timeout="100s", idle_timeout="1h")
    client, server = await agent.pair({raw.INITIAL_WINDOW_SIZE: 10})
    server.is_eager = False
    half = await client.call(b"body")
    request = await server.head()
    agent.later(200)
    await client.settled()
    assert not half.is_over
    await server.grant(100, request)
    await server.until(lambda: request.is_complete)
    agent.later(110)
    assert (await client.answer(half)).grpc_status == 4


async def test_a_stream_of_messages_is_asked_for_an_answer_when_it_has_ended(h2bed: Http2Opener) -> None:
    agent = await h2bed(response_timeout="100s", idle_timeout="1h")
    client, server = await agent.pair()
    half = await client.send(grpc_head(STREAM_INFER), infer(b"1"), end=False)
    request = await server.head()
    agent.later(200)
    await client.settled()
    assert not half.is_over
    await client.send_data(half, infer(b"2"), end=True)
    await server.until(lambda: request.is_complete)
    agent.later(110)
    assert (await client.answer(half)).grpc_status == 4


async def test_a_probe_that_is_not_answered_is_told_too(bed: Opener) -> None:
    agent = await bed(response_timeout="100ms")
    client = await agent.client()
    await client.send(b"GET /v2/health/ready HTTP/1.1\r\nHost: m\r\n\r\n")
    assert (await client.response()).status == 504


async def test_a_predictor_that_is_not_there_is_no_late_answer(bed: Opener) -> None:
    agent = await bed(FakePredictor(), response_timeout="10s", deadline="1h")
    client = await agent.client()
    await client.send(post(b"x"))
    await eventually(lambda: agent.pool.waiting)
    agent.later(60)
    agent.predictor.listen()
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK
