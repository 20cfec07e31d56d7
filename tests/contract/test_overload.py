"""More requests than a real predictor may have: exactly as many as fit are served, the others know at once."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from .conftest import StartAgent
from .crowd import asking, check_refusal, held, receive, release
from .payloads import INFER, JSON, floats, tensor, v2
from .processes import Agent, Server
from .rawhttp import RawClient, exchange, request

pytestmark = pytest.mark.contract


@contextmanager
def full(agent: Agent, server: Server, key: str) -> Iterator[None]:
    """All of the agent's slots and queue are taken meanwhile."""
    state = agent.state()
    room = state["limit"] + state["queue_limit"]
    with asking(agent.address, [held(key)] * room) as clients:
        agent.await_state(inflight=state["limit"], queued=state["queue_limit"])
        try:
            yield
        finally:
            release(server, key)
        assert [answer.status for answer in receive(clients, room)] == [200] * room


def test_what_fits_is_served_and_the_rest_is_refused(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "2", "--queue", "2")
    # A model becomes a label once the predictor has answered for it.
    (warm,) = exchange(agent.address, request("POST", INFER, v2(), JSON))
    assert warm.status == 200
    key = "overload"
    with asking(agent.address, [held(key)] * 12) as clients:
        for answer in receive(clients, 8):
            check_refusal(answer, 503, b"queue_full")
            (seconds,) = answer.values(b"retry-after")
            assert int(seconds) >= 1
        state = agent.await_state(inflight=2, queued=2)
        assert state["models"]["double"] == {"inflight": 2, "queued": 2, "outstanding": 0, "limit": None}
        metrics = agent.metrics()
        assert metrics.value("headgate_requests_inflight", model="double", protocol="http") == 2
        assert metrics.value("headgate_requests_queued", model="double", protocol="http") == 2
        assert metrics.value("headgate_concurrency_limit") == 2
        assert metrics.value("headgate_queue_limit") == 2
        assert metrics.value("headgate_rejected_total", reason="queue_full") == 8

        release(server, key)
        served = receive(clients, 4)
    # The direct answer to the same request, whose key holds nobody any more.
    (direct,) = exchange(server.address, held(key))
    assert {answer.body for answer in served} == {direct.body}
    state, metrics = agent.state(), agent.metrics()
    assert {name: count for name, count in state["outcomes"].items() if count} == {"served": 5, "queue_full": 8}
    assert metrics.value("headgate_requests_total", outcome="served", code="200") == 5
    assert metrics.value("headgate_requests_total", outcome="queue_full", code="503") == 8
    assert metrics.value("headgate_requests_total") == 13
    assert metrics.value("headgate_queue_wait_seconds_count", model="double") == 5
    assert metrics.value("headgate_request_seconds_count", model="double") == 5
    assert metrics.value("headgate_queued_seconds_total") > 0
    assert metrics.value("headgate_inflight_seconds_total") > metrics.value("headgate_queued_seconds_total")


def test_a_model_has_a_limit_of_its_own(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "4", "--model-limit", "other=1")
    key = "models"
    with asking(agent.address, [held(key, "other")] * 3 + [held(key)] * 3) as clients:
        state = agent.await_state(inflight=4, queued=2)
        assert state["models"]["other"] == {"inflight": 1, "queued": 2, "outstanding": 0, "limit": 1}
        assert agent.metrics().value("headgate_model_concurrency_limit", model="other") == 1
        release(server, key)
        others = request("POST", "/v2/models/other/infer", v2(model_parameters={"release": key}), JSON)
        assert exchange(server.address, others)[0].status == 200
        assert Counter(answer.status for answer in receive(clients, 6)) == {200: 6}


def test_waiting_ends_at_the_deadline(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1", "--deadline", "100ms")
    # Leaves a connection to the predictor behind: the request that runs waits for nothing.
    exchange(agent.address, request("GET", "/v2/health/live"))
    with asking(agent.address, [held("deadline")]) as clients:
        agent.await_state(inflight=1)
        (late,) = exchange(agent.address, request("POST", INFER, v2(), JSON))
        check_refusal(late, 504, b"expired")
        release(server, "deadline")
        assert receive(clients, 1)[0].status == 200


def test_a_body_is_not_asked_for_when_there_is_no_room(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    with full(agent, server, "continue"), RawClient(agent.address) as client:
        client.send(request("POST", INFER, None, JSON, "Expect: 100-continue", "Content-Length: 8000000").data)
        refused = client.receive("POST")
        check_refusal(refused, 503, b"queue_full")
        assert not refused.interim


def test_health_does_not_queue(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    with full(agent, server, "health"):
        for path in ("/v2/health/ready", "/v2/models/double/ready", "/v2/models/double"):
            assert exchange(agent.address, request("GET", path))[0].status == 200


async def test_tritonclient_sees_the_refusal(server: Server, start_agent: StartAgent) -> None:
    agent = start_agent(server.upstream, "--limit", "1", "--queue", "1")
    inputs = [tensor(floats(12))]
    with full(agent, server, "triton"):
        with (
            tritonclient.http.InferenceServerClient(agent.address) as client,
            pytest.raises(InferenceServerException, match="the queue is full") as refusal,
        ):
            client.infer("double", inputs)
        assert refusal.value.status() == "503"
        async with tritonclient.http.aio.InferenceServerClient(agent.address) as aio_client:
            with pytest.raises(InferenceServerException, match="the queue is full") as refusal:
                await aio_client.infer("double", inputs)
        assert refusal.value.status() == "503"


def test_a_crash_costs_only_its_own_request(server: Server, start_agent: StartAgent) -> None:
    """uvicorn answers 500 when a model raises, and then closes the connection without having said so: the request that
    was queued behind must not be sent into that.
    """
    agent = start_agent(server.upstream, "--limit", "1")
    crash = request("POST", INFER, v2(model_parameters={"hold": "crash", "fail": "crash"}), JSON)
    good = request("POST", INFER, v2(), JSON)
    with asking(agent.address, [crash]) as crashing:
        agent.await_state(inflight=1)
        with asking(agent.address, [good, good]) as waiting:
            agent.await_state(queued=2)
            release(server, "crash")
            assert receive(crashing, 1)[0].status == 500
            assert [answer.status for answer in receive(waiting, 2)] == [200, 200]


def test_crashes_among_good_requests_cost_nobody_else(server: Server, start_agent: StartAgent) -> None:
    """The predictor closes a connection some milliseconds after it has answered 500, as long as its log takes."""
    agent = start_agent(server.upstream, "--limit", "4")
    crash = request("POST", INFER, v2(model_parameters={"fail": "crash"}), JSON)
    good = request("POST", INFER, v2(), JSON)

    def ask(seed: int) -> Counter[tuple[bool, int]]:
        rng = random.Random(seed)
        crashes = [rng.random() < 0.2 for _ in range(150)]
        answers = exchange(agent.address, *(crash if crashes_now else good for crashes_now in crashes))
        return Counter(zip(crashes, (answer.status for answer in answers), strict=True))

    with ThreadPoolExecutor(6) as pool:
        outcomes = sum(pool.map(ask, range(6)), Counter[tuple[bool, int]]())
    assert outcomes.keys() == {(True, 500), (False, 200)}, outcomes
