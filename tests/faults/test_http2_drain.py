"""The end of an agent that has HTTP/2 clients: GOAWAY in two steps, streams in every phase, and that it all ends."""

import asyncio
import signal

import pytest

from agent.errors import Outcome
from agent.net.drain import Stage
from tests.faults.process import Starter
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import (
    GRPC_ANSWER,
    GRPC_OK,
    HELLO,
    STREAM_INFER,
    FrameReader,
    Goaway,
    Http2Client,
    Http2Server,
    grpc_head,
    infer,
    plain_head,
)
from tests.sockets import PATIENCE_S, FakePredictor, eventually
from tests.wire import frames_by_hand as raw

ANNOUNCED = Goaway(raw.MAX_31, raw.NO_ERROR)


async def test_goaway_comes_in_two_steps(h2bed: Http2Opener) -> None:
    agent = await h2bed(drain_delay="10s")
    client, server = await agent.pair()
    half, request = await agent.occupy_slot(client, server)
    agent.server.drain.begin()
    await client.until(lambda: client.goaways)
    assert client.goaways == [ANNOUNCED]
    late = await client.call(b"on its way")  # it crossed the first step
    second = await server.request()
    await server.respond(second)
    assert (await client.answer(late)).grpc_status == 0
    agent.server.drain.begin(hurry=True)
    await client.until(lambda: len(client.goaways) == 2)
    assert client.goaways[1] == (late.id, raw.NO_ERROR)
    ignored = await client.call(b"too late")
    await server.respond(request)
    assert (await client.answer(half)).grpc_status == 0
    await client.peer.rest()
    assert (ignored.is_over, len(server.requests)) == (False, 3)
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED] * 2


async def test_what_runs_and_waits_is_finished(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    idle = await agent.caller()
    half, request = await agent.occupy_slot(client, server)
    [waiting] = await agent.queue_calls(client, 1)
    agent.server.drain.begin()
    await idle.until(lambda: len(idle.goaways) == 2)
    assert idle.goaways == [ANNOUNCED, (0, raw.NO_ERROR)]
    await idle.peer.rest()
    for each in (half, waiting):
        await server.respond(request)
        assert (await client.answer(each)).grpc_status == 0
        if each is half:
            request = await server.request()
    await client.peer.rest()
    await agent.server.drain.wait()
    assert agent.server.drain.stage is Stage.DRAINED


async def test_new_connections_during_the_delay_are_served_and_told(h2bed: Http2Opener) -> None:
    agent = await h2bed(drain_delay="10s")
    client, server = await agent.pair()
    agent.server.drain.begin()
    fresh = await agent.raw_caller()
    await fresh.peer.send(HELLO + raw.headers(1, raw.block(grpc_head())) + raw.data(1, infer(), end=True))
    assert (await fresh.until(raw.GOAWAY)).payload == raw.long(raw.MAX_31) + raw.long(raw.NO_ERROR)
    await server.respond(await server.request())
    assert await fresh.until(raw.HEADERS, 1)
    agent.server.drain.begin(hurry=True)
    assert (await fresh.until(raw.GOAWAY)).payload == raw.long(1) + raw.long(raw.NO_ERROR)
    assert await fresh.peer.rest() == b""
    await client.peer.rest()
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED]


PHASES = ["naming", "queued", "half sent", "sent", "head", "streaming"]


async def reach(agent: Http2Bed, phase: str, client: Http2Client, server: Http2Server, *, grpc: bool) -> None:
    """A call, stream 3 of its client, in this phase; where it is queued, another one runs."""
    if phase == "queued":
        await agent.occupy_slot(await agent.caller(), server)
    fields = grpc_head(STREAM_INFER if phase == "streaming" else grpc_head()[2][1]) if grpc else plain_head()
    half = await client.send(fields, end=False)
    if phase == "naming":
        await client.settled()
        return
    await client.send_data(half, infer()[:-1])
    if phase == "queued":
        await eventually(lambda: agent.admission.queued)
        return
    request = await server.head()
    if phase in {"sent", "head"}:
        await client.send_data(half, b"!", end=True)
        await server.until(lambda: request.is_complete)
    if phase in {"head", "streaming"}:
        await server.send_head(request, GRPC_ANSWER)
        await server.send_data(request, b"begun")
        await client.until(lambda: half.body)


@pytest.mark.parametrize("grpc", [True, False])
@pytest.mark.parametrize("phase", PHASES)
async def test_what_does_not_end_in_time_is_told(h2bed: Http2Opener, phase: str, *, grpc: bool) -> None:
    if phase == "naming" and not grpc:
        phase = "half sent"  # nothing else has to be named
    agent = await h2bed(limit="1", drain_timeout="0")
    client, server = await agent.pair()
    await reach(agent, phase, client, server, grpc=grpc)
    agent.server.drain.begin()
    half = client.halves[3]
    await client.answer(half)
    if grpc:
        assert (half.status, half.grpc_status, half.reason) == (200, 14, b"draining")
        assert int(half.value(b"grpc-retry-pushback-ms") or 0) > 0
    elif phase in {"head", "streaming"}:
        assert (half.status, half.is_complete, half.reset) == (200, False, raw.INTERNAL_ERROR)
    else:
        assert (half.status, half.reason) == (503, b"draining")
    await agent.server.drain.wait()
    if phase not in {"naming", "queued"}:
        request = server.requests[1]
        await server.until(lambda: request.reset is not None)
        assert request.reset == raw.CANCEL
    assert agent.outcomes == [Outcome.DRAINING] * (2 if phase == "queued" else 1)


