"""The client's side: every frame on a stream of every state, answers of all shapes, GOAWAY, and room for streams."""

from collections.abc import Callable

import pytest

from agent.errors import Outcome
from agent.wire.message import Limits
from agent.wire.stream import Bounds, Stream
from tests.wire import frames_by_hand as by_hand
from tests.wire.feeding import splits
from tests.wire.frames_by_hand import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    END_HEADERS,
    FRAME_SIZE_ERROR,
    GOAWAY,
    MAX_31,
    PING,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    Frame,
)
from tests.wire.recording import Client, Verdict, broken, cancel, judge, judged, ok, reset

ASKED, SENDING, ANSWERED, HALF, DONE, RESET, LEFT = range(1, 15, 2)
IDLE, EVEN = 15, 2
TRAILER = (b"grpc-status", b"0")


def client() -> Client:
    """A client with streams in every state: see the numbers above."""
    client = Client()
    for number in (ASKED, SENDING, ANSWERED, HALF, DONE, RESET, LEFT):
        stream = client.open(b"/%d" % number, end=number not in {SENDING, HALF})
        assert stream.id == number
    client.feed(by_hand.headers(ANSWERED, by_hand.response()))
    client.feed(by_hand.headers(HALF, by_hand.response(), end=True))
    client.feed(by_hand.headers(DONE, by_hand.response(), end=True))
    cancel(client.machine.streams[RESET])
    client.feed(by_hand.rst_stream(LEFT))
    assert sorted(client.machine.streams) == [ASKED, SENDING, ANSWERED, HALF]
    assert client.gone == [DONE, RESET, LEFT]
    client.take()
    client.take_events()
    return client


STATES = {"none": 0, "asked": ASKED, "sending": SENDING, "answered": ANSWERED, "half": HALF, "done": DONE}
STATES |= {"reset": RESET, "left": LEFT, "idle": IDLE, "even": EVEN}

FRAMES: dict[str, Callable[[int], bytes]] = {
    "data": lambda stream: by_hand.data(stream, b"xyz"),
    "headers": lambda stream: by_hand.headers(stream, by_hand.response(204), end=True),
    "trailers": lambda stream: by_hand.headers(stream, by_hand.block([TRAILER]), end=True),
    "interim": lambda stream: by_hand.headers(stream, by_hand.response(103)),
    "priority": by_hand.priority,
    "rst_stream": by_hand.rst_stream,
    "settings": lambda stream: by_hand.frame(SETTINGS, stream),
    "push_promise": lambda stream: by_hand.frame(PUSH_PROMISE, stream, by_hand.long(EVEN), END_HEADERS),
    "ping": lambda stream: by_hand.frame(PING, stream, b"01234567"),
    "goaway": lambda stream: by_hand.frame(GOAWAY, stream, by_hand.long(MAX_31) + by_hand.long(0)),
    "window_update": lambda stream: by_hand.window_update(stream, 9),
    "continuation": lambda stream: by_hand.continuation(stream, b""),
    "unknown": lambda stream: by_hand.frame(0x0B, stream, b"?", 0xFF),
}

