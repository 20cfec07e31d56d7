"""One request and its answer, byte for byte: framing both ways, fields, interim answers, forms of the target."""

import pytest

from tests.net.bed import OK, Opener, get, ok, post
from tests.sockets import FakePredictor, IncompleteError, eventually

CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_request_and_its_answer_are_relayed_byte_for_byte(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    sent = post(b'{"inputs": []}', b"x-B: 2", b"X-a: 1", b"x-b:  3", b"Content-Type: application/json")
    answer = ok(b"\x00\xff" * 50, b"server: s", b"X-Dup: 1", b"x-dup: 2", b"Date: today")
    await client.send(sent)
    predictor = await agent.predictor.accept()
    got = await predictor.request()
    assert got.raw == sent.replace(b"x-b:  3", b"x-b: 3")
    await predictor.send(answer)
    assert (await client.response()).raw == answer


async def test_nothing_is_added_to_a_request_without_fields(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % agent.predictor.authority
    await predictor.send(OK)
    await client.response()


async def test_chunked_bodies_go_both_ways_and_the_trailers_of_answers(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"3;ext=1\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    assert await predictor.until(b"abc\r\n") == CHUNKED + b"3\r\nabc\r\n"
    await client.send(b"A\r\n0123456789\r\n0\r\nX-Sum: 9\r\nx-sum: 8\r\n\r\n")
    assert await predictor.until(b"\r\n\r\n") == b"a\r\n0123456789\r\n0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n4\r\nwxyz\r\n0\r\nX-T: 1\r\n\r\n"
    await predictor.send(answer)
    got = await client.response()
    assert got.raw == answer
    assert got.trailers == [(b"X-T", b"1")]


async def test_an_answer_without_length_ends_with_the_connection(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\n\r\nfirst, ")
    assert await client.until(b"first, ") == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst, "
    await predictor.send(b"last")
    predictor.close()
    assert await client.rest() == b"last"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_that_never_have_a_body_keep_the_connection(bed: Opener, status: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    answer = b"HTTP/1.1 %b\r\nETag: x\r\n\r\n" % status
    for _ in range(2):
        await client.send(get())
        predictor = agent.predictor.peers[0] if agent.predictor.peers else await agent.predictor.accept()
        await predictor.request()
        await predictor.send(answer)
        assert (await client.response()).raw == answer


async def test_an_answer_to_head_announces_a_body_that_does_not_come(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(b"HEAD / HTTP/1.1\r\nHost: m\r\n\r\n" + get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    await predictor.send(answer)
    assert (await client.response(bodyless=True)).raw == answer
    assert (await predictor.request()).raw == get()
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_interim_answers_are_relayed_before_the_final_one(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    await predictor.send(b"HTTP/1.1 102 Processing\r\n\r\n" + hints)
    assert (await client.response()).status == 102
    assert (await client.response()).raw == hints
    await predictor.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    assert (await client.response()).raw == OK


async def test_a_flood_of_interim_answers_is_a_predictors_fault(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 17)
    for _ in range(16):
        assert (await client.response()).status == 102
    assert (await client.response()).status == 502
    assert (await predictor.ended()).was_reset


async def test_continue_is_answered_by_the_agent_and_not_forwarded(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 5"))
    assert (await client.response()).raw == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(b"hello")
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == post(b"hello")
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_client_that_does_not_wait_for_continue_is_not_told_to(bed: Opener) -> None:
    agent = await bed(limit="1")
    _, predictor = await agent.occupy()
    client = await agent.client()
    await client.send(post(b"hello", b"Expect: 100-continue")[:-1])
    await eventually(lambda: agent.admission.queued_bytes == 4)
    await predictor.send(OK)
    await predictor.until(b"hell")
    await client.send(b"o")
    assert await predictor.exactly(1) == b"o"
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_hop_by_hop_fields_end_here(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    hops = (
        b"Connection: X-Hop, keep-alive, Host",
        b"x-hop: 1",
        b"Keep-Alive: 5",
        b"TE: trailers",
        b"Proxy-Connection: x",
    )
    await client.send(post(b"x", *hops, b"X-End: 1"))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == post(b"x", b"X-End: 1")
    await predictor.send(ok(b"y", b"Connection: x-gone", b"X-Gone: 1", b"Keep-Alive: timeout=5", b"X-Kept: 1"))
    assert (await client.response()).raw == ok(b"y", b"X-Kept: 1")


async def test_an_absolute_target_is_split(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(b"GET http://m.test/v2?q=%20 HTTP/1.1\r\nHost: m.test\r\n\r\n")
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == b"GET /v2?q=%20 HTTP/1.1\r\nHost: m.test\r\n\r\n"
    await predictor.send(OK)
    assert (await client.response()).raw == OK


@pytest.mark.parametrize(
    "answer", [OK, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\nX: 1\r\n\r\n"]
)
async def test_an_http_1_0_client_is_answered_until_the_end_of_the_connection(bed: Opener, answer: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x", b"Connection: keep-alive", version=b"1.0"))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == post(b"x")
    await predictor.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer)
    got = await client.response()
    assert got.body == b"ok"
    assert got.values(b"Connection") == [b"close"]
    assert not got.values(b"Transfer-Encoding")
    assert await client.rest() == b""


async def test_a_truncated_chunked_answer_is_cut_for_an_http_1_0_client_too(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x", version=b"1.0"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    await client.until(b"ok")
    predictor.close()
    with pytest.raises(IncompleteError) as end:
        await client.rest()
    assert end.value.was_reset


async def test_an_http_1_0_predictor_is_not_reused(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    for _ in range(2):
        await client.send(get())
        predictor = await agent.predictor.accept()
        await predictor.request()
        await predictor.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.response()).raw == OK
        await predictor.ended()


async def test_connections_are_kept_on_both_sides(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    predictor = None
    for body in (b"", b"1", b"22"):
        await client.send(post(body))
        predictor = predictor or await agent.predictor.accept()
        assert (await predictor.request()).body == body
        await predictor.send(ok(body))
        assert (await client.response()).raw == ok(body)


async def test_close_is_a_matter_of_each_side(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x", b"Connection: close"))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == post(b"x")
    await predictor.send(OK)
    assert (await client.response()).values(b"Connection") == [b"close"]
    assert await client.rest() == b""
    other = await agent.client()
    await other.send(post(b"y"))
    assert (await predictor.request()).body == b"y"
    await predictor.send(ok(b"z", b"Connection: close"))
    assert (await other.response()).raw == ok(b"z")


async def test_a_predictor_on_a_unix_socket(bed: Opener, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "p.sock"
    agent = await bed(FakePredictor(path).listen())
    client = await agent.client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).raw == b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await predictor.send(OK)
    assert (await client.response()).body == b"ok"
    with pytest.raises(IncompleteError):
        await client.more()


async def test_the_http_2_preface_is_told_to_speak_http_1(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
    frames = await client.rest()
    assert frames[3] == 4  # SETTINGS comes first
    assert frames[9 + 3] == 7  # then GOAWAY
    assert frames[-4:] == (13).to_bytes(4, "big")  # HTTP_1_1_REQUIRED


async def test_a_request_byte_by_byte(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    sent = CHUNKED + b"3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    for at in range(len(sent)):
        await client.send(sent[at : at + 1])
    predictor = await agent.predictor.accept()
    got = await predictor.request()
    assert (got.body, got.trailers) == (b"abc", [])
    answer = ok(b"hello")
    for at in range(len(answer)):
        await predictor.send(answer[at : at + 1])
    assert (await client.response()).raw == answer


async def test_a_stop_at_once_does_not_make_an_answer_look_whole(bed: Opener) -> None:
    """As after a second signal. To HTTP/1.0, the end of the connection is the end of the answer."""
    agent = await bed()
    client = await agent.client()
    await client.send(b"GET / HTTP/1.0\r\n\r\n")
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await client.until(b"abc")
    await agent.server.stop()
    assert (await client.ended()).was_reset
