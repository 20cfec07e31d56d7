"""Every wait has an end and every size a bound: time-outs, heads, connections, and bodies that nobody wants."""

import asyncio

import pytest

from agent.errors import Outcome
from agent.net import sweep
from agent.net.http1_downstream import LINGER_S
from tests.net.bed import OK, Opener, get, ok, post
from tests.sockets import IncompleteError, eventually


async def test_the_time_out_of_an_exchange_is_told(bed: Opener) -> None:
    agent = await bed(timeout="100s", limit="1")
    client, predictor = await agent.occupy()
    [waiting] = await agent.fill(1)
    [ticket] = agent.admission.waiting()
    ticket.owner.arrived += 60  # it came long after the first
    agent.later(110)
    reply = await client.response()
    assert (reply.status, reply.values(b"x-headgate-reason")) == (504, [b"timeout"])
    assert (await predictor.ended()).was_reset
    second = await agent.predictor.accept()
    assert (await second.request()).body == b"queued 0"
    await second.send(OK)
    assert (await waiting.response()).raw == OK


async def test_after_the_answers_head_a_time_out_cuts_the_connection(bed: Opener) -> None:
    agent = await bed(timeout="100s")
    client, predictor = await agent.occupy()
    await predictor.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    await client.until(b"half")
    agent.later(110)
    assert (await client.ended()).was_reset
    assert agent.outcomes == [Outcome.TIMEOUT]


async def test_a_dripping_head_is_cut(bed: Opener) -> None:
    agent = await bed(head_timeout="200ms")
    client = await agent.client()
    drips = 0
    while not agent.faults:
        await client.send(get(b"/" + b"x" * 1000)[drips : drips + 1])
        drips += 1
        await asyncio.sleep(0.01)
    reply = await client.response()
    assert (reply.status, reply.values(b"Connection")) == (408, [b"close"])
    assert drips < 40
    assert agent.faults == [Outcome.HEAD_TIMEOUT]


@pytest.mark.parametrize("start", [b"P", b"PRI * HTT", b"\r\n", b"POST / HTTP/1.1\r\nHost:"])
async def test_a_head_that_does_not_go_on_is_cut(bed: Opener, start: bytes) -> None:
    agent = await bed(head_timeout="100ms")
    client = await agent.client()
    await client.send(start)
    assert (await client.response()).status == 408
    assert await client.rest() == b""


async def test_an_idle_connection_is_closed(bed: Opener) -> None:
    agent = await bed(idle_timeout="100s")
    silent, served = await agent.client(), await agent.client()
    await served.send(get())
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(OK)
    assert (await served.response()).raw == OK
    await eventually(lambda: len(agent.server.connections) == 2)
    agent.later(90)
    assert len(agent.server.connections) == 2
    agent.later(20)
    for client in (silent, served):
        assert await client.rest() == b""


async def test_a_busy_connection_is_not_idle(bed: Opener) -> None:
    agent = await bed(idle_timeout="100s", head_timeout="100s", limit="1")
    client, predictor = await agent.occupy()
    [waiting] = await agent.fill(1)
    agent.later(300)
    await predictor.send(OK)
    await predictor.request()
    await predictor.send(OK)
    assert (await client.response()).raw == OK
    assert (await waiting.response()).raw == OK


async def test_connections_beyond_the_limit_are_closed(bed: Opener) -> None:
    agent = await bed(max_connections="2")
    one, two = await agent.client(), await agent.client()
    await eventually(lambda: len(agent.server.connections) == 2)
    three = await agent.client()
    assert await three.rest() == b""
    one.close()
    await eventually(lambda: len(agent.server.connections) == 1)
    four = await agent.client()
    for client in (two, four):
        await client.send(get())
        predictor = agent.predictor.peers[0] if agent.predictor.peers else await agent.predictor.accept()
        await predictor.request()
        await predictor.send(OK)
        assert (await client.response()).raw == OK


async def test_a_small_refused_body_is_read_and_the_connection_kept(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0")
    _, predictor = await agent.occupy()
    client = await agent.client()
    body = b"GET / HTTP/1.1\r\nHost: smuggled\r\n\r\n" * 1000
    request = post(body)
    await client.send(request[:5000])
    refusal = await client.response()
    assert (refusal.status, refusal.values(b"Connection")) == (503, [])
    await client.send(request[5000:] + get())
    second = await agent.predictor.accept()
    assert (await second.request()).raw == get()
    await second.send(OK)
    assert (await client.response()).raw == OK
    assert agent.begun == 3
    await predictor.send(OK)


@pytest.mark.parametrize("framing", [b"Content-Length: 8000000", b"Transfer-Encoding: chunked"])
async def test_a_large_refused_body_ends_the_connection_after_the_reply(bed: Opener, framing: bytes) -> None:
    agent = await bed(limit="1", queue="0")
    await agent.occupy()
    client = await agent.client()
    chunk = b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000) if b"chunked" in framing else b"x" * 100_000
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\n" + framing + b"\r\n\r\n"
    await client.send(head)
    for _ in range(20):
        await client.send(chunk)
    refusal = await client.response()
    assert (refusal.status, refusal.values(b"Connection")) == (503, [b"close"])
    assert await client.rest() == b""


async def test_a_refused_body_that_does_not_come_ends_the_connection(bed: Opener) -> None:
    agent = await bed(limit="1", queue="0", head_timeout="100ms")
    await agent.occupy()
    client = await agent.client()
    await client.send(post(b"x" * 100)[:-50])
    assert (await client.response()).status == 503
    with pytest.raises(IncompleteError):
        await client.more()


