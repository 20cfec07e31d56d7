"""Upgrades: after 101 the agent is a pipe that holds one slot."""

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, Bed, Opener, get, post
from tests.sockets import Peer, eventually

ASK = get(b"/ws", b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: k")
FORWARDED = get(b"/ws", b"Sec-WebSocket-Key: k", b"Connection: Upgrade", b"Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


async def tunnel(agent: Bed) -> tuple[Peer, Peer]:
    """Both ends of a tunnel through the agent."""
    client = await agent.client()
    await client.send(ASK)
    predictor = await agent.predictor.accept()
    assert await predictor.head() == FORWARDED
    await predictor.send(SWITCH)
    assert await client.head() == SWITCH
    return client, predictor


async def test_bytes_go_both_ways_as_they_are(bed: Opener) -> None:
    client, predictor = await tunnel(await bed())
    for frame in (b"\x81\x05hello", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256))):
        await client.send(frame)
        assert await predictor.exactly(len(frame)) == frame
        await predictor.send(frame[::-1])
        assert await client.exactly(len(frame)) == frame[::-1]


@pytest.mark.parametrize("size", [10, 400_000])
async def test_early_data_of_both_sides_is_delivered(bed: Opener, size: int) -> None:
    agent = await bed()
    client = await agent.client()
    early = bytes(range(250)) * (size // 250) + b"!"
    agent.start(client.send(ASK + early))
    predictor = await agent.predictor.accept()
    await predictor.head()
    await eventually(lambda: any(connection.phase for connection in agent.server.connections))
    await predictor.send(SWITCH + early)
    assert await predictor.exactly(len(early)) == early
    await client.head()
    assert await client.exactly(len(early)) == early


@pytest.mark.parametrize("ends", ["client", "predictor"])
async def test_the_end_of_one_side_is_passed_on_after_its_last_bytes(bed: Opener, ends: str) -> None:
    agent = await bed()
    client, predictor = await tunnel(agent)
    one, other = (client, predictor) if ends == "client" else (predictor, client)
    await one.send(b"last words")
    one.half_close()
    assert await other.rest() == b"last words"
    await eventually(lambda: agent.outcomes)
    assert agent.outcomes == [Outcome.SERVED]
    assert agent.statuses == [101]


async def test_a_tunnel_holds_a_slot(bed: Opener) -> None:
    agent = await bed(limit="1")
    client, _ = await tunnel(agent)
    assert agent.admission.inflight == 1
    [queued] = await agent.fill(1)
    client.close()
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await queued.response()).raw == OK


async def test_an_upgrade_waits_its_turn_and_is_refused_like_inference(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1")
    _, predictor = await agent.occupy()
    waiting, refused = await agent.client(), await agent.client()
    await waiting.send(ASK)
    await eventually(lambda: agent.admission.queued)
    await refused.send(ASK)
    assert (await refused.response()).status == 503
    await predictor.send(OK)
    assert await predictor.head() == FORWARDED
    await predictor.send(SWITCH)
    assert await waiting.head() == SWITCH


async def test_an_upgrade_may_be_declined(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(ASK + get())
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(OK)
    assert (await client.response()).raw == OK
    assert (await predictor.request()).raw == get()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_an_upgrade_nobody_asked_for_is_a_predictors_fault(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(SWITCH + b"HTTP/1.1 200 OK\r\n\r\n")
    assert (await client.response()).status == 502
    assert (await predictor.ended()).was_reset


@pytest.mark.parametrize(
    "fields", [(b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk", b"Connection: Upgrade, HTTP2-Settings")]
)
async def test_h2c_is_not_forwarded(bed: Opener, fields: tuple[bytes, ...]) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(get(b"/", *fields))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == get(b"/")
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_side_that_does_not_read_stops_the_other(bed: Opener) -> None:
    agent = await bed()
    client, predictor = await tunnel(agent)
    [down], [up] = agent.server.connections, agent.pool.connections
    sent = await predictor.stuff(b"p" * 100_000, most=48 << 20, until=lambda: down.congested)
    sent_up = await client.stuff(b"c" * 100_000, most=48 << 20, until=lambda: up.congested)
    assert max(down.unsent, up.unsent) < 1 << 20
    assert await client.exactly(sent) == b"p" * sent
    assert await predictor.exactly(sent_up) == b"c" * sent_up
