"""The server's side: every frame on a stream of every state, lengths, padding, order and settings."""

from collections.abc import Callable

import pytest

from agent.wire.message import Limits
from agent.wire.stream import Bounds
from tests.wire import frames_by_hand as by_hand
from tests.wire.feeding import splits
from tests.wire.frames_by_hand import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    MAX_31,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Frame,
)
from tests.wire.recording import Server, Verdict, broken, judge, judged, ok, reset

OPEN, HALF, ANSWERED, RESET, LEFT = 1, 3, 5, 7, 9
IDLE, EVEN, NONE = 11, 2, 0
LAST = LEFT
TRAILER = (b"grpc-status", b"0")


def server() -> Server:
    """A server whose client has streams in every state: see the numbers above."""
    server = Server()
    for number, path, end in [
        (OPEN, b"/open", False),
        (HALF, b"/half", True),
        (ANSWERED, b"/answer", True),
        (RESET, b"/reset", False),
        (LEFT, b"/left", False),
    ]:
        server.feed(by_hand.headers(number, by_hand.request(path), end=end))
    server.feed(by_hand.rst_stream(LEFT))
    assert sorted(server.machine.streams) == [OPEN, HALF]
    assert server.gone == [ANSWERED, RESET, LEFT]
    server.take()
    server.take_events()
    return server


STATES = {"none": 0, "open": OPEN, "half": HALF, "answered": ANSWERED, "reset": RESET, "left": LEFT}
STATES |= {"idle": IDLE, "even": EVEN}

FRAMES: dict[str, Callable[[int], bytes]] = {
    "data": lambda stream: by_hand.data(stream, b"xyz"),
    "headers": lambda stream: by_hand.headers(stream, by_hand.request(b"/new"), end=True),
    "trailers": lambda stream: by_hand.headers(stream, by_hand.block([TRAILER]), end=True),
    "priority": by_hand.priority,
    "rst_stream": by_hand.rst_stream,
    "settings": lambda stream: by_hand.frame(SETTINGS, stream),
    "push_promise": lambda stream: by_hand.frame(PUSH_PROMISE, stream, by_hand.long(IDLE), END_HEADERS),
    "ping": lambda stream: by_hand.frame(PING, stream, b"01234567"),
    "goaway": lambda stream: by_hand.frame(GOAWAY, stream, by_hand.long(0) * 2),
    "window_update": lambda stream: by_hand.window_update(stream, 9),
    "continuation": lambda stream: by_hand.continuation(stream, b""),
    "unknown": lambda stream: by_hand.frame(0x0B, stream, b"?", 0xFF),
}

