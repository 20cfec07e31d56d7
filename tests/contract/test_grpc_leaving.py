"""Callers that stop waiting: at their deadline, by cancelling, by leaving; in the queue and in flight."""

import grpc
import numpy
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from .conftest import Pair, StartAgent
from .crowd import release
from .grpccrowd import ask, begin, calling, channel, held, reply
from .grpcpayloads import INFER, message, prefixed, tensor
from .processes import Server, eventually
from .rawh2 import Call, H2Client

pytestmark = pytest.mark.contract

OK, LATE, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED


def test_the_deadline_of_a_call_that_runs(pair: Pair) -> None:
    key = f"late {pair.name}"
    inputs = [tensor(numpy.ones(3, numpy.float32))]
    seen = []
    for address in pair.grpc_addresses:
        with tritonclient.grpc.InferenceServerClient(address) as client:
            with pytest.raises(InferenceServerException) as error:
                client.infer("double", inputs, parameters={"hold": key}, client_timeout=0.3)
            seen.append((error.value.status(), error.value.message()))
    release(pair.server, key)
    assert seen[0] == ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded")
    assert seen[1] == seen[0]
    pair.agent.await_state(inflight=0, queued=0)


def test_a_call_that_is_cancelled_in_the_queue_is_forgotten(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1")
    with calling(agent.address, [held("cancel queued")]) as running, channel(agent.address) as opened:
        agent.await_state(inflight=1)
        waiting = [begin(opened, message()) for _ in range(4)]
        agent.await_state(inflight=1, queued=4)
        for call in waiting[:3]:
            call.cancel()
            assert call.code() is CANCELLED
        agent.await_state(inflight=1, queued=1)
        release(server, "cancel queued")
        assert running.codes(1) == {OK: 1}
        assert reply(waiting[3]).code is OK
    state = agent.await_state(inflight=0, queued=0)
    assert agent.metrics().value("headgate_cancelled_total", stage="queued") == 3
    assert state["outcomes"]["served"] == 2


def test_a_client_that_closes_its_connection_takes_all_its_calls_along(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1")
    with calling(agent.address, [held("gone")]) as running:
        agent.await_state(inflight=1)
        with H2Client(agent.address) as client:
            for _ in range(5):
                client.end(client.begin(Call(INFER, (prefixed(message()),))))
            agent.await_state(inflight=1, queued=5)
        agent.await_state(inflight=1, queued=0)
        release(server, "gone")
        assert running.codes(1) == {OK: 1}
    assert agent.metrics().value("headgate_cancelled_total", stage="queued") == 5


@pytest.mark.parametrize("leave", ["cancel", "deadline", "close"])
def test_a_call_that_ends_in_flight_leaves_nothing_behind(server: Server, start_agent: StartAgent, leave: str) -> None:
    """The next calls are served, and each call has ended once. Triton keeps deadlines itself, and may be faster."""
    agent = start_agent(server.upstream, "--limit", "1")
    key = f"leave {leave}"
    with channel(agent.address) as opened:
        # A deadline runs while the client connects, too.
        grpc.channel_ready_future(opened).result(30.0)
        call = begin(opened, held(key), timeout_s=1.0 if leave == "deadline" else 30.0)
        if leave == "deadline":
            # Nobody need have seen it in flight by then: that it was is counted.
            assert call.code() is LATE
            eventually(lambda: agent.metrics().value("headgate_queue_wait_seconds_count") == 1, "it was in flight")
        else:
            agent.await_state(inflight=1)
        if leave == "cancel":
            call.cancel()
            assert call.code() is CANCELLED
    release(server, key)
    agent.await_state(inflight=0, queued=0)
    assert [ask(agent.address, message()).code for _ in range(2)] == [OK, OK]
    assert agent.metrics().value("headgate_requests_total", protocol="grpc") == 3
    assert agent.metrics().value("headgate_requests_total", protocol="grpc", code="0") >= 2


def test_an_upload_that_is_given_up_does_not_reach_the_model(server: Server, start_agent: StartAgent) -> None:
    """Half a message and a reset: the predictor is never asked, and the slot is free."""
    agent = start_agent(server.upstream, "--limit", "1")
    half = prefixed(message(numpy.zeros(200_000, numpy.float32)))[:300_000]
    with H2Client(agent.address) as client:
        stream = client.begin(Call(INFER, (half,)))
        agent.await_state(inflight=1)
        client.cancel(stream)
        agent.await_state(inflight=0)
        assert client.call(Call(INFER, (prefixed(message()),))).status == 0
    agent.await_state(inflight=0, queued=0)
