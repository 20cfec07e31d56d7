"""Every way to fail in every phase of a gRPC call: what its client gets, what the predictor saw, how it is booked.

After each the agent must be as good as new: the fixture checks the accounts, and a last call is served.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum, auto

import pytest

from agent.errors import REPLIES, Outcome
from tests.net.bed import TIME_OUTS
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import GRPC_ANSWER, Half, Http2Client, Http2Server, grpc_head, infer
from tests.sockets import FakePredictor, eventually
from tests.wire import frames_by_hand as raw

# Unlike anything else that is sent, so that deliveries can be counted.
MARK = b"the call"


class Phase(StrEnum):
    NAMING = auto()  # the message that names the model is still to come
    QUEUED = auto()
    CONNECTING = auto()  # the predictor refuses dials
    HALF_SENT = auto()
    SENT = auto()
    HEAD = auto()  # the answer's head has been relayed
    BODY = auto()  # and a message


class Failure(StrEnum):
    CANCEL = auto()
    CLIENT_FIN = auto()
    CLIENT_RST = auto()
    STREAM = auto()  # the predictor resets it
    PREDICTOR_FIN = auto()
    PREDICTOR_RST = auto()
    GARBAGE = auto()  # from the predictor
    TIMEOUT = auto()
    DRAIN = auto()  # whose time is over


LEAVING = (Failure.CANCEL, Failure.CLIENT_FIN, Failure.CLIENT_RST)
PREDICTORS = (Failure.STREAM, Failure.PREDICTOR_FIN, Failure.PREDICTOR_RST, Failure.GARBAGE)


class Delivery(StrEnum):
    """What the predictor saw of the call."""

    NOTHING = auto()
    PART = auto()  # and no end
    ONCE = auto()


@dataclass(frozen=True, slots=True)
class Case:
    phase: Phase
    failure: Failure
    delivery: Delivery
    outcome: Outcome


P, F, D = Phase, Failure, Delivery
# What becomes of a call that the predictor has, whole or in part, before and after the answer's head.
FATES = {
    **dict.fromkeys(LEAVING, Outcome.CLIENT_GONE),
    F.STREAM: Outcome.UPSTREAM_RESET,
    F.PREDICTOR_FIN: Outcome.UPSTREAM_CLOSED,
    F.PREDICTOR_RST: Outcome.UPSTREAM_CLOSED,
    F.GARBAGE: Outcome.UPSTREAM_INVALID,
    F.TIMEOUT: Outcome.TIMEOUT,
    F.DRAIN: Outcome.DRAINING,
}
LATE_FATES = {
    **FATES,
    F.PREDICTOR_FIN: Outcome.UPSTREAM_TRUNCATED,
    F.PREDICTOR_RST: Outcome.UPSTREAM_TRUNCATED,
}
CASES = [
    # Whoever has no slot yet is nobody's but its client's: a predictor that fails another call makes room.
    *[
        case
        for phase in (P.NAMING, P.QUEUED)
        for case in (
            *(Case(phase, failure, D.NOTHING, Outcome.CLIENT_GONE) for failure in LEAVING),
            *(Case(phase, failure, D.ONCE, Outcome.SERVED) for failure in PREDICTORS),
            Case(phase, F.DRAIN, D.NOTHING, Outcome.DRAINING),
        )
    ],
    Case(P.QUEUED, F.TIMEOUT, D.NOTHING, Outcome.EXPIRED),
    # A predictor that accepts at last and then fails may have seen the call: it is not sent again.
    *(Case(P.CONNECTING, failure, D.NOTHING, Outcome.CLIENT_GONE) for failure in LEAVING),
    *(Case(P.CONNECTING, failure, D.ONCE, FATES[failure]) for failure in PREDICTORS),
    Case(P.CONNECTING, F.TIMEOUT, D.NOTHING, Outcome.UPSTREAM_UNAVAILABLE),
    Case(P.CONNECTING, F.DRAIN, D.NOTHING, Outcome.DRAINING),
    *(Case(P.HALF_SENT, failure, D.PART, outcome) for failure, outcome in FATES.items()),
    *(Case(P.SENT, failure, D.ONCE, outcome) for failure, outcome in FATES.items()),
    *(Case(P.HEAD, failure, D.ONCE, outcome) for failure, outcome in LATE_FATES.items()),
    *(Case(P.BODY, failure, D.ONCE, outcome) for failure, outcome in LATE_FATES.items()),
]


@dataclass(slots=True)
class Scene:
    """A call in its phase. `server` is the predictor's end, once there is one, and `request` what it has to fail."""

    agent: Http2Bed
    client: Http2Client
    half: Half
    server: Http2Server | None = None
    request: Half | None = None
    servers: list[Http2Server] = field(default_factory=list)


