"""Every way to fail in every phase of a request: what the client gets, what the predictor saw, how it is booked.

After each the agent must be as good as new: the fixture checks the accounts, and a last request is served.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum, auto

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, TIME_OUTS, Bed, Opener, get, post
from tests.sockets import FakePredictor, Peer, eventually

# Unlike anything else that is sent, so that deliveries can be counted.
MARK = b"the request"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


class Phase(StrEnum):
    QUEUED = auto()
    CONNECTING = auto()  # the predictor refuses dials
    HALF_SENT = auto()
    SENT = auto()
    HEAD = auto()  # the answer's head has been relayed
    BODY = auto()  # and a part of its chunked body
    TUNNEL = auto()


class Failure(StrEnum):
    CLIENT_FIN = auto()
    CLIENT_RST = auto()
    PREDICTOR_FIN = auto()
    PREDICTOR_RST = auto()
    GARBAGE = auto()  # from the predictor
    TIMEOUT = auto()
    DRAIN = auto()  # whose time is over


class Client(StrEnum):
    """What the client got, where it is no reply."""

    LEFT = auto()  # nobody is there to look
    CUT = auto()  # a reset: nothing that could pass for complete
    END = auto()  # a clean end


class Delivery(StrEnum):
    """What the predictor saw of the request."""

    NOTHING = auto()
    PART = auto()  # and then a reset
    ONCE = auto()
    ENDED = auto()  # once, and then a clean end
    CUT = auto()  # once, and then a reset


@dataclass(frozen=True, slots=True)
class Case:
    phase: Phase
    failure: Failure
    client: Client | int
    delivery: Delivery
    outcome: Outcome


P, F, C, D = Phase, Failure, Client, Delivery
CASES = [
    # The queue: nothing reaches the predictor but what is served. A predictor that fails the request that runs makes
    # room for the one that waits.
    Case(P.QUEUED, F.CLIENT_FIN, C.LEFT, D.NOTHING, Outcome.CLIENT_GONE),
    Case(P.QUEUED, F.CLIENT_RST, C.LEFT, D.NOTHING, Outcome.CLIENT_GONE),
    Case(P.QUEUED, F.PREDICTOR_FIN, 200, D.ONCE, Outcome.SERVED),
    Case(P.QUEUED, F.PREDICTOR_RST, 200, D.ONCE, Outcome.SERVED),
    Case(P.QUEUED, F.GARBAGE, 200, D.ONCE, Outcome.SERVED),
    Case(P.QUEUED, F.TIMEOUT, 504, D.NOTHING, Outcome.EXPIRED),
    Case(P.QUEUED, F.DRAIN, 503, D.NOTHING, Outcome.DRAINING),
    # A predictor that accepts at last and then fails may have seen the request: it is not sent again.
    Case(P.CONNECTING, F.CLIENT_FIN, C.LEFT, D.NOTHING, Outcome.CLIENT_GONE),
    Case(P.CONNECTING, F.CLIENT_RST, C.LEFT, D.NOTHING, Outcome.CLIENT_GONE),
    Case(P.CONNECTING, F.PREDICTOR_FIN, 502, D.ONCE, Outcome.UPSTREAM_CLOSED),
    Case(P.CONNECTING, F.PREDICTOR_RST, 502, D.ONCE, Outcome.UPSTREAM_CLOSED),
    Case(P.CONNECTING, F.GARBAGE, 502, D.ONCE, Outcome.UPSTREAM_INVALID),
    Case(P.CONNECTING, F.TIMEOUT, 503, D.NOTHING, Outcome.UPSTREAM_UNAVAILABLE),
    Case(P.CONNECTING, F.DRAIN, 503, D.NOTHING, Outcome.DRAINING),
    # Half a request must never look whole.
    Case(P.HALF_SENT, F.CLIENT_FIN, C.LEFT, D.PART, Outcome.CLIENT_GONE),
    Case(P.HALF_SENT, F.CLIENT_RST, C.LEFT, D.PART, Outcome.CLIENT_GONE),
    Case(P.HALF_SENT, F.PREDICTOR_FIN, 502, D.PART, Outcome.UPSTREAM_CLOSED),
    Case(P.HALF_SENT, F.PREDICTOR_RST, 502, D.PART, Outcome.UPSTREAM_CLOSED),
    Case(P.HALF_SENT, F.GARBAGE, 502, D.PART, Outcome.UPSTREAM_INVALID),
    Case(P.HALF_SENT, F.TIMEOUT, 504, D.PART, Outcome.TIMEOUT),
    Case(P.HALF_SENT, F.DRAIN, 503, D.PART, Outcome.DRAINING),
    # A client that only ends its sending side may still read, and one that is gone keeps the slot: either way the
    # predictor is left to finish. Once it answers, closing is what makes it stop.
    Case(P.SENT, F.CLIENT_FIN, C.LEFT, D.ONCE, Outcome.SERVED),
    Case(P.SENT, F.CLIENT_RST, C.LEFT, D.ONCE, Outcome.CLIENT_GONE),
    Case(P.SENT, F.PREDICTOR_FIN, 502, D.ONCE, Outcome.UPSTREAM_CLOSED),
    Case(P.SENT, F.PREDICTOR_RST, 502, D.ONCE, Outcome.UPSTREAM_CLOSED),
    Case(P.SENT, F.GARBAGE, 502, D.ONCE, Outcome.UPSTREAM_INVALID),
    Case(P.SENT, F.TIMEOUT, 504, D.ONCE, Outcome.TIMEOUT),
    Case(P.SENT, F.DRAIN, 503, D.ONCE, Outcome.DRAINING),
    *[
        case
        for phase in (P.HEAD, P.BODY)
        for case in (
            Case(phase, F.CLIENT_FIN, C.LEFT, D.ONCE, Outcome.CLIENT_GONE),
            Case(phase, F.CLIENT_RST, C.LEFT, D.ONCE, Outcome.CLIENT_GONE),
            Case(phase, F.PREDICTOR_FIN, C.CUT, D.ONCE, Outcome.UPSTREAM_TRUNCATED),
            Case(phase, F.PREDICTOR_RST, C.CUT, D.ONCE, Outcome.UPSTREAM_TRUNCATED),
            Case(phase, F.GARBAGE, C.CUT, D.ONCE, Outcome.UPSTREAM_INVALID),
            Case(phase, F.TIMEOUT, C.CUT, D.ONCE, Outcome.TIMEOUT),
            Case(phase, F.DRAIN, C.CUT, D.ONCE, Outcome.DRAINING),
        )
    ],
    # No bytes in a tunnel are garbage: they are relayed. Where its messages end only its two sides know, so it ends on
    # one side as it ended on the other.
    Case(P.TUNNEL, F.CLIENT_FIN, C.LEFT, D.ENDED, Outcome.SERVED),
    Case(P.TUNNEL, F.CLIENT_RST, C.LEFT, D.CUT, Outcome.SERVED),
    Case(P.TUNNEL, F.PREDICTOR_FIN, C.END, D.ONCE, Outcome.SERVED),
    Case(P.TUNNEL, F.PREDICTOR_RST, C.CUT, D.ONCE, Outcome.SERVED),
    Case(P.TUNNEL, F.GARBAGE, C.END, D.ONCE, Outcome.SERVED),
    Case(P.TUNNEL, F.TIMEOUT, C.CUT, D.ONCE, Outcome.TIMEOUT),
    Case(P.TUNNEL, F.DRAIN, C.CUT, D.ONCE, Outcome.DRAINING),
]


@dataclass(slots=True)
class Scene:
    """A request in its phase. `predictor` is the connection that matters to it, if there is one yet."""

    agent: Bed
    client: Peer
    predictor: Peer | None = None


async def queued(agent: Bed) -> Scene:
    _, predictor = await agent.occupy()
    client = await agent.client()
    await client.send(post(MARK))
    await eventually(lambda: agent.admission.queued)
    return Scene(agent, client, predictor)


async def connecting(agent: Bed) -> Scene:
    client = await agent.client()
    await client.send(post(MARK))
    await eventually(lambda: agent.pool.is_refusing)
    return Scene(agent, client)


async def half_sent(agent: Bed) -> Scene:
    client = await agent.client()
    await client.send(post(MARK)[:-3])
    predictor = await agent.predictor.accept()
    await predictor.until(MARK[:-3])
    return Scene(agent, client, predictor)


async def sent(agent: Bed) -> Scene:
    client = await agent.client()
    await client.send(post(MARK))
    predictor = await agent.predictor.accept()
    await predictor.request()
    return Scene(agent, client, predictor)


async def head(agent: Bed) -> Scene:
    scene = await sent(agent)
    assert scene.predictor is not None
    await scene.predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await scene.client.head()
    return scene


async def body(agent: Bed) -> Scene:
    scene = await head(agent)
    assert scene.predictor is not None
    await scene.predictor.send(b"4\r\nhalf\r\n")
    await scene.client.until(b"half\r\n")
    return scene


async def tunnel(agent: Bed) -> Scene:
    client = await agent.client()
    await client.send(get(b"/ws", b"Connection: upgrade", b"Upgrade: x", b"X-Mark: " + MARK))
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(SWITCH)
    await client.head()
    return Scene(agent, client, predictor)


REACH: dict[Phase, Callable[[Bed], Awaitable[Scene]]] = {
    Phase.QUEUED: queued,
    Phase.CONNECTING: connecting,
    Phase.HALF_SENT: half_sent,
    Phase.SENT: sent,
    Phase.HEAD: head,
    Phase.BODY: body,
    Phase.TUNNEL: tunnel,
}


async def strike(scene: Scene, failure: Failure) -> None:
    """Let it fail. A predictor that refuses dials has to accept first to fail otherwise."""
    agent = scene.agent
    if failure is Failure.CLIENT_FIN:
        scene.client.close()
    elif failure is Failure.CLIENT_RST:
        scene.client.reset()
    elif failure is Failure.DRAIN:
        agent.server.drain.begin()
        await agent.server.drain.wait()
    elif failure is Failure.TIMEOUT:
        agent.later(61)
    else:
        predictor = scene.predictor
        if predictor is None:
            agent.predictor.listen()
            predictor = scene.predictor = await agent.predictor.accept()
            await predictor.request()
        if failure is Failure.GARBAGE:
            await predictor.send(b"\x00\x01 garbage\r\n\r\n")
        if failure is Failure.PREDICTOR_RST:
            predictor.reset()
        else:
            predictor.half_close()


async def finish(case: Case, scene: Scene) -> None:
    """Do what remains to be done after the failure."""
    left = case.failure in {Failure.CLIENT_FIN, Failure.CLIENT_RST}
    if case.phase is Phase.QUEUED and case.client == 200:
        successor = await scene.agent.predictor.accept()
        await successor.request()
        await successor.send(OK)
    elif case.phase is Phase.SENT and left:
        await eventually(lambda: case.failure is Failure.CLIENT_FIN or not scene.agent.server.connections)
        assert scene.agent.admission.inflight == 1, "the model still computes"
        assert scene.predictor is not None
        await scene.predictor.send(OK)


async def check_client(case: Case, client: Peer) -> None:
    if case.client is Client.LEFT:
        return
    if isinstance(case.client, int):
        assert (await client.response()).status == case.client
    else:
        end = await client.ended()
        assert end.was_reset == (case.client is Client.CUT)
        if case.failure is Failure.GARBAGE and case.phase is Phase.TUNNEL:
            assert end.data == b"\x00\x01 garbage\r\n\r\n"


async def check_predictor(case: Case, scene: Scene) -> None:
    seen = b"".join(bytes(peer.received) for peer in scene.agent.predictor.peers)
    assert scene.agent.predictor.is_left_alone()
    assert seen.count(MARK) == (case.delivery in {Delivery.ONCE, Delivery.ENDED, Delivery.CUT})
    ends = {Delivery.PART, Delivery.ENDED, Delivery.CUT}
    if case.delivery in ends and case.failure is not Failure.PREDICTOR_RST:
        assert scene.predictor is not None
        end = await scene.predictor.ended()
        assert end.was_reset == (case.delivery is not Delivery.ENDED)
        assert MARK not in end.data


def test_the_table_is_complete() -> None:
    assert {(case.phase, case.failure) for case in CASES} == {
        (phase, failure) for phase in Phase for failure in Failure
    }
    assert len(CASES) == len(Phase) * len(Failure)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.phase}-{case.failure}")
async def test_it_fails_visibly_once_and_frees_everything(bed: Opener, case: Case) -> None:
    waits = {Phase.QUEUED, Phase.CONNECTING}
    settings = {**TIME_OUTS, "limit": "1", "drain_timeout": "0"}
    if case.failure is Failure.TIMEOUT and case.phase in waits:
        settings |= {"deadline": "150ms", "timeout": "0"}
    predictor = FakePredictor()
    agent = await bed(predictor if case.phase is Phase.CONNECTING else predictor.listen(), **settings)
    scene = await REACH[case.phase](agent)
    await strike(scene, case.failure)
    await finish(case, scene)
    await check_client(case, scene.client)
    await eventually(lambda: case.outcome in agent.outcomes, f"{agent.outcomes}")
    await check_predictor(case, scene)
    running = case.phase is Phase.QUEUED and case.delivery is Delivery.NOTHING and case.failure is not Failure.DRAIN
    assert agent.admission.inflight == running
    assert (agent.admission.queued, agent.admission.queued_bytes) == (0, 0)


@pytest.mark.parametrize("failure", [each for each in Failure if each is not Failure.DRAIN])
async def test_many_failures_leave_the_full_capacity(bed: Opener, failure: Failure) -> None:
    """Five times the limit of each failure, then as many requests at once as the limit admits."""
    limit = 2
    agent = await bed(limit=str(limit), **TIME_OUTS)
    for _ in range(5):
        for phase in (Phase.HALF_SENT, Phase.SENT, Phase.BODY, Phase.TUNNEL):
            scene = await REACH[phase](agent)
            await strike(scene, failure)
            if scene.predictor is not None and failure in {Failure.CLIENT_FIN, Failure.CLIENT_RST}:
                scene.predictor.close()
            await eventually(lambda: not agent.gate.active)
    both = [await agent.occupy() for _ in range(limit)]
    assert agent.admission.inflight == limit
    for client, predictor in both:
        await predictor.send(OK)
        assert (await client.response()).raw == OK


@pytest.mark.parametrize("framing", ["length", "chunked", "until the end"])
@pytest.mark.parametrize("failure", [Failure.PREDICTOR_FIN, Failure.PREDICTOR_RST])
async def test_no_truncated_answer_looks_whole(bed: Opener, framing: str, failure: Failure) -> None:
    agent = await bed()
    scene = await sent(agent)
    assert scene.predictor is not None
    fields = {"length": b"Content-Length: 10\r\n", "chunked": b"Transfer-Encoding: chunked\r\n", "until the end": b""}
    await scene.predictor.send(b"HTTP/1.1 200 OK\r\n" + fields[framing] + b"\r\n" + b"4\r\nhalf\r\n"[:9])
    await scene.client.until(b"half")
    await strike(scene, failure)
    end = await scene.client.ended()
    is_whole = framing == "until the end" and failure is Failure.PREDICTOR_FIN
    assert end.was_reset != is_whole
    assert agent.outcomes == [Outcome.SERVED if is_whole else Outcome.UPSTREAM_TRUNCATED]
