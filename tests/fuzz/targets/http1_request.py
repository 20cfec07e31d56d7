"""A client's bytes on an HTTP/1.1 connection, request after request, as they are read and as they are forwarded."""

import random
from collections.abc import Iterator
from itertools import islice

from agent.errors import Outcome
from agent.wire.http1 import ServerHttp1
from agent.wire.message import HeadCache, Limits, State
from tests.fakes import Event, RecordingSink
from tests.fuzz.bounds import COMPARED, SMALL, bounded, large, reads
from tests.wire.feeding import LIMITS, cut, feed, is_complete
from tests.wire.oracle import Reading, read_request
from tests.wire.test_http1_joined import written
from tests.wire.test_http1_mutants import NASTY, SEEDS, TIGHT, check_body, check_forwarded, check_head

TOO_LARGE = [("fault", Outcome.HEAD_TOO_LARGE), ("fault", Outcome.URI_TOO_LONG)]


def seeds() -> Iterator[bytes]:
    yield from SEEDS
    yield b"".join(NASTY)
    yield b"".join(SEEDS[:9])
    line = b"POST / HTTP/1.1\r\nHost: a\r\n"
    yield from large(line, b"x", b"X: y\r\n", b"X:\r\n", b"Connection: a, b\r\n", b"Transfer-Encoding: chunked\r\n")
    yield from large(line + b"Connection: ", b"a,", b" ", b"upgrade,")
    yield from large(line + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"1;a=b\r\nx\r\n", b"0", b"1;a")
    yield from large(line + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", b"Host: x\r\n")
    yield from large(b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET ", b"GET / HTTP/1.1\r\n", b" ", b"\0")
    yield from large(b"GET /", b"x", b"/", b"%41", b"?")


def check(data: bytes) -> None:
    sink, heads = RecordingSink(), HeadCache()
    machine = ServerHttp1(sink, LIMITS, heads)
    sink.on_end = machine.next_message
    with memoryview(data) as view, bounded(len(data)):
        machine.feed(view)
    events = list(sink.events)
    assert [event[0] for event in events].count("fault") == (machine.state is State.DEAD)
    if len(data) <= SMALL:
        for message in islice(_messages(events), COMPARED):
            _check_message(message)
        _check_first(data)
    generator, tight = random.Random(data), HeadCache()
    for _ in range(reads(data)):
        pieces = cut(data, [generator.randint(0, len(data)) for _ in range(generator.randint(1, 4))])
        assert _alike(_read(pieces, heads), events), [*map(len, pieces)]
        assert _alike(_read(pieces, tight, TIGHT), _read([data], HeadCache(), TIGHT)), [*map(len, pieces)]
    machine.eof()
    ended = list(sink.events)
    assert len(ended) - len(events) <= 1
    machine.stop()
    feed(machine, [data])
    assert sink.events == ended


def _read(pieces: list[bytes], heads: HeadCache, limits: Limits = LIMITS) -> list[Event]:
    sink = RecordingSink()
    machine = ServerHttp1(sink, limits, heads)
    sink.on_end = machine.next_message
    feed(machine, pieces)
    return sink.events


def _alike(one: list[Event], other: list[Event]) -> bool:
    """Equal, but for a head that breaks two rules: that it is too large may be noticed before the rest has come."""
    if any(event in TOO_LARGE for event in one[-1:] + other[-1:]):
        return one[:-1] == other[:-1] and one[-1][0] == other[-1][0]
    return one == other


def _messages(events: list[Event]) -> Iterator[list[Event]]:
    """The events of one request after another; the last one may be incomplete."""
    message: list[Event] = []
    for event in events:
        if event[0] == "request" and message:
            yield message
            message = []
        if event[0] != "fault" or message:
            message.append(event)
    if message:
        yield message


def _check_message(events: list[Event]) -> None:
    """What goes upstream is one request to h11 too, complete or cut short where ours is, and nothing follows it."""
    check_forwarded(events[0][1])
    if events[-1][0] == "fault":
        return
    complete = events[-1][0] in {"end", "trailers"}
    reading = read_request(written(events))
    assert isinstance(reading, Reading), reading
    assert (reading.complete, reading.rest) == (complete, b"")
    assert reading.body == b"".join(event[1] for event in events if event[0] == "body")
    assert reading.trailers == [field for event in events if event[0] == "trailers" for field in event[1]]


def _check_first(data: bytes) -> None:
    """h11 reads the first request in the bytes that came in the same way, its body and its end included."""
    sink = RecordingSink()
    machine = ServerHttp1(sink, LIMITS, HeadCache())
    feed(machine, [data])
    if sink.heads:
        raw = data.lstrip(b"\r\n")
        check_head(raw, sink.events[0][1])
        if sink.events[-1][0] == "fault":
            return
        if isinstance(read_request(raw), str) and not is_complete(sink.events):
            # h11 judges the first byte after a chunk's data, we judge that line when it is all there.
            feed(machine, [b"\n"])
            assert sink.events[-1][0] == "fault"
        else:
            check_body(raw, sink.events, bytes(machine.held))
