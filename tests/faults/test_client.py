"""Clients that half-close, leave, stall or come back in the middle of things."""

import pytest

from agent.errors import Outcome
from tests.net.bed import OK, Opener, get, ok, post
from tests.sockets import FakePredictor, eventually

CHUNKED = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m.test\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("warm", [False, True])
async def test_a_half_closed_client_is_answered(bed: Opener, *, warm: bool) -> None:
    """Whether or not there is a connection to the predictor already."""
    agent = await bed()
    if warm:
        await agent.warm()
    client = await agent.client()
    await client.send(post(b"x"))
    client.half_close()
    predictor = agent.predictor.peers[0] if warm else await agent.predictor.accept()
    await predictor.request()
    await predictor.send(ok(b"answer"))
    assert (await client.response()).body == b"answer"
    assert await client.rest() == b""


async def test_a_half_closed_client_gets_a_long_answer_whole(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"x"))
    client.half_close()
    predictor = await agent.predictor.accept()
    await predictor.request()
    agent.start(predictor.send(ok(b"y" * 8_000_000)))
    assert len((await client.response()).body) == 8_000_000
    assert await client.rest() == b""


async def test_a_client_that_ends_its_upload_early_gets_no_success(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    client.half_close()
    end = await predictor.ended()
    assert end.was_reset
    assert end.data == b""
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "head",
    [b"POST /v2/models/m/infer HTTP/1.1\r\nHost:", b"POST", b"P"],
)
async def test_a_client_that_ends_inside_a_head_reaches_nobody(bed: Opener, head: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(head)
    client.half_close()
    rest = await client.rest()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 400 ")
    assert agent.begun == 0
    assert agent.predictor.is_left_alone()


@pytest.mark.parametrize(
    "broken", [b"zz\r\n", b"3\r\nabcd\r\n", b"0\r\nContent Length: 1\r\n\r\n", b"1;" + b"x" * 9000]
)
async def test_a_broken_chunk_is_never_completed(bed: Opener, broken: bytes) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    await client.send(broken + get())
    reply = await client.response()
    assert (reply.status, reply.values(b"Connection")) == (400, [b"close"])
    end = await predictor.ended()
    assert end.was_reset
    assert b"\r\n0\r\n" not in predictor.received
    assert agent.outcomes == [Outcome.BAD_REQUEST]
    assert agent.begun == 1


async def test_a_broken_chunk_after_the_answers_head_cuts_the_answer(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await client.until(b"half")
    await client.send(b"zz\r\n")
    assert (await client.ended()).was_reset
    assert (await predictor.ended()).was_reset


async def test_a_broken_chunk_of_a_queued_request_frees_its_place(bed: Opener) -> None:
    agent = await bed(limit="1")
    await agent.occupy()
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    await eventually(lambda: agent.admission.queued_bytes == 3)
    await client.send(b"zz\r\n")
    assert (await client.response()).status == 400
    assert (agent.admission.queued, agent.admission.queued_bytes) == (0, 0)


async def test_the_answer_for_a_client_that_left_is_read_and_the_connection_reused(bed: Opener) -> None:
    agent = await bed()
    client, predictor = await agent.occupy()
    client.reset()
    await eventually(lambda: not agent.server.connections)
    await predictor.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    await eventually(lambda: agent.pool.idle)
    assert agent.outcomes == [Outcome.CLIENT_GONE]
    other = await agent.client()
    await other.send(post(b"y"))
    assert (await predictor.request()).body == b"y"
    await predictor.send(OK)
    assert (await other.response()).raw == OK


async def test_an_upgrade_for_a_client_that_left_is_not_kept(bed: Opener) -> None:
    agent = await bed(limit="1")
    client = await agent.client()
    await client.send(get(b"/ws", b"Connection: upgrade", b"Upgrade: x"))
    predictor = await agent.predictor.accept()
    await predictor.head()
    client.reset()
    await eventually(lambda: not agent.server.connections)
    await predictor.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    assert (await predictor.ended()).was_reset
    assert agent.admission.inflight == 0


async def test_a_large_queued_upload_whose_client_left_is_never_completed(bed: Opener) -> None:
    """Its leaving is hidden behind the paused reading; it shows when its turn comes."""
    agent = await bed(limit="1", queued_body="16KiB")
    _, predictor = await agent.occupy()
    client = await agent.client()
    request = post(b"x" * 1_000_000)
    await client.send(request[:-10])
    await eventually(lambda: agent.admission.queued_bytes >= 16 * 1024)
    client.close()
    await predictor.send(OK)
    end = await predictor.ended()
    assert end.was_reset
    await eventually(lambda: not agent.gate.active)
    assert agent.outcomes == [Outcome.SERVED, Outcome.CLIENT_GONE]


async def test_clients_that_leave_while_the_predictor_is_down_are_not_sent_to_it(bed: Opener) -> None:
    agent = await bed(FakePredictor(), limit="2")
    for index in range(4):
        client = await agent.client()
        await client.send(post(b"gone %d" % index))
        await eventually(lambda: agent.begun == index + 1)  # noqa: B023 - looked at in this turn only
        await eventually(lambda: agent.pool.is_refusing)
        client.close()
    await eventually(lambda: not agent.gate.active)
    assert agent.outcomes == [Outcome.CLIENT_GONE] * 4
    agent.predictor.listen()
    await eventually(lambda: not agent.pool.is_refusing)
    assert not agent.pool.waiting


async def test_pipelined_requests_of_a_client_that_left_do_not_run(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"1") + post(b"2") + post(b"3"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    client.reset()
    await eventually(lambda: not agent.server.connections)
    await predictor.send(OK)
    await eventually(lambda: agent.pool.idle)
    assert agent.begun == 1


async def test_many_come_and_go(bed: Opener) -> None:
    agent = await bed(limit="2", queue="4")
    running = [await agent.occupy() for _ in range(2)]
    for turn in range(60):
        client = await agent.client()
        await client.send(post(b"x" * 30_000)[: 30_000 if turn % 2 else None])
        await eventually(lambda: agent.begun == turn + 3)  # noqa: B023 - looked at in this turn only
        (client.reset if turn % 3 else client.close)()
        await eventually(lambda: len(agent.server.connections) == 2)
        assert (agent.admission.inflight, agent.admission.queued) == (2, 0)
    for client, predictor in running:
        await predictor.send(OK)
        assert (await client.response()).raw == OK


async def test_a_half_closed_client_that_asked_for_more_is_answered_and_left_at_once(bed: Opener) -> None:
    """It can send nothing any more, so there is nothing to linger for."""
    agent = await bed()
    client = await agent.client()
    await client.send(post(b"1") + post(b"2"))
    client.half_close()
    predictor = await agent.predictor.accept()
    await predictor.request()
    [connection] = agent.server.connections
    await eventually(lambda: not connection._machine.held)
    await predictor.send(OK)
    reply = await client.response()
    assert (reply.status, reply.values(b"Connection")) == (200, [b"close"])
    assert await client.rest() == b""
    await eventually(lambda: not agent.server.connections)
    assert agent.begun == 1


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_client_that_half_closes_inside_its_answer_is_reset(bed: Opener, framing: bytes) -> None:
    """It is taken for gone; should it still read, the part that it has must not look whole."""
    agent = await bed()
    client, predictor = await agent.occupy()
    await predictor.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n4\r\nhalf\r\n")
    await client.until(b"half\r\n")
    client.half_close()
    assert (await client.ended()).was_reset
    assert (await predictor.ended()).was_reset
    assert agent.outcomes == [Outcome.CLIENT_GONE]


async def test_a_client_that_ends_its_upload_inside_an_early_answer_is_reset(bed: Opener) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    await predictor.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    await client.until(b"half")
    client.half_close()
    assert (await client.ended()).was_reset
    assert (await predictor.ended()).was_reset
