"""Admission as clients see it: who runs, who waits, who is refused, and what that costs."""

import json

import pytest

from agent.errors import Outcome
from tests.net.bed import INFER, OK, Bed, Opener, get, ok, post
from tests.sockets import Message, Peer, eventually

HEALTH = [b"/v2/health/ready", b"/v2/models/m", b"/v2/repository/index", b"/metrics"]


async def serve_next(agent: Bed, predictor: Peer, client: Peer, body: bytes) -> None:
    """The predictor answers what it has; then the next request, with this body, is the client's."""
    await predictor.send(OK)
    predictor, request = await agent.predictor.next()
    assert request.body == body
    await predictor.send(ok(body))
    assert (await client.response()).raw == ok(body)


async def test_the_limit_bounds_what_the_predictor_sees(bed: Opener) -> None:
    agent = await bed(limit="2")
    await agent.occupy()
    _, predictor = await agent.occupy()
    queued = await agent.fill(3)
    assert (agent.admission.inflight, agent.admission.queued) == (2, 3)
    assert agent.predictor.is_left_alone()
    for index in range(3):
        await predictor.send(OK)
        assert (await predictor.request()).body == b"queued %d" % index
        assert (agent.admission.inflight, agent.admission.queued) == (2, 2 - index)
    await predictor.send(OK)
    for client in queued:
        assert (await client.response()).raw == OK


