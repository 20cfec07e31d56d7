"""A predictor that is not there yet: what waits for it, who is told, and that nobody looks again once it was there."""

import asyncio
from time import monotonic

import pytest

from agent.errors import Outcome
from agent.net.drain import Stage
from agent.net.pool import Dialler
from agent.net.server import Server
from tests.net.bed import OK, Bed, Opener, get, post
from tests.net.http2_bed import Http2Opener
from tests.net.http2_peers import grpc_head, infer
from tests.sockets import FakePredictor, Message, Peer, eventually

NOT_READY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


async def ready(agent: Bed) -> bytes:
    return await agent.page(b"/readyz")


async def served(agent: Bed) -> None:
    """Until the start is over."""
    await eventually(lambda: agent.server.drain.stage is Stage.SERVING, "it never became ready")


async def answer(_: Message, peer: Peer) -> None:
    await peer.send(OK)


@pytest.mark.parametrize("scheme", ["http", "h2c", "auto"])
async def test_it_is_ready_once_the_predictor_accepts_a_connection(h2bed: Http2Opener, scheme: str) -> None:
    agent = await h2bed(FakePredictor(), scheme=scheme, ready_when="reachable")
    address = agent.predictor.authority.decode()
    assert agent.server.startup.missing == [f"{address} to accept a connection"]
    assert await ready(agent) == f"starting\nwaits for {address} to accept a connection\n".encode()
    told: list[Stage] = []
    agent.server.drain.watchers.add(lambda: told.append(agent.server.drain.stage))
    agent.predictor.listen()
    await served(agent)
    assert (told, agent.server.startup.missing) == ([Stage.SERVING], [])
    assert await ready(agent) == b"serving\n"


async def test_every_upstream_is_waited_for(h2bed: Http2Opener) -> None:
    other = FakePredictor()
    agent = await h2bed(FakePredictor().listen(), other=other, ready_when="reachable")
    waits = [f"{other.authority.decode()} to accept a connection"]
    await eventually(lambda: agent.server.startup.missing == waits)
    assert agent.server.drain.stage is Stage.STARTING
    other.listen()
    await served(agent)


async def test_nobody_looks_again_and_a_restart_is_no_start(bed: Opener) -> None:
    agent = await bed(FakePredictor().listen(), ready_when="reachable")
    await served(agent)
    await (await agent.predictor.accept()).ended()
    task = agent.server.startup._task
    assert task is not None
    await eventually(task.done)
    agent.predictor.refuse()
    client = await agent.client()
    await client.send(get())
    assert (await client.response()).status == 503
    assert await ready(agent) == b"serving\n"


async def test_a_dial_for_a_request_counts(bed: Opener) -> None:
    agent = await bed(FakePredictor(), ready_when="reachable")
    client = await agent.client()
    await client.send(post(b"x"))
    await eventually(lambda: agent.pool.waiting)
    agent.predictor.listen()
    async with agent.predictor.serve(answer):
        assert (await client.response()).raw == OK
        await served(agent)


async def test_a_path_has_to_be_answered_with_2xx(bed: Opener) -> None:
    """MLServer listens before its models are loaded."""
    agent = await bed(FakePredictor(), ready_when="reachable", ready_path="/v2/health/ready")
    address = agent.predictor.authority.decode()
    replies = [b"HTTP/1.1 404 Not Found\r\n\r\n", NOT_READY, b"SSH-2.0-x\r\n 200 \r\n", b"", b"HTTP/1.1 204 \r\n\r\n"]
    agent.predictor.listen()
    for reply in replies:
        assert agent.server.drain.stage is Stage.STARTING
        peer = await agent.predictor.accept()
        request = await peer.request()
        assert (request.start, request.values(b"Host")) == (b"GET /v2/health/ready HTTP/1.1", [address.encode()])
        assert agent.server.startup.missing == [f"{address} to answer /v2/health/ready with 2xx"]
        await peer.send(reply)
        peer.half_close()
    await served(agent)
    assert agent.predictor.is_left_alone()


async def test_interim_answers_come_before_the_one_that_counts(bed: Opener) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % (b"x" * 5000)
    agent = await bed(ready_when="reachable", ready_path="/ready")
    for reply in (hints + hints + NOT_READY, b"HTTP/1.1 102 Processing\r\n\r\n", hints + OK):
        assert agent.server.drain.stage is Stage.STARTING
        peer = await agent.predictor.accept()
        await peer.request()
        for at in range(0, len(reply), 1000):
            await peer.send(reply[at : at + 1000])
        peer.half_close()
    await served(agent)


