"""Predictors that hand calls back, refuse streams, break rules or end connections over HTTP/2."""

import pytest

from agent.errors import Outcome
from agent.net import http1_upstream
from tests.net.bed import OK, get, post
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    LIVE,
    FrameReader,
    Http2Client,
    Http2Server,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import FakePredictor, eventually
from tests.wire import frames_by_hand as raw

CODES = [code for code in range(14) if code != raw.REFUSED_STREAM]


async def check_alive(agent: Http2Bed, client: Http2Client, server: Http2Server) -> None:
    """The same two connections still serve."""
    half = await client.call(b"after")
    request = await server.request()
    assert bytes(request.body) == infer(b"after")
    await server.respond(request, b"it goes on")
    assert (await client.answer(half)).grpc_status == 0
    assert agent.pool.counts() == (0, 1)


# RST_STREAM


@pytest.mark.parametrize("grpc", [True, False])
async def test_a_call_that_the_predictor_resets(h2bed: Http2Opener, *, grpc: bool) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    for code in CODES:
        half = await client.send(grpc_head() if grpc else plain_head(), infer())
        request = await server.request()
        await server.peer.send(raw.rst_stream(request.id, code))
        await client.answer(half)
        assert half.reason == b"upstream_reset", code
        # INTERNAL: nothing says that another predictor would fare better, and clients retry UNAVAILABLE.
        assert half.grpc_status == 13 if grpc else half.status == 502
        assert half.value(b"grpc-retry-pushback-ms") is None
    assert agent.outcomes == [Outcome.UPSTREAM_RESET] * len(CODES)
    await server.settled()
    assert len(server.requests) == 1 + len(CODES), "each may have run"


@pytest.mark.parametrize("body", [b"", b"part"])
@pytest.mark.parametrize("grpc", [True, False])
async def test_an_answer_that_the_predictor_resets_never_ends_cleanly(
    h2bed: Http2Opener, body: bytes, *, grpc: bool
) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    for code in [*CODES, raw.REFUSED_STREAM]:
        half = await client.send(grpc_head() if grpc else plain_head(), infer())
        request = await server.request()
        await server.send_head(request, GRPC_ANSWER)
        if body:
            await server.send_data(request, body)
            await client.until(lambda: half.body)  # noqa: B023 - waited for in this turn
        await server.peer.send(raw.rst_stream(request.id, code))
        await client.answer(half)
        if grpc:
            expected = 14 if code == raw.REFUSED_STREAM else 13
            assert (half.status, half.grpc_status, half.reset) == (200, expected, None), code
            assert half.trailers is not None
        else:
            assert (half.is_complete, half.reset) == (False, raw.INTERNAL_ERROR), code
        assert bytes(half.body) == body
    assert agent.outcomes == [Outcome.UPSTREAM_RESET] * len(CODES) + [Outcome.UPSTREAM_CLOSED]


async def test_a_reset_after_a_whole_answer_is_its_end(h2bed: Http2Opener) -> None:
    """RFC 9113 section 8.1: the predictor has answered and wants no more of the request."""
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer()[:8], end=False)
    request = await server.head()
    await server.respond(request, b"early")
    await server.peer.send(raw.rst_stream(request.id, raw.NO_ERROR))
    await client.until(lambda: half.reset is not None)
    assert (half.grpc_status, bytes(half.body), half.reset) == (0, b"early", raw.NO_ERROR)
    assert agent.outcomes == [Outcome.SERVED]


# Handed back


async def test_a_refused_stream_is_sent_again(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer(b"whole"), trailers=[(b"x-sum", b"1")])
    for _ in range(3):
        await server.reset(await server.request(), raw.REFUSED_STREAM)
    request = await server.request()
    assert (bytes(request.body), request.trailers) == (infer(b"whole"), [(b"x-sum", b"1")])
    await server.respond(request, b"at last")
    await client.answer(half)
    assert (bytes(half.body), half.grpc_status) == (b"at last", 0)
    assert agent.outcomes == [Outcome.SERVED]


