"""Our own bugs: a callback that raises costs its connection, is reported, leaks nothing, and stops nobody else."""

import pytest

from agent.errors import Outcome
from agent.net.exchange import Exchange
from agent.observe.hooks import Hooks
from tests.net.bed import OK, Bed, Opener, get, ok, post


class BugError(Exception):
    """What the broken part raises."""


def broken(*_: object, **__: object) -> None:
    raise BugError


async def still_serves(agent: Bed) -> None:
    client = await agent.client()
    await client.send(post(b"next"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


def reported(agent: Bed) -> list[type]:
    """What was reported as our bug; taken out, for the fixture lets nothing pass."""
    kinds = [type(error) for error in agent.errors]
    agent.errors.clear()
    return kinds


@pytest.mark.parametrize("method", ["on_response", "on_response_body"])
async def test_a_bug_on_the_predictors_side(bed: Opener, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    agent = await bed(limit="1")
    client, predictor = await agent.occupy()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, method, broken)
        await predictor.send(OK)
        assert (await client.ended()).was_reset
        assert (await predictor.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent)


@pytest.mark.parametrize("method", ["on_request_body", "dispatch"])
async def test_a_bug_on_the_clients_side(bed: Opener, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    agent = await bed(limit="1")
    client = await agent.client()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, method, broken)
        await client.send(post(b"x"))
        assert (await client.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent)


async def test_a_bug_when_a_client_leaves(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bed(limit="1")
    client, predictor = await agent.occupy()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_client_gone", broken)
        client.reset()
        assert (await predictor.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent)


async def test_a_bug_when_a_predictor_leaves(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bed(limit="1")
    client, predictor = await agent.occupy()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_upstream_lost", broken)
        predictor.reset()
        assert (await client.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent)


async def test_a_bug_under_back_pressure(bed: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await bed(limit="1")
    client, _ = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    with monkeypatch.context() as patch:
        patch.setattr(Exchange, "on_client_writable", broken)
        agent.start(predictor.send(ok(b"x" * 1_000_000)[:600_000]))
        assert (await predictor.ended()).was_reset
        assert (await client.ended()).was_reset
    assert reported(agent) == [BugError]
    assert agent.outcomes == [Outcome.INTERNAL]
    await still_serves(agent)


async def test_an_observer_that_raises_is_dropped_and_the_traffic_goes_on(bed: Opener) -> None:
    agent = await bed()

    class Broken:
        ended = faulted = staticmethod(broken)

    whole = agent.gate.hooks
    agent.gate.hooks = Hooks([Broken(), agent.server.counters], agent.errors.append)
    client = await agent.client()
    await client.send(get() + get())
    predictor = await agent.predictor.accept()
    for _ in range(2):
        await predictor.request()
        await predictor.send(OK)
        assert (await client.response()).raw == OK
    assert reported(agent) == [BugError]
    assert agent.server.counters.outcomes[Outcome.SERVED] == 2
    agent.gate.hooks = whole
    agent.outcomes.extend([Outcome.SERVED] * 2)
