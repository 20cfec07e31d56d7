"""A predictor's bytes on an HTTP/1.1 connection. The first byte says what was asked for, the rest is the answer."""

import random
from collections.abc import Iterator

from agent.wire.http1 import ClientHttp1
from agent.wire.message import HeadCache, State
from tests.fakes import Event, RecordingSink
from tests.fuzz.bounds import SMALL, bounded, large, reads
from tests.wire import test_http1_refusals, test_http1_responses
from tests.wire.feeding import LIMITS, SURPLUS, cut, feed, is_complete
from tests.wire.oracle import Reading, read_response
from tests.wire.test_http1_joined import written
from tests.wire.test_http1_mutants import ANSWERS, JUDGED_TRAILERS, NASTY, check_fields, fields_of

_METHODS = (b"GET", b"POST", b"HEAD")


def seeds() -> Iterator[bytes]:
    for answer in ANSWERS:
        for asked in (b"\0", b"\2", b"\4", b"\x09"):
            yield asked + answer
    for body, _ in test_http1_refusals.BODIES.values():
        yield b"\0" + test_http1_responses.CHUNKED + body
    yield b"\0" + b"".join(NASTY)
    line = b"\0HTTP/1.1 200 OK\r\n"
    yield from large(line, b"x", b"X: y\r\n", b"X:\r\n", b"Connection: a, b\r\n", b"Set-Cookie: a\r\n")
    yield from large(line + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", b"1;a=b\r\nx\r\n", b"0", b"1;a")
    yield from large(b"\0", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 ", b"HTTP/1.1 200 \r\n", b" ")


def check(data: bytes) -> None:
    asked, data = (data[:1] or b"\0")[0], data[1:]
    method, upgrade, ends = _METHODS[asked % 3], bool(asked & 4), bool(asked & 8)
    heads = HeadCache()
    sink, machine = _machine(method, heads, upgrade=upgrade)
    with memoryview(data) as view, bounded(len(data)):
        machine.feed(view)
    events, state = list(sink.events), machine.state
    assert "fault" not in [event[0] for event in events[:-1]]
    generator = random.Random(data)
    for _ in range(reads(data)):
        pieces = cut(data, [generator.randint(0, len(data)) for _ in range(generator.randint(1, 4))])
        again, other = _machine(method, heads, upgrade=upgrade)
        feed(other, pieces)
        if is_complete(events):
            # Surplus in the read that ends the answer ends the connection silently, later on it is a fault as well.
            assert again.events[: len(events)] == events
            assert again.events[len(events) :] in ([], SURPLUS)
            assert other.state is state
        else:
            assert (again.events, other.state) == (events, state), [*map(len, pieces)]
    if ends:
        machine.eof()
    if len(data) <= SMALL:
        _check_forwarded(data, method, sink.events, machine, ends=ends)
    before = list(sink.events)
    machine.stop()
    feed(machine, [data])
    assert sink.events == before


def _machine(method: bytes, heads: HeadCache, *, upgrade: bool) -> tuple[RecordingSink, ClientHttp1]:
    sink = RecordingSink()
    machine = ClientHttp1(sink, LIMITS, heads)
    machine.expect(method, upgrade=upgrade)
    return sink, machine


def _check_forwarded(data: bytes, method: bytes, events: list[Event], machine: ClientHttp1, *, ends: bool) -> None:
    """h11 reads the same answer in what came and in what is sent on."""
    events = [event for event in events if event[0] != "interim"]
    if not events or events[-1][0] == "fault" or machine.state is State.TUNNEL:
        return
    reading = read_response(data, method, eof=ends)
    if isinstance(reading, str) and not is_complete(events):
        # h11 judges the first byte after a chunk's data, we judge that line when it is all there.
        feed(machine, [b"\n"])
        assert machine.state is State.DEAD
        return
    if isinstance(reading, str):
        assert any(name in reading for name in JUDGED_TRAILERS), reading
        return
    body = b"".join(event[1] for event in events if event[0] == "body")
    check_fields(reading.fields, fields_of(events[0][1]))
    assert (reading.body, reading.complete) == (body, is_complete(events))
    if is_complete(events):
        bodyless = method == b"HEAD" or events[0][1].split(b" ")[1] in {b"204", b"304"}
        again = read_response(events[0][1] if bodyless else written(events), method, eof=True)
        assert isinstance(again, Reading), again
        assert (again.body, again.complete, again.rest) == (body, True, b"")