async def test_after_three_times_a_refused_stream_is_given_up(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call()
    for _ in range(4):
        await server.reset(await server.request(), raw.REFUSED_STREAM)
    assert (await client.answer(half)).grpc_status == 14
    assert agent.outcomes == [Outcome.UPSTREAM_CLOSED]
    await check_alive(agent, client, server)
    assert len(server.requests) == 6


async def test_a_refused_stream_goes_on_where_its_upload_was(h2bed: Http2Opener) -> None:
    agent = await h2bed(queued_body="64KiB")
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer(b"x" * 1000)[:500], end=False)
    request = await server.head()
    await server.until(lambda: len(request.body) == 500)
    await server.reset(request, raw.REFUSED_STREAM)
    again = await server.head()
    await client.send_data(half, infer(b"x" * 1000)[500:], end=True)
    await server.until(lambda: again.is_complete)
    assert bytes(again.body) == infer(b"x" * 1000)
    await server.respond(again)
    assert (await client.answer(half)).grpc_status == 0


async def test_a_refused_stream_that_is_too_large_is_given_up(h2bed: Http2Opener) -> None:
    agent = await h2bed(queued_body="16KiB")
    client, server = await agent.pair()
    half = client.half(client.h2.get_next_available_stream_id())
    await client.send_head(half, grpc_head())
    agent.start(client.send_data(half, infer(b"x" * 20_000), end=True))
    await server.reset(await server.request(), raw.REFUSED_STREAM)
    await agent.sent()
    assert (await client.answer(half)).grpc_status == 14
    await check_alive(agent, client, server)
    assert len(server.requests) == 3


