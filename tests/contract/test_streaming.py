"""Answers that grow: each piece reaches the client when it is made, and a client that leaves ends the stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from .conftest import Pair, StartAgent
from .crowd import held, release
from .payloads import INFER, JSON, STREAM, v2
from .processes import Server, eventually
from .rawhttp import RawClient, exchange, request

pytestmark = pytest.mark.contract

EVENT_END = b"\n\n"


@contextmanager
def open_stream(address: str, key: str) -> Iterator[tuple[RawClient, Iterator[bytes], bytes]]:
    """A stream of three events whose last is held back: the client, the chunks to come, the first two events."""
    with RawClient(address) as client:
        client.send(request("POST", STREAM, v2(model_parameters={"hold": key}), JSON).data)
        head = client.receive_head()
        assert head.values(b"content-type") == [b"text/event-stream; charset=utf-8"]
        chunks = client.receive_chunks()
        events = b""
        while events.count(EVENT_END) < 2:
            events += next(chunks)
        yield client, chunks, events


def test_events_arrive_before_the_last_is_made(mlserver_pair: Pair, start_agent: StartAgent) -> None:
    """The last event is made only after the client has the first two: a proxy that gathers would wait for ever."""
    agent = start_agent(mlserver_pair.server.upstream, "--limit", "1")
    bodies = []
    for address in (mlserver_pair.server.address, agent.address):
        with open_stream(address, key := f"order {address}") as (_, chunks, events):
            if address == agent.address:
                assert agent.state()["inflight"] == 1, "a stream keeps its slot until its end"
            release(mlserver_pair.server, key)
            bodies.append(events + b"".join(chunks))
            assert bodies[-1].count(EVENT_END) == 3
    assert bodies[1] == bodies[0]


async def test_aiohttp_reads_events_as_they_come(mlserver_pair: Pair) -> None:
    key = "aiohttp"
    body = v2(model_parameters={"hold": key})
    async with (
        aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session,
        session.post(f"{mlserver_pair.agent.url}{STREAM}", data=body) as answer,
    ):
        events = [await answer.content.readuntil(EVENT_END) for _ in range(2)]
        release(mlserver_pair.server, key)
        events += [await answer.content.readuntil(EVENT_END)]
        assert [event.partition(b'"data":')[2][:14] for event in events] == [
            b"[1.0,2.5,-3.0]",
            b"[2.0,5.0,-6.0]",
            b"[3.0,7.5,-9.0]",
        ]
        assert not await answer.content.read()


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["close", "reset"])
def test_a_reader_that_leaves_frees_its_slot(
    leave: Callable[[RawClient], None], mlserver_pair: Pair, start_agent: StartAgent
) -> None:
    """Nobody reads what the stream would go on to say for minutes: the predictor is told, and the slot is free."""
    agent = start_agent(mlserver_pair.server.upstream, "--limit", "1")
    endless = v2(model_parameters={"events": 100_000, "delay_s": 0.01})
    with RawClient(agent.address) as client:
        client.send(request("POST", STREAM, endless, JSON).data)
        client.receive_head()
        next(client.receive_chunks())
        leave(client)
        agent.await_state(inflight=0)
    assert agent.metrics().value("headgate_cancelled_total", stage="inflight") == 1
    (answer,) = exchange(agent.address, request("POST", INFER, v2(), JSON))
    assert answer.status == 200


def test_a_model_that_computes_for_nobody_keeps_its_slot(server: Server, start_agent: StartAgent) -> None:
    """Predictors go on with a request whose client has left; a second one now would be one more than the limit."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    key = "leaver"
    with RawClient(agent.address) as leaver, RawClient(agent.address) as waiter:
        leaver.send(held(key).data)
        agent.await_state(inflight=1)
        waiter.send(request("POST", INFER, v2(), JSON).data)
        agent.await_state(inflight=1, queued=1)
        leaver.reset()
        eventually(lambda: agent.state()["connections"]["client"] == 1, "the agent knows that the client has left")
        agent.await_state(inflight=1, queued=1)
        release(server, key)
        assert waiter.receive("POST").status == 200
    assert agent.metrics().value("headgate_cancelled_total", stage="inflight") == 1