ILLEGAL = broken(PROTOCOL_ERROR)
UNANSWERED = ("asked", "sending")
GONE = ("done", "reset", "left")  # a server may go on for a while with what nobody wants any more
VERDICTS: dict[tuple[str, str], Verdict] = {
    **{("data", state): reset(STATES[state], PROTOCOL_ERROR) for state in UNANSWERED},
    ("data", "answered"): ok(("data", ANSWERED, b"xyz")),
    ("data", "half"): reset(HALF, STREAM_CLOSED),
    **{(kind, state): ok() for kind in ("data", "headers", "trailers", "interim", "rst_stream") for state in GONE},
    **{("headers", state): ok(("response", STATES[state], 204), ("end", STATES[state])) for state in UNANSWERED},
    ("headers", "answered"): reset(ANSWERED, PROTOCOL_ERROR),
    ("headers", "half"): reset(HALF, STREAM_CLOSED),
    **{("trailers", state): reset(STATES[state], PROTOCOL_ERROR) for state in UNANSWERED},
    ("trailers", "answered"): ok(("trailers", ANSWERED, [TRAILER])),
    ("trailers", "half"): reset(HALF, STREAM_CLOSED),
    **{("interim", state): ok(("interim", STATES[state], 103)) for state in UNANSWERED},
    ("interim", "answered"): reset(ANSWERED, PROTOCOL_ERROR),
    ("interim", "half"): reset(HALF, STREAM_CLOSED),
    **{("rst_stream", state): ok(("reset", STATES[state], CANCEL)) for state in (*UNANSWERED, "answered", "half")},
    ("priority", "none"): ILLEGAL,
    ("priority", "*"): ok(),
    ("settings", "none"): ok(),
    ("ping", "none"): ok(),
    ("goaway", "none"): ok(),
    ("window_update", "idle"): ILLEGAL,
    ("window_update", "even"): ILLEGAL,
    ("window_update", "*"): ok(),
    ("unknown", "*"): ok(),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", FRAMES)
def test_every_frame_on_a_stream_of_every_state(kind: str, state: str) -> None:
    frame = FRAMES[kind](STATES[state])
    expected = VERDICTS.get((kind, state)) or VERDICTS.get((kind, "*"), ILLEGAL)
    assert judged(client, splits(frame)) == expected


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "settings"])
def test_the_first_frame_has_to_be_settings(kind: str) -> None:
    fresh = Client(settings=b"")
    fresh.open()
    fresh.take()
    fresh.feed(FRAMES[kind](0 if kind in {"ping", "goaway"} else 1))
    assert judge(fresh) == ILLEGAL


def test_the_start_is_the_preface_and_says_what_is_accepted() -> None:
    started = Client(bounds=Bounds(stream_window=70_000, connection_window=100_000), limits=Limits(head=999))
    assert started.preface.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    expected = by_hand.settings(
        (by_hand.ENABLE_PUSH, 0), (by_hand.INITIAL_WINDOW_SIZE, 70_000), (by_hand.MAX_HEADER_LIST_SIZE, 999)
    )
    assert started.preface[24:] == expected + by_hand.window_update(0, 100_000 - 65_535)


# Answers: the frames that come for one request, and what becomes of them.


def answered(status: int, *more: tuple[bytes, bytes], end: bool = False) -> bytes:
    return by_hand.headers(1, by_hand.response(status, *more), end=end)


def length(value: bytes) -> tuple[bytes, bytes]:
    return (b"content-length", value)


def told(status: int) -> tuple[str, int, int]:
    return ("response", 1, status)


