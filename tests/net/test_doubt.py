"""A predictor that breaks connections may be dying, unless it goes on and on."""

from time import monotonic

import pytest

from agent.errors import Outcome
from agent.net import pool
from agent.net.http1_upstream import Http1Pool
from agent.net.http2_upstream import Http2Pool
from tests.net.bed import Bed, post
from tests.net.http2_bed import Http2Opener
from tests.sockets import FakePredictor, eventually


async def lose_one(agent: Bed, predictor: FakePredictor) -> None:
    """Send a request at which the predictor resets its connection."""
    client = await agent.client()
    await client.send(post(b"x"))
    peer = await predictor.accept()
    await peer.request()
    peer.reset()
    assert (await client.response()).status == 502
    client.close()


async def test_what_goes_on_breaking_connections_stops_other_ports_but_briefly(
    h2bed: Http2Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = 0.0
    doubted: list[bool] = []
    monkeypatch.setattr(pool, "monotonic", lambda: monotonic() + ahead)
    monkeypatch.setattr(pool, "DYING_S", 20.0)
    monkeypatch.setattr(pool, "AGAIN_S", 200.0)
    monkeypatch.setattr(Http2Pool, "doubt", lambda self, briefly: doubted.append(briefly))
    predictor = FakePredictor().listen()
    agent = await h2bed(other=predictor, deadline="1h")
    for ahead, briefly in ((0.0, False), (5.0, False), (50.0, True), (150.0, True), (250.0, False), (290.0, True)):
        await lose_one(agent, predictor)
        assert doubted == [briefly], ahead
        doubted.clear()
    # One that refuses a connection has died indeed.
    predictor.refuse()
    client = await agent.client()
    await client.send(post(b"x"))
    [held] = [each for each in agent.server.pools if isinstance(each, Http1Pool)]
    await eventually(lambda: held._backoff > pool.FIRST_BACKOFF_S)
    predictor.listen()
    peer = await predictor.accept()
    await peer.request()
    peer.reset()
    assert (await client.response()).status == 502
    assert doubted == [False]
    assert set(agent.outcomes) == {Outcome.UPSTREAM_CLOSED}
