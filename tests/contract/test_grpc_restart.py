"""A predictor goes away and comes back while gRPC calls wait: none of them is lost."""

import grpc
import pytest

from .conftest import StartAgent
from .grpccrowd import ask, calling, check_refusal, held
from .grpcpayloads import SERVICE, message
from .processes import HOST, Server, free_port

pytestmark = pytest.mark.contract

OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


def slow(delay_s: float) -> bytes:
    """A request that takes so long."""
    return message(wishes={"delay_s": str(delay_s)})


def test_an_orderly_restart_loses_nothing(own_mlserver: Server, start_agent: StartAgent) -> None:
    """MLServer says GOAWAY and finishes what it has begun; the rest waits until it is back.

    What has reached it and not begun when it is told to stop, grpcio cancels, with or without an agent.
    """
    agent = start_agent(own_mlserver.upstream, "--limit", "2", "--deadline", "60s")
    with calling(agent.address, [slow(2.5)] * 2) as running:
        agent.await_state(inflight=2)
        with calling(agent.address, [message()] * 8) as waiting:
            agent.await_state(inflight=2, queued=8)
            assert ask(own_mlserver.grpc_address, message(wishes={"begun": 2})).code is OK
            own_mlserver.stop()
            assert running.codes(2) == {OK: 2}
            own_mlserver.start()
            assert waiting.codes(8) == {OK: 8}


def test_a_crash_loses_what_it_ran_and_nothing_else(own_mlserver: Server, start_agent: StartAgent) -> None:
    """Also what comes while it is down waits for it, but a probe is answered at once: it is there to learn this."""
    agent = start_agent(own_mlserver.upstream, "--limit", "2", "--deadline", "60s")
    with calling(agent.address, [held("crash")] * 2) as running:
        agent.await_state(inflight=2)
        with calling(agent.address, [message()] * 8) as waiting:
            agent.await_state(inflight=2, queued=8)
            own_mlserver.kill()
            for lost in running.receive(2):
                check_refusal(lost, UNAVAILABLE, "upstream_closed")
            check_refusal(ask(agent.address, b"", method=SERVICE + "ServerReady"), UNAVAILABLE, "upstream_unavailable")
            with calling(agent.address, [message()] * 4) as late:
                own_mlserver.start()
                assert waiting.codes(8) == {OK: 8}
                assert late.codes(4) == {OK: 4}


def test_waiting_for_a_predictor_ends_at_the_deadline(start_agent: StartAgent) -> None:
    agent = start_agent(f"h2c://{HOST}:{free_port()}", "--deadline", "300ms")
    refused = ask(agent.address, message())
    check_refusal(refused, UNAVAILABLE, "upstream_unavailable")
    assert refused.values("grpc-retry-pushback-ms")
