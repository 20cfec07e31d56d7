"""What clients do on the wire that no library of theirs shows: old versions, early bodies, slow heads, many at once."""

import json
import time
from contextlib import ExitStack

import pytest

from .conftest import Pair, StartAgent
from .crowd import release
from .payloads import INFER, JSON, PREDICT, STREAM, floats, v1, v2, v2_binary
from .processes import eventually
from .rawhttp import Answer, RawClient, Request, request

pytestmark = pytest.mark.contract

only_kserve = pytest.mark.parametrize("pair", ["kserve"], indirect=True)
uvicorn = pytest.mark.parametrize("pair", ["kserve", "mlserver"], indirect=True)
STREAMS = {"kserve": (PREDICT, v1(stream=True)), "mlserver": (STREAM, v2())}


def ask(address: str, sent: Request) -> tuple[Answer, bool]:
    """The answer to a request, and whether the connection then ends."""
    with RawClient(address) as client:
        return client.exchange(sent).comparable(), client.at_end()


def ask_once(address: str, sent: Request) -> Answer:
    """The answer to a request."""
    with RawClient(address) as client:
        return client.exchange(sent).comparable()


def check_http_1_0(pair: Pair, *fields: str) -> None:
    sent = request("POST", INFER, v2(), JSON, *fields, version="1.0")
    direct, through = (ask(address, sent) for address in pair.addresses)
    assert direct[0].status == 200
    assert through == direct


def test_http_1_0(pair: Pair) -> None:
    check_http_1_0(pair)


@uvicorn
def test_http_1_0_ends_the_connection_also_when_asked_not_to(pair: Pair) -> None:
    check_http_1_0(pair, "Connection: keep-alive")


def test_http_1_0_without_a_host(pair: Pair) -> None:
    sent = Request("GET", b"GET /v2 HTTP/1.0\r\n\r\n")
    direct, through = (ask(address, sent) for address in pair.addresses)
    assert direct[0].status == 200
    assert through == direct


@uvicorn
def test_http_1_0_knows_no_chunks(pair: Pair) -> None:
    """The end of the connection ends the body, also where the predictor sends chunks regardless (the KServe SDK)."""
    target, body = STREAMS[pair.name]
    sent = request("POST", target, body, JSON, version="1.0")
    (direct, _), (through, ended) = (ask(address, sent) for address in pair.addresses)
    assert through == direct.without(b"transfer-encoding")
    assert ended


def test_close_is_honoured(pair: Pair) -> None:
    sent = request("POST", INFER, v2(), JSON, "Connection: close")
    for address in pair.addresses:
        with RawClient(address) as client:
            assert client.exchange(sent).values(b"connection") == [b"close"]
            assert client.at_end()


def test_pipelined_requests_are_answered_in_order(pair: Pair) -> None:
    sent = b"".join(request("POST", INFER, v2([float(n)], request_id=str(n)), JSON).data for n in range(8))
    ids = []
    for address in pair.addresses:
        with RawClient(address) as client:
            client.send(sent)
            ids.append([json.loads(client.receive("POST").body)["id"] for _ in range(8)])
    assert ids[1] == ids[0] == [str(n) for n in range(8)]


def test_a_request_byte_by_byte(pair: Pair) -> None:
    sent = request("POST", INFER, v2(), JSON)
    with RawClient(pair.agent.address) as slow:
        for byte in sent.data:
            slow.send(bytes([byte]))
        assert slow.receive("POST").comparable() == ask_once(pair.server.address, sent)


def test_the_body_waits_for_100_continue(pair: Pair) -> None:
    body = v2(floats(200_000).tolist())
    head = request("POST", INFER, None, JSON, "Expect: 100-continue", f"Content-Length: {len(body)}")
    answers = []
    for address in pair.addresses:
        with RawClient(address) as client:
            client.send(head.data)
            interim = client.receive_head()
            client.send(body)
            answers.append((interim, client.receive("POST").comparable()))
    assert answers[0][0].status_line == b"HTTP/1.1 100 Continue"
    assert answers[0][1].status == 200
    assert answers[1] == answers[0]


@pytest.mark.parametrize("pair", ["triton"], indirect=True)
def test_a_body_that_must_not_be_there_is_no_answer(pair: Pair) -> None:
    """Triton sends one with its answer to HEAD; whoever reads on takes it for the next answer."""
    head, infer = request("HEAD", "/v2"), request("POST", INFER, v2(), JSON)
    with RawClient(pair.server.address) as client:
        assert client.exchange(head).status == 405
        with pytest.raises(ValueError, match="not a status line"):
            client.exchange(infer)
    with RawClient(pair.agent.address) as client:
        statuses = [client.exchange(sent).status for sent in (head, infer) * 10]
    assert statuses == [405, 200] * 10


@only_kserve
def test_the_model_sees_the_same_fields(pair: Pair) -> None:
    fields = (
        "x-Lower: a",
        "X-UPPER:   padded \t",
        "X-Empty:",
        "Accept: */*;q=0.1",
        "Accept-Encoding: br",
        "Authorization: Bearer b",
        "Cookie: a=1; b",
        "Via: 1.0 fred",
        "X-Forwarded-For: 192.0.2.1",
        "X-Utf8: Grüße",
        "traceparent: 00-0-0-00",
    )
    sent = request("POST", PREDICT, v1(mirror=True), JSON, *fields)
    direct, through = (ask_once(address, sent) for address in pair.addresses)
    seen = json.loads(direct.body)["predictions"]
    assert ["x-lower", "a"] in seen
    assert len(seen) == len(fields) + len({"host", "content-type", "content-length"})
    assert through == direct


@only_kserve
def test_a_binary_answer_keeps_its_two_parts(pair: Pair) -> None:
    body, fields = v2_binary(floats(64))
    direct, through = (ask_once(address, request("POST", INFER, body, *fields)) for address in pair.addresses)
    (length,) = direct.values(b"inference-header-content-length")
    header, raw = direct.body[: int(length)], direct.body[int(length) :]
    assert json.loads(header)["outputs"][0]["parameters"] == {"binary_data_size": 64}
    assert raw == (2 * floats(64)).tobytes()
    assert through == direct


def test_no_request_is_forgotten_while_a_connection_is_made(mlserver_pair: Pair, start_agent: StartAgent) -> None:
    """Two requests need two connections, however little time is between them."""
    agent = start_agent(mlserver_pair.server.upstream, "--limit", "none")
    key = "pairs"
    sent = request("POST", INFER, v2(model_parameters={"hold": key}), JSON)
    clients: list[RawClient] = []

    def each_has_a_connection() -> bool:
        return bool(agent.state()["connections"]["upstream"] >= len(clients))

    with ExitStack() as stack:
        stack.callback(release, mlserver_pair.server, key)
        for number in range(150):
            clients += [stack.enter_context(RawClient(agent.address)) for _ in range(2)]
            clients[-2].send(sent.data)
            pause_until = time.perf_counter() + (number % 15) * 50e-6
            while time.perf_counter() < pause_until:
                pass
            clients[-1].send(sent.data)
            eventually(each_has_a_connection, f"connections for {len(clients)} requests")
        release(mlserver_pair.server, key)
        assert {client.receive("POST").status for client in clients} == {200}
