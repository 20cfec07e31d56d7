"""The load page on a data port: answered whatever the load, over both protocols, never forwarded, never counted."""

import json

import pytest

from agent.errors import Outcome
from agent.net import server
from tests.net.bed import OK, Bed, Opener, get, ok, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import grpc_head, plain_head
from tests.sockets import eventually

LOAD = b"/.headgate/load"


async def overloaded(agent: Bed) -> None:
    """One runs, one waits, and one is refused after that."""
    await agent.occupy()
    await agent.fill(1)
    client = await agent.client()
    await client.send(post(b"refused"))
    assert (await client.response()).status == 503


async def test_under_full_overload_it_is_answered_without_a_slot(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1")
    await overloaded(agent)
    before = (agent.begun, agent.server.counters.bypassed.copy(), list(agent.server.counters.outcomes))
    client = await agent.client()
    for _ in range(2):  # the connection goes on
        await client.send(get(LOAD))
        answer = await client.response()
        assert answer.status == 200
        assert answer.values(b"content-type") == [b"application/json"]
        assert answer.values(b"cache-control") == [b"no-store"]
        shown = json.loads(answer.body)
        assert (shown["inflight"], shown["queued"], shown["limit"]) == (1, 1, 1)
    assert (agent.begun, agent.server.counters.bypassed, agent.server.counters.outcomes) == before
    assert agent.gate.active == 2
    assert agent.predictor.is_left_alone()


async def test_the_same_over_http2(h2bed: Http2Opener) -> None:
    agent = await h2bed(limit="1", queue="1")
    client, server = await agent.pair()
    await agent.occupy_slot(client, server)
    await agent.queue_calls(client, 1)
    half = await client.answer(await client.send(plain_head(b"GET", LOAD)))
    assert half.status == 200
    assert json.loads(half.body)["queued"] == 1
    text = await client.answer(await client.send(plain_head(b"GET", LOAD, (b"accept", b"text/plain"))))
    assert b"headgate_load_queued 1\n" in text.body
    head = await client.answer(await client.send(plain_head(b"HEAD", LOAD)))
    assert (head.status, bytes(head.body)) == (200, b"")
    assert int(head.value(b"content-length") or 0) == len(half.body)
    assert agent.outcomes == []
    assert len(server.requests) == 2, "the probe of the connection, and the call"


async def test_a_call_of_that_name_is_not_forwarded_either(h2bed: Http2Opener) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    half = await client.answer(await client.send(grpc_head(LOAD), b"\0\0\0\0\0"))
    assert half.status == 405
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        get(LOAD + b"?window=5s"),
        get(b"/.headgate/%6Coad"),
        get(LOAD, b"Content-Length: 0"),
        get(LOAD, b"Connection: Upgrade", b"Upgrade: websocket"),
        b"GET http://m.test/.headgate/load HTTP/1.1\r\nHost: m.test\r\n\r\n",
    ],
)
async def test_ways_to_ask(bed: Opener, request_bytes: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(request_bytes)
    assert (await client.response()).status == 200
    assert agent.predictor.is_left_alone()


async def test_a_head_says_how_long_the_page_is(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(get(LOAD).replace(b"GET", b"HEAD") + get(LOAD))
    head = await client.response(bodyless=True)
    page = await client.response()
    assert head.values(b"content-length") == page.values(b"content-length")


@pytest.mark.parametrize("end", [b"x" * 20, b""])
async def test_what_is_posted_to_it_is_refused_and_goes_nowhere(bed: Opener, end: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x" * 20, target=LOAD)[: None if end else -20])
    answer = await client.response()
    assert answer.status == 405
    assert answer.values(b"allow") == [b"GET, HEAD"]
    if not end:
        await client.send(b"x" * 20)
    await client.send(get(LOAD))
    assert (await client.response()).status == 200
    assert agent.predictor.is_left_alone()


async def test_old_clients_get_it_and_the_end(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(b"GET /.headgate/load HTTP/1.0\r\n\r\n")
    answer = await client.response()
    assert (answer.status, answer.values(b"connection")) == (200, [b"close"])
    assert await client.rest() == b""


async def test_turned_off_the_path_is_the_predictors(bed: Opener) -> None:
    agent = await bed(load_page="off")
    client = await agent.client()
    await client.send(get(LOAD))
    peer = await agent.predictor.accept()
    assert (await peer.request()).target == LOAD
    await peer.send(ok(b"mine"))
    assert (await client.response()).body == b"mine"
    assert agent.outcomes == [Outcome.SERVED]


async def test_the_admin_port_has_it_in_any_case(bed: Opener) -> None:
    agent = await bed(load_page="off")
    assert json.loads(await agent.page(LOAD + b"?window=5s"))["limit"] == 4


async def test_refused_requests_are_demand(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_TICK_S", 0.001)
    agent = await bed(limit="1", queue="0")
    client = await agent.client()
    peer = await agent.warm()
    for body in (b"the model is known now", b"and how long it takes", b"running"):
        await client.send(post(body))
        await peer.request()
        if body != b"running":
            await peer.send(OK)
            await client.response()
    other = await agent.client()
    for _ in range(10):
        await other.send(post(b"refused"))
        assert (await other.response()).status == 503
    usage = agent.server.usages["http"].of("m")
    usual = agent.server.counters.models["m", "http"].upstream.total / 2
    assert usage.rejected_demand_seconds == pytest.approx(10 * usual)
    shown = json.loads(await agent.page(LOAD))
    assert shown["rejected_demand_seconds"] == pytest.approx(10 * usual, abs=1e-6)
    assert shown["demand"] > shown["rejected"] > 0.0
    await peer.send(OK)
    await client.response()
    await eventually(lambda: not agent.admission.inflight)


async def test_while_draining_it_is_answered_and_ends_the_connection(bed: Opener) -> None:
    agent = await bed(drain_delay="1h")
    client = await agent.client()
    agent.server.drain.begin()
    await client.send(get(LOAD))
    answer = await client.response()
    assert (answer.status, answer.values(b"connection")) == (200, [b"close"])
    assert await client.rest() == b""
    agent.server.drain.begin(hurry=True)
    await agent.server.drain.wait()
