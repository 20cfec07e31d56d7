"""More gRPC calls than a real predictor may have: exactly as many as fit are served, the others know at once."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from . import crowd
from .conftest import StartAgent
from .crowd import release
from .grpccrowd import ask, calling, channel, check_refusal, held
from .grpcpayloads import INFER, SERVICE, STREAM, message, prefixed, tensor
from .payloads import INFER as HTTP_INFER
from .payloads import JSON, v2
from .processes import Agent, Server
from .rawh2 import Call, H2Client
from .rawh2 import ask as ask_raw
from .rawhttp import exchange, request

pytestmark = pytest.mark.contract

streaming = pytest.mark.parametrize("server", ["mlserver", "triton"], indirect=True)
UNAVAILABLE, LATE, OK = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK
QUICK = Call(INFER, (prefixed(message()),))


@contextmanager
def full(agent: Agent, server: Server, key: str) -> Iterator[None]:
    """All of the agent's slots and queue are taken meanwhile, by gRPC calls."""
    state = agent.state()
    room = state["limit"] + state["queue_limit"]
    with calling(agent.address, [held(key)] * room) as calls:
        agent.await_state(inflight=state["limit"], queued=state["queue_limit"])
        try:
            yield
        finally:
            release(server, key)
        assert calls.codes(room) == {OK: room}


def test_what_fits_is_served_and_the_rest_is_refused(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "2", "--queue", "2")
    # A model becomes a label once the predictor has answered for it.
    assert ask(agent.address, message()).code is OK
    key = "grpc overload"
    with calling(agent.address, [held(key)] * 12) as calls:
        for refused in calls.receive(8):
            check_refusal(refused, UNAVAILABLE, "queue_full")
            (pushback,) = refused.values("grpc-retry-pushback-ms")
            assert int(pushback) > 0
        state = agent.await_state(inflight=2, queued=2)
        assert state["models"]["double"]["inflight"] == 2
        assert state["models"]["double"]["queued"] == 2
        metrics = agent.metrics()
        assert metrics.value("headgate_requests_inflight", model="double", protocol="grpc") == 2
        assert metrics.value("headgate_requests_queued", model="double", protocol="grpc") == 2
        assert metrics.value("headgate_requests_inflight", protocol="http") == 0
        assert metrics.value("headgate_rejected_total", reason="queue_full") == 8

        release(server, key)
        served = calls.receive(4)
    # The direct answer to the same request, whose key holds nobody any more.
    direct = ask(server.grpc_address, held(key))
    assert {answer.message for answer in served} == {direct.message}
    state, metrics = agent.await_state(inflight=0, queued=0), agent.metrics()
    assert {name: count for name, count in state["outcomes"].items() if count} == {"served": 5, "queue_full": 8}
    assert metrics.value("headgate_requests_total", protocol="grpc", outcome="served", model="double") == 5
    assert metrics.value("headgate_requests_total", protocol="grpc", outcome="queue_full") == 8
    assert metrics.value("headgate_requests_total") == 13
    assert metrics.value("headgate_queue_wait_seconds_count", model="double", protocol="grpc") == 5
    assert metrics.value("headgate_request_seconds_count", model="double", protocol="grpc") == 5
    assert metrics.value("headgate_inflight_seconds_total", protocol="grpc") > 0


def test_a_queue_of_none(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "0")
    with full(agent, server, "grpc no queue"):
        check_refusal(ask(agent.address, message()), UNAVAILABLE, "queue_full")


def test_the_refusal_is_trailers_alone(server: Server, start_agent: StartAgent) -> None:
    """One header section that ends the stream (gRPC over HTTP/2, Trailers-Only), and no reset of a complete call."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "0")
    with full(agent, server, "grpc trailers"), H2Client(agent.address) as client:
        for _ in range(3):
            refused = client.call(QUICK)
            assert refused.fields[:2] == ((b":status", b"200"), (b"content-type", b"application/grpc"))
            assert refused.status == 14
            assert refused.value(b"x-headgate-reason") == b"queue_full"
            assert int(refused.value(b"grpc-retry-pushback-ms")) > 0
            assert not refused.body
            assert not refused.trailers
            assert refused.reset is None


def test_a_refused_upload_is_not_read(server: Server, start_agent: StartAgent) -> None:
    """The refusal comes while most of 4 MB is still with the client, and the connection goes on."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "0")
    large = Call(INFER, (prefixed(message(numpy.zeros(1_000_000, numpy.float32))),))
    with H2Client(agent.address) as client:
        with full(agent, server, "grpc upload"):
            refused = client.call(large)
            assert refused.status == 14
            assert refused.value(b"x-headgate-reason") == b"queue_full"
        assert client.call(QUICK).status == 0


def test_a_waiting_upload_stays_with_the_client(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "20")
    large = message(numpy.zeros(900_000, numpy.float32))
    with calling(agent.address, [held("grpc waiting")]) as running:
        agent.await_state(inflight=1)
        with calling(agent.address, [large] * 20, connections=4) as waiting:
            state = agent.await_state(inflight=1, queued=20)
            release(server, "grpc waiting")
            assert waiting.codes(20) == {OK: 20}
        assert running.codes(1) == {OK: 1}
    assert state["queued_bytes"] <= 20 * 128 * 1024