async def test_a_refusal_is_complete_and_keeps_the_connection(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1")
    _, predictor = await agent.occupy()
    await agent.fill(1)
    client = await agent.client()
    for _ in range(2):
        await client.send(post(b"refused"))
        refusal = await client.response()
        assert refusal.start == b"HTTP/1.1 503 Service Unavailable"
        assert refusal.values(b"Content-Type") == [b"application/json"]
        assert refusal.values(b"x-headgate-reason") == [b"queue_full"]
        assert int(refusal.values(b"Retry-After")[0]) >= 1
        assert not refusal.values(b"Connection")
        assert list(json.loads(refusal.body)) == ["error"]
    await predictor.send(OK)
    await predictor.request()
    await client.send(post(b"now it fits"))
    await predictor.send(OK)
    assert (await predictor.request()).body == b"now it fits"
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_refusal_may_be_429(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0", overload_status="429")
    await agent.occupy()
    client = await agent.client()
    await client.send(post())
    refusal = await client.response()
    assert refusal.start == b"HTTP/1.1 429 Too Many Requests"
    assert refusal.values(b"Retry-After")
    assert agent.statuses == [429]


async def test_a_refused_head_request_gets_no_body(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0")
    await agent.occupy()
    client = await agent.client()
    upgrade = get(b"/ws", b"Connection: upgrade", b"Upgrade: websocket").replace(b"GET", b"HEAD")
    await client.send(upgrade + post())
    assert (await client.response(bodyless=True)).status == 503
    assert (await client.response()).status == 503


async def test_a_queued_request_expires_while_another_stays(bed: Opener) -> None:
    agent = await bed(limit="1")
    _, predictor = await agent.occupy()
    client = await agent.client()
    await client.send(post(b"late") + get())
    await eventually(lambda: agent.admission.queued)
    agent.expire()
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (504, [b"expired"])
    second = await agent.predictor.accept()
    assert (await second.request()).raw == get()
    await second.send(OK)
    assert (await client.response()).raw == OK
    [fresh] = await agent.fill(1)
    await serve_next(agent, predictor, fresh, b"queued 0")


async def test_a_model_at_its_limit_holds_up_nobody_else(bed: Opener) -> None:
    agent = await bed(limit="3", model_limits="big=1")
    big = [await agent.client() for _ in range(2)]
    await big[0].send(post(b"big 0", target=b"/v2/models/big/infer"))
    first = await agent.predictor.accept()
    await first.request()
    await big[1].send(post(b"big 1", target=b"/v2/models/big/versions/2/infer"))
    await eventually(lambda: agent.admission.queued)
    _, second = await agent.occupy()
    await second.send(OK)
    await serve_next(agent, first, big[1], b"big 1")


@pytest.mark.parametrize("target", HEALTH)
async def test_health_and_metadata_pass_a_full_queue(bed: Opener, target: bytes) -> None:
    agent = await bed(limit="1", queue="1")
    await agent.occupy()
    await agent.fill(1)
    client = await agent.client()
    await client.send(get(target))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).target == target
    assert agent.admission.inflight == 1
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_queued_body_is_held_up_to_its_bound_and_delivered_whole(bed: Opener) -> None:
    agent = await bed(limit="1", queued_body="32KiB")
    _, predictor = await agent.occupy()
    body = bytes(range(251)) * 8000
    client = await agent.client()
    agent.start(client.send(post(body)))
    await eventually(lambda: agent.admission.queued_bytes >= 32 * 1024)
    assert agent.admission.queued_bytes <= 48 * 1024
    await serve_next(agent, predictor, client, body)


async def test_many_queued_uploads_take_little(bed: Opener) -> None:
    """Each is larger than what may be held, and all arrive whole."""
    count = 200
    agent = await bed(limit="1", queue=str(count), queued_body="16KiB")
    _, predictor = await agent.occupy()
    body = b"x" * 200_000
    clients = [await agent.client() for _ in range(count)]
    for client in clients:
        agent.start(client.send(post(body)))
    admission = agent.admission
    await eventually(lambda: admission.queued == count and admission.queued_bytes >= count * 16 * 1024)
    assert admission.queued_bytes <= count * 32 * 1024

    async def answer(request: Message, peer: Peer) -> None:
        await peer.send(ok(b"%d" % len(request.body)))

    await predictor.send(ok(b"", b"Connection: close"))
    async with agent.predictor.serve(answer):
        for client in clients:
            assert (await client.response()).body == b"200000"


async def test_the_bytes_of_the_queue_are_bounded(bed: Opener) -> None:
    agent = await bed(limit="1", queue="100", queue_bytes="64KiB", queued_body="32KiB")
    await agent.occupy()
    for _ in range(2):
        client = await agent.client()
        await client.send(post(b"x" * 32 * 1024))
    await eventually(lambda: agent.admission.queued_bytes == 64 * 1024)
    last = await agent.client()
    await last.send(post(b"x"))
    assert (await last.response()).status == 503


async def test_continue_waits_for_the_dispatch(bed: Opener) -> None:
    agent = await bed(limit="1")
    _, predictor = await agent.occupy()
    client = await agent.client()
    await client.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 5"))
    await eventually(lambda: agent.admission.queued)
    [connection] = [each for each in agent.server.connections if each.exchange and not each.exchange.dispatched]
    assert not connection.unsent
    await predictor.send(OK)
    await predictor.head()
    assert (await client.response()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    assert await predictor.exactly(5) == b"hello"
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_continue_is_never_sent_before_a_refusal(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1")
    await agent.occupy()
    waiting = post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 5")
    expired, refused = await agent.client(), await agent.client()
    await expired.send(waiting)
    await eventually(lambda: agent.admission.queued)
    await refused.send(waiting)
    for client, status in ((refused, 503), (expired, 504)):
        if client is expired:
            agent.expire()
        reply = await client.response()
        assert (reply.status, reply.values(b"Connection")) == (status, [b"close"])


@pytest.mark.parametrize("leave", ["close", "reset", "half_close"])
async def test_a_client_that_leaves_frees_its_place_at_once(bed: Opener, leave: str) -> None:
    agent = await bed(limit="1", queue="1")
    _, predictor = await agent.occupy()
    [client] = await agent.fill(1)
    getattr(client, leave)()
    await eventually(lambda: not agent.admission.queued)
    assert agent.outcomes == [Outcome.CLIENT_GONE]
    [later] = await agent.fill(1)
    await serve_next(agent, predictor, later, b"queued 0")


async def test_a_client_that_leaves_while_it_runs_keeps_its_slot(bed: Opener) -> None:
    agent = await bed(limit="1")
    client, predictor = await agent.occupy()
    [waiting] = await agent.fill(1)
    client.reset()
    await eventually(lambda: len(agent.server.connections) == 1)
    assert (agent.admission.inflight, agent.admission.queued) == (1, 1)
    await predictor.send(OK)
    assert (await predictor.request()).body == b"queued 0"
    assert agent.outcomes == [Outcome.CLIENT_GONE]
    await predictor.send(OK)
    assert (await waiting.response()).raw == OK


async def test_no_limit_admits_all_and_counts(bed: Opener) -> None:
    agent = await bed(limit="none")
    pairs = [await agent.occupy() for _ in range(20)]
    assert (agent.admission.inflight, agent.admission.queued) == (20, 0)
    for client, predictor in pairs:
        await predictor.send(OK)
        assert (await client.response()).raw == OK


async def test_labels_are_learnt_from_answers(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(target=b"/v2/models/none/infer") + post(target=INFER))
    predictor = await agent.predictor.accept()
    for answer in (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", OK):
        await predictor.request()
        await predictor.send(answer)
        await client.response()
    names = [usage.name for usage in agent.server.usages["http"].rows(0.0)]
    assert names == ["m", "_other"]
