"""The deadline policy over sockets: what requests say of themselves decides who is served, when, and who is refused."""

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, Bed, Opener, ok, post
from tests.sockets import Peer, eventually

PATIENT = b"x-envoy-expected-rq-timeout-ms: 9000"


async def queue(agent: Bed, body: bytes, *fields: bytes) -> Peer:
    """A request that waits."""
    before = agent.admission.queued
    client = await agent.client()
    await client.send(post(body, *fields))
    await eventually(lambda: agent.admission.queued > before)
    return client


ORDERS = {
    "the tighter deadline first": (
        {},
        [(b"x-envoy-expected-rq-timeout-ms: 9000",), (b"x-envoy-expected-rq-timeout-ms: 8000",)],
    ),
    "a named header": ({"deadline_header": "x-patience"}, [(b"X-Patience: 9s",), (b"X-Patience: 8s",)]),
    "the tighter of two": (
        {"deadline_header": "x-patience"},
        [(b"X-Patience: 9s", PATIENT), (b"X-Patience: 8500", PATIENT)],
    ),
    "the setting, for one that does not say": ({"deadline": "9s"}, [(), (b"x-envoy-expected-rq-timeout-ms: 8000",)]),
    "the higher priority first": ({"priority_header": "x-priority"}, [(), (b"X-Priority: 1",)]),
    "a priority wins over a deadline": (
        {"priority_header": "x-priority"},
        [(b"x-envoy-expected-rq-timeout-ms: 8000",), (b"X-Priority: 1", PATIENT)],
    ),
}


@pytest.mark.parametrize("case", ORDERS)
async def test_who_is_served_first(bed: Opener, case: str) -> None:
    """The first to come is the last to be served."""
    settings, (first, second) = ORDERS[case]
    agent = await bed(limit="1", policy="deadline", **settings)
    _, predictor = await agent.occupy()
    for body, fields in ((b"first", first), (b"second", second)):
        await queue(agent, body, *fields)
    for body in (b"second", b"first"):
        await predictor.send(OK)
        assert (await predictor.request()).body == body
    await predictor.send(OK)
    await eventually(lambda: len(agent.outcomes) == 3)
    assert agent.outcomes == [Outcome.SERVED] * 3


HINTS = {
    "the tighter timeout first": (b'{"parameters":{"timeout":9000000}}', b'{"parameters":{"timeout":8000000}}'),
    "the higher priority first": (b'{"parameters":{"timeout":8000000}}', b'{"parameters":{"priority":1}}'),
}


@pytest.mark.parametrize("case", HINTS)
async def test_v2_requests_say_themselves_who_is_served_first(bed: Opener, case: str) -> None:
    agent = await bed(limit="1", policy="deadline", v2_hints="timeout,priority")
    _, predictor = await agent.occupy()
    first, second = HINTS[case]
    await queue(agent, first)
    await queue(agent, second)
    for body in (second, first):
        await predictor.send(OK)
        assert (await predictor.request()).body == body
    await predictor.send(OK)
    await eventually(lambda: agent.outcomes == [Outcome.SERVED] * 3)


async def test_a_body_that_is_late_is_waited_for_without_a_slot(bed: Opener) -> None:
    agent = await bed(limit="2", policy="deadline", v2_hints="timeout")
    client = await agent.client()
    request = post(b'{"parameters":{}}')
    await client.send(request[:-17])
    await eventually(lambda: agent.gate.active == 1)
    assert agent.admission.inflight == 0
    await client.send(request[-17:])
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).body == b'{"parameters":{}}'
    await predictor.send(OK)
    assert (await client.response()).status == 200


async def test_a_body_whose_client_waits_for_100_is_not_waited_for(bed: Opener) -> None:
    agent = await bed(limit="2", policy="deadline", v2_hints="timeout")
    client = await agent.client()
    await client.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 2"))
    assert (await client.response()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"{}")
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).body == b"{}"
    await predictor.send(OK)
    assert (await client.response()).status == 200


async def test_tenants_take_turns(bed: Opener) -> None:
    agent = await bed(limit="1", policy="deadline", tenant_header="x-tenant")
    _, predictor = await agent.occupy()
    for body in (b"hog 1", b"hog 2", b"hog 3"):
        await queue(agent, body, b"X-Tenant: hog")
    await queue(agent, b"polite", b"X-Tenant: polite")
    bodies = []
    for _ in range(4):
        await predictor.send(OK)
        bodies.append((await predictor.request()).body)
    await predictor.send(OK)
    await eventually(lambda: len(agent.outcomes) == 5)
    assert bodies.index(b"polite") < 2, bodies


async def test_what_cannot_be_in_time_is_refused_at_once(bed: Opener) -> None:
    agent = await bed(limit="1", policy="deadline")
    client, predictor = await agent.occupy()
    await predictor.send(OK)
    await client.response()
    await client.send(post(b"running"))
    await predictor.request()
    late = await agent.client()
    await late.send(post(b"late", b"x-envoy-expected-rq-timeout-ms: 0"))
    refused = await late.response()
    assert refused.status == 503
    assert refused.values(b"x-headgate-reason") == [b"deadline"]
    assert refused.values(b"Retry-After") == [], "no wait can help it"
    assert b"the deadline cannot be met" in refused.body
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_an_idle_predictor_refuses_nobody(bed: Opener) -> None:
    agent = await bed(limit="1", policy="deadline")
    client, predictor = await agent.occupy()
    await predictor.send(OK)
    await client.response()
    await client.send(post(b"hopeless", b"x-envoy-expected-rq-timeout-ms: 0"))
    assert (await predictor.request()).body == b"hopeless"
    await predictor.send(ok(b"all the same"))
    assert (await client.response()).body == b"all the same"


async def test_a_full_queue_says_when_to_come_back(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1", policy="deadline")
    client, predictor = await agent.occupy()
    waiting = await queue(agent, b"waits")
    refused = await agent.client()
    await refused.send(post(b"too many"))
    answer = await refused.response()
    assert (answer.status, answer.values(b"x-headgate-reason")) == (503, [b"queue_full"])
    [seconds] = answer.values(b"Retry-After")
    assert int(seconds) >= 1
    for each in (client, waiting):
        await predictor.send(OK)
        assert (await each.response()).raw == OK
        if each is client:
            await predictor.request()


async def test_a_higher_priority_takes_the_last_place(bed: Opener) -> None:
    agent = await bed(limit="1", queue="1", policy="deadline", priority_header="x-priority", overload_status="429")
    client, predictor = await agent.occupy()
    pushed_out = await queue(agent, b"low")
    urgent = await agent.client()
    await urgent.send(post(b"urgent", b"X-Priority: 1"))
    answer = await pushed_out.response()
    assert (answer.status, answer.values(b"x-headgate-reason")) == (429, [b"overload"])
    await predictor.send(OK)
    assert (await predictor.request()).body == b"urgent"
    await predictor.send(OK)
    for each in (client, urgent):
        assert (await each.response()).raw == OK
