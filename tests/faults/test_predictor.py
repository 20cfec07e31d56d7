"""Predictors that are down, come back, or end connections at the wrong moment."""

import pytest

from tests.net.bed import OK, Opener, get, post
from tests.sockets import FakePredictor, Message, Peer, eventually

CHUNKED = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
)


async def answer(_: Message, peer: Peer) -> None:
    await peer.send(OK)


# Down and back


async def test_a_predictor_that_comes_back_in_time_loses_nothing(bed: Opener) -> None:
    agent = await bed(FakePredictor(), limit="2")
    clients = []
    for index in range(6):
        client = await agent.client()
        await client.send(post(b"%d" % index))
        await eventually(lambda: agent.gate.active == index + 1)  # noqa: B023 - looked at in this turn only
        clients.append(client)
    await eventually(lambda: agent.pool.is_refusing)
    assert (agent.admission.inflight, agent.admission.queued) == (2, 4)
    agent.predictor.listen()
    async with agent.predictor.serve(answer):
        for client in clients:
            assert (await client.response()).raw == OK
    assert sorted(request.body for request in agent.predictor.requests) == [b"%d" % index for index in range(6)]


async def test_a_predictor_that_restarts_under_load_loses_only_what_it_had(bed: Opener) -> None:
    agent = await bed(limit="1")
    client, predictor = await agent.occupy()
    queued = await agent.fill(3)
    agent.predictor.refuse()
    predictor.reset()
    assert (await client.response()).status == 502
    await eventually(lambda: agent.pool.is_refusing)
    agent.predictor.listen()
    async with agent.predictor.serve(answer):
        for client in queued:
            assert (await client.response()).raw == OK
    assert [request.body for request in agent.predictor.requests] == [b"queued 0", b"queued 1", b"queued 2"]


