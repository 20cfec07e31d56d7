"""Clients that leave: what the predictor is told, when the slot is free again, and that nothing is lost count of."""

from time import monotonic

import pytest

from agent.errors import Outcome
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import GRPC_ANSWER, GRPC_OK, STREAM_INFER, Half, Http2Client, Http2Server, grpc_head, infer
from tests.sockets import FakePredictor, eventually
from tests.wire import frames_by_hand as raw

PHASES = ["naming", "queued", "half sent", "sent", "head", "answer", "streaming"]
# The predictor is told of a call that it has seen the head of.
UNSEEN = {"naming", "queued"}


async def reach(phase: str, client: Http2Client, server: Http2Server) -> tuple[Half, Half | None]:
    """A call in this phase; both sides of it."""
    path = STREAM_INFER if phase == "streaming" else grpc_head()[2][1]
    half = await client.send(grpc_head(path), end=False)
    if phase == "naming":
        await client.settled()
        return half, None
    await client.send_data(half, infer(b"x")[:-1])
    if phase == "queued":
        await client.settled()
        return half, None
    request = await server.head()
    if phase not in {"half sent", "streaming"}:
        await client.send_data(half, b"x", end=True)
        await server.until(lambda: request.is_complete)
    if phase in {"head", "answer", "streaming"}:
        await server.send_head(request, GRPC_ANSWER)
        if phase != "head":
            await server.send_data(request, infer(b"answer"))
        await client.until(lambda: half.fields and (phase == "head" or half.body))
    return half, request


async def leave(client: Http2Client, half: Half, how: str) -> None:
    if how == "RST_STREAM":
        await client.reset(half)
    elif how == "reset":
        client.peer.reset()
    else:
        client.peer.close()


