"""The Stat for Knative's autoscaler, scraped from a running agent, against what the test has the agent do."""

import asyncio
from time import monotonic

import pytest

from agent.errors import Outcome
from agent.net import server
from protos.stat_pb2 import Stat
from tests.net.bed import OK, Bed, Opener, get, post
from tests.sockets import Message, dial, eventually

ACTIVATOR = b"K-Proxy-Request: activator"
NEVER = 3600.0


async def scrape(agent: Bed, path: bytes = b"/metrics", method: bytes = b"GET", accept: bytes = b"*/*") -> Message:
    host, _, port = agent.server.knative_address.rpartition(":")
    peer = await dial(host, int(port))
    head = b"%b %b HTTP/1.1\r\nHost: pod\r\nAccept: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    await peer.send(head % (method, path, accept))
    answer = await peer.response()
    peer.close()
    return answer


async def stat(agent: Bed) -> Stat:
    """The last second, read with the protobuf library as the autoscaler does."""
    answer = await scrape(agent)
    assert answer.values(b"Content-Type") == [b"application/protobuf"]
    assert len(answer.body) <= 336
    return Stat.FromString(answer.body)


@pytest.fixture
def manual_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds pass when the test says so, by calling the server's `_tick`."""
    monkeypatch.setattr(server, "_TICK_S", NEVER)
    monkeypatch.setenv("SERVING_POD", "iris-predictor-00001-deployment-5d7f9c6b7-x2x2x")


@pytest.fixture
async def agent(bed: Opener, manual_ticks: None) -> Bed:
    return await bed(limit="2", queue="1", knative_metrics="127.0.0.1:0")


def tick(agent: Bed) -> tuple[float, float]:
    """Let a second pass. Returns when: not before the first, and not after the second."""
    assert agent.server._ticker is not None
    agent.server._ticker.cancel()
    before = monotonic()
    agent.server._tick()
    return before, monotonic()


def is_rate(found: float, count: int, first: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether it is the rate of so many in the window between two ticks."""
    return count / (last[1] - first[0]) <= found <= count / (last[0] - first[1])


async def test_before_the_first_second_it_has_a_name(agent: Bed) -> None:
    answer = await scrape(agent)
    name = b"iris-predictor-00001-deployment-5d7f9c6b7-x2x2x"
    assert answer.body == b"\n" + bytes([len(name)]) + name


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("accept", [b"application/protobuf", b"text/plain", b"*/*"])
async def test_neither_method_nor_accept_matters(agent: Bed, method: bytes, accept: bytes) -> None:
    answer = await scrape(agent, method=method, accept=accept)
    assert (answer.status, answer.values(b"Content-Type")) == (200, [b"application/protobuf"])


async def test_other_paths_are_not_there(agent: Bed) -> None:
    assert (await scrape(agent, b"/")).status == 404


async def test_a_second_is_the_mean_over_time_of_what_ran(agent: Bed) -> None:
    """One request for the whole window, one for a part of it; the test's own clock is the truth."""
    _, predictor = await agent.occupy()
    first = tick(agent)
    client, peer = await agent.occupy()
    entered = monotonic()
    await asyncio.sleep(0.1)
    leaving = monotonic()
    await peer.send(OK)
    await client.response()
    left = monotonic()
    await asyncio.sleep(0.05)
    last = tick(agent)
    found = await stat(agent)
    least, most = (leaving - entered) / (last[1] - first[0]), (left - first[0]) / (last[0] - first[1])
    assert 1.0 + least <= found.average_concurrent_requests <= 1.0 + most
    assert is_rate(found.request_count, 1, first, last)
    assert found.average_proxied_concurrent_requests == found.proxied_request_count == 0.0
    assert found.process_uptime > 0.0
    assert found.timestamp == 0
    await predictor.send(OK)
    await eventually(lambda: not agent.admission.inflight)


async def test_what_runs_on_is_counted_in_every_window(agent: Bed) -> None:
    await agent.occupy()
    await agent.occupy()
    tick(agent)
    for _ in range(3):
        await asyncio.sleep(0.01)
        tick(agent)
        found = await stat(agent)
        assert found.average_concurrent_requests == pytest.approx(2.0)
        assert found.request_count == 0.0


async def test_what_came_through_the_activator_is_told_apart(agent: Bed) -> None:
    await agent.occupy()
    client = await agent.client()
    await client.send(post(b"proxied", ACTIVATOR))
    await (await agent.predictor.accept()).request()
    first = tick(agent)
    refused = await agent.client()
    await agent.fill(1)
    for field in (ACTIVATOR, b"K-Proxy-Request: somebody"):
        await refused.send(post(b"refused", field))
        assert (await refused.response()).status == 503
    await asyncio.sleep(0.05)
    last = tick(agent)
    found = await stat(agent)
    assert found.average_concurrent_requests == pytest.approx(2.0)
    assert 1.0 <= found.average_proxied_concurrent_requests <= 2.0
    assert is_rate(found.request_count, 3, first, last), "refused ones are arrivals"
    assert is_rate(found.proxied_request_count, 1, first, last)


async def test_those_that_leave_or_fail_leave_the_count_too(agent: Bed) -> None:
    first, peer = await agent.occupy()
    for index in range(2):
        client = await agent.client()
        await client.send(post(b"proxied %d" % index, ACTIVATOR))
        await eventually(lambda: agent.gate.active == 2 + index)  # noqa: B023 - looked at in this turn only
        if index:
            await eventually(lambda: agent.admission.queued == 1)
            client.close()
            await eventually(lambda: agent.admission.queued == 0)
        else:
            other = await agent.predictor.accept()
            await other.request()
    other.reset()
    await eventually(lambda: Outcome.UPSTREAM_CLOSED in agent.outcomes)
    assert agent.gate.proxied is not None
    before = agent.gate.proxied.read(monotonic())
    await asyncio.sleep(0.01)
    assert agent.gate.proxied.read(monotonic()) == before
    await peer.send(OK)
    await first.response()


async def test_probes_are_not_demand(agent: Bed) -> None:
    client = await agent.client()
    await client.send(get(b"/v2/health/ready", ACTIVATOR))
    await (await agent.predictor.accept()).request()
    await asyncio.sleep(0.01)
    tick(agent)
    found = await stat(agent)
    assert (found.average_concurrent_requests, found.request_count, found.proxied_request_count) == (0.0, 0.0, 0.0)


async def test_without_the_setting_nothing_listens_and_nothing_is_counted(bed: Opener) -> None:
    agent = await bed()
    assert agent.server.knative_address == ""
    assert agent.gate.proxied is None
    assert not agent.gate.stated.is_needed
