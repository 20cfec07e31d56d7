"""The client against raw sockets: every way an answer can arrive, and every way it can fail to."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadgen import http_client
from loadgen.http_client import Address, Client, fetch, resolve
from loadgen.payload import encode_request
from loadgen.record import Cause, Outcome, Sample
from tests.loadgen.peers import OK, SHED, Line, answering, refused_address, serving

REQUEST = encode_request("POST", "test", "/v2/models/m/infer", (), b'{"inputs":[]}')
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n1\r\n!\r\n0\r\nX-Trailer: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK
LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"

COMPLETE = [
    pytest.param(OK, 200, Outcome.OK, b"ok", id="sized"),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, Outcome.OK, b"", id="no-content"),
    pytest.param(CHUNKED, 200, Outcome.OK, b"ok!", id="chunked"),
    pytest.param(INTERIM, 200, Outcome.OK, b"ok", id="interim"),
    pytest.param(SHED, 503, Outcome.SHED, b"", id="shed"),
    pytest.param(b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad", 500, Outcome.ERROR, b"bad", id="failed"),
    pytest.param(LAST, 200, Outcome.OK, b"ok", id="last"),
]


class Ends:
    """Collects ended samples and lets a test wait for a number of them."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._changed = asyncio.Event()

    def __call__(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._changed.set()

    async def wait_for(self, count: int) -> list[Sample]:
        async with asyncio.timeout(5):
            while len(self.samples) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.samples


@asynccontextmanager
async def client_of(address: Address, timeout_s: float = 5.0, **settings: object) -> AsyncIterator[tuple[Client, Ends]]:
    ends = Ends()
    client = Client(address, ends, timeout_s, **settings)  # type: ignore[arg-type]
    try:
        yield client, ends
    finally:
        await client.close()


async def exchange(client: Client, ends: Ends) -> Sample:
    """One request from its send to its end."""
    before = len(ends.samples)
    client.send(REQUEST, Sample(time.monotonic_ns()))
    return (await ends.wait_for(before + 1))[-1]


@pytest.mark.parametrize(("answer", "status", "outcome", "body"), COMPLETE)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20], ids=["byte-by-byte", "by-seven", "whole"])
async def test_answers_are_read_however_they_are_cut(
    answer: bytes, status: int, outcome: Outcome, body: bytes, piece: int
) -> None:
    async def script(line: Line) -> None:
        while True:
            await line.request()
            for start in range(0, len(answer), piece):
                await line.send(answer[start : start + piece])
                await asyncio.sleep(0)  # one turn of the loop, in which the client reads

    async with serving(script) as peer, client_of(peer.address, keep_bodies=True) as (client, ends):
        for _ in range(2):
            sample = await exchange(client, ends)
            assert (sample.status, sample.outcome, sample.cause, sample.body) == (status, outcome, None, body)
        assert peer.accepted == (2 if answer is LAST else 1)
        assert client.inflight == 0


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_without_length_ends_with_the_connection(version: bytes) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/%s 200 OK\r\n\r\nuntil the end" % version)

    async with serving(script) as peer, client_of(peer.address, keep_bodies=True) as (client, ends):
        sample = await exchange(client, ends)
        assert (sample.outcome, sample.body) == (Outcome.OK, b"until the end")


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"", Cause.CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Cause.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", Cause.TRUNCATED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", Cause.TRUNCATED),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Cause.TRUNCATED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Cause.INVALID),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", Cause.INVALID),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", Cause.INVALID),
    ],
)
async def test_a_broken_answer_is_an_error_with_its_cause(answer: bytes, cause: Cause) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(answer)

    async with serving(script) as peer, client_of(peer.address) as (client, ends):
        sample = await exchange(client, ends)
        assert (sample.outcome, sample.cause, sample.status) == (Outcome.ERROR, cause, 0)


@pytest.mark.parametrize(
    ("before", "causes"),
    # Bytes still unread when the reset arrives are lost with it, so either cause is right.
    [(b"", {Cause.RESET}), (b"HTTP/1.1 200 OK\r\n", {Cause.RESET, Cause.TRUNCATED})],
)
async def test_a_reset_is_told_from_a_close(before: bytes, causes: set[Cause]) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(before)
        line.reset()

    async with serving(script) as peer, client_of(peer.address) as (client, ends):
        sample = await exchange(client, ends)
        assert sample.outcome is Outcome.ERROR
        assert sample.cause in causes


