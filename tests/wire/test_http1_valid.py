"""Any valid message, under any split: handed on whole, and read by h11 as what it was."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, State
from tests.examples import examples
from tests.fakes import Event, RecordingSink
from tests.wire.feeding import LIMITS, cut, feed
from tests.wire.oracle import FRAMING, HOP_BY_HOP, Pairs, Reading, read_request, read_response

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


# One cache for all examples: what is known must not change what is read.
HEADS = HeadCache()


def octets(alphabet: bytes, minimum: int, maximum: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), min_size=minimum, max_size=maximum).map(bytes)


names = octets(TOKEN, 1, 8).filter(lambda name: name.lower() not in HOP_BY_HOP | FRAMING | {b"trailer"})
values = octets(b"\t " + bytes(range(33, 127)) + bytes(range(128, 256)), 0, 20).map(lambda value: value.strip(b"\t "))
field_lists = st.lists(st.tuples(names, values), max_size=6)
targets = octets(bytes(set(range(33, 127)) - set(b"#")), 0, 30).map(lambda rest: b"/" + rest)
methods = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"])
padding = st.sampled_from([b"", b" ", b"\t", b"  \t"])
places = st.lists(st.integers(0, 1 << 16), max_size=8)


class Body(NamedTuple):
    """A body as a message carries it: the fields that frame it, what is written, and what it says."""

    framing: bytes
    written: bytes
    data: bytes
    trailers: Pairs


def chunked(pieces: list[bytes], trailers: Pairs, extension: bytes) -> Body:
    written = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    end = b"".join(b"%b: %b\r\n" % field for field in trailers)
    return Body(b"Transfer-Encoding: chunked\r\n", written + b"0\r\n" + end + b"\r\n", b"".join(pieces), trailers)


sized = st.binary(max_size=60).map(lambda data: Body(b"Content-Length: %d\r\n" % len(data), data, data, []))
chunks = st.lists(st.binary(min_size=1, max_size=30), max_size=4)
bodies = st.one_of(sized, st.builds(chunked, chunks, field_lists, st.sampled_from([b"", b";a", b';a="b"'])))
no_body = st.just(Body(b"", b"", b"", []))


def events_of(kind: str, head: bytes, body: Body) -> list[Event]:
    data = [("body", body.data)] if body.data else []
    return [(kind, head), *data, ("trailers", body.trailers) if body.trailers else ("end",)]


def pieces_of(data: bytes, where: list[int]) -> list[bytes]:
    return cut(data, [place % (len(data) + 1) for place in where])


def written(fields: Pairs, pads: list[bytes]) -> bytes:
    pad = iter(pads)
    return b"".join(b"%b:%b%b\r\n" % (name, next(pad, b" "), value) for name, value in fields)


def fields_of(body: Body) -> Pairs:
    name, colon, value = body.framing.rstrip(b"\r\n").partition(b": ")
    return [(name, value)] if colon else []


def rewritten(head: bytes, body: Body) -> bytes:
    """The message as it is sent on: chunks may have moved, extensions are gone."""
    again = chunked([body.data] if body.data else [], body.trailers, b"") if b"chunked" in body.framing else body
    return head + again.written


@settings(max_examples=examples(150))
@given(methods, targets, field_lists, st.one_of(no_body, bodies), st.lists(padding, max_size=6), places, st.booleans())
def test_any_valid_request_is_forwarded_whole_under_any_split(
    method: bytes, target: bytes, fields: Pairs, body: Body, pads: list[bytes], where: list[int], hops: bool
) -> None:
    dropped = b"Connection: keep-alive, te\r\nTE: trailers\r\nKeep-Alive: 5\r\n" if hops else b""
    start = b"%b %b HTTP/1.1\r\nHost: a:1\r\n" % (method, target)
    raw = start + dropped + written(fields, pads) + body.framing + b"\r\n" + body.written
    forwarded = start + written(fields, []) + body.framing + b"\r\n"
    expected = events_of("request", forwarded, body)
    for pieces in ([raw], pieces_of(raw, where)):
        sink = RecordingSink()
        feed(ServerHttp1(sink, LIMITS, HEADS), pieces)
        assert sink.events == expected
    reading = read_request(rewritten(forwarded, body))
    kept = [(b"Host", b"a:1"), *fields, *fields_of(body)]
    assert reading == Reading((method, target), kept, body.data, body.trailers, True, b"")


reasons = octets(b"\t " + bytes(range(33, 127)) + bytes(range(128, 256)), 0, 12)


@settings(max_examples=examples(150))
@given(st.integers(200, 599), reasons, field_lists, bodies, st.lists(padding, max_size=6), places, methods)
def test_any_valid_response_is_forwarded_whole_under_any_split(
    status: int, reason: bytes, fields: Pairs, body: Body, pads: list[bytes], where: list[int], method: bytes
) -> None:
    bodyless = method == b"HEAD" or status in {204, 304}
    start = b"HTTP/1.1 %d %b\r\n" % (status, reason)
    sent = Body(body.framing, b"", b"", []) if bodyless else body
    raw = start + b"Keep-Alive: 5\r\n" + written(fields, pads) + body.framing + b"\r\n" + sent.written
    forwarded = start + written(fields, []) + body.framing + b"\r\n"
    for pieces in ([raw], pieces_of(raw, where)):
        sink = RecordingSink()
        machine = ClientHttp1(sink, LIMITS, HEADS)
        machine.expect(method)
        feed(machine, pieces)
        assert sink.events == events_of("response", forwarded, sent)
        assert machine.state is State.READY
    reading = read_response(forwarded if bodyless else rewritten(forwarded, body), method)
    assert isinstance(reading, Reading)
    assert reading.start == (b"%d" % status, reason)
    assert reading.fields == [*fields, *fields_of(body)]
    assert (reading.body, reading.trailers, reading.complete) == (sent.data, sent.trailers, True)