# What RFC 9113 sections 5.1 and 6 say: the first matching of (frame, state), (frame, "*").
ILLEGAL = broken(PROTOCOL_ERROR)
CLOSED = broken(STREAM_CLOSED)
VERDICTS: dict[tuple[str, str], Verdict] = {
    ("data", "open"): ok(("data", OPEN, b"xyz")),
    ("data", "half"): reset(HALF, STREAM_CLOSED),
    ("data", "answered"): CLOSED,
    ("data", "left"): CLOSED,
    ("data", "reset"): ok(),  # it may have crossed our RST_STREAM
    ("data", "*"): ILLEGAL,
    ("headers", "open"): reset(OPEN, PROTOCOL_ERROR),  # trailers with pseudo-headers
    ("headers", "half"): reset(HALF, STREAM_CLOSED),
    ("headers", "answered"): CLOSED,
    ("headers", "left"): CLOSED,
    ("headers", "reset"): ok(),
    ("headers", "idle"): ok(("request", IDLE, b"POST", b"/new"), ("end", IDLE)),
    ("headers", "*"): ILLEGAL,
    ("trailers", "open"): ok(("trailers", OPEN, [TRAILER])),
    ("trailers", "half"): reset(HALF, STREAM_CLOSED),
    ("trailers", "answered"): CLOSED,
    ("trailers", "left"): CLOSED,
    ("trailers", "reset"): ok(),
    ("trailers", "idle"): reset(IDLE, PROTOCOL_ERROR),
    ("trailers", "*"): ILLEGAL,
    ("priority", "none"): ILLEGAL,
    ("priority", "*"): ok(),
    ("rst_stream", "open"): ok(("reset", OPEN, CANCEL)),
    ("rst_stream", "half"): ok(("reset", HALF, CANCEL)),
    ("rst_stream", "answered"): ok(),
    ("rst_stream", "reset"): ok(),
    ("rst_stream", "left"): ok(),
    ("rst_stream", "*"): ILLEGAL,
    ("settings", "none"): ok(),
    ("settings", "*"): ILLEGAL,
    ("push_promise", "*"): ILLEGAL,
    ("ping", "none"): ok(),
    ("ping", "*"): ILLEGAL,
    ("goaway", "none"): ok(),
    ("goaway", "*"): ILLEGAL,
    ("window_update", "idle"): ILLEGAL,
    ("window_update", "even"): ILLEGAL,
    ("window_update", "*"): ok(),
    ("continuation", "*"): ILLEGAL,
    ("unknown", "*"): ok(),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("kind", FRAMES)
def test_every_frame_on_a_stream_of_every_state(kind: str, state: str) -> None:
    frame = FRAMES[kind](STATES[state])
    expected = VERDICTS.get((kind, state)) or VERDICTS[kind, "*"]
    assert judged(server, splits(frame)) == expected


@pytest.mark.parametrize("kind", FRAMES)
def test_the_reserved_bit_of_a_stream_number_is_ignored(kind: str) -> None:
    frame = FRAMES[kind](IDLE)
    with_bit = frame[:5] + bytes([frame[5] | 0x80]) + frame[6:]
    assert judged(server, [[with_bit]]) == (VERDICTS.get((kind, "idle")) or VERDICTS[kind, "*"])


@pytest.mark.parametrize("kind", [*range(10, 16), 0x7F, 0xFF])
def test_unknown_frames_are_ignored_wherever_they_come(kind: int) -> None:
    for stream in STATES.values():
        assert judged(server, [[by_hand.frame(kind, stream, b"x" * 9, 0xFF)]]) == ok()


BLOCK = by_hand.request(b"/new")
NEW = ok(("request", IDLE, b"POST", b"/new"), ("end", IDLE))
BOTH = END_HEADERS | END_STREAM

LENGTHS: dict[str, tuple[bytes, Verdict]] = {
    "data, the largest": (by_hand.data(OPEN, b"x" * 16_384), ok(("data", OPEN, b"x" * 16_384))),
    "data, larger": (by_hand.data(OPEN, b"x" * 16_385), broken(FRAME_SIZE_ERROR)),
    "unknown, larger": (by_hand.frame(0x0B, 0, b"x" * 16_385), broken(FRAME_SIZE_ERROR)),
    "data, empty": (by_hand.data(OPEN), ok()),
    "data, empty and last": (by_hand.data(OPEN, end=True), ok(("end", OPEN))),
    "data, last": (by_hand.data(OPEN, b"x", end=True), ok(("data", OPEN, b"x"), ("end", OPEN))),
    "data, other flags": (by_hand.frame(DATA, OPEN, b"x", 0xF6), ok(("data", OPEN, b"x"))),
    "data, padded": (by_hand.data(OPEN, b"xyz", padding=200), ok(("data", OPEN, b"xyz"))),
    "data, padded by nothing": (by_hand.data(OPEN, b"xyz", padding=0), ok(("data", OPEN, b"xyz"))),
    "data, nothing but padding": (by_hand.data(OPEN, padding=9), ok()),
    "data, padded and last": (by_hand.data(OPEN, padding=9, end=True), ok(("end", OPEN))),
    "data, padding as long as the frame": (by_hand.frame(DATA, OPEN, b"\x03xy", PADDED), ILLEGAL),
    "data, padding longer": (by_hand.frame(DATA, OPEN, b"\xffxy", PADDED), ILLEGAL),
    "data, no pad length": (by_hand.frame(DATA, OPEN, b"", PADDED), broken(FRAME_SIZE_ERROR)),
    "headers, padded": (by_hand.frame(HEADERS, IDLE, b"\x02" + BLOCK + b"\0\0", BOTH | PADDED), NEW),
    "headers, padding longer": (by_hand.frame(HEADERS, IDLE, b"\x09" + b"x" * 8, BOTH | PADDED), ILLEGAL),
    "headers, no pad length": (by_hand.frame(HEADERS, IDLE, b"", BOTH | PADDED), broken(FRAME_SIZE_ERROR)),
    "headers, priority": (by_hand.frame(HEADERS, IDLE, b"\0\0\0\1\7" + BLOCK, BOTH | WITH_PRIORITY), NEW),
    "headers, both": (
        by_hand.frame(HEADERS, IDLE, b"\1\x80\0\0\3\7" + BLOCK + b"\0", BOTH | PADDED | WITH_PRIORITY),
        NEW,
    ),
    "headers, half a priority": (
        by_hand.frame(HEADERS, IDLE, b"\0\0\0", BOTH | WITH_PRIORITY),
        broken(FRAME_SIZE_ERROR),
    ),
    "headers, padding into the priority": (
        by_hand.frame(HEADERS, IDLE, b"\1\0\0\0\1\7"[:6], BOTH | PADDED | WITH_PRIORITY),
        ILLEGAL,
    ),
    "headers, own parent": (
        by_hand.frame(HEADERS, IDLE, by_hand.long(IDLE) + b"\7" + BLOCK, BOTH | WITH_PRIORITY),
        ILLEGAL,
    ),
    "headers, other flags": (by_hand.frame(HEADERS, IDLE, BLOCK, BOTH | 0xD2), NEW),
    "priority, short": (by_hand.frame(PRIORITY, OPEN, b"\0\0\0\0"), reset(OPEN, FRAME_SIZE_ERROR)),
    "priority, long": (by_hand.frame(PRIORITY, HALF, b"\0\0\0\0\0\0"), reset(HALF, FRAME_SIZE_ERROR)),
    "priority, short and idle": (by_hand.frame(PRIORITY, IDLE, b"\0\0\0\0"), broken(FRAME_SIZE_ERROR)),
    "priority, short and gone": (by_hand.frame(PRIORITY, ANSWERED, b""), reset(ANSWERED, FRAME_SIZE_ERROR)),
    "priority, own parent": (by_hand.priority(OPEN, OPEN), reset(OPEN, PROTOCOL_ERROR)),
    "priority, own parent and exclusive": (by_hand.priority(OPEN, OPEN | 1 << 31), reset(OPEN, PROTOCOL_ERROR)),
    "rst_stream, short": (by_hand.frame(RST_STREAM, OPEN, b"\0\0\0"), broken(FRAME_SIZE_ERROR)),
    "rst_stream, long": (by_hand.frame(RST_STREAM, OPEN, b"\0\0\0\0\0"), broken(FRAME_SIZE_ERROR)),
    "rst_stream, unknown code": (by_hand.rst_stream(OPEN, 0xFFFFFFFF), ok(("reset", OPEN, 0xFFFFFFFF))),
    "settings, odd length": (by_hand.frame(SETTINGS, 0, b"\0\0\0\0\0"), broken(FRAME_SIZE_ERROR)),
    "settings, ack that holds something": (by_hand.frame(SETTINGS, 0, b"\0" * 6, ACK), broken(FRAME_SIZE_ERROR)),
    "settings, ack": (by_hand.SETTINGS_ACK, ok()),
    "settings, other flags": (by_hand.frame(SETTINGS, 0, b"", 0xFE), ok()),
    "ping, short": (by_hand.frame(PING, 0, b"1234567"), broken(FRAME_SIZE_ERROR)),
    "ping, long": (by_hand.frame(PING, 0, b"123456789"), broken(FRAME_SIZE_ERROR)),
    "ping, ack": (by_hand.ping(ack=True), ok()),
    "goaway, short": (by_hand.frame(GOAWAY, 0, b"1234567"), broken(FRAME_SIZE_ERROR)),
    "goaway, with a text": (by_hand.goaway(0, 2, b"x" * 99), ok()),
    "window_update, short": (by_hand.frame(WINDOW_UPDATE, 0, b"\0\0\1"), broken(FRAME_SIZE_ERROR)),
    "window_update, long": (by_hand.frame(WINDOW_UPDATE, OPEN, b"\0\0\0\1\1"), broken(FRAME_SIZE_ERROR)),
    "window_update of nothing": (by_hand.window_update(0, 0), ILLEGAL),
    "window_update of nothing to a stream": (by_hand.window_update(OPEN, 0), reset(OPEN, PROTOCOL_ERROR)),
    "window_update of nothing, reserved bit": (by_hand.window_update(HALF, 1 << 31), reset(HALF, PROTOCOL_ERROR)),
    "window_update, reserved bit": (by_hand.window_update(OPEN, 1 << 31 | 5), ok()),
    "window_update, too much": (by_hand.window_update(0, MAX_31), broken(FLOW_CONTROL_ERROR)),
    "window_update, too much for a stream": (by_hand.window_update(OPEN, MAX_31), reset(OPEN, FLOW_CONTROL_ERROR)),
    "window_update, all there is": (by_hand.window_update(0, MAX_31 - 65_535), ok()),
    "window_update, all there is for a stream": (by_hand.window_update(HALF, MAX_31 - 65_535), ok()),
    "window_update of nothing to a stream that is gone": (by_hand.window_update(ANSWERED, 0), ok()),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_lengths_flags_and_padding(case: str) -> None:
    data, expected = LENGTHS[case]
    assert (
        judged(server, splits(data) if len(data) < 1000 else [[data], [data[:5], data[5:9000], data[9000:]]])
        == expected
    )


HALF_BLOCK = by_hand.headers(IDLE, BLOCK[:9], flags=END_STREAM)
SECTIONS: dict[str, tuple[bytes, Verdict]] = {
    "one continuation": (HALF_BLOCK + by_hand.continuation(IDLE, BLOCK[9:]), NEW),
    "three": (
        HALF_BLOCK
        + by_hand.continuation(IDLE, BLOCK[9:10], last=False)
        + by_hand.continuation(IDLE, b"", last=False)
        + by_hand.continuation(IDLE, BLOCK[10:]),
        NEW,
    ),
    "of padded headers": (
        by_hand.frame(HEADERS, IDLE, b"\1" + BLOCK[:9] + b"\0", PADDED | END_STREAM)
        + by_hand.continuation(IDLE, BLOCK[9:]),
        NEW,
    ),
    "of empty headers": (by_hand.frame(HEADERS, IDLE, b"", END_STREAM) + by_hand.continuation(IDLE, BLOCK), NEW),
    "of another stream": (HALF_BLOCK + by_hand.continuation(OPEN, BLOCK[9:]), ILLEGAL),
    "of stream 0": (HALF_BLOCK + by_hand.continuation(0, BLOCK[9:]), ILLEGAL),
    "after the end": (HALF_BLOCK + by_hand.continuation(IDLE, BLOCK[9:]) + by_hand.continuation(IDLE, b""), ILLEGAL),
    "bad block": (by_hand.headers(IDLE, b"\x80", end=True), broken(by_hand.COMPRESSION_ERROR)),
    "bad trailers": (by_hand.headers(OPEN, b"\xff", end=True), broken(by_hand.COMPRESSION_ERROR)),
    "bad block nobody wants": (by_hand.headers(RESET, b"\x80", end=True), broken(by_hand.COMPRESSION_ERROR)),
    "trailers in pieces": (
        by_hand.headers(OPEN, b"", end=True, flags=0) + by_hand.continuation(OPEN, by_hand.block([TRAILER])),
        ok(("trailers", OPEN, [TRAILER])),
    ),
    "trailers that do not end the stream": (
        by_hand.headers(OPEN, by_hand.block([TRAILER])),
        reset(OPEN, PROTOCOL_ERROR),
    ),
    "empty trailers": (by_hand.headers(OPEN, b"", end=True), ok(("trailers", OPEN, []))),
}


@pytest.mark.parametrize("case", SECTIONS)
def test_sections_in_pieces(case: str) -> None:
    data, expected = SECTIONS[case]
    assert judged(server, splits(data)) == expected


def test_nothing_may_come_after_trailers() -> None:
    trailers = by_hand.headers(OPEN, by_hand.block([TRAILER]), end=True)
    for late in (trailers, by_hand.data(OPEN, b"x"), by_hand.data(OPEN, end=True)):
        owner = server()
        owner.feed(trailers + late)
        assert owner.take_events()[0] == ("trailers", OPEN, [TRAILER])
        assert owner.take()[-1] == Frame(RST_STREAM, 0, OPEN, by_hand.long(STREAM_CLOSED))


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "continuation"])
def test_nothing_else_may_come_inside_a_section(kind: str) -> None:
    for stream in (0, OPEN, IDLE):
        assert judged(server, [[HALF_BLOCK + FRAMES[kind](stream)]]) == ILLEGAL