@pytest.mark.parametrize("tail", [b"x", OK, b"\r\nHTTP/1.1 200"], ids=["garbage", "second answer", "half"])
async def test_bytes_beyond_the_answer_cost_the_connection_not_the_answer(tail: bytes) -> None:
    async with serving(answering(OK + tail)) as peer, client_of(peer.address) as (client, ends):
        for _ in range(3):
            assert (await exchange(client, ends)).outcome is Outcome.OK
        assert peer.accepted == 3


async def test_bytes_on_an_idle_connection_close_it() -> None:
    idle = asyncio.Event()
    closed = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await idle.wait()
        await line.send(OK)
        await line.gone()
        closed.set()

    async with serving(script) as peer, client_of(peer.address) as (client, ends):
        await exchange(client, ends)
        idle.set()
        async with asyncio.timeout(5):
            await closed.wait()
        assert peer.accepted == 1


async def test_a_connection_is_reused_until_it_was_idle_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering()) as peer, client_of(peer.address) as (client, ends):
        for _ in range(3):
            await exchange(client, ends)
        assert peer.accepted == 1
        monkeypatch.setattr(http_client, "_IDLE_NS", 0)
        await exchange(client, ends)
        assert peer.accepted == 2


async def test_concurrent_requests_never_wait_for_each_other() -> None:
    all_here = asyncio.Barrier(20)

    async def script(line: Line) -> None:
        await line.request()
        await all_here.wait()  # nobody is answered before all twenty have asked
        await line.send(OK)
        await line.gone()

    async with serving(script) as peer, client_of(peer.address) as (client, ends):
        for _ in range(20):
            client.send(REQUEST, Sample(time.monotonic_ns()))
        assert client.inflight == 20
        await ends.wait_for(20)
        assert {sample.outcome for sample in ends.samples} == {Outcome.OK}
        assert (peer.accepted, client.backlogged) == (20, 0)


async def test_at_the_connection_limit_requests_wait_with_their_clock_running() -> None:
    both_here = asyncio.Barrier(2)

    async def script(line: Line) -> None:
        await line.request()
        await both_here.wait()
        await line.send(OK)
        await answering()(line)

    async with serving(script) as peer, client_of(peer.address, max_connections=2) as (client, ends):
        samples = [Sample(time.monotonic_ns()) for _ in range(5)]
        for sample in samples:
            client.send(REQUEST, sample)
        assert client.backlogged == 3
        await ends.wait_for(5)
        assert peer.accepted == 2
        last = max(sample.sent_ns for sample in samples)
        assert last >= min(sample.done_ns for sample in samples) > min(sample.sent_ns for sample in samples)


async def test_the_backlog_gets_a_new_connection_when_the_limit_is_free_again() -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.send(LAST)
        line.close()

    async with serving(script) as peer, client_of(peer.address, max_connections=1) as (client, ends):
        for _ in range(4):
            client.send(REQUEST, Sample(time.monotonic_ns()))
        await ends.wait_for(4)
        assert {sample.outcome for sample in ends.samples} == {Outcome.OK}
        assert peer.accepted == 4


async def test_a_request_without_answer_times_out_from_its_intended_time_and_closes() -> None:
    gone = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.gone()
        gone.set()

    async with serving(script) as peer, client_of(peer.address, timeout_s=0.3) as (client, ends):
        sample = await exchange(client, ends)
        assert (sample.outcome, sample.cause) == (Outcome.TIMEOUT, Cause.TIMEOUT)
        assert sample.response_ns >= 300_000_000
        async with asyncio.timeout(5):
            await gone.wait()
        assert client.inflight == 0


async def test_a_request_sent_after_its_deadline_times_out_at_once() -> None:
    async with serving(Line.gone) as peer, client_of(peer.address, timeout_s=60.0) as (client, ends):
        client.send(REQUEST, Sample(time.monotonic_ns() - 61_000_000_000))
        (sample,) = await ends.wait_for(1)
        assert sample.outcome is Outcome.TIMEOUT
        assert sample.response_ns >= 61_000_000_000


async def test_a_timeout_ends_only_those_whose_time_is_up() -> None:
    async def script(line: Line) -> None:
        request = await line.request()
        if b"answer me" in request:
            await line.send(OK)
        await line.gone()

    asking = encode_request("POST", "test", "/", (), b"answer me")
    async with serving(script) as peer, client_of(peer.address, timeout_s=0.2) as (client, ends):
        old = Sample(time.monotonic_ns() - 150_000_000)
        client.send(REQUEST, old)
        answered = Sample(time.monotonic_ns())
        client.send(asking, answered)
        young = Sample(time.monotonic_ns())
        client.send(REQUEST, young)
        await ends.wait_for(3)
        assert answered.outcome is Outcome.OK
        assert old.outcome is young.outcome is Outcome.TIMEOUT
        assert ends.samples.index(old) < ends.samples.index(young)
        assert young.response_ns >= 200_000_000


