"""MLServer goes away and comes back while requests wait: none of them is lost."""

import pytest

from .conftest import StartAgent
from .crowd import asking, check_refusal, held, receive
from .payloads import INFER, JSON, v2
from .processes import HOST, Server, free_port
from .rawhttp import Request, exchange, request

pytestmark = pytest.mark.contract

QUICK = request("POST", INFER, v2(), JSON)


def slow(delay_s: float) -> Request:
    """A request that takes so long."""
    return request("POST", INFER, v2(model_parameters={"delay_s": delay_s}), JSON)


def test_an_orderly_restart_loses_nothing(own_mlserver: Server, start_agent: StartAgent) -> None:
    """MLServer finishes what it runs, closing each connection without a word; the rest waits until it is back."""
    agent = start_agent(own_mlserver.upstream, "--limit", "2", "--deadline", "60s")
    # They outlast the moment in which MLServer notices the signal, or another request might be on its way just then.
    with asking(agent.address, [slow(2.5)] * 2) as running:
        agent.await_state(inflight=2)
        with asking(agent.address, [QUICK] * 8) as waiting:
            agent.await_state(inflight=2, queued=8)
            # One that has reached MLServer and not begun is lost when it is told to stop, with or without an agent.
            (both,) = exchange(own_mlserver.address, request("POST", INFER, v2(model_parameters={"begun": 2}), JSON))
            assert both.status == 200
            own_mlserver.stop()
            assert [answer.status for answer in receive(running, 2)] == [200] * 2
            own_mlserver.start()
            assert [answer.status for answer in receive(waiting, 8)] == [200] * 8


def test_a_crash_loses_what_it_ran_and_nothing_else(own_mlserver: Server, start_agent: StartAgent) -> None:
    """Also what comes while it is down waits for it, but a probe is answered at once: it is there to learn this."""
    agent = start_agent(own_mlserver.upstream, "--limit", "2", "--deadline", "60s")
    with asking(agent.address, [held("crash")] * 2) as running:
        agent.await_state(inflight=2)
        with asking(agent.address, [QUICK] * 8) as waiting:
            agent.await_state(inflight=2, queued=8)
            own_mlserver.kill()
            for answer in receive(running, 2):
                check_refusal(answer, 502, b"upstream_closed")
            (probe,) = exchange(agent.address, request("GET", "/v2/health/ready"))
            check_refusal(probe, 503, b"upstream_unavailable")
            with asking(agent.address, [QUICK] * 4) as late:
                own_mlserver.start()
                assert [answer.status for answer in receive(waiting, 8)] == [200] * 8
                assert [answer.status for answer in receive(late, 4)] == [200] * 4


def test_waiting_for_a_predictor_ends_at_the_deadline(start_agent: StartAgent) -> None:
    agent = start_agent(f"http://{HOST}:{free_port()}", "--deadline", "300ms")
    (answer,) = exchange(agent.address, QUICK)
    check_refusal(answer, 503, b"upstream_unavailable")