async def test_the_path_is_asked_of_the_http_upstream_alone(h2bed: Http2Opener) -> None:
    other = FakePredictor().listen()
    agent = await h2bed(FakePredictor().listen(), other=other, ready_when="reachable", ready_path="/ready")
    peer = await other.accept()
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    await served(agent)
    assert await (await agent.predictor.accept()).rest() == b""


class Loading:
    """A predictor that listens and is not ready until it has loaded; `seen` are all other requests."""

    def __init__(self) -> None:
        self.has_loaded = False
        self.seen: list[bytes] = []

    async def __call__(self, request: Message, peer: Peer) -> None:
        if request.target == b"/ready":
            await peer.send(OK if self.has_loaded else NOT_READY)
        else:
            self.seen.append(request.body or request.target)
            await peer.send(OK)


@pytest.mark.parametrize("policy", ["deadline", "fifo"])
async def test_inference_is_held_until_the_path_says_so_and_nothing_else_is(bed: Opener, policy: str) -> None:
    settings = {"policy": policy, "deadline": "100ms", "startup_timeout": "1h", "limit": "2"}
    agent = await bed(ready_when="reachable", ready_path="/ready", **settings)
    model = Loading()
    async with agent.predictor.serve(model):
        clients = [await agent.client() for _ in range(4)]
        for number, client in enumerate(clients):
            await client.send(post(b"%d" % number))
        probe = await agent.client()
        await probe.send(get(b"/v2/health/live"))
        assert (await probe.response()).raw == OK
        await eventually(lambda: agent.admission.queued == 2)
        agent.later(600)
        assert (model.seen, len(agent.gate.held), agent.outcomes) == ([b"/v2/health/live"], 2, [Outcome.SERVED])
        model.has_loaded = True
        for client in clients:
            assert (await client.response()).raw == OK
    assert not agent.gate.held
    assert sorted(model.seen[1:]) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("ends", ["deadline", "client", "drain"])
async def test_what_is_held_may_end_before(bed: Opener, ends: str) -> None:
    agent = await bed(ready_when="reachable", ready_path="/ready", deadline="10s", drain_timeout="0")
    async with agent.predictor.serve(Loading()):
        client = await agent.client()
        await client.send(post(b"x"))
        await eventually(lambda: agent.gate.held)
        if ends == "client":
            client.close()
            await eventually(lambda: agent.outcomes)
            assert agent.outcomes == [Outcome.CLIENT_GONE]
        else:
            agent.later(11) if ends == "deadline" else agent.server.drain.begin()
            reply = await client.response()
            reason = b"upstream_unavailable" if ends == "deadline" else b"draining"
            assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [reason])
        assert not agent.gate.held


async def test_an_end_that_has_begun_is_not_undone(bed: Opener) -> None:
    agent = await bed(FakePredictor(), ready_when="reachable", drain_delay="1h")
    agent.server.drain.begin()
    agent.predictor.listen()
    await eventually(lambda: not agent.server.startup.missing)
    task = agent.server.startup._task
    assert task is not None
    await eventually(task.done)
    assert agent.server.drain.stage is Stage.DRAINING
    agent.server.drain.begin(hurry=True)
    await agent.server.drain.wait()


async def test_one_that_ends_before_it_has_started_serves_what_comes(
    bed: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "_tick", lambda server: server.drain.begin())
    agent = await bed(ready_when="reachable", ready_path="/ready", drain_delay="1h")
    assert agent.server.drain.stage is Stage.DRAINING
    async with agent.predictor.serve(answer):
        client = await agent.client()
        await client.send(post(b"x"))
        assert (await client.response()).status == 200
    agent.server.drain.begin(hurry=True)
    await agent.server.drain.wait()


async def test_it_is_ready_at_once_where_that_is_wanted(bed: Opener) -> None:
    agent = await bed(FakePredictor(), ready_when="listening")
    assert await ready(agent) == b"serving\n"
    assert agent.server.startup._task is None