END = ("end", 1)
MALFORMED = reset(1, PROTOCOL_ERROR)
ANSWERS: dict[str, tuple[bytes, Verdict]] = {
    "head alone": (answered(200, end=True), ok(told(200), END)),
    "body": (answered(200) + by_hand.data(1, b"xyz", end=True), ok(told(200), ("data", 1, b"xyz"), END)),
    "empty body": (answered(200) + by_hand.data(1, end=True), ok(told(200), END)),
    "padded body": (
        answered(200) + by_hand.data(1, b"x", padding=3) + by_hand.data(1, b"y", padding=0, end=True),
        ok(told(200), ("data", 1, b"xy"), END),
    ),
    "trailers": (
        answered(200) + by_hand.data(1, b"x") + by_hand.headers(1, by_hand.block([TRAILER]), end=True),
        ok(told(200), ("data", 1, b"x"), ("trailers", 1, [TRAILER])),
    ),
    "interim": (
        answered(100) + answered(103) + answered(200, end=True),
        ok(("interim", 1, 100), ("interim", 1, 103), told(200), END),
    ),
    "interim that ends": (answered(100, end=True), MALFORMED),
    "switching protocols": (answered(101), MALFORMED),
    "status of two digits": (by_hand.headers(1, by_hand.block([(b":status", b"20")])), MALFORMED),
    "status of four digits": (by_hand.headers(1, by_hand.block([(b":status", b"2000")])), MALFORMED),
    "status 099": (by_hand.headers(1, by_hand.block([(b":status", b"099")])), MALFORMED),
    "status +20": (by_hand.headers(1, by_hand.block([(b":status", b"+20")])), MALFORMED),
    "status 999": (answered(999, end=True), ok(told(999), END)),
    "no status": (by_hand.headers(1, by_hand.block([(b"a", b"b")])), MALFORMED),
    "nothing": (by_hand.headers(1, b"", end=True), MALFORMED),
    "status last": (by_hand.headers(1, by_hand.block([(b"a", b"b"), (b":status", b"200")])), MALFORMED),
    "two statuses": (by_hand.headers(1, by_hand.block([(b":status", b"200")] * 2)), MALFORMED),
    "a path": (by_hand.headers(1, by_hand.block([(b":status", b"200"), (b":path", b"/")])), MALFORMED),
    "connection": (answered(200, (b"connection", b"close")), MALFORMED),
    "upper case": (answered(200, (b"Server", b"x")), MALFORMED),
    "line end in a value": (answered(200, (b"a", b"b\r\nc: d")), MALFORMED),
    "length": (answered(200, length(b"2")) + by_hand.data(1, b"xy", end=True), ok(told(200), ("data", 1, b"xy"), END)),
    "length, more": (answered(200, length(b"2"), end=False) + by_hand.data(1, b"xyz"), MALFORMED),
    "length, less": (answered(200, length(b"2")) + by_hand.data(1, b"x", end=True), MALFORMED),
    "length, none": (answered(200, length(b"2"), end=True), MALFORMED),
    "length 0, none": (answered(200, length(b"0"), end=True), ok(told(200), END)),
    "length 0, some": (answered(200, length(b"0")) + by_hand.data(1, b"x"), MALFORMED),
    "length, then trailers": (
        answered(200, length(b"2")) + by_hand.headers(1, by_hand.block([TRAILER]), end=True),
        MALFORMED,
    ),
    "two lengths": (answered(200, length(b"2"), length(b"2")), MALFORMED),
    "signed length": (answered(200, length(b"+2")), MALFORMED),
    "304 with a length": (answered(304, length(b"9"), end=True), ok(told(304), END)),
    "204 with a length": (answered(204, length(b"9")) + by_hand.data(1, end=True), ok(told(204), END)),
    "304 with a body": (answered(304, length(b"1")) + by_hand.data(1, b"x", end=True), MALFORMED),
    "204 with a body": (answered(204) + by_hand.data(1, b"x", end=True), MALFORMED),
    "trailers with a status": (answered(200) + answered(200, end=True), MALFORMED),
    "trailers in upper case": (answered(200) + by_hand.headers(1, by_hand.block([(b"A", b"b")]), end=True), MALFORMED),
    "trailers that go on": (answered(200) + by_hand.headers(1, by_hand.block([TRAILER])), MALFORMED),
    "bad block": (by_hand.headers(1, b"\x80"), broken(COMPRESSION_ERROR)),
    "data after the end": (answered(200, end=True) + by_hand.data(1, b"x"), ok(told(200), END)),
    "push": (by_hand.settings((by_hand.ENABLE_PUSH, 1)), ILLEGAL),
    "no push": (by_hand.settings((by_hand.ENABLE_PUSH, 0)), ok()),
    "tiny frames": (by_hand.settings((by_hand.MAX_FRAME_SIZE, 0)), ILLEGAL),
    "huge window": (by_hand.settings((by_hand.INITIAL_WINDOW_SIZE, 1 << 31)), broken(by_hand.FLOW_CONTROL_ERROR)),
    "goaway, short": (by_hand.frame(GOAWAY, 0, b"\0" * 7), broken(FRAME_SIZE_ERROR)),
}


def asked(*, bodyless: bool = False) -> Client:
    client = Client()
    client.open(end=True, bodyless=bodyless)
    client.take()
    return client


@pytest.mark.parametrize("case", ANSWERS)
def test_answers(case: str) -> None:
    data, expected = ANSWERS[case]
    assert judged(asked, splits(data)) == expected
    owner = asked()
    owner.feed(data)
    is_over = expected[0] == "reset" or (expected[0] == "ok" and expected[-1][0] in {"end", "trailers"})
    assert (owner.gone == [1]) == (not owner.machine.streams) == is_over


