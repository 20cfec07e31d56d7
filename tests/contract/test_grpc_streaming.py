"""ModelStreamInfer: each answer reaches the client when it is made, both ends may end it, and nothing stays behind."""

import os
from pathlib import Path

import grpc
import numpy
import pytest

from .conftest import StartAgent
from .crowd import release
from .grpccrowd import ask, calling, channel
from .grpcpayloads import INFER, STREAM, message, numbers, prefixed, streamed
from .processes import Server, eventually
from .rawh2 import Call, H2Client

pytestmark = pytest.mark.contract

STREAMED = {"mlserver": "double", "triton": "stream"}
CANCEL = 8


@pytest.fixture(params=STREAMED)
def server(request: pytest.FixtureRequest) -> Server:
    """Each predictor that streams."""
    server: Server = request.getfixturevalue(request.param)
    return server


def asked(server: Server, **wishes: str | int) -> bytes:
    """A request for several answers."""
    return message(model=STREAMED[server.name], wishes=wishes)


def test_answers_arrive_before_the_last_is_made(server: Server, start_agent: StartAgent) -> None:
    """The last one is made only after the client has the first two: a proxy that gathers would wait for ever."""
    agent = start_agent(server.upstream, "--limit", "1")
    seen = []
    for address in (server.grpc_address, agent.address):
        with H2Client(address) as client:
            stream = client.begin(Call(STREAM, (prefixed(asked(server, hold=f"stream {address}")),)))
            first = client.receive(stream, 2)
            if address == agent.address:
                assert agent.state()["inflight"] == 1, "a stream keeps its slot until its end"
            release(server, f"stream {address}")
            client.end(stream)
            found = client.finish(stream)
            assert found.messages[:2] == first
            assert found.status == 0
            seen.append((found.fields, found.messages, found.trailers))
    assert seen[1] == seen[0]
    values = [numbers(streamed(received, server.name)) for received in seen[0][1]]
    assert values == [[1.0, 2.5, -3.0], [2.0, 5.0, -6.0], [3.0, 7.5, -9.0]]


def test_half_close_comes_after_the_answers(server: Server, start_agent: StartAgent) -> None:
    """The stream is open until the client says that nothing more will come; then it ends by itself."""
    agent = start_agent(server.upstream)
    with H2Client(agent.address) as client:
        stream = client.begin(Call(STREAM, (prefixed(asked(server)),)))
        client.receive(stream, 3)
        assert agent.state()["inflight"] == 1
        client.end(stream)
        assert client.finish(stream).status == 0
    agent.await_state(inflight=0)


def test_outstanding_messages_are_counted(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream)
    assert ask(agent.address, message()).code is grpc.StatusCode.OK
    with H2Client(agent.address) as client:
        sent = prefixed(asked(server, hold="outstanding", events=1))
        stream = client.begin(Call(STREAM, (sent,)))

        def counted() -> bool:
            return agent.metrics().value("headgate_stream_messages_outstanding") == 1

        eventually(counted, "one message is outstanding")
        release(server, "outstanding")
        client.receive(stream, 1)
        assert agent.metrics().value("headgate_stream_messages_outstanding") == 0
        client.end(stream)
        assert client.finish(stream).status == 0


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_a_reader_that_leaves_frees_its_slot(server: Server, start_agent: StartAgent, leave: str) -> None:
    """Nobody reads what the stream would go on to say for minutes: the predictor is told, and the slot is free."""
    agent = start_agent(server.upstream, "--limit", "1")
    endless = asked(server, events=100_000, delay_s="0.01")
    with H2Client(agent.address) as client:
        stream = client.begin(Call(STREAM, (prefixed(endless),)))
        client.end(stream)
        client.receive(stream, 3)
        if leave == "cancel":
            client.cancel(stream)
            agent.await_state(inflight=0)
            assert client.call(Call(INFER, (prefixed(message()),))).status == 0, "the connection goes on"
    agent.await_state(inflight=0)
    assert agent.metrics().value("headgate_cancelled_total", stage="inflight") == 1
    assert ask(agent.address, message()).code is grpc.StatusCode.OK


def test_a_reader_that_is_slow_slows_the_stream_down(server: Server, start_agent: StartAgent) -> None:
    """100 MB for a client that has read nothing: most of it waits in the predictor, and all of it arrives."""
    agent = start_agent(server.upstream)
    events, values = 50, numpy.ones(500_000, numpy.float32)
    sent = message(values, STREAMED[server.name], {"events": events})
    resident = _resident_bytes(agent.child.pid)
    with channel(agent.address) as opened:
        call = opened.stream_stream(STREAM, None, None)(iter([sent]), timeout=60)
        received = [next(call)]
        agent.await_state(inflight=1)
        assert _resident_bytes(agent.child.pid) - resident < 48_000_000
        received += list(call)
        assert call.code() is grpc.StatusCode.OK
    assert len(received) == events
    assert _resident_bytes(agent.child.pid) - resident < 48_000_000
    assert numbers(streamed(received[-1], server.name))[0] == events


def test_streams_and_calls_share_a_connection(server: Server, start_agent: StartAgent) -> None:
    """Calls that come and go between the messages of a stream on the same connection."""
    agent = start_agent(server.upstream)
    with H2Client(agent.address) as client:
        stream = client.begin(Call(STREAM, (prefixed(asked(server)),)))
        client.receive(stream, 3)
        for number in range(20):
            found = client.call(Call(INFER, (prefixed(message([number])),)))
            assert found.status == 0
        client.end(stream)
        assert client.finish(stream).status == 0
    state = agent.await_state(inflight=0, queued=0)
    assert state["outcomes"]["served"] == 21


def test_a_queued_stream_waits_its_turn(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1")
    with (
        calling(agent.address, [message(wishes={"hold": "queued stream"})]) as running,
        H2Client(agent.address) as client,
    ):
        agent.await_state(inflight=1)
        stream = client.begin(Call(STREAM, (prefixed(asked(server)),)))
        client.end(stream)
        agent.await_state(inflight=1, queued=1)
        release(server, "queued stream")
        found = client.finish(stream)
        assert running.codes(1) == {grpc.StatusCode.OK: 1}
    assert found.status == 0
    assert len(found.messages) == 3


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