async def naming(agent: Http2Bed) -> Scene:
    client, server = await agent.pair()
    other = await agent.caller()
    _, request = await agent.occupy_slot(other, server)
    half = await client.send(grpc_head(), end=False)
    await client.settled()
    return Scene(agent, client, half, server, request)


async def queued(agent: Http2Bed) -> Scene:
    client, server = await agent.pair()
    other = await agent.caller()
    _, request = await agent.occupy_slot(other, server)
    half = await client.call(MARK)
    await eventually(lambda: agent.admission.queued)
    return Scene(agent, client, half, server, request)


async def connecting(agent: Http2Bed) -> Scene:
    client = await agent.caller()
    half = await client.call(MARK)
    await eventually(lambda: agent.pool.is_refusing)
    return Scene(agent, client, half)


async def half_sent(agent: Http2Bed) -> Scene:
    client, server = await agent.pair()
    half = await client.send(grpc_head(), infer(MARK)[:-1], end=False)
    request = await server.head()
    await server.until(lambda: request.body)
    return Scene(agent, client, half, server, request)


async def sent(agent: Http2Bed) -> Scene:
    client, server = await agent.pair()
    half = await client.call(MARK)
    return Scene(agent, client, half, server, await server.request())


async def head(agent: Http2Bed) -> Scene:
    scene = await sent(agent)
    assert scene.server is not None
    assert scene.request is not None
    await scene.server.send_head(scene.request, GRPC_ANSWER)
    await scene.client.until(lambda: scene.half.fields)
    return scene


async def body(agent: Http2Bed) -> Scene:
    scene = await head(agent)
    assert scene.server is not None
    assert scene.request is not None
    await scene.server.send_data(scene.request, infer(b"half"))
    await scene.client.until(lambda: scene.half.body)
    return scene


REACH: dict[Phase, Callable[[Http2Bed], Awaitable[Scene]]] = {
    Phase.NAMING: naming,
    Phase.QUEUED: queued,
    Phase.CONNECTING: connecting,
    Phase.HALF_SENT: half_sent,
    Phase.SENT: sent,
    Phase.HEAD: head,
    Phase.BODY: body,
}


async def strike(scene: Scene, failure: Failure) -> None:
    """Let it fail. A predictor that refuses dials has to accept first to fail otherwise."""
    agent = scene.agent
    if failure is Failure.CANCEL:
        await scene.client.reset(scene.half)
    elif failure is Failure.CLIENT_FIN:
        scene.client.peer.close()
    elif failure is Failure.CLIENT_RST:
        scene.client.peer.reset()
    elif failure is Failure.DRAIN:
        agent.server.drain.begin()
        await agent.server.drain.wait()
    elif failure is Failure.TIMEOUT:
        agent.later(61)
    else:
        if scene.server is None:
            agent.predictor.listen()
            scene.server = await agent.connection()
            scene.request = await scene.server.request()
        assert scene.request is not None
        if failure is Failure.STREAM:
            await scene.server.peer.send(raw.rst_stream(scene.request.id, raw.INTERNAL_ERROR))
        elif failure is Failure.GARBAGE:
            await scene.server.peer.send(b"\xff" * 64)
        elif failure is Failure.PREDICTOR_RST:
            scene.server.peer.reset()
        else:
            scene.server.peer.half_close()