async def test_an_open_stream_goes_on_and_ends_by_itself(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", drain_delay="10s")
    client, server = await agent.pair()
    half = await client.send(grpc_head(STREAM_INFER), infer(b"1"), end=False)
    request = await server.head()
    await server.send_head(request, GRPC_ANSWER)
    agent.server.drain.begin()
    await client.until(lambda: client.goaways)
    agent.server.drain.begin(hurry=True)
    await client.until(lambda: len(client.goaways) == 2)
    for number in range(2):
        await client.send_data(half, infer(b"%d" % number), end=number == 1)
        await server.send_data(request, b"answer")
        await client.until(lambda: len(half.body) == 6 * (number + 1))  # noqa: B023 - waited for in this turn
    assert agent.server.drain.stage is Stage.DRAINING
    await server.until(lambda: request.is_complete)
    await server.send_head(request, GRPC_OK, end=True)
    assert (await client.answer(half)).grpc_status == 0
    await client.peer.rest()
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED]


async def test_a_call_that_waits_for_a_connection_is_told(h2bed: Http2Opener) -> None:
    agent = await h2bed(FakePredictor(), drain_timeout="0")
    client = await agent.caller()
    half = await client.call()
    await eventually(lambda: agent.pool.waiting)
    agent.server.drain.begin()
    assert (await client.answer(half)).reason == b"draining"
    await agent.server.drain.wait()


async def test_slots_that_linger_do_not_outlast_the_drain(h2bed: Http2Opener) -> None:
    agent = await h2bed(drain_timeout="100ms")
    client, server = await agent.pair()
    half = await client.call()
    await server.respond(await server.request(), b"x")
    await client.answer(half)
    agent.server.usages["grpc"].of("m").service_s = 3600.0
    half, _ = await agent.occupy_slot(client, server)
    await client.reset(half)
    await client.settled()
    assert agent.gate.active == 1
    agent.server.drain.begin()
    async with asyncio.timeout(PATIENCE_S):
        await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED, Outcome.CLIENT_GONE]


async def test_a_slow_reader_gets_all_of_its_answer(h2bed: Http2Opener) -> None:
    agent = await h2bed(drain_timeout="20s")
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    agent.start(server.respond(request, b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    agent.server.drain.begin()
    await client.until(lambda: len(client.goaways) == 2 and len(half.body) == 65_535)
    assert agent.server.drain.stage is Stage.DRAINING
    await client.grant(100_000)
    await client.grant(100_000, half)
    await client.answer(half)
    assert (len(half.body), half.grpc_status) == (100_000, 0)
    await client.peer.rest()
    await agent.server.drain.wait()


async def test_a_reader_that_is_too_slow_does_not_hold_up_the_end(h2bed: Http2Opener) -> None:
    """What it has not taken is never ended as if it were all."""
    agent = await h2bed(drain_timeout="200ms")
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    agent.start(server.respond(request, b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    agent.server.drain.begin()
    async with asyncio.timeout(PATIENCE_S):
        await agent.server.drain.wait()
    await client.peer.ended()
    assert not half.is_complete


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_when_the_calls_are_done(process: Starter, number: signal.Signals) -> None:
    predictor = _H2cPredictor().listen()
    agent = await process(predictor, limit="4")
    client = Http2Client(await agent.client())
    await client.flush()
    half = await client.call()
    server = Http2Server(await predictor.accept())
    await server.flush()
    request = await server.request()
    agent.signal(number)
    await client.until(lambda: len(client.goaways) == 2)
    assert client.goaways == [ANNOUNCED, (half.id, raw.NO_ERROR)]
    await server.respond(request, b"done")
    await client.answer(half)
    assert bytes(half.body) == b"done"
    await client.peer.rest()
    assert await agent.exit_code() == 0


async def test_a_process_without_calls_ends_at_once(process: Starter) -> None:
    predictor = _H2cPredictor().listen()
    agent = await process(predictor)
    client = FrameReader(await agent.client())
    await client.peer.send(HELLO)
    await client.until(raw.SETTINGS)
    agent.signal(signal.SIGTERM)
    assert [(await client.until(raw.GOAWAY)).payload[:4] for _ in range(2)] == [raw.long(raw.MAX_31), raw.long(0)]
    assert await agent.exit_code() == 0


class _H2cPredictor(FakePredictor):
    """What a route of `process` forwards to, over HTTP/2."""

    @property
    def url(self) -> str:
        return super().url.replace("http", "h2c", 1)
