"""Predictors that break the rules, over HTTP/1.1 and HTTP/2: what they send never looks like a whole answer."""

import asyncio
from dataclasses import dataclass
from functools import partial

from agent.errors import Outcome
from tests.faults.test_http2_answers import CONNECTION_FAULTS, HEAD, LATE_STREAM_FAULTS, STREAM_FAULTS
from tests.hostile.case import Case, Class, Play
from tests.hostile.http2 import PLAIN
from tests.hostile.http2_case import converse
from tests.hostile.recorder import Request, Tape, respond
from tests.hostile.site import GOOD, Site, listen
from tests.net.http2_peers import HELLO
from tests.sockets import eventually
from tests.wire import frames_by_hand as raw
from tests.wire.test_http1_responses import REFUSED

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Bad(Case):
    """What a predictor writes in answer to a request over HTTP/1.1, and then perhaps ends the connection.

    The client is told 502, or, where a part of the answer is out, gets a half that shows. The connection to the
    predictor ends.
    """

    name: str
    data: bytes
    end: str = ""
    partial: bool = False

    async def play(self, site: Site) -> None:
        def answer(tape: Tape, request: Request, stream: int) -> None:
            tape.write(self.data)
            if self.end:
                getattr(tape, self.end)()

        site.recorder.answer = answer
        client = await site.client()
        await client.send(GOOD)
        heard = await listen(client)
        client.close()
        if self.partial:
            assert heard.was_reset, heard
            assert not heard.statuses, heard
        else:
            assert heard.statuses == [502], heard
            assert heard.answers[0].fields[-1] != (b"X", b"y")
        await site.settle()
        await eventually(lambda: all(tape.ended for tape in site.recorder.tapes if tape.requests))
        assert len(site.recorder.requests) == 1, "it may have run, so it is sent once"
        assert site.bed.outcomes[0] in {
            Outcome.UPSTREAM_INVALID,
            Outcome.UPSTREAM_CLOSED,
            Outcome.UPSTREAM_TRUNCATED,
        }
        await site.check()


async def surplus(site: Site, answer: bytes, extra: bytes, method: bytes) -> None:
    """The answer is delivered; what follows it is nobody's, and the connection ends."""
    site.recorder.answer = lambda tape, request, stream: tape.write(answer + extra)
    client = await site.client()
    head = method + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(head)
    heard = await listen(client, method, count=1)
    assert heard.data == answer
    await eventually(lambda: all(tape.ended for tape in site.recorder.tapes if tape.requests))
    site.recorder.answer = respond
    await client.send(head)
    heard = await listen(client, method, count=2)
    client.close()
    assert heard.statuses == [int(answer.split(b" ")[1]), 200]
    assert heard.answers[1].body == (b"" if method == b"HEAD" else b"ok")
    assert heard.data.count(b"poison") == 0


async def unasked(site: Site) -> None:
    """Bytes on an idle connection: it is closed, and they are given to nobody."""
    client = await site.client()
    await client.send(GOOD)
    assert (await listen(client)).statuses == [200]
    client.close()
    await site.settle()
    idle = [tape for tape in site.recorder.tapes if not tape.ended]
    for tape in idle:
        tape.write(OK + b"Content-Length: 6\r\n\r\npoison")
    await eventually(lambda: all(tape.ended for tape in idle))


async def banner(site: Site) -> None:
    """Who speaks before being asked does not answer a request with it."""
    for pool in site.bed.server.pools:
        pool.doubt()  # so that the next request dials
    site.recorder.first = b"220 ready\r\n\r\n"
    site.recorder.answer = lambda tape, request, stream: None
    await asyncio.sleep(0.02)  # dials are put off for 10 ms
    client = await site.client()
    await client.send(GOOD)
    assert (await listen(client)).statuses == [502]
    client.close()


