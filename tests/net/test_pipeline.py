"""Requests sent ahead of the answers: served one by one, in order, within bounds."""

import pytest

from agent.net.http1_downstream import MAX_HELD
from tests.net.bed import OK, Opener, get, ok, post
from tests.sockets import IncompleteError, Message, Peer, eventually


async def test_requests_in_one_segment_are_served_in_order(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(
        post(b"1") + get() + post(b"") + b"POST / HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    predictor = await agent.predictor.accept()
    for number in range(4):
        await predictor.request()
        assert agent.gate.active == 1
        assert len(predictor.received) == predictor.taken
        await predictor.send(ok(b"%d" % number))
    for number in range(4):
        assert (await client.response()).body == b"%d" % number


async def test_refusals_and_answers_keep_their_order(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0")
    await agent.occupy()
    client = await agent.client()
    await client.send(post(b"refused") + get() + post(b"too") * 3 + get(b"/last"))
    predictor = await agent.predictor.accept()
    for _ in range(2):
        await predictor.request()
        await predictor.send(OK)
    statuses = [(await client.response()).status for _ in range(6)]
    assert statuses == [503, 200, 503, 503, 503, 200]


async def test_nothing_after_close_is_looked_at(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"1", b"Connection: close") + post(b"2"))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).body == b"1"
    await predictor.send(OK)
    assert (await client.response()).status == 200
    assert await client.rest() == b""
    assert agent.begun == 1


async def test_a_bad_request_waits_for_its_turn_and_ends_the_connection(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"1") + b"BAD\r\n\r\n" + post(b"2"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK
    refusal = await client.response()
    assert (refusal.status, refusal.values(b"Connection")) == (400, [b"close"])
    assert await client.rest() == b""
    assert agent.begun == 1


async def test_what_is_held_stays_bounded_while_requests_are_served(bed: Opener) -> None:
    """Each answer lets one request in; it must not let a whole read in."""
    agent = await bed()
    client = await agent.client()
    await client.send(get() * 20_000)
    predictor = await agent.predictor.accept()
    [connection] = agent.server.connections
    await eventually(lambda: len(connection._machine.held) > MAX_HELD)
    for _ in range(100):
        await predictor.request()
        await predictor.send(OK)
        await client.response()
        assert len(connection._machine.held) < 2 * MAX_HELD


async def test_a_client_that_only_sends_is_not_answered_without_bound(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0")
    await agent.occupy()
    client = await agent.client(kernel_buffer=16 * 1024)
    request = post()
    connections = agent.server.connections
    sent = await client.stuff(request, most=8 << 20, until=lambda: any(each.congested for each in connections))
    whole = sent // len(request)
    for _ in range(whole):
        assert (await client.response()).status == 503
    await client.send(request[sent % len(request) :])
    assert (await client.response()).status == 503
    assert agent.outcomes.count(agent.outcomes[0]) == whole + 1


async def test_a_client_that_only_sends_gets_every_answer_once_it_reads(bed: Opener) -> None:
    agent = await bed()
    body = b"x" * 50_000

    async def answer(request: Message, peer: Peer) -> None:
        await peer.send(ok(body))

    async with agent.predictor.serve(answer):
        client = await agent.client(kernel_buffer=16 * 1024)
        await client.send(get() * 200)
        await eventually(lambda: any(connection.congested for connection in agent.server.connections))
        for _ in range(200):
            assert (await client.response()).body == body


async def test_the_rest_of_a_head_is_due_even_when_it_began_behind_another_request(bed: Opener) -> None:
    agent = await bed(head_timeout="100ms")
    client = await agent.client()
    await client.send(post(b"1") + b"POST /v2")
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).status == 200
    assert (await client.response()).status == 408


async def test_an_answer_that_ends_the_connection_reaches_a_client_that_sends_on(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client(kernel_buffer=16 * 1024)
    await client.send(post(b"1", b"Connection: close"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    body = b"x" * 3_000_000
    await client.stuff(post(b"2"), most=1 << 20)
    agent.start(predictor.send(ok(body)))
    assert (await client.response()).body == body
    with pytest.raises(IncompleteError):
        await client.more()
