"""Messages that an attacker might make of others: what is accepted, h11 has to read in the same way."""

import re
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, Limits, State
from tests.examples import examples
from tests.fakes import Event, RecordingSink
from tests.wire import test_http1_refusals, test_http1_requests, test_http1_responses
from tests.wire.feeding import LIMITS, cut, feed, is_complete
from tests.wire.oracle import FRAMING, HOP_BY_HOP, Pairs, Reading, read_request, read_response

# One cache for all examples: what is known must not change what is read.
HEADS = HeadCache()

SEEDS = [data for data, _ in test_http1_requests.ACCEPTED.values()]
SEEDS += [data for data, _ in test_http1_refusals.HEADS.values()]
SEEDS += [test_http1_refusals.CHUNKED + body for body, _ in test_http1_refusals.BODIES.values()]
ANSWERS = [data for data, _ in test_http1_responses.ACCEPTED.values()] + list(test_http1_responses.REFUSED.values())

NASTY = (
    b"\r\n|\r|\n|\r\n\r\n|\n\n|\0| |\t|:|,|;|/|#|\x0b|\x7f|\x80|\xff|0|1|5|a|Host: b\r\n|Content-Length: 3\r\n"
    b"|Transfer-Encoding: chunked\r\n|Connection: close\r\n|Expect: 100-continue\r\n|X: y\r\n| HTTP/1.1|HTTP/1.0|1.0"
    b"|GET |chunked|http://a|Upgrade: x\r\nConnection: upgrade\r\n|0\r\n\r\n|GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
).split(b"|")


class Edit(NamedTuple):
    at: int
    removed: int
    inserted: bytes


edits = st.builds(
    Edit, st.integers(0, 1 << 12), st.integers(0, 3), st.one_of(st.sampled_from(NASTY), st.binary(max_size=2))
)


def mutated(seed: bytes, changes: list[Edit]) -> bytes:
    for at, removed, inserted in changes:
        at %= len(seed) + 1
        seed = seed[:at] + inserted + seed[at + removed :]
    return seed


mutants = st.builds(mutated, st.sampled_from(SEEDS), st.lists(edits, max_size=4))


# Where h11 is the stricter one without either being wrong:
# - it takes no line end before the request line, which RFC 9112 section 2.2 has servers skip;
# - it judges Content-Length and Transfer-Encoding in trailers, which are dropped here unread.
JUDGED_TRAILERS = ("Content-Length", "Transfer-Encoding")


@settings(max_examples=examples(1500))
@given(mutants)
def test_what_is_accepted_h11_reads_the_same_way(raw: bytes) -> None:
    sink = RecordingSink()
    machine = ServerHttp1(sink, LIMITS, HEADS)
    machine.feed(memoryview(raw))
    if sink.heads:
        check_forwarded(sink.events[0][1])
        check_head(raw.lstrip(b"\r\n"), sink.events[0][1])
        if sink.events[-1][0] != "fault":
            check_body(raw.lstrip(b"\r\n"), sink.events, bytes(machine.held))


def check_forwarded(head: bytes) -> None:
    """What goes upstream is one head to any reader, whatever came in."""
    reading = read_request(head)
    assert isinstance(reading, Reading), reading
    assert reading.start == tuple(head.split(b" ", 2)[:2])
    assert reading.rest == b""
    names = [name.lower() for name, _ in reading.fields]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    sink = RecordingSink()
    ServerHttp1(sink, LIMITS, HEADS).feed(memoryview(head))
    assert sink.events[:1] == [("request", head)]


def check_head(raw: bytes, forwarded: bytes) -> None:
    """h11 accepts the head and finds the same method, target and fields."""
    reading = read_request(raw.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert isinstance(reading, Reading), reading
    method, target, _ = forwarded.split(b"\r\n", 1)[0].split(b" ")
    assert reading.start[0] == method
    # A predictor gets the origin form (RFC 9112 section 3.2.1).
    path = re.sub(rb"(?i)\Ahttps?://[^/?]*", b"", reading.start[1])
    assert target == (path if path[:1] in {b"/", b"*"} else b"/" + path)
    fields = fields_of(forwarded)
    if not any(name.lower() == b"host" for name, _ in reading.fields):
        assert fields.pop(0)[0] == b"Host"
    check_fields(reading.fields, fields)


def check_body(raw: bytes, events: list[Event], held: bytes) -> None:
    """h11 finds the same body, the same end of it, and the same rest after it."""
    reading = read_request(raw)
    complete = is_complete(events)
    if isinstance(reading, str):
        assert complete
        assert any(name in reading for name in JUDGED_TRAILERS), reading
        return
    assert reading.body == b"".join(event[1] for event in events if event[0] == "body")
    assert (reading.complete, reading.rest) == (complete, held)
    if events[-1][0] == "trailers":
        assert [field for field in events[-1][1] if field not in reading.trailers] == []


def fields_of(head: bytes) -> Pairs:
    pairs: Pairs = []
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b": ")
        pairs.append((name, value))
    return pairs


