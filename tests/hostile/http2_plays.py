"""HTTP/2 attacks that are more than a list of frames: shut windows, too many streams, clients that leave."""

from collections.abc import Sequence
from functools import partial

from tests.hostile.case import Case, Class, Play
from tests.hostile.http2 import GRPC, PLAIN
from tests.hostile.http2_case import converse
from tests.hostile.recorder import Request, Tape, respond
from tests.hostile.site import Site
from tests.net.http2_peers import HELLO, PREFACE, FrameReader, infer
from tests.sockets import eventually
from tests.wire import frames_by_hand as raw

SHUT = PREFACE + raw.settings((raw.INITIAL_WINDOW_SIZE, 0))


# It bypasses admission.
FREE = raw.request()


def whole(stream: int) -> bytes:
    return raw.headers(stream, FREE, end=True)


def in_bytes(reader: FrameReader, stream: int) -> int:
    return sum(len(frame.payload) for frame in reader.seen if frame.kind == raw.DATA and frame.stream == stream)


async def shut_windows(site: Site, bomb: bytes) -> None:
    """Streams that the client does not let answer hold up no other, on either side; then it leaves."""
    client = FrameReader(await site.client())
    stalled = b"".join(raw.headers(number, FREE + bomb, end=True) for number in range(1, 101, 2))
    await client.peer.send(SHUT + stalled + whole(201) + raw.window_update(201, 100))
    while not in_bytes(client, 201):
        await client.next()
    assert not any(in_bytes(client, number) for number in range(1, 101, 2))
    # Another client's requests share the connection to the predictor.
    assert (await converse(site, whole(1), 1)).status(1) == 200
    client.peer.close()


async def dripping_window(site: Site) -> None:
    """One byte of window at a time: it goes on, byte by byte."""
    client = FrameReader(await site.client())
    await client.peer.send(SHUT + whole(1))
    for size in (1, 2):
        await client.peer.send(raw.window_update(1, 1))
        while in_bytes(client, 1) < size:
            await client.next()
    client.peer.close()


async def too_many(site: Site) -> None:
    """More streams than a connection may have: the excess is refused, and the others are served."""
    held: list[tuple[Tape, int]] = []
    site.recorder.answer = lambda tape, request, stream: held.append((tape, stream))
    client = FrameReader(await site.client())
    await client.peer.send(HELLO + b"".join(map(whole, range(1, 2203, 2))))
    for number in range(2001, 2203, 2):
        assert (await client.until(raw.RST_STREAM, number)).number == raw.REFUSED_STREAM
    await eventually(lambda: held)
    site.recorder.answer = respond
    for tape, stream in held:
        tape.respond(stream)
    answered = 0
    while answered < 1000:
        frame = await client.next()
        assert frame.kind != raw.RST_STREAM
        answered += frame.kind == raw.HEADERS
    client.peer.close()
    await site.settle()
    assert len(site.recorder.requests) == 1000


async def left(site: Site, data: bytes, how: str) -> None:
    """A client that leaves inside its uploads: none of them is ended towards the predictor."""
    client = await site.client()
    await client.send(HELLO + data)
    await eventually(lambda: site.recorder.requests)
    getattr(client, how)()
    if how == "half_close":
        await client.ended()
        client.close()
    await site.settle()
    assert not any(request.complete for request in site.recorder.requests)


async def cancelled(site: Site) -> None:
    """Calls that are cancelled while they wait leave the queue at once and never reach the predictor."""
    running: list[tuple[Tape, int]] = []

    def hold(tape: Tape, request: Request, stream: int) -> None:
        running.append((tape, stream))

    site.recorder.answer = hold
    client = FrameReader(await site.client())
    calls: Sequence[int] = range(3, 15, 2)
    await client.peer.send(HELLO + raw.headers(1, GRPC) + raw.data(1, infer(), end=True))
    await eventually(lambda: running)
    await client.peer.send(b"".join(raw.headers(n, GRPC) + raw.data(n, infer(), end=True) for n in calls))
    await eventually(lambda: site.bed.admission.queued == len(calls))
    await client.peer.send(b"".join(map(raw.rst_stream, calls)))
    await eventually(lambda: not site.bed.admission.queued)
    [(tape, stream)] = running
    site.recorder.answer = respond
    tape.respond(stream)
    while not in_bytes(client, 1):
        await client.next()
    client.peer.close()
    await site.settle()
    assert len(site.recorder.requests) == 1


UPLOADS = {
    "an upload": raw.headers(1, GRPC) + raw.data(1, infer()),
    "one with a length": raw.headers(1, PLAIN + raw.literal(b"content-length", b"10")) + raw.data(1, b"hello"),
    "a block of trailers": raw.headers(1, GRPC) + raw.data(1, infer()) + raw.headers(1, b"", end=True, flags=0),
}
LEAVING: list[Case] = [
    Play(f"{how} inside {name}", partial(left, data=data, how=how))
    for name, data in UPLOADS.items()
    for how in ("half_close", "close", "reset")
]

CLASSES = [
    Class(
        "windows that stay shut",
        "Imperva 2016, CVE-2019-9517, CVE-2026-49975",
        [
            Play("fifty answers", partial(shut_windows, bomb=b"")),
            Play("fifty bombs of crumbs", partial(shut_windows, bomb=raw.indexing(b"c", b"x" * 400) + b"\xbe" * 15)),
            Play("a byte at a time", dripping_window),
        ],
    ),
    Class("streams without end", "RFC 9113 5.1.2", [Play("1,101 of them", too_many)]),
    Class("clients that leave inside HTTP/2 uploads", "RFC 9113 5.4", LEAVING),
    Class("cancelled in the queue", "CVE-2023-44487", [Play("six calls", cancelled)], {"limit": "1"}),
]