HEADS: dict[str, tuple[bytes, Verdict]] = {
    "with a length": (answered(200, length(b"9"), end=True), ok(told(200), END)),
    "with a length and an empty frame": (answered(200, length(b"9")) + by_hand.data(1, end=True), ok(told(200), END)),
    "with a body": (answered(200, length(b"1")) + by_hand.data(1, b"x", end=True), MALFORMED),
    "with a body and no length": (answered(200) + by_hand.data(1, b"x", end=True), MALFORMED),
}


@pytest.mark.parametrize("case", HEADS)
def test_answers_to_head_have_no_body(case: str) -> None:
    data, expected = HEADS[case]
    assert judged(lambda: asked(bodyless=True), splits(data)) == expected


def test_a_violation_is_the_servers_fault() -> None:
    owner = asked()
    owner.feed(by_hand.data(1, b"x"))
    assert owner.events == [("fault", 1, Outcome.UPSTREAM_INVALID)]
    assert owner.gone == [1]


def test_interim_answers_have_a_bound() -> None:
    owner = asked()
    for _ in range(16):
        owner.feed(answered(100))
    assert judge(owner) == ok(*[("interim", 1, 100)] * 16)
    owner.feed(answered(100))
    assert judge(owner) == MALFORMED


def test_an_answer_may_come_before_the_request_has_ended() -> None:
    owner = Client()
    stream = owner.open()
    owner.take()
    owner.feed(answered(413, end=True) + by_hand.rst_stream(1, 0))
    assert judge(owner) == ok(told(413), END, ("reset", 1, 0))
    assert not stream.local_open
    assert owner.gone == [1]


def test_the_end_of_a_request_that_has_been_answered_ends_its_stream() -> None:
    owner = Client()
    stream = owner.open()
    owner.feed(answered(200, end=True))
    assert owner.gone == []
    stream.send_data(b"", True)
    assert owner.gone == [1]
    assert not owner.machine.streams


def test_answers_that_nobody_wants_still_fill_the_table() -> None:
    owner = client()
    for number in (RESET, LEFT, DONE):
        entry = by_hand.indexing(b"x-of", b"%d" % number)
        owner.feed(by_hand.headers(number, by_hand.response() + entry, end=True))
        owner.feed(by_hand.headers(ASKED, by_hand.response(100) + by_hand.reference(62)))
    owner.feed(by_hand.headers(ASKED, by_hand.response() + by_hand.reference(64) + by_hand.reference(62), end=True))
    assert owner.heads[ASKED].fields == [(b"x-of", b"%d" % RESET), (b"x-of", b"%d" % DONE)]


def test_a_section_too_large_is_the_streams_trouble_and_one_far_beyond_the_connections() -> None:
    limits = Limits(head=4000)
    for size, expected in [(1500, ok(told(200), END)), (5000, MALFORMED), (9000, broken(COMPRESSION_ERROR))]:
        owner = Client(limits=limits)
        owner.open(end=True)
        owner.take()
        owner.feed(answered(200, (b"a", b"x" * size), end=True))
        assert judge(owner) == expected


def test_the_number_of_fields_is_bounded() -> None:
    for count, expected in [(9, ok(told(200), END)), (10, MALFORMED)]:
        owner = Client(limits=Limits(fields=10))
        owner.open(end=True)
        owner.take()
        owner.feed(answered(200, *[(b"a", b"b")] * count, end=True))
        assert judge(owner) == expected


# Room, and leaving


