"""Our own bugs over HTTP/2: a callback that raises costs its connection, is reported, and stops nobody else."""

from typing import Any

import pytest

from agent.errors import Outcome
from agent.net.exchange import Exchange
from tests.faults.test_guard import BugError, broken, reported
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import GRPC_ANSWER, Http2Client, Http2Server, infer
from tests.sockets import eventually
from tests.wire import frames_by_hand as raw


async def still_serves(agent: Http2Bed, client: Http2Client, server: Http2Server | None = None) -> None:
    half = await client.call(b"next")
    server = server or await agent.connection()
    request = await server.request()
    await server.respond(request)
    assert (await client.answer(half)).grpc_status == 0


@pytest.mark.parametrize("method", ["on_response", "on_response_body", "on_response_trailers"])
async def test_a_bug_on_the_predictors_side(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """All calls on the connection are lost, and the clients' connections are not: each call is told."""
    agent = await h2bed()
    client, server = await agent.pair()
    other = await agent.caller()
    halves = [(client, await client.call()), (other, await other.call())]
    requests = [await server.request() for _ in halves]
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, method, broken)
        await server.respond(requests[0], b"x")
        for caller, half in halves:
            await caller.answer(half)
            assert (half.is_complete, half.reset) == (False, raw.INTERNAL_ERROR)
        assert (await server.peer.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL] * 2
    await still_serves(agent, client)


@pytest.mark.parametrize("method", ["on_request_body", "dispatch", "attach"])
async def test_a_bug_on_the_clients_side(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    agent = await h2bed(limit="3")
    client, server = await agent.pair()
    other = await agent.caller()
    await agent.occupy_slot(client, server)
    kept = await other.call(b"kept")
    request = await server.request()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, method, broken)
        await client.call(b"breaks")
        assert (await client.peer.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL] * 2
    await server.until(lambda: server.requests[1].reset is not None)
    assert server.requests[1].reset == raw.CANCEL
    await server.respond(request)
    assert (await other.answer(kept)).grpc_status == 0
    await still_serves(agent, other, server)


async def test_a_bug_when_a_client_leaves(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await h2bed(limit="1")
    client, server = await agent.pair()
    _, request = await agent.occupy_slot(client, server)
    await agent.queue_calls(client, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_client_gone", broken)
        client.peer.reset()
        await server.until(lambda: request.reset is not None)
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL] * 4
    assert len(server.requests) == 2
    await still_serves(agent, await agent.caller(), server)


@pytest.mark.parametrize("end", ["reset", "close"])
async def test_a_bug_when_a_predictor_leaves(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    agent = await h2bed(limit="2")
    client, server = await agent.pair()
    halves = [await client.call() for _ in range(2)]
    await server.request()
    await server.request()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_upstream_lost", broken)
        getattr(server.peer, end)()
        for half in halves:
            await client.answer(half)
            assert (half.is_complete, half.reset) == (False, raw.INTERNAL_ERROR)
    assert BugError in reported(agent)
    assert agent.outcomes == [Outcome.INTERNAL] * 2
    await still_serves(agent, client)


async def test_a_bug_under_back_pressure(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await h2bed()
    client, server = await agent.pair()
    client.is_eager = False
    await client.call()
    request = await server.request()
    await server.send_head(request, GRPC_ANSWER)
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_client_writable", broken)
        await server.stuff(request, b"x" * 200_000)
        assert (await server.peer.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent, await agent.caller())


async def test_a_bug_when_a_stream_ends(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that the bug is about is gone from its connection already, and is accounted for all the same."""
    agent = await h2bed()
    for method, code in (("on_client_gone", None), ("on_upstream_reset", raw.CANCEL), ("on_upstream_returned", 7)):
        client = await agent.caller()
        half = await client.call()
        server = await agent.connection()
        request = await server.request()
        with monkeypatch.context() as patch:
            patch.setattr(Exchange, method, broken)
            if code is None:
                await client.reset(half)
                assert (await client.peer.ended()).was_reset
            else:
                await server.reset(request, code)
                await client.answer(half)
                assert half.reset == raw.INTERNAL_ERROR
                assert (await server.peer.ended()).was_reset
        assert reported(agent) == [BugError]
        assert (agent.outcomes.pop(), agent.admission.inflight) == (Outcome.INTERNAL, 0)
        agent.forget()
        server.peer.close()
        await eventually(lambda: agent.pool.counts() == (0, 0))
    await still_serves(agent, await agent.caller())


async def test_a_bug_while_calls_wait_for_a_connection(h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one call's, and costs nobody else their connection or their place."""
    agent = await h2bed()
    client = await agent.caller()
    attach = Exchange.attach

    def break_first(exchange: Exchange, *arguments: Any) -> None:
        monkeypatch.setattr(Exchange, "attach", attach)
        raise BugError

    monkeypatch.setattr(Exchange, "attach", break_first)
    halves = [await client.call(b"%d" % index) for index in range(2)]
    server = await agent.connection()
    await client.answer(halves[0])
    assert halves[0].reset == raw.INTERNAL_ERROR
    request = await server.request()
    assert bytes(request.body) == infer(b"1")
    await server.respond(request)
    assert (await client.answer(halves[1])).grpc_status == 0
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL, Outcome.SERVED]
    await still_serves(agent, client, server)