@pytest.mark.parametrize("kind", [kind for kind in FRAMES if kind != "settings"])
def test_the_first_frame_has_to_be_settings(kind: str) -> None:
    frame = FRAMES[kind](0 if kind in {"ping", "goaway"} else IDLE)
    for data in (frame, by_hand.SETTINGS_ACK):
        fresh = Server(settings=b"")
        fresh.feed(data)
        assert judge(fresh) == ILLEGAL


def test_after_an_error_nothing_is_heard() -> None:
    owner = server()
    owner.feed(by_hand.ping(b"?") + by_hand.data(OPEN, b"xyz"), by_hand.data(OPEN, b"xyz"))
    assert judge(owner) == broken(FRAME_SIZE_ERROR)


def test_stopping_inside_a_call_ends_the_input() -> None:
    owner = server()
    owner.acts[b"/stop"] = lambda stream: owner.machine.stop()
    owner.feed(by_hand.headers(IDLE, by_hand.request(b"/stop")) + by_hand.data(OPEN, b"x") + by_hand.ping())
    assert judge(owner) == ok(("request", IDLE, b"POST", b"/stop"))


def test_feeding_from_inside_a_call_is_a_defect_of_the_owner() -> None:
    owner = server()
    owner.acts[b"/feed"] = lambda stream: owner.machine.feed(memoryview(b""))
    with pytest.raises(AssertionError, match="reentrant"):
        owner.feed(by_hand.headers(IDLE, by_hand.request(b"/feed")))