async def test_a_refused_stream_whose_client_has_left_is_forgotten(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call()
    request = await server.request()
    await client.reset(half)
    await client.settled()
    await server.peer.send(raw.rst_stream(request.id, raw.REFUSED_STREAM))
    await server.until(lambda: request.reset is not None)
    await check_alive(agent, client, server)
    assert agent.outcomes == [Outcome.CLIENT_GONE, Outcome.SERVED]


# GOAWAY


async def test_goaway_hands_back_what_is_above_its_last_stream(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    kept, *returned = [await client.call(b"%d" % index) for index in range(3)]
    requests = [await server.request() for _ in range(3)]
    await server.goaway(requests[0].id)
    fresh = await agent.connection()
    for half, body in zip(returned, (b"1", b"2"), strict=True):
        request = await fresh.request()
        assert bytes(request.body) == infer(body)
        await fresh.respond(request, b"again")
        assert bytes((await client.answer(half)).body) == b"again"
    await server.respond(requests[0], b"still here")
    assert bytes((await client.answer(kept)).body) == b"still here"
    assert await server.peer.rest() is not None, "it ends when it is done"
    await check_alive(agent, client, fresh)
    assert agent.outcomes == [Outcome.SERVED] * 4


async def test_goaway_in_two_steps(h2bed: Http2Opener) -> None:
    """The way gRPC servers shut down: first of all a last stream that is the highest there is."""
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call()
    request = await server.request()
    await server.goaway(raw.MAX_31)
    await server.settled()
    later = await client.call(b"later")
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    await client.answer(later)
    await server.goaway(request.id)
    await server.respond(request)
    assert (await client.answer(half)).grpc_status == 0
    await server.peer.rest()
    assert agent.pool.counts() == (0, 1)


async def test_goaway_on_an_idle_connection(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    await server.goaway(server.requests[-1].id)
    await server.peer.rest()
    half = await client.call()
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    assert (await client.answer(half)).grpc_status == 0


async def test_what_was_handed_back_too_often_is_given_up(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client = await agent.caller()
    half = await client.call()
    for _ in range(4):
        server = await agent.connection()
        await server.request()
        await server.goaway(0)
        await server.peer.rest()
    assert (await client.answer(half)).grpc_status == 14
    assert agent.predictor.is_left_alone()


async def test_goaway_and_then_the_end_of_the_connection(h2bed: Http2Opener) -> None:
    """What was below the last stream may have run; what was above has not."""
    agent = await h2bed()
    client, server = await agent.pair()
    first, second = await client.call(b"1"), await client.call(b"2")
    request = await server.request()
    await server.request()
    await server.goaway(request.id, raw.INTERNAL_ERROR)
    server.peer.close()
    fresh = await agent.connection()
    again = await fresh.request()
    assert bytes(again.body) == infer(b"2")
    await fresh.respond(again)
    assert (await client.answer(second)).grpc_status == 0
    assert (await client.answer(first)).reason == b"upstream_closed"


# How many streams


@pytest.mark.parametrize("most", [1, 2])
async def test_no_connection_carries_more_than_it_takes(h2bed: Http2Opener, most: int) -> None:
    """h2 raises at a stream too many."""
    agent = await h2bed(limit="4")
    client, server = await agent.pair({raw.MAX_CONCURRENT_STREAMS: most})
    halves, running, used = [], [], {server}
    for index in range(4):
        halves.append(await client.call(b"%d" % index))
        if index and index % most == 0:
            server = await agent.connection({raw.MAX_CONCURRENT_STREAMS: most})
            used.add(server)
        running.append((server, await server.request()))
        assert bytes(running[-1][1].body) == infer(b"%d" % index)
        await server.settled()
    halves += await agent.queue_calls(client, 4)
    for index in range(4):  # a stream that ends makes room for the next, and none is dialled for
        server, request = running.pop(0)
        await server.respond(request)
        running.append((server, await server.request()))
        assert bytes(running[-1][1].body) == infer(b"queued %d" % index)
    for server, request in running:
        await server.respond(request)
    for half in halves:
        assert (await client.answer(half)).grpc_status == 0
    assert agent.pool.counts() == (0, len(used)) == (0, 4 // most)
    assert agent.predictor.is_left_alone()


async def test_a_connection_that_takes_less_from_now_on(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.call(b"0")
    request = await server.request()
    await server.configure(MAX_CONCURRENT_STREAMS=0)
    other = await client.call(b"1")
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    assert (await client.answer(other)).grpc_status == 0
    await server.respond(request)
    assert (await client.answer(half)).grpc_status == 0
    assert len(server.requests) == 2


async def test_who_waits_is_served_when_a_connection_takes_more(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    await server.configure(MAX_CONCURRENT_STREAMS=0)
    agent.predictor.refuse()
    half = await client.call()
    await eventually(lambda: agent.pool.waiting)
    await server.configure(MAX_CONCURRENT_STREAMS=1)
    await server.respond(await server.request())
    assert (await client.answer(half)).grpc_status == 0


async def test_a_predictor_that_takes_no_streams_at_all_is_not_dialled_without_end(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client = await agent.caller()
    half = await client.call()
    for _ in range(4):
        server = FrameReader(await agent.predictor.accept())
        await server.peer.exactly(24)
        await server.peer.send(raw.settings((raw.MAX_CONCURRENT_STREAMS, 0)))
        head = await server.until(raw.HEADERS)
        await server.peer.send(raw.rst_stream(head.stream, raw.REFUSED_STREAM))
    assert (await client.answer(half)).grpc_status == 14
    assert agent.outcomes == [Outcome.UPSTREAM_CLOSED]
    await client.settled()
    assert agent.predictor.is_left_alone()


# The connection ends


@pytest.mark.parametrize("end", ["close", "reset", "half_close"])
async def test_a_connection_that_ends_fails_what_it_carries_and_nothing_else(h2bed: Http2Opener, end: str) -> None:
    agent = await h2bed(limit="3")
    client, server = await agent.pair()
    running = [await client.call(b"%d" % index) for index in range(3)]
    for _ in running:
        await server.request()
    queued = await agent.queue_calls(client, 4)
    agent.predictor.refuse()
    getattr(server.peer, end)()
    for half in running:
        await client.answer(half)
        assert (half.grpc_status, half.reason) == (14, b"upstream_closed")
    await eventually(lambda: agent.pool.is_refusing)
    assert (agent.admission.inflight, agent.admission.queued) == (3, 1)
    agent.predictor.listen()
    fresh = await agent.connection()
    for index, half in enumerate(queued):
        request = await fresh.request()
        assert bytes(request.body) == infer(b"queued %d" % index)
        await fresh.respond(request)
        assert (await client.answer(half)).grpc_status == 0


async def test_a_connection_that_ends_is_taken_for_a_sign_of_what_others_will_do(h2bed: Http2Opener) -> None:
    """A process that is killed may take a while to close all that it has. Who waits goes to none of the old ones."""
    agent = await h2bed(limit="3")
    client, dying = await agent.pair({raw.MAX_CONCURRENT_STREAMS: 2})
    running = [await client.call(b"%d" % index) for index in range(3)]
    for _ in range(2):
        await dying.request()
    other = await agent.connection({raw.MAX_CONCURRENT_STREAMS: 2})
    request = await other.request()
    queued = await agent.queue_calls(client, 2)
    dying.peer.reset()
    fresh = await agent.connection()
    for index, half in enumerate(queued):
        again = await fresh.request()
        assert bytes(again.body) == infer(b"queued %d" % index)
        await fresh.respond(again)
        assert (await client.answer(half)).grpc_status == 0
    # What it has it may finish; then it ends.
    await other.respond(request)
    assert (await client.answer(running[2])).grpc_status == 0
    await other.peer.rest()
    assert len(other.requests) == 1
    assert agent.pool.counts() == (0, 1)


async def test_a_call_that_breaks_is_a_sign_of_what_the_other_port_will_do(
    h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HTTP/1.1 connection that is idle is not used for the request that gets the slot."""
    monkeypatch.setattr(http1_upstream, "REST_S", 0.0)
    other = FakePredictor().listen()
    agent = await h2bed(other=other, limit="1")
    caller, server = await agent.pair()
    client = await agent.client()
    await client.send(get())
    resting = await other.accept()
    await resting.request()
    await resting.send(OK)
    await client.response()
    half, _ = await agent.occupy_slot(caller, server)
    await client.send(post(b"queued"))
    await eventually(lambda: agent.admission.queued)
    server.peer.reset()
    fresh = await other.accept()
    assert (await fresh.request()).body == b"queued"
    await fresh.send(OK)
    assert (await client.response()).raw == OK
    assert await resting.rest() == b""
    assert (await caller.answer(half)).reason == b"upstream_closed"


async def test_a_request_that_breaks_is_a_sign_of_what_the_other_port_will_do(h2bed: Http2Opener) -> None:
    other = FakePredictor().listen()
    agent = await h2bed(other=other, limit="1")
    caller, resting = await agent.pair()
    client = await agent.client()
    await client.send(post(b"running"))
    predictor = await other.accept()
    await predictor.request()
    [half] = await agent.queue_calls(caller, 1)
    predictor.reset()
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    assert (await caller.answer(half)).grpc_status == 0
    await resting.peer.rest()
    assert len(resting.requests) == 1
    assert (await client.response()).status == 502


async def test_an_idle_connection_that_ends_is_not_used(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    server.peer.close()
    await eventually(lambda: agent.pool.counts() == (0, 0))
    half = await client.call()
    fresh = await agent.connection()
    await fresh.respond(await fresh.request())
    assert (await client.answer(half)).grpc_status == 0


@pytest.mark.parametrize("path", [LIVE, grpc_head()[2][1]])
async def test_a_predictor_that_is_down(h2bed: Http2Opener, path: bytes) -> None:
    """A probe learns it at once, an inference when its deadline is over."""
    agent = await h2bed(FakePredictor(), deadline="100ms" if path != LIVE else "1h")
    client = await agent.caller()
    half = await client.answer(await client.call(path=path))
    assert (half.grpc_status, half.reason) == (14, b"upstream_unavailable")
    assert half.value(b"grpc-retry-pushback-ms")
    assert b"127.0.0.1" not in (half.value(b"grpc-message") or b"")


async def test_a_calls_own_deadline_ends_the_wait_for_a_predictor(h2bed: Http2Opener) -> None:
    agent = await h2bed(FakePredictor(), deadline="1h")
    client = await agent.caller()
    half = await client.answer(await client.call(b"", (b"grpc-timeout", b"100m")))
    assert (half.grpc_status, half.reason) == (4, b"expired")


async def test_a_predictor_that_accepts_and_never_speaks(h2bed: Http2Opener) -> None:
    agent = await h2bed(timeout="100s")
    client = await agent.caller()
    half = await client.call()
    server = FrameReader(await agent.predictor.accept())
    await server.peer.exactly(24)
    await server.until(raw.DATA)
    agent.later(110)
    await client.answer(half)
    assert (half.grpc_status, half.reason) == (4, b"timeout")
    assert (await server.until(raw.RST_STREAM)).number == raw.CANCEL
    assert agent.outcomes == [Outcome.TIMEOUT]


@pytest.mark.parametrize("grpc", [True, False])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_time_out_is_told(h2bed: Http2Opener, *, grpc: bool, begun: bool) -> None:
    agent = await h2bed(timeout="100s")
    client, server = await agent.pair()
    half = await client.send(grpc_head() if grpc else plain_head(), infer())
    request = await server.request()
    if begun:
        await server.send_head(request, GRPC_ANSWER)
        await client.until(lambda: half.fields)
    agent.later(50)
    await client.settled()
    assert not half.is_over
    agent.later(60)
    await client.answer(half)
    if grpc:
        assert (half.status, half.grpc_status, half.is_complete) == (200, 4, True)
    elif begun:
        assert (half.is_complete, half.reset) == (False, raw.INTERNAL_ERROR)
    else:
        assert (half.status, half.reason) == (504, b"timeout")
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    assert agent.outcomes == [Outcome.TIMEOUT]
    await check_alive(agent, client, server)