@pytest.mark.parametrize("how", ["RST_STREAM", "reset", "close"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a_cancellation_reaches_the_predictor(h2bed: Http2Opener, phase: str, how: str) -> None:
    agent = await h2bed(limit="1", queue="1")
    client, server = await agent.pair()
    other = await agent.caller()
    running = await agent.occupy_slot(other, server) if phase == "queued" else None
    half, request = await reach(phase, client, server)
    await leave(client, half, how)
    await eventually(lambda: agent.outcomes)
    assert (agent.outcomes, agent.codes) == ([Outcome.CLIENT_GONE], [1])
    assert agent.admission.inflight == (running is not None)
    if request is not None:
        await server.until(lambda: request is not None and request.reset is not None)
        assert request.reset == raw.CANCEL
    if running is not None:
        await server.respond(running[1])
        await other.answer(running[0])
    after = await other.call(b"after")
    request = await server.request()
    assert bytes(request.body) == infer(b"after")
    await server.respond(request)
    assert (await other.answer(after)).grpc_status == 0
    assert len(server.requests) == 3 + (running is not None) - (phase in UNSEEN)


async def test_a_call_that_waits_for_a_connection_is_cancelled(h2bed: Http2Opener) -> None:
    agent = await h2bed(FakePredictor())
    client = await agent.caller()
    half = await client.call()
    await eventually(lambda: agent.pool.waiting and agent.pool.is_refusing)
    await client.reset(half)
    await eventually(lambda: agent.outcomes)
    assert not agent.pool.waiting
    assert (agent.outcomes, agent.admission.inflight) == ([Outcome.CLIENT_GONE], 0)
    agent.predictor.listen()
    after = await client.call(b"after")
    server = await agent.connection()
    request = await server.request()
    assert bytes(request.body) == infer(b"after")
    await server.respond(request)
    await client.answer(after)


@pytest.mark.parametrize("code", [raw.NO_ERROR, raw.INTERNAL_ERROR, raw.REFUSED_STREAM, raw.CANCEL, 99])
async def test_every_code_of_a_client_is_a_cancellation(h2bed: Http2Opener, code: int) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half, request = await reach("answer", client, server)
    assert request is not None
    await client.peer.send(raw.rst_stream(half.id, code))
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    assert agent.outcomes == [Outcome.CLIENT_GONE]


# The slot of what may still be computing


async def make_history(agent: Http2Bed, client: Http2Client, server: Http2Server) -> None:
    half = await client.call()
    await server.respond(await server.request(), b"x")
    await client.answer(half)
    agent.forget()


async def test_the_slot_is_held_for_as_long_as_the_model_usually_takes(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    await make_history(agent, client, server)
    usage = agent.server.usages["grpc"].of("m")
    usage.service_s = 0.2
    begun = monotonic()
    half, request = await reach("sent", client, server)
    assert request is not None
    waiting = await client.call(b"waits")
    await eventually(lambda: agent.admission.queued)
    await client.reset(half)
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.CANCEL
    after = await server.request()
    assert monotonic() - begun > 0.2
    assert (agent.outcomes, agent.codes, agent.admission.inflight) == ([Outcome.CLIENT_GONE], [1], 1)
    assert usage.service_s == 0.2
    await server.respond(after)
    await client.answer(waiting)


@pytest.mark.parametrize("phase", ["half sent", "head", "answer", "streaming"])
async def test_the_slot_is_free_at_once_where_nothing_can_be_computing(h2bed: Http2Opener, phase: str) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    await make_history(agent, client, server)
    agent.server.usages["grpc"].of("m").service_s = 3600.0
    half, _ = await reach(phase, client, server)
    await client.reset(half)
    await client.settled()
    assert (agent.outcomes, agent.admission.inflight) == ([Outcome.CLIENT_GONE], 0)


async def test_the_slot_is_free_at_once_when_the_usual_time_is_over(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    await make_history(agent, client, server)
    agent.server.usages["grpc"].of("m").service_s = 1e-9
    half, _ = await reach("sent", client, server)
    await client.reset(half)
    await client.settled()
    assert (agent.outcomes, agent.admission.inflight) == ([Outcome.CLIENT_GONE], 0)


async def test_slots_that_are_held_are_released_in_the_order_of_their_times(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="2", model_limits="slow=2")
    client, server = await agent.pair()
    for name, seconds in (("slow", 3600.0), ("m", 0.05)):
        agent.server.usages["grpc"].learn(name, monotonic()).service_s = seconds
        begun = monotonic()
        half = await client.send(grpc_head(), infer(b"", name.encode()))
        request = await server.request()
        await client.reset(half)
        await server.until(lambda: request.reset is not None)  # noqa: B023 - waited for in this turn
    await eventually(lambda: agent.admission.inflight == 1)
    assert monotonic() - begun > 0.05
    assert agent.server.usages["grpc"].of("slow").inflight == 1
    agent.gate.release(monotonic() + 3601)
    assert agent.outcomes == [Outcome.CLIENT_GONE] * 2


# Many at once


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_connection_that_is_lost_takes_all_its_calls_along(h2bed: Http2Opener, end: str) -> None:
    agent = await h2bed(limit="5", queue="100")
    client, server = await agent.pair()
    other = await agent.caller()
    for phase in ("half sent", "sent", "head", "answer", "streaming"):
        await reach(phase, client, server)
    for index in range(20):
        await client.call(b"%d" % index)
    kept = await other.call(b"kept")
    await client.send(grpc_head(), end=False)
    await eventually(lambda: agent.gate.active == 27)
    getattr(client.peer, end)()
    await eventually(lambda: len(agent.outcomes) == 26)
    assert set(agent.outcomes) == {Outcome.CLIENT_GONE}
    cancelled = server.requests[1:6]
    await server.until(lambda: all(request.reset == raw.CANCEL for request in cancelled))
    request = await server.request()
    assert bytes(request.body) == infer(b"kept")
    await server.respond(request)
    await other.answer(kept)
    await server.settled()
    assert len(server.requests) == 7


# Answers that come early


@pytest.mark.parametrize("grpc", [True, False])
async def test_an_answer_to_half_a_request_ends_it(h2bed: Http2Opener, *, grpc: bool) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    fields = grpc_head() if grpc else [*grpc_head()[:4], (b"content-type", b"application/json")]
    fields[2] = (b":path", b"/v2/models/m/infer") if not grpc else fields[2]
    half = await client.send(fields, infer(b"half")[:-2], end=False)
    request = await server.head()
    await server.until(lambda: request.body)
    await server.send_head(request, GRPC_ANSWER if grpc else [(b":status", b"413")])
    await server.send_data(request, b"too long", end=not grpc)
    if grpc:
        await server.send_head(request, [(b"grpc-status", b"8")], end=True)
    await client.until(lambda: half.reset is not None)
    assert (half.is_complete, half.reset) == (True, raw.NO_ERROR)
    assert bytes(half.body) == b"too long"
    assert half.grpc_status == 8 if grpc else half.status == 413
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.NO_ERROR
    assert agent.outcomes == [Outcome.SERVED]
    await client.peer.send(raw.data(half.id, b"crossed the reset") + raw.data(half.id, b"", end=True))
    after = await client.call(b"after")
    await server.respond(await server.request())
    assert (await client.answer(after)).grpc_status == 0


async def test_an_early_answer_to_a_client_that_does_not_read(h2bed: Http2Opener) -> None:
    """The answer waits for the client's window; the predictor is done with."""
    agent = await h2bed()
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.send(grpc_head(), infer(b"half")[:-2], end=False)
    request = await server.head()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, b"x" * 100_000)
    await server.send_head(request, GRPC_OK, end=True)
    await eventually(lambda: agent.outcomes)
    await server.until(lambda: request.reset is not None)
    assert request.reset == raw.NO_ERROR
    await client.until(lambda: len(half.body) == 65_535)
    assert half.reset is None
    await client.send_data(half, b"still sending")
    await client.grant(100_000)
    await client.grant(100_000, half)
    await client.until(lambda: half.reset is not None)
    assert (len(half.body), half.grpc_status, half.reset) == (100_000, 0, raw.NO_ERROR)
    assert agent.outcomes == [Outcome.SERVED]


@pytest.mark.parametrize("how", ["RST_STREAM", "close"])
async def test_a_client_that_leaves_before_it_has_all_of_its_answer(h2bed: Http2Opener, how: str) -> None:
    """The exchange is over; what was held for the client goes with it."""
    agent = await h2bed()
    client, server = await agent.pair()
    client.is_eager = False
    half = await client.call()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    await server.stuff(request, b"x" * 100_000)
    await server.send_head(request, GRPC_OK, end=True)
    await eventually(lambda: agent.outcomes)
    await leave(client, half, how)
    other = await agent.caller()
    after = await other.call(b"after")
    await server.respond(await server.request())
    await other.answer(after)
    assert agent.outcomes == [Outcome.SERVED] * 2