# Settings


def test_the_start_says_what_is_accepted() -> None:
    start = Server(
        bounds=Bounds(streams=7, stream_window=70_000, connection_window=100_000), limits=Limits(head=999)
    ).start
    pairs = {
        int.from_bytes(start[0].payload[at : at + 2], "big"): int.from_bytes(start[0].payload[at + 2 : at + 6], "big")
        for at in range(0, len(start[0].payload), 6)
    }
    assert pairs == {
        by_hand.MAX_CONCURRENT_STREAMS: 7,
        by_hand.INITIAL_WINDOW_SIZE: 70_000,
        by_hand.MAX_HEADER_LIST_SIZE: 999,
    }
    assert start[1:] == [
        Frame(WINDOW_UPDATE, 0, 0, by_hand.long(100_000 - 65_535)),
        Frame(SETTINGS, ACK, 0, b""),
    ]


SETTINGS_CASES: dict[str, tuple[bytes, Verdict]] = {
    "frame size, the least": (by_hand.settings((by_hand.MAX_FRAME_SIZE, 16_384)), ok()),
    "frame size, the most": (by_hand.settings((by_hand.MAX_FRAME_SIZE, (1 << 24) - 1)), ok()),
    "frame size, less": (by_hand.settings((by_hand.MAX_FRAME_SIZE, 16_383)), ILLEGAL),
    "frame size, 0": (by_hand.settings((by_hand.MAX_FRAME_SIZE, 0)), ILLEGAL),
    "frame size, more": (by_hand.settings((by_hand.MAX_FRAME_SIZE, 1 << 24)), ILLEGAL),
    "window, the most": (by_hand.settings((by_hand.INITIAL_WINDOW_SIZE, MAX_31)), ok()),
    "window, more": (by_hand.settings((by_hand.INITIAL_WINDOW_SIZE, 1 << 31)), broken(FLOW_CONTROL_ERROR)),
    "window, more for a stream that has some": (
        by_hand.window_update(OPEN, 1) + by_hand.settings((by_hand.INITIAL_WINDOW_SIZE, MAX_31)),
        broken(FLOW_CONTROL_ERROR),
    ),
    "push": (by_hand.settings((by_hand.ENABLE_PUSH, 1), (by_hand.ENABLE_PUSH, 0)), ok()),
    "push, neither": (by_hand.settings((by_hand.ENABLE_PUSH, 2)), ILLEGAL),
    "streams, none for us to open": (by_hand.settings((by_hand.MAX_CONCURRENT_STREAMS, 0)), ok()),
    "unknown": (by_hand.settings((0, 0), (8, 5), (0xFFFF, 0xFFFFFFFF)), ok()),
    "header list and table": (
        by_hand.settings((by_hand.HEADER_TABLE_SIZE, 0), (by_hand.MAX_HEADER_LIST_SIZE, 0)),
        ok(),
    ),
    "bad one after good ones": (by_hand.settings((8, 5), (by_hand.ENABLE_PUSH, 9), (8, 5)), ILLEGAL),
}


@pytest.mark.parametrize("case", SETTINGS_CASES)
def test_settings(case: str) -> None:
    data, expected = SETTINGS_CASES[case]
    assert judged(server, splits(data)) == expected


def test_settings_are_acknowledged_once_each_and_pings_with_their_bytes() -> None:
    owner = server()
    owner.feed(by_hand.settings((8, 1)) + by_hand.ping(b"12345678") + by_hand.SETTINGS_ACK + by_hand.ping(ack=True))
    assert owner.take() == [Frame(SETTINGS, ACK, 0, b""), Frame(PING, ACK, 0, b"12345678")]


def test_a_peer_that_shrinks_its_table_is_told_before_the_next_block() -> None:
    owner = server()
    for size, prefix in [(4096, b""), (5000, b""), (4095, b"\x20"), (0, b"\x20")]:
        owner.feed(by_hand.settings((by_hand.HEADER_TABLE_SIZE, size)))
        owner.take()
        owner.streams[HALF].send_head(b"\x88", False)
        owner.streams[OPEN].send_head(b"\x88", False)
        assert [frame.payload for frame in owner.take()] == [prefix + b"\x88", b"\x88"]