async def test_a_probe_learns_at_once_that_the_predictor_is_down(bed: Opener) -> None:
    agent = await bed(FakePredictor())
    client = await agent.client()
    for _ in range(3):
        await client.send(get())
        reply = await client.response()
        assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"upstream_unavailable"])
    agent.predictor.listen()
    await client.send(get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_no_address_leaks_into_an_error(bed: Opener) -> None:
    agent = await bed(FakePredictor())
    client = await agent.client()
    await client.send(get())
    assert b"127.0.0.1" not in (await client.response()).raw


# Kept connections that end


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_an_idle_connection_that_the_predictor_ends_is_not_used(bed: Opener, end: str) -> None:
    agent = await bed()
    getattr(await agent.warm(), end)()
    await eventually(lambda: not agent.pool.connections)
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("request_", [post(b"once"), post(), get(), CHUNKED])
async def test_a_request_that_may_have_run_is_not_sent_again(bed: Opener, request_: bytes, end: str) -> None:
    agent = await bed()
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(request_)
    await predictor.request()
    getattr(predictor, end)()
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (502, [b"upstream_closed"])
    assert agent.predictor.is_left_alone()


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("request_", [post(b"twice"), post(), CHUNKED])
async def test_who_opts_in_gets_one_retry(bed: Opener, request_: bytes, end: str) -> None:
    agent = await bed(retry_stale="true")
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(request_)
    first = await predictor.request()
    getattr(predictor, end)()
    fresh = await agent.predictor.accept()
    assert (await fresh.request()).raw == first.raw == request_.replace(b"X-T: 1\r\n", b"")  # DECISIONS 38
    await fresh.send(OK)
    assert (await client.response()).raw == OK


async def test_a_fresh_connection_is_not_stale(bed: Opener) -> None:
    """The predictor closed it because of the request, not in spite of it."""
    agent = await bed(retry_stale="true")
    client, predictor = await agent.occupy()
    predictor.close()
    assert (await client.response()).status == 502
    assert agent.predictor.is_left_alone()


async def test_there_is_no_second_retry(bed: Opener) -> None:
    agent = await bed(retry_stale="true")
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(post(b"x"))
    await predictor.request()
    predictor.close()
    fresh = await agent.predictor.accept()
    await fresh.request()
    fresh.close()
    assert (await client.response()).status == 502
    assert agent.predictor.is_left_alone()


async def test_a_retry_onto_a_predictor_that_is_down_waits_for_it(bed: Opener) -> None:
    agent = await bed(retry_stale="true", limit="1")
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(post(b"x"))
    await predictor.request()
    agent.predictor.refuse()
    predictor.close()
    await eventually(lambda: agent.pool.is_refusing)
    agent.predictor.listen()
    fresh = await agent.predictor.accept()
    await fresh.request()
    await fresh.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize("answered", [b"H", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_connection_that_has_answered_anything_is_not_stale(bed: Opener, answered: bytes) -> None:
    agent = await bed(retry_stale="true")
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(post(b"x"))
    await predictor.request()
    await predictor.send(answered)
    [connection] = agent.pool.connections
    await eventually(lambda: connection._answered)
    predictor.close()
    statuses = [(await client.response()).status]
    if statuses == [102]:
        statuses.append((await client.response()).status)
    assert statuses[-1] == 502
    assert agent.predictor.is_left_alone()


@pytest.mark.parametrize("body", [b"x" * 100_000, b"x" * 5])
async def test_what_is_not_at_hand_in_full_is_not_sent_again(bed: Opener, body: bytes) -> None:
    """Either more than is kept for a second sending, or not all here yet."""
    agent = await bed(retry_stale="true", queued_body="32KiB")
    predictor = await agent.warm()
    client = await agent.client()
    whole = len(body) > 5
    await client.send(post(body) if whole else post(body * 2)[:-5])
    await predictor.until(body)
    predictor.reset()
    assert (await client.response()).status == 502
    assert agent.predictor.is_left_alone()


async def test_nothing_is_sent_again_for_a_client_that_left(bed: Opener) -> None:
    agent = await bed(retry_stale="true")
    predictor = await agent.warm()
    client = await agent.client()
    await client.send(post(b"x"))
    await predictor.request()
    client.reset()
    await eventually(lambda: not agent.server.connections)
    predictor.close()
    await eventually(lambda: agent.outcomes)
    assert agent.predictor.is_left_alone()
    assert not agent.pool.waiting


async def test_idle_connections_are_dropped_before_predictors_close_them(
    bed: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await bed()
    predictor = await agent.warm()
    monkeypatch.setattr("agent.net.http1_upstream.MAX_IDLE_S", 0.1)
    assert await predictor.rest() == b""
    await eventually(lambda: not agent.pool.connections)


async def test_an_idle_connection_that_is_too_old_is_not_taken(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bed()
    await agent.warm()
    monkeypatch.setattr("agent.net.http1_upstream.MAX_IDLE_S", 0.0)
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize("kind", ["answer", "tunnel"])
async def test_a_close_that_ends_an_answer_as_it_should_raises_no_suspicion(bed: Opener, kind: str) -> None:
    """Only a predictor that closes inside an exchange may be dying; its other connections are kept here."""
    agent = await bed()
    other, second = await agent.occupy()
    client = await agent.client()
    upgrade = (b"Connection: upgrade", b"Upgrade: x") if kind == "tunnel" else ()
    await client.send(get(b"/", *upgrade))
    predictor = await agent.predictor.accept()
    await predictor.head()
    await second.send(OK)
    assert (await other.response()).raw == OK
    await eventually(lambda: agent.pool.idle)
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    await predictor.send(switch if upgrade else b"HTTP/1.1 200 OK\r\n\r\n")
    await client.head()
    predictor.half_close()
    assert await client.rest() == b""
    assert not agent.pool.is_refusing
    assert agent.pool.idle


async def test_a_close_inside_an_exchange_gives_up_the_idle_connections(bed: Opener) -> None:
    agent = await bed()
    other, idle = await agent.occupy()
    client, predictor = await agent.occupy()
    await idle.send(OK)
    await eventually(lambda: agent.pool.idle)
    predictor.close()
    assert (await client.response()).status == 502
    assert await idle.rest() == b""
    await other.send(post(b"after"))
    fresh = await agent.predictor.accept()
    assert (await fresh.request()).body == b"after"
    await fresh.send(OK)
    assert [(await other.response()).status for _ in range(2)] == [200, 200]


async def test_a_connection_rests_before_it_is_used_again(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bed()
    monkeypatch.setattr("agent.net.http1_upstream.REST_S", 60.0)
    await agent.warm()
    monkeypatch.setattr("agent.net.http1_upstream.MAX_IDLE_S", 60.0)
    client = await agent.client()
    await client.send(post(b"x"))
    fresh = await agent.predictor.accept()
    await fresh.request()
    await fresh.send(OK)
    assert (await client.response()).raw == OK


async def test_a_close_that_the_loop_has_not_heard_of_is_seen(bed: Opener) -> None:
    """Rested or not: where the agent was not given the processor, a close may have come that nobody has read."""
    agent = await bed(limit="1")
    running, dying = await agent.occupy()
    [queued] = await agent.fill(1)
    await dying.send(OK)
    dying.close()
    assert (await running.response()).raw == OK
    fresh, request = await agent.predictor.next()
    assert request.body == b"queued 0"
    await fresh.send(OK)
    assert (await queued.response()).raw == OK