async def test_the_wait_for_a_client_that_never_stops_sending_has_an_end(
    bed: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LINGER_S", 0.1)
    agent = await bed(limit="1", queue="0")
    await agent.occupy()
    client = await agent.client()
    await client.send(post(b"x" * 1_000_000)[:-1])
    assert (await client.response()).status == 503
    assert await client.rest() == b""
    await eventually(lambda: len(agent.server.connections) == 1)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(b"/" + b"x" * 20_000), 414),
        (get(b"/", *[b"X-%d: y" % n for n in range(200)]), 431),
        (get(b"/", b"X: " + b"y" * 70_000), 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (post(b"x", b"Transfer-Encoding: chunked"), 400),
        (post(b"x").replace(b"Content-Length: 1", b"Transfer-Encoding: gzip, chunked"), 501),
        (post(b"x", b"Expect: the-unexpected"), 417),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n", 400),
    ],
)
async def test_what_cannot_become_a_request_reaches_nobody(bed: Opener, request_: bytes, status: int) -> None:
    agent = await bed()
    client = await agent.client()
    await client.send(request_ + get(b"/smuggled"))
    reply = await client.response()
    assert (reply.status, reply.values(b"Connection")) == (status, [b"close"])
    assert await client.rest() == b""
    assert agent.begun == 0
    assert len(agent.faults) == 1
    assert agent.predictor.is_left_alone()


async def test_a_client_that_stalls_in_its_upload_loses_its_slot(bed: Opener) -> None:
    agent = await bed(limit="1", idle_timeout="100ms")
    client = await agent.client()
    await client.send(post(b"x" * 100)[:-50])
    predictor = await agent.predictor.accept()
    await predictor.head()
    assert (await client.ended()).was_reset
    assert (await predictor.ended()).was_reset
    assert agent.outcomes == [Outcome.CLIENT_GONE]


async def test_a_client_that_goes_on_uploading_slowly_is_served(bed: Opener) -> None:
    agent = await bed(idle_timeout="100s")
    client = await agent.client()
    sent = post(b"0123456789")
    await client.send(sent[:-10])
    predictor = await agent.predictor.accept()
    await predictor.head()
    for byte in sent[-10:]:
        agent.later(60)
        await client.send(bytes([byte]))
        assert await predictor.exactly(1) == bytes([byte])
    await predictor.send(OK)
    assert (await client.response()).raw == OK


async def test_a_client_that_stops_reading_is_dropped(bed: Opener) -> None:
    agent = await bed(limit="1", idle_timeout="100ms")
    client, _ = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000)
    assert (await predictor.ended()).was_reset
    assert (await client.ended()).was_reset
    assert agent.outcomes == [Outcome.CLIENT_GONE]


@pytest.mark.parametrize("fields", [(), (b"Connection: close",)])
async def test_a_reply_that_nobody_reads_does_not_stay_for_ever(bed: Opener, fields: tuple[bytes, ...]) -> None:
    agent = await bed(idle_timeout="100ms")
    client, transport = await agent.narrow_client()
    await client.send(post(b"x", *fields))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(ok(b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    assert agent.outcomes == [Outcome.SERVED]
    assert transport.get_write_buffer_size()
    await eventually(lambda: not agent.server.connections)
    assert (await client.ended()).was_reset


@pytest.mark.parametrize("fields", [(), (b"Connection: close",)])
async def test_a_slow_reader_gets_all_of_its_reply(bed: Opener, fields: tuple[bytes, ...]) -> None:
    """It takes longer than any time-out, and never pauses for as long as one."""
    agent = await bed(idle_timeout="100s", head_timeout="50s")
    client, transport = await agent.narrow_client()
    await client.send(post(b"x", *fields))
    predictor = await agent.predictor.accept()
    await predictor.request()
    await predictor.send(ok(b"x" * 100_000))
    await eventually(lambda: agent.outcomes)
    for _ in range(3):
        agent.later(60)
        left = transport.get_write_buffer_size()
        while transport.get_write_buffer_size() == left:
            await client.more()
    assert transport.get_write_buffer_size()
    assert (await client.response()).body == b"x" * 100_000


async def test_the_kernel_may_finish_what_a_slow_reader_has_not_taken(
    bed: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the wait for the client is no reset: that would take back what is on its way."""
    monkeypatch.setattr(sweep, "LINGER_S", 0.05)
    agent = await bed()
    client = await agent.client(kernel_buffer=4096)
    await client.send(post(b"x" * 1000)[:-500])
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(ok(b"y" * 200_000))
    await eventually(lambda: agent.outcomes and not agent.server.connections)
    assert (await client.response()).body == b"y" * 200_000


async def test_an_early_reply_waits_for_a_slow_reader(bed: Opener) -> None:
    """The client still sends and reads slowly: the end of the connection waits until it has the reply."""
    agent = await bed()
    client, transport = await agent.narrow_client()
    await client.send(post(b"x" * 1000)[:-500])
    predictor = await agent.predictor.accept()
    await predictor.head()
    await predictor.send(ok(b"y" * 100_000))
    await eventually(lambda: agent.outcomes)
    for _ in range(3):
        agent.later(10 * LINGER_S)
        await client.more()
    assert transport.get_write_buffer_size()
    assert (await client.response()).body == b"y" * 100_000