def test_room_follows_the_servers_settings() -> None:
    owner = Client(settings=b"")
    assert owner.machine.room == 100
    assert owner.ready == 0
    owner.feed(by_hand.frame(SETTINGS, 0, b"", 0xFE))  # undefined flags; no limit is named
    assert owner.machine.room == MAX_31
    assert owner.ready == 1
    for limit in (2, 0, 3):
        owner.feed(by_hand.settings((by_hand.MAX_CONCURRENT_STREAMS, limit)))
        assert owner.machine.room == limit
    owner.feed(by_hand.settings())
    assert owner.machine.room == 3
    assert owner.ready == 5
    streams = [owner.open(end=True) for _ in range(3)]
    assert owner.machine.room == 0
    owner.feed(by_hand.settings((by_hand.MAX_CONCURRENT_STREAMS, 1)))
    assert owner.machine.room == 0
    cancel(streams[0])
    owner.feed(by_hand.headers(3, by_hand.response(), end=True))
    assert owner.machine.room == 0
    owner.feed(by_hand.rst_stream(5, REFUSED_STREAM))
    assert owner.machine.room == 1
    owner.feed(by_hand.SETTINGS_ACK)
    assert owner.ready == 6


def test_stream_numbers_end() -> None:
    owner = Client()
    owner.machine._next = MAX_31 - 2
    assert owner.open(end=True).id == MAX_31 - 2
    assert owner.machine.room > 0
    assert owner.leaving == 0
    assert owner.open(end=True).id == MAX_31
    assert owner.machine.room == 0
    assert owner.leaving == 1


def test_goaway_gives_back_the_streams_that_were_not_acted_on() -> None:
    owner = Client()
    for _ in range(4):
        owner.open(end=True)
    owner.feed(by_hand.goaway(MAX_31))
    assert owner.leaving == 1
    assert owner.machine.going_away
    assert owner.machine.room == 0
    assert owner.events == []
    owner.feed(by_hand.goaway(3 | 1 << 31))
    assert owner.leaving == 2
    assert owner.events == [("reset", 5, REFUSED_STREAM), ("reset", 7, REFUSED_STREAM)]
    owner.take_events()
    owner.feed(by_hand.headers(3, by_hand.response(), end=True) + by_hand.headers(7, by_hand.response(), end=True))
    owner.feed(by_hand.headers(1, by_hand.response(), end=True))
    assert owner.events == [("response", 3, 200), ("end", 3), ("response", 1, 200), ("end", 1)]
    assert owner.gone == [5, 7, 3, 1]
    assert not owner.machine.streams


def test_an_owner_may_give_up_everything_when_the_server_leaves() -> None:
    class Leaver(Client):
        def on_stream_end(self, stream: Stream) -> None:
            super().on_stream_end(stream)
            for other in list(self.machine.streams.values()):
                cancel(other)

    owner = Leaver()
    for _ in range(5):
        owner.open(end=True)
    owner.feed(by_hand.goaway(0))
    assert sorted(owner.gone) == [1, 3, 5, 7, 9]
    assert not owner.machine.dead


def test_our_own_goaway_names_no_stream_of_the_servers() -> None:
    owner = asked()
    owner.feed(by_hand.ping(b"?"))
    assert owner.take() == [Frame(GOAWAY, 0, 0, by_hand.long(0) + by_hand.long(FRAME_SIZE_ERROR))]
    assert owner.machine.room == 0


def test_a_servers_frames_are_charged_for_nothing() -> None:
    owner = client()
    owner.feed((by_hand.ping() + by_hand.settings((8, 8)) + by_hand.data(RESET) + by_hand.rst_stream(LEFT)) * 5000)
    assert not owner.machine.dead
    assert {frame.kind for frame in owner.take()} == {PING, SETTINGS}


def test_a_server_that_shrinks_its_table_is_told_before_the_next_block() -> None:
    owner = Client(settings=by_hand.settings((by_hand.HEADER_TABLE_SIZE, 100)))
    owner.open(end=True)
    owner.open(end=True)
    assert [frame.payload[:1] for frame in owner.take()] == [b"\x20", b"\0"]


def test_credit_and_acknowledgement_are_all_that_is_written_unasked() -> None:
    owner = asked()
    owner.feed(by_hand.settings() + answered(200) + by_hand.data(1, b"x" * 16_384) * 2)
    assert owner.take() == [
        Frame(SETTINGS, ACK, 0, b""),
        Frame(WINDOW_UPDATE, 0, 1, by_hand.long(32_768)),
    ]
