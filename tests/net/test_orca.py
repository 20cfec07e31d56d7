"""The load beside answers, over HTTP/1.1 and HTTP/2, in heads and in gRPC's trailers, when it is asked for."""

from base64 import b64decode

import pytest

from agent.net.orca import Orca
from agent.wire.head import ResponseHead
from protos.orca_load_report_pb2 import OrcaLoadReport
from tests.fakes import FakeServer
from tests.net.bed import OK, Bed, Opener, get, ok, post
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import GRPC_ANSWER, Field, framed, infer, plain_head
from tests.sockets import Message, Peer

HEADER, TRAILER = b"endpoint-load-metrics", b"endpoint-load-metrics-bin"
FORMS = {b"text": b"TEXT ", b"JSON": b"JSON ", b"Bin": b"BIN "}


def asking(form: bytes) -> bytes:
    return b"Endpoint-Load-Metrics-Format: " + form


async def ask(agent: Bed, *fields: bytes, answer: bytes = OK) -> Message:
    client = await agent.client()
    await client.send(post(b"body", *fields))
    peer, request = await agent.predictor.next()
    assert request.body == b"body"
    await peer.send(answer)
    return await client.response()


@pytest.mark.parametrize("form", FORMS)
async def test_who_asks_is_told_in_the_form_that_it_wants(bed: Opener, form: bytes) -> None:
    agent = await bed(orca="asked")
    answer = await ask(agent, asking(form))
    [value] = answer.values(HEADER)
    assert value.startswith(FORMS[form])
    assert b"application_utilization" in value or form == b"Bin"
    assert (answer.body, answer.start) == (b"ok", b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("fields", [(), (asking(b"xml"),), (asking(b""),)])
async def test_who_does_not_ask_is_not_told(bed: Opener, fields: tuple[bytes, ...]) -> None:
    agent = await bed(orca="asked")
    assert (await ask(agent, *fields)).raw == OK


async def test_to_all_who_do_not_say_how_it_is_told_as_text(bed: Opener) -> None:
    agent = await bed(orca="always")
    for fields, form in (((), b"TEXT "), ((asking(b"json"),), b"JSON ")):
        [value] = (await ask(agent, *fields)).values(HEADER)
        assert value.startswith(form)


@pytest.mark.parametrize("form", [b"text", b"bin"])
async def test_off_nobody_is_told_and_nothing_is_looked_for(bed: Opener, form: bytes) -> None:
    agent = await bed()
    assert (await ask(agent, asking(form))).raw == OK
    assert agent.gate.orca is None
    assert not agent.gate.stated.is_needed


async def test_the_question_goes_on_to_the_predictor_and_its_own_report_stays(bed: Opener) -> None:
    agent = await bed(orca="always")
    client = await agent.client()
    await client.send(post(b"", asking(b"text")))
    peer = await agent.predictor.accept()
    assert (await peer.request()).values(b"endpoint-load-metrics-format") == [b"text"]
    own = ok(b"ok", b"Endpoint-Load-Metrics: TEXT named_metrics.kv_cache_usage_perc=0.4")
    await peer.send(own)
    assert (await client.response()).raw == own


async def test_heads_that_repeat_are_not_changed_for_others(bed: Opener) -> None:
    agent = await bed(orca="asked")
    for _ in range(3):  # from the third on it comes from a cache
        assert (await ask(agent)).raw == OK
    assert (await ask(agent, asking(b"text"))).values(HEADER)
    assert (await ask(agent)).raw == OK


async def test_what_is_not_inference_carries_no_report(bed: Opener) -> None:
    agent = await bed(orca="always")
    client = await agent.client()
    await client.send(get())
    peer = await agent.predictor.accept()
    await peer.request()
    await peer.send(OK)
    assert (await client.response()).raw == OK


async def test_answers_of_every_framing_carry_it(bed: Opener) -> None:
    agent = await bed(orca="always")
    for answer, body in [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n", b"ok"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", b"no"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ]:
        found = await ask(agent, answer=answer)
        assert len(found.values(HEADER)) == 1
        assert found.body == body


async def test_the_rest_of_the_exchange_is_as_ever(bed: Opener) -> None:
    agent = await bed(orca="always", limit="1", queue="0")
    client = await agent.client()
    await client.send(post(b"up")[:-2].replace(b"Host", b"Expect: 100-continue\r\nHost"))
    peer: Peer = await agent.predictor.accept()
    assert (await client.response()).status == 100
    await client.send(b"up")
    assert (await peer.request()).body == b"up"
    refused = await agent.client()
    await refused.send(post())
    assert (await refused.response()).status == 503
    await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert (await client.response()).status == 103
    assert (await client.response()).values(HEADER)
    await client.send(get(b"/ws", b"Connection: Upgrade", b"Upgrade: echo"))
    await peer.request()
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert not (await client.response()).values(HEADER)
    await client.send(b"ping")
    assert await peer.exactly(4) == b"ping"
    peer.close()


async def call(agent: Http2Bed, *metadata: Field, alone: bool = False) -> tuple[bytes | None, bytes | None]:
    """The report in the trailers and in the head of a gRPC call's answer; `alone` is trailers alone."""
    client, server = await agent.pair()
    half = await client.call(b"body", *metadata)
    request = await server.request()
    assert bytes(request.body) == infer(b"body")
    if alone:
        await server.send_head(request, [*GRPC_ANSWER, (b"grpc-status", b"5")], end=True)
    else:
        await server.respond(request, framed(b"answer"))
    await client.answer(half)
    assert half.grpc_status == (5 if alone else 0)
    assert bytes(half.body) == (b"" if alone else framed(b"answer"))
    assert dict(half.fields).get(HEADER) is None
    return dict(half.trailers or []).get(TRAILER), dict(half.fields).get(TRAILER)


ASKING: Field = (b"endpoint-load-metrics-format", b"bin")


@pytest.mark.parametrize(("setting", "metadata"), [("asked", (ASKING,)), ("always", ())])
async def test_a_call_is_told_in_its_trailers(h2bed: Http2Opener, setting: str, metadata: tuple[Field, ...]) -> None:
    trailer, head = await call(await h2bed(orca=setting), *metadata)
    assert head is None
    assert trailer is not None
    report = OrcaLoadReport.FromString(b64decode(trailer, validate=True))
    assert dict(report.named_metrics) == {"inflight": 0.0, "queued": 0.0}, "its slot is free by then"
    assert report.application_utilization > 0.0


async def test_trailers_alone_have_it_too(h2bed: Http2Opener) -> None:
    trailer, head = await call(await h2bed(orca="always"), alone=True)
    assert trailer is None
    assert head is not None
    OrcaLoadReport.FromString(b64decode(head, validate=True))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("setting", "metadata"), [("asked", ()), ("off", (ASKING,))])
async def test_a_call_that_is_not_to_be_told(
    h2bed: Http2Opener, setting: str, metadata: tuple[Field, ...], *, alone: bool
) -> None:
    assert await call(await h2bed(orca=setting), *metadata, alone=alone) == (None, None)


async def test_http2_without_grpc_has_it_in_the_head(h2bed: Http2Opener) -> None:
    agent = await h2bed(orca="asked")
    client, server = await agent.pair()
    for _ in range(3):
        half = await client.send(plain_head(b"POST", b"/v2/models/m/infer", (ASKING[0], b"text")), b"{}")
        request = await server.request()
        await server.respond(request, b"ok", fields=[(b":status", b"200"), (b"x-a", b"1")], trailers=None)
        await client.answer(half)
        assert (half.value(HEADER) or b"").startswith(b"TEXT ")
        assert [name for name, _ in half.fields] == [b":status", b"x-a", HEADER]
        assert bytes(half.body) == b"ok"


def test_heads_that_never_come_again_are_not_kept() -> None:
    orca = Orca(FakeServer().load, always=True)
    for _ in range(1000):
        assert orca.head(ResponseHead(), HEADER, b"text").fields
    assert len(orca._heads) <= 256