PROTECTED = FRAMING | {b"content-type", b"authorization"}


def check_fields(read: Pairs, forwarded: Pairs) -> None:
    """Nothing but hop-by-hop fields was dropped, and nothing added but an upgrade of our own writing."""
    named = {
        option.strip().lower() for name, value in read if name.lower() == b"connection" for option in value.split(b",")
    }
    kept = [
        lowered(field)
        for field in read
        if field[0].lower() not in HOP_BY_HOP and (field[0].lower() not in named or field[0].lower() in PROTECTED)
    ]
    added = [field for field in forwarded if field[0] in {b"Upgrade", b"Connection"}]
    assert not added or (added[0] == (b"Connection", b"Upgrade") and len(added) == 2)
    assert [lowered(field) for field in forwarded if field not in added] == kept


def lowered(field: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """h11 lower-cases the value of Transfer-Encoding, and strips the white space at the end of every value."""
    name, value = field
    return name, value.rstrip(b" \t").lower() if name.lower() == b"transfer-encoding" else value.rstrip(b" \t")


@settings(max_examples=examples(300))
@given(mutants, st.lists(st.integers(0, 1 << 16), max_size=8))
def test_mutants_are_read_the_same_under_any_split(raw: bytes, where: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[Event], State, bytes]:
        sink = RecordingSink()
        machine = ServerHttp1(sink, LIMITS, HEADS)
        feed(machine, pieces)
        return sink.events, machine.state, bytes(machine.held)

    pieces = cut(raw, [place % (len(raw) + 1) for place in where])
    assert read(pieces) == read([raw])


answers = st.builds(mutated, st.sampled_from(ANSWERS), st.lists(edits, max_size=4))


@settings(max_examples=examples(600))
@given(answers, st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_answers_that_are_accepted_h11_reads_the_same_way(raw: bytes, method: bytes, eof: bool) -> None:
    sink = RecordingSink()
    machine = ClientHttp1(sink, LIMITS, HEADS)
    machine.expect(method)
    machine.feed(memoryview(raw))
    if eof:
        machine.eof()
    events = [event for event in sink.events if event[0] != "interim"]
    if events and events[-1][0] != "fault":
        reading = read_response(raw, method, eof=eof)
        assert isinstance(reading, Reading), reading
        check_fields(reading.fields, fields_of(events[0][1]))
        assert reading.body == b"".join(event[1] for event in events if event[0] == "body")
        assert reading.complete is is_complete(events)
        # Only a connection whose answer is complete, and followed by nothing, may carry another one.
        assert machine.state is not State.READY or (reading.complete and not reading.rest)


noise = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from(NASTY), st.sampled_from(SEEDS + ANSWERS)), max_size=6
)
TIGHT = Limits(head=200, fields=4, target=20, extensions=10, trailers=20)


@settings(max_examples=examples(300))
@given(noise, st.sampled_from([LIMITS, TIGHT]))
def test_nothing_raises_whatever_a_client_sends(pieces: list[bytes], limits: Limits) -> None:
    sink = RecordingSink()
    machine = ServerHttp1(sink, limits, HeadCache())
    sink.on_end = machine.next_message
    feed(machine, pieces)
    machine.eof()
    check_one_fault(sink.events)


@settings(max_examples=examples(300))
@given(noise, st.sampled_from([LIMITS, TIGHT]), st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_nothing_raises_whatever_a_predictor_sends(
    pieces: list[bytes], limits: Limits, method: bytes, upgrade: bool
) -> None:
    sink = RecordingSink()
    machine = ClientHttp1(sink, limits, HeadCache())
    for piece in pieces:
        if machine.state is State.READY:
            machine.expect(method, upgrade=upgrade)
        feed(machine, [piece])
    machine.eof()
    check_one_fault(sink.events)


def check_one_fault(events: list[Event]) -> None:
    kinds = [event[0] for event in events]
    assert "fault" not in kinds[:-1]
