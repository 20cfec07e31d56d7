"""A predictor that breaks a connection may be dying: what waits is held, until it has said something since."""

import pytest

from agent.net import pool
from agent.net.http2_upstream import Http2Pool
from tests.net.bed import OK, Bed, Opener, ok, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import Half
from tests.sockets import FakePredictor, Peer, eventually


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause ends by itself."""
    monkeypatch.setattr(pool, "FIRST_BACKOFF_S", 3600.0)


async def occupy(agent: Bed, predictor: FakePredictor) -> tuple[Peer, Peer]:
    """Send a request that the predictor takes and does not answer. Returns both ends."""
    client = await agent.client()
    await client.send(post(b"running"))
    peer, _ = await predictor.next()
    return client, peer


async def wait(agent: Bed) -> Peer:
    """Send a request that has a slot, and is not dialled for."""
    client = await agent.client()
    await client.send(post(b"held"))
    await eventually(lambda: agent.pool.waiting)
    assert agent.pool.is_refusing
    return client


async def served(predictor: FakePredictor, client: Peer) -> None:
    """What was held is dialled for and answered."""
    peer, request = await predictor.next()
    assert request.body == b"held"
    await peer.send(OK)
    assert (await client.response()).raw == OK


async def test_what_waits_goes_on_once_another_request_is_answered(bed: Opener) -> None:
    agent = await bed()
    running, alive = await occupy(agent, agent.predictor)
    breaking, broken = await occupy(agent, agent.predictor)
    broken.reset()
    assert (await breaking.response()).status == 502
    held = await wait(agent)
    await alive.send(OK)
    assert (await running.response()).raw == OK
    await served(agent.predictor, held)


async def test_what_comes_together_with_the_break_tells_nothing(bed: Opener) -> None:
    """A process that is killed may have answered a moment before."""
    agent = await bed()
    running, last_words = await occupy(agent, agent.predictor)
    still_running, alive = await occupy(agent, agent.predictor)
    breaking, broken = await occupy(agent, agent.predictor)
    broken.close()
    last_words.sock.send(ok(b"bye", b"Connection: close"))
    assert (await breaking.response()).status == 502
    assert (await running.response()).body == b"bye"
    held = await wait(agent)
    await alive.send(OK)
    assert (await still_running.response()).raw == OK
    await served(agent.predictor, held)


async def test_a_second_break_takes_a_second_sign(bed: Opener) -> None:
    agent = await bed()
    clients, peers = zip(*[await occupy(agent, agent.predictor) for _ in range(4)], strict=True)
    for number in range(2):
        peers[number].reset()
        assert (await clients[number].response()).status == 502
        held = await wait(agent)
        await peers[2 + number].send(OK)
        assert (await clients[2 + number].response()).raw == OK
        await served(agent.predictor, held)


async def test_a_port_is_trusted_again_for_what_it_says_itself(h2bed: Http2Opener) -> None:
    """Behind the predictor's other port there may be another process."""
    other = FakePredictor().listen()
    agent = await h2bed(other=other, deadline="1h")
    caller, server = await agent.pair()
    [http2] = [each for each in agent.server.pools if isinstance(each, Http2Pool)]
    call, begun = await agent.occupy_slot(caller, server)
    running, alive = await occupy(agent, other)
    breaking, broken = await occupy(agent, other)
    broken.reset()
    assert (await breaking.response()).status == 502
    held = await caller.call(b"held")
    await eventually(lambda: http2.waiting)
    await alive.send(OK)
    assert (await running.response()).raw == OK
    next_client, next_peer = await occupy(agent, other)
    assert http2.waiting
    assert http2.is_refusing
    await server.respond(begun)
    await caller.answer(call)
    fresh = await agent.connection()
    request: Half = await fresh.request()
    assert request.body.endswith(b"held")
    await fresh.respond(request)
    await caller.answer(held)
    await next_peer.send(OK)
    assert (await next_client.response()).raw == OK