async def serve_waiting(case: Case, scene: Scene) -> None:
    """The call that had no slot gets its turn, where the connection is that the failure has left."""
    if case.phase is Phase.NAMING:
        await scene.client.send_data(scene.half, infer(MARK), end=True)
    server = scene.server
    if case.failure is not Failure.STREAM or server is None:
        server = await scene.agent.connection()
        scene.servers.append(server)
    await server.respond(await server.request(), b"x")


async def check_client(case: Case, scene: Scene) -> None:
    if case.failure in LEAVING:
        return
    half = await scene.client.answer(scene.half)
    assert half.is_complete
    assert half.grpc_status == REPLIES[case.outcome].grpc
    assert (half.reason or b"served").decode() == case.outcome.label
    assert half.status == 200


async def check_predictor(case: Case, scene: Scene) -> None:
    """The failed connection may have to be read to its end."""
    servers = [each for each in (scene.server, *scene.servers) if each is not None]
    if case.delivery is Delivery.PART and case.failure not in PREDICTORS:
        assert scene.request is not None
        await servers[0].until(lambda: scene.request is None or scene.request.reset is not None)
    calls = [half for each in servers for half in each.requests if MARK[:-1] in half.body]
    if case.delivery is Delivery.NOTHING:
        assert not calls
        return
    [call] = calls
    assert call.is_complete == (case.delivery is Delivery.ONCE)


def test_the_table_is_complete() -> None:
    """Nothing but its client ends the wait of a call for its name: `naming` has a time-out of its own."""
    assert sorted((case.phase, case.failure) for case in CASES) == sorted(
        (phase, failure) for phase in Phase for failure in Failure if (phase, failure) != (P.NAMING, F.TIMEOUT)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.phase}-{case.failure}")
async def test_it_fails_visibly_once_and_frees_everything(h2bed: Http2Opener, case: Case) -> None:
    waits = {Phase.QUEUED, Phase.CONNECTING}
    settings = {**TIME_OUTS, "limit": "1", "drain_timeout": "0"}
    if case.failure is Failure.TIMEOUT and case.phase in waits:
        settings |= {"deadline": "150ms", "timeout": "0"}
    predictor = FakePredictor()
    agent = await h2bed(predictor if case.phase is Phase.CONNECTING else predictor.listen(), **settings)
    scene = await REACH[case.phase](agent)
    await strike(scene, case.failure)
    if case.outcome is Outcome.SERVED:
        await serve_waiting(case, scene)
    await check_client(case, scene)
    await eventually(lambda: case.outcome in agent.outcomes, f"{agent.outcomes}")
    await check_predictor(case, scene)
    runs = case.phase in {Phase.NAMING, Phase.QUEUED} and case.delivery is Delivery.NOTHING
    assert agent.admission.inflight == (runs and case.failure is not Failure.DRAIN)
    assert (agent.admission.queued, agent.admission.queued_bytes) == (0, 0)


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.DRAIN])
async def test_many_failures_leave_the_full_capacity(h2bed: Http2Opener, failure: Failure) -> None:
    """Five times the limit of each failure, then as many calls at once as the limit admits."""
    limit = 2
    agent = await h2bed(limit=str(limit), **TIME_OUTS)
    for phase in (Phase.HALF_SENT, Phase.SENT, Phase.HEAD, Phase.BODY):
        for _ in range(5):
            await fail_once(agent, phase, failure)
    client = await agent.caller()
    halves = [await client.call(b"%d" % index) for index in range(limit)]
    server = await agent.connection()
    requests = [await server.request() for _ in halves]
    assert agent.admission.inflight == limit
    for half, request in zip(halves, requests, strict=True):
        await server.respond(request)
        await client.answer(half)


async def fail_once(agent: Http2Bed, phase: Phase, failure: Failure) -> None:
    """On connections of its own. Unless it leaves, the client's is none the worse for it."""
    scene = await REACH[phase](agent)
    await strike(scene, failure)
    await eventually(lambda: not agent.gate.active)
    assert scene.server is not None
    scene.server.peer.close()
    await eventually(lambda: agent.pool.counts() == (0, 0))
    if failure not in LEAVING:
        await scene.client.answer(scene.half)
        await scene.client.settled()
    scene.client.peer.close()
