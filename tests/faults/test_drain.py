"""The end of an agent that still has work: what is told, what is finished, what is cut, and that it all ends."""

import asyncio

import pytest

from agent.errors import Outcome
from agent.net.drain import Stage
from tests.net.bed import OK, Bed, Opener, get, ok, post
from tests.sockets import PATIENCE_S, FakePredictor, IncompleteError, Peer, eventually


async def is_listening(agent: Bed) -> bool:
    try:
        client = await agent.client()
        await client.send(get())
    except ConnectionError:
        return False
    return True


async def test_what_runs_and_waits_is_finished_and_idle_connections_end(bed: Opener) -> None:
    agent = await bed(limit="1")
    idle = await agent.client()
    client, predictor = await agent.occupy()
    [waiting] = await agent.fill(1)
    await eventually(lambda: len(agent.server.connections) == 3)
    agent.server.drain.begin()
    assert await idle.rest() == b""
    assert not await is_listening(agent)
    for each in (client, waiting):
        await predictor.send(OK)
        reply = await each.response()
        assert (reply.status, reply.values(b"Connection")) == (200, [b"close"])
        assert await each.rest() == b""
        if each is client:
            await predictor.request()
    await agent.server.drain.wait()
    assert agent.server.drain.stage is Stage.DRAINED


async def test_it_goes_on_serving_during_the_delay(bed: Opener) -> None:
    agent = await bed(drain_delay="10s")
    kept, fresh = await agent.client(), await agent.client()
    await eventually(lambda: len(agent.server.connections) == 2)
    agent.server.drain.begin()
    await kept.send(get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await kept.response()).values(b"Connection") == [b"close"]
    new = await agent.client()
    for each in (fresh, new):
        await each.send(post(b"x"))
        await predictor.request()
        await predictor.send(OK)
        assert (await each.response()).values(b"Connection") == [b"close"]
        assert await each.rest() == b""
    agent.server.drain.begin(hurry=True)
    await agent.server.drain.wait()


async def test_refusals_during_the_drain_end_their_connections_too(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1", drain_delay="10s")
    await agent.occupy()
    [expiring] = await agent.fill(1)
    agent.server.drain.begin()
    late = await agent.client()
    await late.send(post(b"x"))
    for each, status in ((late, 503), (expiring, 504)):
        if each is expiring:
            agent.expire()
        reply = await each.response()
        assert (reply.status, reply.values(b"Connection")) == (status, [b"close"])
        assert await each.rest() == b""
    agent.server.drain.begin(hurry=True)


async def test_pipelined_requests_are_not_begun_behind_a_last_reply(bed: Opener) -> None:
    agent = await bed(limit="1", drain_timeout="0")
    await agent.occupy()
    client = await agent.client()
    await client.send(post(b"1") + post(b"2"))
    await eventually(lambda: agent.admission.queued)
    agent.server.drain.begin()
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"draining"])
    await agent.server.drain.wait()
    assert agent.begun == 2
    assert agent.outcomes == [Outcome.DRAINING] * 2


