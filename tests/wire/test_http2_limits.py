"""The server's side: limits on streams and sections, the two-step end, and bodies that are as long as they said."""

import pytest

from agent.errors import Outcome
from agent.wire.stream import Bounds
from tests.wire import frames_by_hand as by_hand
from tests.wire.feeding import splits
from tests.wire.frames_by_hand import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    GOAWAY,
    MAX_31,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    Frame,
)
from tests.wire.recording import Server, Verdict, broken, judge, judged, ok, reset
from tests.wire.test_http2_server import CLOSED, IDLE, LAST, TRAILER, server


def test_streams_beyond_the_limit_are_refused_and_the_others_go_on() -> None:
    owner = Server(bounds=Bounds(streams=2))
    for number in (1, 3, 5):
        owner.feed(by_hand.headers(number, by_hand.request(b"/%d" % number)))
    assert owner.take() == [Frame(RST_STREAM, 0, 5, by_hand.long(REFUSED_STREAM))]
    owner.feed(by_hand.data(5, b"x", end=True) + by_hand.data(1, end=True))
    owner.streams[1].send_head(by_hand.response(), True)
    owner.feed(by_hand.headers(7, by_hand.request(b"/7")))
    assert [event[0:2] for event in owner.events] == [("request", 1), ("request", 3), ("end", 1), ("request", 7)]
    assert owner.gone == [1]


def test_the_blocks_of_refused_requests_still_fill_the_table() -> None:
    owner = Server(bounds=Bounds(streams=1))
    owner.feed(
        by_hand.headers(1, by_hand.request())
        + by_hand.headers(3, by_hand.block(by_hand.pseudo()) + by_hand.indexing(b"x-a", b"b"))
        + by_hand.data(1, end=True)
    )
    owner.streams[1].send_head(by_hand.response(), True)
    owner.feed(by_hand.headers(5, by_hand.block(by_hand.pseudo(path=b"/5")) + by_hand.reference(62)))
    block = owner.heads[5].block(0.0)
    assert b"x-a" in block


def test_the_end_in_two_steps() -> None:
    owner = server()
    owner.machine.announce_end()
    assert owner.take() == [Frame(GOAWAY, 0, 0, by_hand.long(MAX_31) + by_hand.long(0))]
    owner.feed(by_hand.headers(IDLE, by_hand.request(b"/new")))
    assert judge(owner) == ok(("request", IDLE, b"POST", b"/new"))
    owner.machine.end()
    assert owner.take() == [Frame(GOAWAY, 0, 0, by_hand.long(IDLE) + by_hand.long(0))]
    owner.machine.end()
    owner.machine.announce_end()
    late = IDLE + 2
    owner.feed(by_hand.headers(late, by_hand.request()) + by_hand.data(late, b"x" * 999, end=True))
    owner.feed(by_hand.data(IDLE, b"y", end=True))
    assert judge(owner) == ok(("data", IDLE, b"y"), ("end", IDLE))


def test_the_last_stream_in_goaway_never_grows() -> None:
    owner = server()
    owner.machine.end()
    owner.feed(by_hand.headers(IDLE, by_hand.request()) + by_hand.ping(b"?"))
    assert [frame.payload for frame in owner.take()] == [
        by_hand.long(LAST) + by_hand.long(0),
        by_hand.long(LAST) + by_hand.long(FRAME_SIZE_ERROR),
    ]
    owner.machine.end()
    owner.machine.announce_end()
    assert not owner.out


def test_an_error_names_the_last_stream_that_was_acted_on() -> None:
    owner = server()
    owner.feed(by_hand.headers(33, by_hand.request()) + by_hand.ping(b"?"))
    assert owner.take()[-1].payload == by_hand.long(33) + by_hand.long(FRAME_SIZE_ERROR)


def test_a_number_that_was_left_out_is_closed() -> None:
    for frame in (by_hand.headers(5, by_hand.request()), by_hand.data(5, b"x")):
        owner = Server()
        owner.feed(by_hand.headers(7, by_hand.request()))
        owner.take()
        owner.take_events()
        owner.feed(frame)
        assert judge(owner) == CLOSED


def test_only_so_many_resets_are_remembered() -> None:
    owner = Server(bounds=Bounds(resets=2))
    for number in (1, 3, 5):
        owner.feed(by_hand.headers(number, by_hand.request(b"/reset")))
    for number, verdict in [(5, ok()), (3, ok()), (1, CLOSED)]:
        owner.take()
        owner.take_events()
        owner.feed(by_hand.data(number, b"x"))
        assert judge(owner) == verdict