POLICIES = ["deadline", "fifo"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_requests_are_held_through_a_long_start_and_none_is_lost(bed: Opener, policy: str) -> None:
    agent = await bed(FakePredictor(), limit="2", policy=policy, deadline="100ms", startup_timeout="1h")
    clients = [await agent.client() for _ in range(6)]
    for index, client in enumerate(clients):
        await client.send(post(b"%d" % index))
        await eventually(lambda: agent.begun > index)  # noqa: B023 - looked at in this turn only
    assert (agent.admission.inflight, agent.admission.queued) == (2, 4)
    for _ in range(3):
        agent.later(600)
        agent.gate.expire(monotonic() + 1800)
    assert agent.outcomes == []
    agent.predictor.listen()
    async with agent.predictor.serve(answer):
        for client in clients:
            assert (await client.response()).raw == OK
    assert agent.outcomes == [Outcome.SERVED] * 6


@pytest.mark.parametrize("policy", POLICIES)
async def test_after_the_start_the_deadline_holds_again(bed: Opener, policy: str) -> None:
    agent = await bed(policy=policy, deadline="100ms", startup_timeout="1h")
    await eventually(lambda: not agent.admission.hold_until)
    agent.predictor.refuse()
    client = await agent.client()
    await client.send(post(b"x"))
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (503, [b"upstream_unavailable"])


@pytest.mark.parametrize("limit", ["1", "2"])
async def test_what_a_caller_says_of_itself_holds_in_the_start(h2bed: Http2Opener, limit: str) -> None:
    """Whether it has a slot or waits for one."""
    agent = await h2bed(FakePredictor(), limit=limit, policy="deadline", startup_timeout="1h")
    client = await agent.caller()
    patient = await client.call(b"patient")
    await eventually(lambda: agent.admission.inflight)
    hasty = await client.send(grpc_head(grpc_head()[2][1], (b"grpc-timeout", b"200m")), end=False)
    await client.send_data(hasty, infer(), end=True)
    await client.answer(hasty)
    assert (hasty.grpc_status, hasty.reason) == (4, b"expired")
    assert not patient.is_over
    await client.reset(patient)


async def test_a_header_with_a_deadline_holds_while_nothing_can_be_reached(bed: Opener) -> None:
    settings = {"policy": "deadline", "deadline_header": "x-deadline", "startup_timeout": "1h"}
    agent = await bed(FakePredictor(), **settings)
    client = await agent.client()
    await client.send(post(b"x", b"x-deadline: 100ms"))
    assert (await client.response()).status == 503


async def test_a_dial_that_hangs_does_not_outlast_the_deadline(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing refuses it, so that only a look at the time can tell."""
    hung = asyncio.Event()

    async def hang(*_: object) -> None:
        await hung.wait()
        raise TimeoutError

    monkeypatch.setattr(Dialler, "open", hang)
    agent = await bed(deadline="10s")
    client = await agent.client()
    await client.send(post(b"x"))
    await eventually(lambda: agent.pool.waiting)
    agent.later(12)
    assert (await client.response()).status == 503
    hung.set()


async def test_a_start_teaches_nothing_of_service_times(bed: Opener) -> None:
    """Else what comes next would be refused: nothing that slow could be in time."""
    agent = await bed(FakePredictor(), limit="2", policy="deadline", deadline="10s", startup_timeout="1h")
    held = await agent.client()
    await held.send(post(b"held"))
    await eventually(lambda: agent.pool.is_refusing)
    [exchange] = agent.pool.waiting
    exchange.dispatched -= 60.0
    exchange._ticket.dispatched -= 60.0
    agent.predictor.listen()
    async with agent.predictor.serve(answer):
        assert (await held.response()).raw == OK
        assert 0.0 < agent.admission.lane_of("m").unary.slowest < 10.0
        assert agent.server.usages["http"].of("m").service_s < 10.0


async def test_one_that_never_reached_the_predictor_teaches_nothing(bed: Opener) -> None:
    agent = await bed(FakePredictor(), limit="1", policy="deadline", deadline="100ms")
    clients = [await agent.client() for _ in range(2)]
    for client in clients:
        await client.send(post(b"x"))
        assert (await client.response()).status == 503
    assert (agent.admission.total.hold, agent.admission.total.pace) == (0.0, 0.0)
    assert agent.outcomes == [Outcome.UPSTREAM_UNAVAILABLE] * 2