async def test_a_slow_reader_gets_all_of_its_reply(bed: Opener) -> None:
    """The exchange is over, the process must not be: bytes still wait for the client in the agent."""
    agent = await bed()
    client, transport = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(ok(b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    assert transport.get_write_buffer_size()
    agent.server.drain.begin()
    await eventually(transport.is_closing)
    assert agent.server.drain.stage is Stage.DRAINING
    assert (await client.response()).body == b"x" * 100_000
    assert await client.rest() == b""
    await agent.server.drain.wait()


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end(bed: Opener) -> None:
    agent = await bed(drain_timeout="200ms")
    client, _ = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(ok(b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    agent.server.drain.begin()
    async with asyncio.timeout(PATIENCE_S):
        await agent.server.drain.wait()


async def test_a_client_that_left_still_counts_until_its_request_ends(bed: Opener) -> None:
    agent = await bed()
    client, predictor = await agent.occupy()
    client.reset()
    await eventually(lambda: not agent.server.connections)
    agent.server.drain.begin()
    await eventually(lambda: not agent.server._listeners[0].is_serving())
    assert agent.server.drain.stage is Stage.DRAINING
    await predictor.send(OK)
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.CLIENT_GONE]


@pytest.mark.parametrize("begun", [b"", b"POST /v2/models/m/inf"])
async def test_connections_without_a_request_do_not_hold_up_the_end(bed: Opener, begun: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(begun)
    await eventually(lambda: agent.server.connections)
    agent.server.drain.begin()
    await agent.server.drain.wait()
    with pytest.raises(IncompleteError):
        await client.more()


async def test_it_begins_once(bed: Opener) -> None:
    agent = await bed()
    for _ in range(3):
        agent.server.drain.begin()
    await agent.server.drain.wait()
    agent.server.drain.begin()
    assert agent.server.drain.stage is Stage.DRAINED


UPGRADE = get(b"/ws", b"Connection: upgrade", b"Upgrade: websocket")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"


async def tunnel(agent: Bed) -> tuple[Peer, Peer]:
    """Both ends of a WebSocket."""
    client = await agent.client()
    await client.send(UPGRADE)
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(SWITCHED)
    await client.head()
    return client, predictor


async def closed_listeners(agent: Bed) -> None:
    """Until the grace of the drain has begun."""
    await eventually(lambda: not any(one.is_serving() for one in agent.server._listeners))


@pytest.mark.parametrize("ends", ["client", "predictor"])
async def test_a_websocket_goes_on_and_ends_by_itself(bed: Opener, ends: str) -> None:
    agent = await bed(limit="1", drain_delay="1h")
    client, predictor = await tunnel(agent)
    agent.server.drain.begin()
    for one, other in ((client, predictor), (predictor, client)):
        await one.send(b"in the delay")
        assert await other.exactly(12) == b"in the delay"
    agent.server.drain.begin(hurry=True)
    await closed_listeners(agent)
    for one, other in ((client, predictor), (predictor, client)):
        await one.send(b"in the grace")
        assert await other.exactly(12) == b"in the grace"
    assert agent.server.drain.stage is Stage.DRAINING
    one, other = (client, predictor) if ends == "client" else (predictor, client)
    one.half_close()
    assert await other.rest() == b""
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED]


async def test_a_websocket_is_cut_at_the_end_of_the_grace(bed: Opener) -> None:
    agent = await bed(limit="1", drain_timeout="100ms")
    client, predictor = await tunnel(agent)
    agent.server.drain.begin()
    for one in (client, predictor):
        assert (await one.ended()).was_reset, "an end of a frame is not the end of the talk"
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.DRAINING]


STREAMS = {
    "chunked": (b"Transfer-Encoding: chunked\r\n", [b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n"], b"0\r\n\r\n"),
    "until the end": (b"", [b"data: 1\n\n", b"data: 2\n\n"], b""),
}


@pytest.mark.parametrize("framing", STREAMS)
async def test_a_stream_of_events_ends_by_itself(bed: Opener, framing: str) -> None:
    agent = await bed(limit="1", drain_delay="1h")
    fields, (first, second), end = STREAMS[framing]
    client, predictor = await agent.occupy()
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + fields + b"\r\n" + first)
    await client.until(first)
    agent.server.drain.begin(hurry=True)
    await closed_listeners(agent)
    await predictor.send(second + end)
    await client.until(second + end)
    predictor.close()
    assert await client.rest() == b""
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED]


@pytest.mark.parametrize("framing", STREAMS)
async def test_a_stream_of_events_is_cut_so_that_it_does_not_look_whole(bed: Opener, framing: str) -> None:
    agent = await bed(limit="1", drain_timeout="100ms")
    fields, (first, _), _ = STREAMS[framing]
    client, predictor = await agent.occupy()
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + fields + b"\r\n" + first)
    await client.until(first)
    agent.server.drain.begin()
    end = await client.ended()
    assert (end.was_reset, end.data) == (True, b"")
    assert (await predictor.ended()).was_reset
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.DRAINING]


async def test_an_upload_that_has_begun_is_finished(bed: Opener) -> None:
    agent = await bed(drain_delay="1h")
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    agent.server.drain.begin(hurry=True)
    await closed_listeners(agent)
    await client.send(b"3\r\ndef\r\n0\r\n\r\n")
    await predictor.until(b"def\r\n0\r\n\r\n")
    await predictor.send(OK)
    reply = await client.response()
    assert (reply.status, reply.values(b"Connection")) == (200, [b"close"])
    await agent.server.drain.wait()


async def test_an_upload_that_does_not_end_is_told(bed: Opener) -> None:
    agent = await bed(drain_timeout="100ms")
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    agent.server.drain.begin()
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"draining"])
    end = await predictor.ended()
    assert (end.was_reset, end.data) == (True, b""), "the predictor must not take it for whole"
    await agent.server.drain.wait()


async def test_what_waits_at_first_and_comes_in_the_delay_is_served_in_turn(bed: Opener) -> None:
    agent = await bed(limit="1", drain_delay="1h")
    client, predictor = await agent.occupy()
    [waiting] = await agent.fill(1)
    kept = await agent.client()
    await eventually(lambda: len(agent.server.connections) == 3)
    agent.server.drain.begin()
    await kept.send(post(b"in the delay"))
    await eventually(lambda: agent.admission.queued == 2)
    agent.server.drain.begin(hurry=True)
    await closed_listeners(agent)
    for each, body in ((client, b""), (waiting, b"queued 0"), (kept, b"in the delay")):
        if body:
            assert (await predictor.request()).body == body
        await predictor.send(OK)
        assert (await each.response()).values(b"Connection") == [b"close"]
        assert await each.rest() == b""
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.SERVED] * 3


async def test_who_waits_for_a_predictor_that_never_came_is_told(bed: Opener) -> None:
    agent = await bed(FakePredictor(), limit="1", ready_when="reachable", startup_timeout="1h", drain_timeout="100ms")
    clients = [await agent.client() for _ in range(2)]
    for client in clients:
        await client.send(post(b"x"))
    await eventually(lambda: agent.admission.queued)
    agent.server.drain.begin()
    for client in clients:
        reply = await client.response()
        assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"draining"])
    await agent.server.drain.wait()
    assert agent.outcomes == [Outcome.DRAINING] * 2