@pytest.mark.parametrize(
    ("bounds", "sizes", "verdict"),
    [
        (Bounds(block=1000, continuations=4), (400, 300, 300), "request"),
        (Bounds(block=1000, continuations=4), (400, 300, 301), "broken"),
        (Bounds(continuations=4), (99, 1, 0, 7), "request"),
        (Bounds(continuations=4), (99, 1, 0, 0, 7), "broken"),
    ],
)
def test_a_section_has_a_bound_in_bytes_and_in_frames(bounds: Bounds, sizes: tuple[int, ...], verdict: str) -> None:
    block = by_hand.request() + by_hand.literal(b"x", b"")
    missing = sum(sizes) - len(block)
    block = block[:-1] + by_hand.text(b"y" * (missing - 2 * (missing > 254)))
    assert len(block) == sum(sizes)
    owner = Server(bounds=bounds)
    at = 0
    for count, size in enumerate(sizes, start=1):
        piece, at = block[at : at + size], at + size
        last = count == len(sizes)
        owner.feed(by_hand.continuation(1, piece, last=last) if count > 1 else by_hand.headers(1, piece, flags=0))
    assert owner.events[0][0] == verdict
    if verdict == "broken":
        assert judge(owner) == broken(ENHANCE_YOUR_CALM)


def test_a_request_that_cannot_be_served_is_answered_and_a_malformed_one_is_not() -> None:
    owner = server()
    owner.feed(by_hand.headers(IDLE, by_hand.block([(b":method", b"CONNECT"), (b":authority", b"a:1")])))
    assert judge(owner) == ok(("request", IDLE, b"CONNECT", b"", Outcome.NOT_IMPLEMENTED))
    owner.feed(by_hand.headers(IDLE + 2, by_hand.block([(b":method", b"GET")])))
    assert owner.events == [("malformed", Outcome.BAD_REQUEST)]
    assert judge(owner) == reset(IDLE + 2, PROTOCOL_ERROR)


CONTENT: dict[str, tuple[bytes, list[bytes], Verdict]] = {
    "as said": (b"3", [by_hand.data(11, b"xyz", end=True)], ok(("data", 11, b"xyz"), ("end", 11))),
    "as said, in pieces": (
        b"3",
        [by_hand.data(11, b"x"), by_hand.data(11, b"", padding=2), by_hand.data(11, b"yz"), by_hand.data(11, end=True)],
        ok(("data", 11, b"xyz"), ("end", 11)),
    ),
    "more": (b"3", [by_hand.data(11, b"wxyz")], reset(11, PROTOCOL_ERROR)),
    "less": (b"3", [by_hand.data(11, b"xy", end=True)], reset(11, PROTOCOL_ERROR)),
    "none": (b"3", [by_hand.data(11, end=True)], reset(11, PROTOCOL_ERROR)),
    "less, then trailers": (
        b"1",
        [by_hand.headers(11, by_hand.block([TRAILER]), end=True)],
        reset(11, PROTOCOL_ERROR),
    ),
    "as said, then trailers": (
        b"1",
        [by_hand.data(11, b"x"), by_hand.headers(11, by_hand.block([TRAILER]), end=True)],
        ok(("data", 11, b"x"), ("trailers", 11, [TRAILER])),
    ),
    "nothing, and some": (b"0", [by_hand.data(11, b"x", end=True)], reset(11, PROTOCOL_ERROR)),
    "nothing, and none": (b"0", [by_hand.data(11, end=True)], ok(("end", 11))),
}


@pytest.mark.parametrize("case", CONTENT)
def test_content_length_and_data_agree(case: str) -> None:
    length, frames, expected = CONTENT[case]

    def make() -> Server:
        owner = server()
        owner.feed(by_hand.headers(11, by_hand.request(b"/", (b"content-length", length))))
        owner.take_events()
        return owner

    assert judged(make, splits(b"".join(frames))) == expected


def test_an_answer_that_is_complete_ends_a_request_that_is_not() -> None:
    owner = server()
    owner.streams[1].send_head(by_hand.response(413), True)
    assert [(frame.kind, frame.stream, frame.number) for frame in owner.take()][-1] == (RST_STREAM, 1, 0)
    assert owner.gone[-1] == 1
    owner.feed(by_hand.data(1, b"late", end=True))
    assert judge(owner) == ok()


def test_mistakes_that_became_no_request_are_told() -> None:
    owner = server()
    owner.feed(by_hand.headers(11, by_hand.request(b"/", (b"content-length", b"1")), end=True))
    owner.feed(by_hand.headers(13, by_hand.request(b"/", (b"Upper", b"1"))))
    assert owner.events == [("malformed", Outcome.BAD_REQUEST)] * 2
    assert [(frame.stream, frame.number) for frame in owner.take()] == [(11, PROTOCOL_ERROR), (13, PROTOCOL_ERROR)]


def test_content_length_of_a_request_without_a_body() -> None:
    for length, expected in [
        (b"0", ok(("request", 11, b"POST", b"/"), ("end", 11))),
        (b"1", reset(11, PROTOCOL_ERROR)),
    ]:
        frame = by_hand.headers(11, by_hand.request(b"/", (b"content-length", length)), end=True)
        assert judged(server, splits(frame)) == expected