async def test_a_timeout_in_the_backlog_is_reported_and_never_sent() -> None:
    seen = []

    async def script(line: Line) -> None:
        while True:
            seen.append((await line.request())[-1:])
            if seen[-1] == b"3":
                await line.send(OK)

    def numbered(number: int) -> bytes:
        return encode_request("POST", "test", "/", (), b"%d" % number)

    async with serving(script) as peer, client_of(peer.address, timeout_s=0.2, max_connections=1) as (client, ends):
        both_due_ns = time.monotonic_ns()
        for number in (1, 2):
            client.send(numbered(number), Sample(both_due_ns))
        await ends.wait_for(2)
        assert {sample.outcome for sample in ends.samples} == {Outcome.TIMEOUT}
        assert all(sample.sent_ns for sample in ends.samples)
        client.send(numbered(3), Sample(time.monotonic_ns()))
        assert (await ends.wait_for(3))[2].outcome is Outcome.OK
    assert seen == [b"1", b"3"]


async def test_a_refused_connection_is_an_error_of_each_request() -> None:
    address, held = refused_address()
    with held:
        async with client_of(address) as (client, ends):
            for _ in range(3):
                client.send(REQUEST, Sample(time.monotonic_ns()))
            await ends.wait_for(3)
            assert {(sample.outcome, sample.cause) for sample in ends.samples} == {(Outcome.ERROR, Cause.CONNECT)}
            assert (client.inflight, client.opened) == (0, 0)


async def test_the_callback_may_send_the_next_request_on_the_freed_connection() -> None:
    left = 5

    def again(sample: Sample) -> None:
        nonlocal left
        left -= 1
        if left:
            client.send(REQUEST, Sample(time.monotonic_ns()))
        else:
            finished.set()

    async with serving(answering()) as peer:
        finished = asyncio.Event()
        client = Client(peer.address, again, 5.0)
        client.send(REQUEST, Sample(time.monotonic_ns()))
        async with asyncio.timeout(5):
            await finished.wait()
        await client.close()
        assert peer.accepted == 1


async def test_connecting_ahead_opens_so_many_and_reports_refusal() -> None:
    async with serving(answering()) as peer, client_of(peer.address) as (client, ends):
        await client.connect(5)
        assert client.opened == 5
        await exchange(client, ends)
        assert client.opened == 5
    address, held = refused_address()
    with held:
        async with client_of(address) as (client, ends):
            with pytest.raises(ConnectionRefusedError):
                await client.connect(3)


async def test_closing_reports_nothing_and_leaves_no_connection() -> None:
    async with serving(Line.gone) as peer, client_of(peer.address) as (client, ends):
        await client.connect(2)
        for _ in range(4):
            client.send(REQUEST, Sample(time.monotonic_ns()))
        await client.close()
        assert (ends.samples, client.inflight) == ([], 0)


@pytest.mark.parametrize("turns", range(8))
async def test_closing_in_the_middle_of_connecting_ends(turns: int) -> None:
    async with serving(Line.gone) as peer, client_of(peer.address, timeout_s=60.0) as (client, ends):
        client.send(REQUEST, Sample(time.monotonic_ns()))
        ahead = asyncio.create_task(client.connect(3))
        for _ in range(turns):
            await asyncio.sleep(0)
        ahead.cancel()
        async with asyncio.timeout(5):
            await client.close()
            await asyncio.gather(ahead, return_exceptions=True)
        assert ends.samples == []


async def test_a_large_request_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000
    seen = []

    async def script(line: Line) -> None:
        seen.append(await line.request())
        await line.send(OK)
        await line.gone()

    async with serving(script) as peer:
        sample = await fetch(peer.address, encode_request("POST", "test", "/", (), body), 5.0)
    assert sample.outcome is Outcome.OK
    assert seen[0].endswith(body)


async def test_fetch_brings_the_body_and_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(CHUNKED)) as peer:
        assert (await fetch(peer.address, REQUEST, 5.0)).body == b"ok!"
        monkeypatch.setattr(http_client, "_MAX_BODY", 0)
    async with serving(_endless) as peer:
        sample = await fetch(peer.address, REQUEST, 5.0)
        assert (sample.outcome, sample.cause) == (Outcome.ERROR, Cause.INVALID)


async def _endless(line: Line) -> None:
    await line.request()
    await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nmore")
    await line.gone()


async def test_names_are_resolved_and_unknown_ones_refused() -> None:
    assert await resolve("127.0.0.1", 80) == ("127.0.0.1", 80)
    with pytest.raises(OSError):
        await resolve("name.invalid", 80)
