"""The end of an agent that still has work: what is told, what is finished, what is cut, and that it all ends."""

import asyncio

import pytest

from agent.errors import Outcome
from agent.net.drain import Stage
from tests.net.bed import OK, Bed, Opener, get, ok, post
from tests.sockets import IncompleteError, eventually


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
    agent = await bed(limit="1", queue="1", drain_delay="10s", deadline="150ms")
    await agent.occupy()
    [expiring] = await agent.fill(1)
    agent.server.drain.begin()
    late = await agent.client()
    await late.send(post(b"x"))
    for each, status in ((late, 503), (expiring, 504)):
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
    async with asyncio.timeout(2):
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
