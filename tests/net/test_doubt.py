"""A predictor that breaks a connection may be dying: what waits is held, until it has said something since."""

import pytest

from agent.net import pool
from agent.net.http2_upstream import Http2Pool
from tests.net.bed import OK, Bed, Opener, ok, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import GRPC_ANSWER, GRPC_OK, infer
from tests.sockets import FakePredictor, Peer, eventually


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause ends by itself."""
    monkeypatch.setattr(pool, "FIRST_BACKOFF_S", 3600.0)


async def lose(client: Peer, peer: Peer) -> None:
    """The predictor resets the connection of a request that it has."""
    peer.reset()
    assert (await client.response()).status == 502


async def wait(agent: Bed) -> Peer:
    """Send a request that has a slot, and is not dialled for."""
    client = await agent.client()
    await client.send(post(b"held"))
    await eventually(lambda: agent.pool.waiting)
    assert agent.pool.is_refusing
    return client


async def answer(client: Peer, peer: Peer) -> None:
    await peer.send(OK)
    assert (await client.response()).raw == OK


async def serve(agent: Bed, held: Peer) -> None:
    """What was held is dialled for and answered."""
    peer, request = await agent.predictor.next()
    assert request.body == b"held"
    await answer(held, peer)


async def test_what_waits_goes_on_once_another_request_is_answered(bed: Opener) -> None:
    agent = await bed()
    running, alive = await agent.occupy()
    breaking, broken = await agent.occupy()
    await lose(breaking, broken)
    held = await wait(agent)
    await answer(running, alive)
    await serve(agent, held)


async def test_what_comes_together_with_the_break_tells_nothing(bed: Opener) -> None:
    """A process that is killed may have answered a moment before."""
    agent = await bed()
    running, last_words = await agent.occupy()
    still_running, alive = await agent.occupy()
    breaking, broken = await agent.occupy()
    broken.close()
    last_words.sock.send(ok(b"bye", b"Connection: close"))
    assert (await breaking.response()).status == 502
    assert (await running.response()).body == b"bye"
    held = await wait(agent)
    await answer(still_running, alive)
    await serve(agent, held)


async def test_a_second_break_takes_a_second_sign(bed: Opener) -> None:
    agent = await bed()
    clients, peers = zip(*[await agent.occupy() for _ in range(4)], strict=True)
    for number in range(2):
        await lose(clients[number], peers[number])
        held = await wait(agent)
        await answer(clients[2 + number], peers[2 + number])
        await serve(agent, held)


async def test_a_port_is_trusted_again_for_what_it_says_itself(h2bed: Http2Opener) -> None:
    """Behind the predictor's other port there may be another process."""
    other = FakePredictor().listen()
    agent = await h2bed(other=other, deadline="1h")
    caller, server = await agent.pair()
    [http2] = [each for each in agent.server.pools if isinstance(each, Http2Pool)]
    call, begun = await agent.occupy_slot(caller, server)
    running, alive = await agent.occupy(other)
    breaking, broken = await agent.occupy(other)
    await lose(breaking, broken)
    held = await caller.call(b"held")
    await eventually(lambda: http2.waiting)
    await answer(running, alive)
    await running.send(post(b"after"))
    trusted, _ = await other.next()
    assert http2.waiting
    assert http2.is_refusing
    await server.respond(begun)
    await caller.answer(call)
    fresh = await agent.connection()
    request = await fresh.request()
    assert request.body.endswith(b"held")
    await fresh.respond(request)
    await caller.answer(held)
    await answer(running, trusted)


async def test_an_end_that_the_loop_has_not_heard_of_is_seen(h2bed: Http2Opener) -> None:
    """Where the agent was not given the processor, an answer and the end of the connection are there at once."""
    agent = await h2bed(limit="1")
    client, dying = await agent.pair()
    running, request = await agent.occupy_slot(client, dying)
    [queued] = await agent.queue_calls(client, 1)
    dying.h2.send_headers(request.id, GRPC_ANSWER)
    dying.h2.send_headers(request.id, GRPC_OK, end_stream=True)
    dying.peer.sock.send(dying.h2.data_to_send())
    dying.peer.close()
    assert (await client.answer(running)).grpc_status == 0
    fresh = await agent.connection()
    again = await fresh.request()
    assert bytes(again.body) == infer(b"queued 0")
    await fresh.respond(again)
    assert (await client.answer(queued)).grpc_status == 0
