"""MLServer starts after the agent, and listens before its models are loaded: what comes early is held and answered."""

from http import HTTPStatus

import grpc
import pytest

from .conftest import StartAgent
from .crowd import asking, receive
from .grpccrowd import calling
from .grpcpayloads import message
from .payloads import INFER, JSON, v2
from .processes import Server, get
from .rawhttp import request

pytestmark = pytest.mark.contract

READY = "/v2/health/ready"


def test_requests_are_held_until_the_models_are_loaded(own_mlserver: Server, start_agent: StartAgent) -> None:
    own_mlserver.stop()
    flags = ("--limit", "2", "--deadline", "300ms", "--startup-timeout", "60s", "--ready-path", READY)
    agent = start_agent(own_mlserver.upstream, *flags)
    assert get(agent.admin, "/readyz")[0] == HTTPStatus.SERVICE_UNAVAILABLE
    sent = request("POST", INFER, v2(), JSON)
    with asking(agent.address, [sent] * 8) as waiting, calling(agent.address, [message()] * 8) as calls:
        agent.await_state(state="starting", inflight=2, queued=14)
        own_mlserver.start()
        assert [answer.status for answer in receive(waiting, 8)] == [200] * 8
        assert calls.codes(8) == {grpc.StatusCode.OK: 8}
    agent.await_state(state="serving", waits_for=[])
    assert get(agent.admin, "/readyz")[0] == HTTPStatus.OK
    (ready,) = agent.events("predictor ready")
    assert ready["path"] == READY