SPLITTING = ("CR in a value", "LF in a value", "NUL in a value", "a space in a name", "an empty name", "a folded value")
SPLITTING += ("a bare LF after the status line", "a bare CR in the reason")
SPLITTING += ("an empty line before the status line", "two empty lines before the status line")
HALVES = {
    "nothing": b"",
    "a part of the head": b"HTTP/1.1 200 O",
    "a head without its end": OK + b"Content-Length: 2\r\n",
    "100 alone": b"HTTP/1.1 100 Continue\r\n\r\n",
}
CUT_BODIES = {
    "a length": OK + b"Content-Length: 10\r\n\r\nhalf",
    "chunks": CHUNKED + b"4\r\nhalf\r\n",
    "a chunk": CHUNKED + b"8\r\nhalf",
    "the last chunk": CHUNKED + b"4\r\nhalf\r\n0\r\n",
}
BROKEN_BODIES = {
    "no size": b"zz\r\n",
    "a size below zero": b"-1\r\n",
    "more than the size": b"3\r\nabcd\r\n",
    "a bare LF": b"1\nx\r\n",
    "a size beyond every counter": b"f" * 16 + b"\r\n",
    "an extension without end": b"1;" + b"x" * 70_000,
    "a trailer that is none": b"0\r\nX y\r\n\r\n",
    "trailers without end": b"0\r\n" + b"X: y\r\n" * 3000,
}
HTTP1 = [
    Class(
        "answers over HTTP/1.1 that are none",
        "RFC 9112 4, 6.3; CVE-2019-20445 turned round",
        [Bad(name, data) for name, data in REFUSED.items() if name not in SPLITTING],
    ),
    Class("response splitting", "Klein 2004", [Bad(name, REFUSED[name]) for name in SPLITTING]),
    Class(
        "huge heads of answers",
        "RFC 9112 2.2",
        [
            Bad("a line of 3 MB", OK + b"X: " + b"y" * 3_000_000 + b"\r\n\r\n"),
            Bad("500,000 fields", OK + b"X: y\r\n" * 500_000 + b"\r\n"),
            Bad("200 fields", OK + b"X: y\r\n" * 200 + b"\r\n"),
        ],
    ),
    Class(
        "floods of interim answers",
        "CVE-2026-42584",
        [Bad("17", b"HTTP/1.1 102 Processing\r\n\r\n" * 17), Bad("100,000", b"HTTP/1.1 100 C\r\n\r\n" * 100_000)],
    ),
    Class(
        "queue poisoning",
        "Kettle 2021",
        [
            *[
                Play(f"{name} behind {what}", partial(surplus, answer=answer, extra=extra, method=method))
                for what, answer, method in (
                    ("an answer", OK + b"Content-Length: 2\r\n\r\nok", b"GET"),
                    ("an answer to HEAD", OK + b"Content-Length: 2\r\n\r\n", b"HEAD"),
                    ("204", b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
                    ("304", b"HTTP/1.1 304 Not Modified\r\n\r\n", b"GET"),
                    ("the last chunk", CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"GET"),
                )
                for name, extra in (
                    ("another answer", OK + b"Content-Length: 6\r\n\r\npoison"),
                    ("a body", b"poison"),
                    ("an empty line", b"\r\n"),
                )
            ],
            Play("an answer on an idle connection", unasked),
            Play("a banner", banner),
        ],
    ),
    Class(
        "endings over HTTP/1.1",
        "RFC 9112 8",
        [Bad(f"{end} after {name}", data, end) for name, data in HALVES.items() for end in ("close", "reset")]
        + [
            Bad(f"{end} inside {name}", data, end, partial=True)
            for name, data in CUT_BODIES.items()
            for end in ("close", "reset")
        ],
    ),
    Class(
        "chunks of an answer that break",
        "CVE-2025-43859 turned round",
        [
            Bad(name, CHUNKED + b"2\r\nok\r\n" + data + b"0\r\n\r\n", partial=True)
            for name, data in BROKEN_BODIES.items()
        ],
    ),
]

# Over HTTP/2. What a predictor sends once it has the requests on its streams 1 and 3. What gRPC calls are told of the
# tables that are taken over here is looked at there.
STREAM = {
    **STREAM_FAULTS,
    **LATE_STREAM_FAULTS,
    "trailers first": raw.headers(1, raw.block([(b"x", b"1")]), end=True),
    "transfer-encoding": raw.headers(1, raw.response(200, (b"transfer-encoding", b"chunked"))),
    "NUL": raw.headers(1, raw.response(200, (b"x-a", b"\0"))),
    "two content-lengths": raw.headers(1, raw.response(200, *[(b"content-length", b"2")] * 2)),
    "a window of nothing": raw.window_update(1, 0),
    "a window beyond": raw.window_update(1, 2**31 - 1),
    "200 fields": raw.headers(1, raw.response(200, *[(b"x", b"")] * 200)),
    "trailers with a line break": raw.headers(1, HEAD) + raw.headers(1, raw.block([(b"x", b"1\r\n")]), end=True),
    "a reset": raw.headers(1, HEAD) + raw.data(1, b"x") + raw.rst_stream(1),
    "a window beyond, inside the answer": raw.headers(1, HEAD) + raw.window_update(1, 2**31 - 1),
    "DATA beyond the window": raw.headers(1, HEAD) + raw.data(1, b"x" * 16_384) * 40,
}
CONNECTION = {
    **{name: data for name, data in CONNECTION_FAULTS.items() if name != "no SETTINGS"},
    "a block of 3 MB": raw.headers(1, HEAD, flags=0) + raw.continuation(1, b"x" * 16_384, last=False) * 190,
    "a flood of CONTINUATION": raw.headers(1, HEAD, flags=0) + raw.continuation(1, b"", last=False) * 10_000,
    "a window beyond": raw.window_update(0, 2**31 - 1),
    "a frame size of 0": raw.settings((raw.MAX_FRAME_SIZE, 0)),
    "push": raw.settings((raw.ENABLE_PUSH, 1)),
    "a bomb": raw.headers(1, HEAD + raw.indexing(b"a", b"x" * 3900) + raw.reference(62) * 10_000),
}
BEFORE = {
    "no SETTINGS": raw.ping(),
    "HTTP/1.1": b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n",
    "a frame size of 0 (CVE-2026-33814)": raw.settings((raw.MAX_FRAME_SIZE, 0)),
    "an initial window of 2^31": raw.settings((raw.INITIAL_WINDOW_SIZE, 2**31)),
    "SETTINGS on a stream": raw.frame(raw.SETTINGS, 1),
    "SETTINGS that are cut": raw.frame(raw.SETTINGS, 0, b"12345"),
}


@dataclass(frozen=True, slots=True)
class Bad2(Case):
    """What a predictor sends on a connection with two requests: the first gets no whole answer, and where the fault
    is its stream's alone, the second is served.
    """

    name: str
    data: bytes
    is_alone: bool = True
    before: bytes | None = None

    async def play(self, site: Site) -> None:
        # The streams of the cases are the first of a connection.
        for tape in [tape for tape in site.recorder.tapes if tape.data[:3] == b"PRI"]:
            tape.reset()
        await eventually(lambda: not site.bed.server.pools[1].connections)
        if site.bed.server.pools[1]._redial is not None:
            await eventually(lambda: site.bed.server.pools[1]._redial is None)
        seen: list[int] = []

        def answer(tape: Tape, request: Request, stream: int) -> None:
            seen.append(stream)
            if len(seen) == 2:
                tape.write(self.data)
                if self.is_alone:
                    tape.respond(3)

        site.recorder.answer = answer
        site.recorder.hello = self.before
        # One stream that the client does not take must not use up the other's window.
        two = raw.window_update(0, 1 << 24) + raw.headers(1, PLAIN, end=True) + raw.headers(3, PLAIN, end=True)
        frames = await converse(site, two, 1, 3)
        for stream in (1, 3):
            if stream == 3 and self.is_alone:
                assert frames.status(3) == 200, frames
                continue
            status = frames.status(stream)
            assert status in {0, 200, 502, 503}, frames
            if status in {0, 200}:  # what is out of the answer ends with a reset
                assert frames.codes(stream), frames
        await site.settle()
        assert len(site.recorder.requests) <= 2
        await site.check()


async def not_reading(site: Site, data: bytes) -> None:
    """A predictor that floods and takes none of the replies: it is cut off, and nothing grows without bound."""
    client = await site.client()

    def answer(tape: Tape, request: Request, stream: int) -> None:
        tape.transport.pause_reading()
        asyncio.get_running_loop().call_soon(feed, tape)

    def feed(tape: Tape) -> None:
        if tape.ended or tape.transport.is_closing():
            return
        if tape.transport.get_write_buffer_size() < 1 << 20:
            tape.write(data * 10_000)
        asyncio.get_running_loop().call_soon(feed, tape)

    site.recorder.answer = answer
    await client.send(HELLO + raw.headers(1, PLAIN, end=True))
    await eventually(lambda: site.recorder.requests)
    [connection] = site.bed.server.pools[1].connections
    most = 0

    def over() -> bool:
        nonlocal most
        most = max(most, connection.unsent)
        return bool(site.bed.outcomes)

    await eventually(over)
    assert most < 4 << 20
    assert site.bed.outcomes == [Outcome.UPSTREAM_INVALID]
    client.close()


async def taken_back(site: Site) -> None:
    """GOAWAY below a request that is under way: it is sent again, once, and answered."""
    tries: list[int] = []

    def answer(tape: Tape, request: Request, stream: int) -> None:
        tries.append(stream)
        if len(tries) == 1:
            tape.write(raw.goaway(max(stream - 2, 0)))
        else:
            tape.respond(stream)

    site.recorder.answer = answer
    frames = await converse(site, raw.headers(1, PLAIN, end=True), 1)
    assert frames.status(1) == 200
    assert len(tries) == 2


HTTP2 = [
    Class(
        "answers over HTTP/2 that are none",
        "RFC 9113 8",
        [Bad2(name, data) for name, data in STREAM.items()],
    ),
    Class(
        "predictors that break the rules of a connection",
        "RFC 9113 4 to 6, CVE-2026-33814",
        [
            *[Bad2(name, data, is_alone=False) for name, data in CONNECTION.items()],
            *[Bad2(f"{name}, in place of its SETTINGS", b"", False, data) for name, data in BEFORE.items()],
        ],
    ),
    Class(
        "predictors that flood and do not read",
        "CVE-2019-9512, CVE-2019-9515 turned round",
        [
            Play("PING", partial(not_reading, data=raw.ping())),
            Play("SETTINGS", partial(not_reading, data=raw.settings())),
        ],
    ),
    Class("GOAWAY races", "RFC 9113 6.8, CVE-2023-35945", [Play("a request above the last", taken_back)]),
]

CLASSES = [*HTTP1, *HTTP2]