def test_both_protocols_share_the_limit(server: Server, start_agent: StartAgent) -> None:
    """One predictor, one limit: an HTTP request takes the slot that a gRPC call waits for."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    with crowd.asking(agent.address, [crowd.held("grpc both")]) as clients:
        agent.await_state(inflight=1, queued=0)
        with calling(agent.address, [message()]) as calls:
            agent.await_state(inflight=1, queued=1)
            (refused,) = exchange(agent.address, request("POST", HTTP_INFER, v2(), JSON))
            crowd.check_refusal(refused, 503, b"queue_full")
            check_refusal(ask(agent.address, message()), UNAVAILABLE, "queue_full")
            release(server, "grpc both")
            assert calls.codes(1) == {OK: 1}
        assert crowd.receive(clients, 1)[0].status == 200
    metrics = agent.metrics()
    assert metrics.value("headgate_requests_total", protocol="http", outcome="served", model="double") == 1
    assert metrics.value("headgate_requests_total", protocol="grpc", outcome="served", model="double") == 1


def test_a_model_has_a_limit_of_its_own(server: Server, start_agent: StartAgent) -> None:
    """The model's name comes from inside the message."""
    agent = start_agent(server.upstream, "--limit", "4", "--model-limit", "other=1")
    key = "grpc models"
    with calling(agent.address, [held(key, "other")] * 3 + [held(key)] * 3) as calls:
        state = agent.await_state(inflight=4, queued=2)
        assert state["models"]["other"]["inflight"] == 1
        assert state["models"]["other"]["queued"] == 2
        release(server, key)
        others = request("POST", "/v2/models/other/infer", v2(model_parameters={"release": key}), JSON)
        assert exchange(server.address, others)[0].status == 200
        assert calls.codes(6) == {OK: 6}


def test_waiting_ends_at_the_deadline(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1", "--deadline", "100ms")
    # Leaves a connection to the predictor behind: the call that runs waits for nothing.
    assert ask(agent.address, b"", method=SERVICE + "ServerLive").code is OK
    with calling(agent.address, [held("grpc deadline")]) as calls:
        agent.await_state(inflight=1)
        check_refusal(ask(agent.address, message()), LATE, "expired")
        release(server, "grpc deadline")
        assert calls.codes(1) == {OK: 1}


def test_waiting_ends_with_the_time_of_the_client(server: Server, start_agent: StartAgent) -> None:
    """The agent says so by itself: this client has no clock, it only sends grpc-timeout."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    with calling(agent.address, [held("grpc-timeout")]) as calls:
        agent.await_state(inflight=1)
        (late,) = ask_raw(agent.address, Call(INFER, (prefixed(message()),), ((b"grpc-timeout", b"100m"),)))
        assert late.status == 4
        assert late.value(b"x-headgate-reason") == b"expired"
        agent.await_state(inflight=1, queued=0)
        release(server, "grpc-timeout")
        assert calls.codes(1) == {OK: 1}


def test_health_and_metadata_do_not_queue(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "0")
    with full(agent, server, "grpc health"), tritonclient.grpc.InferenceServerClient(agent.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("double")
        assert client.get_model_metadata("double").name == "double"
        assert client.get_server_metadata().name


async def test_tritonclient_sees_the_refusal(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    inputs = [tensor(numpy.ones(3, numpy.float32))]
    with full(agent, server, "grpc tritonclient"):
        with (
            tritonclient.grpc.InferenceServerClient(agent.address) as client,
            pytest.raises(InferenceServerException, match="the queue is full") as refusal,
        ):
            client.infer("double", inputs)
        assert refusal.value.status() == "StatusCode.UNAVAILABLE"
        async with tritonclient.grpc.aio.InferenceServerClient(agent.address) as aio_client:
            with pytest.raises(InferenceServerException, match="the queue is full") as refusal:
                await aio_client.infer("double", inputs)
        assert refusal.value.status() == "StatusCode.UNAVAILABLE"


@streaming
def test_a_stream_takes_one_slot_while_it_is_open(server: Server, start_agent: StartAgent) -> None:
    """Whatever it carries: it is one call. The next one waits for its end."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    assert ask(agent.address, message()).code is OK
    with H2Client(agent.address) as client, channel(agent.address) as opened:
        stream = client.begin(Call(STREAM, (prefixed(message()),)))
        client.receive(stream, 1)
        state = agent.await_state(inflight=1, queued=0)
        assert state["models"]["double"]["inflight"] == 1
        waiting = opened.unary_unary(INFER, None, None).future(message(), timeout=30)
        agent.await_state(inflight=1, queued=1)
        check_refusal(ask(agent.address, message()), UNAVAILABLE, "queue_full")
        (refused,) = ask_raw(agent.address, Call(STREAM, (prefixed(message()),)))
        assert refused.status == 14
        assert refused.value(b"x-headgate-reason") == b"queue_full"
        client.end(stream)
        assert client.finish(stream).status == 0
        assert waiting.code() is OK


def test_a_crash_costs_only_its_own_call(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1")
    crash = message(wishes={"hold": "grpc crash", "fail": "crash"})
    with calling(agent.address, [crash]) as crashing:
        agent.await_state(inflight=1)
        with calling(agent.address, [message()] * 6) as waiting:
            agent.await_state(queued=6)
            release(server, "grpc crash")
            assert crashing.codes(1) == {grpc.StatusCode.INTERNAL: 1}
            assert waiting.codes(6) == {OK: 6}


def test_reflection_of_a_service_that_is_not_there_costs_no_slot(server: Server, start_agent: StartAgent) -> None:
    """An unknown method bypasses, so it is answered by the predictor while every slot is taken."""
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "0")
    with full(agent, server, "grpc unknown"):
        assert ask(agent.address, b"", method=SERVICE + "Nothing").code is grpc.StatusCode.UNIMPLEMENTED
