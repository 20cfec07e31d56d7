"""The demand that a gate has refused, over sockets: what the caller says of its attempts decides what counts."""

import asyncio
from time import monotonic

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.errors import Outcome
from tests.net.bed import OK, Bed, Opener, post
from tests.sockets import Peer, eventually

FIRST = b"x-envoy-attempt-count: 1"
AGAIN = b"X-Envoy-Attempt-Count: 2"


async def scrape(agent: Bed) -> dict[tuple[str, str], float]:
    """Samples by name and model; only the last of those that differ in further labels."""
    text = (await agent.page(b"/metrics")).decode()
    return {
        (sample.name, sample.labels.get("model", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def answered(agent: Bed, *fields: bytes) -> tuple[Peer, Peer]:
    """A request that was answered, and the connections that are free again."""
    client = await agent.client()
    await client.send(post(b"x", *fields))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    await client.response()
    return client, predictor


@pytest.mark.parametrize(("fields", "counts"), [((), True), ((FIRST,), True), ((AGAIN,), False)])
async def test_a_refused_attempt_is_demand_only_the_first_time(
    bed: Opener, fields: tuple[bytes, ...], counts: bool
) -> None:
    agent = await bed(limit="1", queue="0")
    client, predictor = await answered(agent)
    await client.send(post(b"running"))
    await predictor.request()
    other = await agent.client()
    await other.send(post(b"refused", *fields))
    assert (await other.response()).status == 503
    samples = await scrape(agent)
    usual = samples["headgate_upstream_seconds_sum", "m"]
    assert samples["headgate_rejected_demand_seconds_total", "m"] == pytest.approx(usual if counts else 0.0)
    await predictor.send(OK)
    await client.response()


async def test_a_retry_that_is_dispatched_is_counted(bed: Opener) -> None:
    agent = await bed()
    client, predictor = await answered(agent, AGAIN)
    assert (await scrape(agent))["headgate_retries_admitted_total", "m"] == 1
    await client.send(post(b"x"))
    await predictor.request()
    await predictor.send(OK)
    await client.response()
    assert (await scrape(agent))["headgate_retries_admitted_total", "m"] == 1


async def test_every_beat_keeps_a_reading_and_wakes_who_waits(bed: Opener) -> None:
    agent = await bed(limit="1")
    pulse = agent.server.pulse
    client, predictor = await agent.occupy()
    queued = await agent.fill(2)
    waiting = [asyncio.ensure_future(pulse.next()) for _ in range(2)]
    await asyncio.sleep(0)
    pulse.beat(monotonic())
    await asyncio.gather(*waiting)
    newest = agent.server.pulse.history.readings[-1]
    assert (newest.inflight, newest.queued, newest.limit, newest.peak) == (1, 2, 1, 3)
    for waiter in queued:
        waiter.close()
    await eventually(lambda: agent.outcomes.count(Outcome.CLIENT_GONE) == 2)
    await predictor.send(OK)
    await client.response()


async def test_what_the_policy_tells_of_itself_becomes_histograms(bed: Opener) -> None:
    agent = await bed(limit="1", policy="deadline", v2_hints="rows")
    client, predictor = await agent.occupy()
    waiter = await agent.client()
    await waiter.send(post(b'{"inputs":[{"name":"x","shape":[4,2],"datatype":"FP32","data":[1,2,3,4,5,6,7,8]}]}'))
    await eventually(lambda: agent.admission.queued)
    await predictor.send(OK)
    await client.response()
    await predictor.request()
    await predictor.send(OK)
    await waiter.response()
    agent.server.pulse.beat(monotonic())
    samples = await scrape(agent)
    assert samples["headgate_request_cost_count", ""] == 1
    assert samples["headgate_prediction_error_seconds_count", ""] == 1


async def test_a_waiter_is_let_go_at_the_end(bed: Opener) -> None:
    agent = await bed()
    pulse = agent.server.pulse
    waiting = asyncio.ensure_future(pulse.next())
    await asyncio.sleep(0)
    pulse.stop()
    await waiting
