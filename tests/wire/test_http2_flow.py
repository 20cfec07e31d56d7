"""Flow control: what we send never exceeds the peer's windows, and what we take is what was granted."""

import random

import h2.config
import h2.connection
import h2.events
import pytest

from agent.wire.stream import Bounds
from tests.wire import frames_by_hand as by_hand
from tests.wire.frames_by_hand import (
    CANCEL,
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    PROTOCOL_ERROR,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
)
from tests.wire.recording import BOUNDS, AskedStream, Client, Server, cancel, judge, reset

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TRAILERS = by_hand.block([(b"grpc-status", b"0")])


def server(
    count: int = 1, *, window: int = 65_535, bounds: Bounds = BOUNDS, target: int = 0, ended: bool = False
) -> Server:
    """A server with `count` requests, open or `ended`, whose client takes `window` bytes a stream."""
    owner = Server(settings=by_hand.settings((INITIAL_WINDOW_SIZE, window)), bounds=bounds, target=target)
    for number in range(1, 2 * count, 2):
        owner.feed(by_hand.headers(number, by_hand.request(), end=ended))
    owner.take_events()
    return owner


def sent(owner: Server | Client) -> list[tuple[int, int, bool]]:
    """Stream, size and END_STREAM of the DATA frames since the last time."""
    return [
        (frame.stream, len(frame.payload), bool(frame.flags & END_STREAM))
        for frame in owner.take()
        if frame.kind == DATA
    ]


# Sending


def test_what_fits_goes_out_and_the_rest_waits_for_the_stream() -> None:
    owner = server(window=10, ended=True)
    stream = owner.streams[1]
    stream.send_data(b"x" * 10, False)
    assert not stream.blocked
    stream.send_data(b"y" * 25, False)
    assert stream.blocked
    stream.send_data(b"z", True)
    assert (owner.blocked, owner.drained) == ([1], [])
    assert sent(owner) == [(1, 10, False)]
    owner.feed(by_hand.window_update(1, 20))
    assert sent(owner) == [(1, 20, False)]
    owner.feed(by_hand.window_update(1, 5))
    assert sent(owner) == [(1, 5, False)]
    owner.feed(by_hand.window_update(1, 5))
    assert sent(owner) == [(1, 1, True)]
    assert not stream.blocked
    assert not stream.local_open
    assert not owner.machine.waiting


def test_an_owner_is_told_when_all_is_on_its_way() -> None:
    owner = server(window=10, ended=True)
    stream = owner.streams[1]
    stream.send_data(b"x" * 11, False)
    owner.on_drained = lambda drained: drained.send_data(b"more", True)
    owner.feed(by_hand.window_update(1, 5))
    assert (owner.blocked, owner.drained) == ([1], [1])
    assert sent(owner) == [(1, 10, False), (1, 1, False), (1, 4, True)]


def test_an_owner_may_be_blocked_again_at_once() -> None:
    owner = server(window=10, ended=True)
    owner.streams[1].send_data(b"x" * 11, False)
    owner.on_drained = lambda drained: drained.send_data(b"y" * 9, False) if len(owner.drained) < 3 else None
    owner.feed(by_hand.window_update(1, 2))
    assert owner.streams[1].blocked
    assert owner.blocked == [1, 1]
    owner.feed(by_hand.window_update(1, 50))
    assert owner.drained == [1, 1]
    assert [size for _, size, _ in sent(owner)] == [10, 1, 1, 8, 9]
    assert not owner.machine.waiting


def test_frames_are_as_large_as_the_peer_takes() -> None:
    owner = server(window=1_000_000, ended=True)
    owner.feed(by_hand.window_update(0, 1_000_000))
    owner.streams[1].send_data(b"x" * 40_000, False)
    assert [size for _, size, _ in sent(owner)] == [16_384, 16_384, 7_232]
    owner.feed(by_hand.settings((MAX_FRAME_SIZE, 20_000)))
    owner.streams[1].send_data(b"x" * 20_000, False)
    owner.streams[1].send_data(b"x" * 20_001, True)
    assert sent(owner) == [(1, 20_000, False), (1, 20_000, False), (1, 1, True)]


def test_the_connection_has_a_window_of_its_own() -> None:
    owner = server(2, window=100_000, ended=True)
    owner.streams[1].send_data(b"x" * 60_000, False)
    owner.streams[3].send_data(b"y" * 10_000, True)
    assert sum(size for _, size, _ in sent(owner)) == 65_535
    assert owner.machine.send_window == 0
    owner.feed(by_hand.window_update(3, 99_999))
    assert sent(owner) == []
    owner.feed(by_hand.window_update(0, 5_000))
    assert sent(owner) == [(3, 4_465, True)]
    assert owner.machine.send_window == 535


def test_streams_that_share_a_small_window_both_get_on() -> None:
    owner = server(3, window=100_000, ended=True)
    owner.streams[1].send_data(b"x" * 65_535, False)
    for number in (1, 3, 5):
        owner.streams[number].send_data(b"y" * 50, True)
    owner.take()
    seen = []
    for _ in range(15):
        owner.feed(by_hand.window_update(0, 10))
        seen += [number for number, _, _ in sent(owner)]
    assert {number: seen[:6].count(number) for number in (1, 3, 5)} == {1: 2, 3: 2, 5: 2}
    assert {number: seen.count(number) for number in (1, 3, 5)} == {1: 5, 3: 5, 5: 5}
    assert not owner.machine.waiting


def test_a_stream_without_a_window_does_not_stop_the_others() -> None:
    owner = server(2, window=5, ended=True)
    owner.streams[1].send_data(b"x" * 10, True)
    owner.streams[3].send_data(b"y" * 5, True)
    owner.feed(by_hand.window_update(0, 10))
    assert sent(owner) == [(1, 5, False), (3, 5, True)]


def test_settings_may_make_windows_negative() -> None:
    owner = server(2, window=100, ended=True)
    owner.streams[1].send_data(b"x" * 80, False)
    owner.feed(by_hand.settings((INITIAL_WINDOW_SIZE, 30)))
    assert owner.streams[1].send_window == -50
    owner.streams[1].send_data(b"y" * 20, False)
    owner.streams[3].send_data(b"z" * 31, False)
    assert sent(owner) == [(1, 80, False), (3, 30, False)]
    owner.feed(by_hand.window_update(1, 50))
    assert sent(owner) == []
    owner.feed(by_hand.window_update(1, 5))
    assert sent(owner) == [(1, 5, False)]
    owner.feed(by_hand.settings((INITIAL_WINDOW_SIZE, 40)))
    assert sent(owner) == [(1, 10, False), (3, 1, False)]
    owner.feed(by_hand.settings((INITIAL_WINDOW_SIZE, 7), (INITIAL_WINDOW_SIZE, 0), (INITIAL_WINDOW_SIZE, 45)))
    assert sent(owner) == [(1, 5, False)]
    assert owner.streams[3].send_window == 45 - 31


def test_an_empty_end_needs_no_window() -> None:
    owner = server(2, window=10, ended=True)
    for number in (1, 3):
        owner.streams[number].send_data(b"x" * 10, False)
    owner.feed(by_hand.settings((INITIAL_WINDOW_SIZE, 0)))
    owner.take()
    owner.streams[1].send_data(b"", True)
    assert sent(owner) == [(1, 0, True)]
    assert not owner.streams[1].blocked
    owner.streams[3].send_trailers(TRAILERS)
    assert [(frame.kind, frame.stream, frame.flags) for frame in owner.take()] == [(HEADERS, 3, 5)]


def test_what_comes_byte_by_byte_is_not_held_byte_by_byte() -> None:
    owner = server(window=0, ended=True)
    stream = owner.streams[1]
    body = random.Random(1).randbytes(20_000)
    for at in range(len(body)):
        stream.send_data(body[at : at + 1], False)
    assert stream._held is not None
    assert len(stream._held) <= len(body) // 512 + 1
    stream.send_data(b"", True)
    owner.take()
    owner.feed(by_hand.window_update(1, 30_000))
    frames = [frame for frame in owner.take() if frame.kind == DATA]
    assert b"".join(frame.payload for frame in frames) == body
    assert [bool(frame.flags & END_STREAM) for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_trailers_come_after_what_is_held() -> None:
    owner = server(window=10, ended=True)
    stream = owner.streams[1]
    stream.send_data(b"x" * 12, False)
    stream.send_trailers(TRAILERS)
    assert sent(owner) == [(1, 10, False)]
    assert stream.local_open
    owner.feed(by_hand.window_update(1, 100))
    assert [(frame.kind, frame.flags, frame.payload) for frame in owner.take()] == [
        (DATA, 0, b"xx"),
        (HEADERS, 5, TRAILERS),
    ]
    assert not stream.local_open
    assert owner.drained == []


@pytest.mark.parametrize("by", ["us", "client"])
def test_a_stream_that_is_reset_holds_nothing(by: str) -> None:
    owner = server(2, window=10, ended=True)
    for number in (1, 3):
        owner.streams[number].send_data(b"x" * 20, True)
    if by == "us":
        cancel(owner.streams[1])
    else:
        owner.feed(by_hand.rst_stream(1))
    assert not owner.streams[1].blocked
    assert list(owner.machine.waiting) == [owner.streams[3]]
    owner.take()
    owner.feed(by_hand.window_update(0, 100) + by_hand.window_update(1, 100) + by_hand.window_update(3, 100))
    assert sent(owner) == [(3, 10, True)]
    assert owner.gone == [1, 3]


def test_an_owner_may_reset_another_stream_that_waits() -> None:
    owner = server(3, window=100_000, ended=True)
    owner.streams[1].send_data(b"x" * 65_535, False)
    for number in (1, 3, 5):
        owner.streams[number].send_data(b"y" * 10, False)
    owner.take()
    owner.on_drained = lambda stream: cancel(owner.streams[3]) if stream.id == 1 else None
    owner.feed(by_hand.window_update(0, 1000))
    assert [(frame.kind, frame.stream) for frame in owner.take()] == [(DATA, 1), (RST_STREAM, 3), (DATA, 5)]
    assert owner.drained == [1, 5]
    assert not owner.machine.waiting


# Receiving


def test_the_window_of_a_stream_is_enforced_to_the_byte() -> None:
    bounds = Bounds(stream_window=70_000)
    whole = by_hand.data(1, b"x" * 10_000) * 7
    owner = server(bounds=bounds)
    owner.feed(whole)
    assert owner.streams[1].window == 0
    assert owner.take() == []
    owner.feed(by_hand.data(1, end=True))
    assert owner.events[-1] == ("end", 1)
    owner = server(bounds=bounds)
    owner.feed(whole)
    owner.take()
    owner.take_events()
    owner.feed(by_hand.data(1, b"x"))
    assert judge(owner) == reset(1, FLOW_CONTROL_ERROR)


def test_a_client_may_send_the_default_window_before_it_knows_better() -> None:
    owner = server(bounds=Bounds(stream_window=1000))
    owner.feed(by_hand.data(1, b"x" * 16_383) * 4)
    assert owner.streams[1].window == 3
    owner.feed(by_hand.data(1, b"xxx"))
    assert len(owner.events[-1][2]) == 65_535
    owner.take_events()
    owner.take()
    owner.feed(by_hand.data(1, b"x"))
    assert judge(owner) == reset(1, FLOW_CONTROL_ERROR)


def test_a_content_length_does_not_go_around_the_window() -> None:
    owner = Server(bounds=Bounds(stream_window=70_000))
    owner.feed(by_hand.headers(1, by_hand.request(b"/", (b"content-length", b"999999"))))
    owner.feed(by_hand.data(1, b"x" * 10_000) * 7)
    assert owner.take() == []
    owner.take_events()
    owner.feed(by_hand.data(1, b"x"))
    assert judge(owner) == reset(1, FLOW_CONTROL_ERROR)


def test_padding_counts() -> None:
    for last, verdict in [(b"x" * 99, ("data", 1)), (b"x" * 100, ("fault", 1))]:
        owner = server(bounds=Bounds(stream_window=65_635))
        owner.feed(by_hand.data(1, b"", padding=255) * 256)
        assert owner.streams[1].window == 65_635 - 65_536
        owner.feed(by_hand.data(1, last))
        assert owner.events[-1][:2] == verdict


def test_credit_is_given_up_to_the_target_and_when_it_is_worth_a_frame() -> None:
    owner = server()
    stream = owner.streams[1]
    owner.feed(by_hand.data(1, b"x" * 16_000) * 4)
    assert owner.take() == []
    stream.target = 3_000
    stream.credit()
    assert owner.take() == []
    stream.target = 100_000
    stream.withhold = 1
    stream.credit()
    assert owner.take() == []
    stream.withhold = 0
    stream.credit()
    assert owner.take() == [Frame(WINDOW_UPDATE, 0, 1, by_hand.long(100_000 - 1_536))]
    stream.credit()
    assert owner.take() == []
    owner.feed(by_hand.data(1, b"x" * 12_500) * 3)
    assert owner.take() == []
    owner.feed(by_hand.data(1, b"x" * 12_500))
    assert owner.take() == [Frame(WINDOW_UPDATE, 0, 1, by_hand.long(50_000))]
    owner.feed(by_hand.data(1, b"", padding=250) * 250)
    updates = owner.take()
    assert [frame.number for frame in updates] == [50_200]
    owner.feed(by_hand.data(1, b"x" * 16_000) * 2 + by_hand.data(1, b"x" * 16_000, end=True))
    assert owner.take() == []
    stream.credit()
    assert owner.take() == []


def test_a_stream_that_is_withheld_takes_what_was_granted_and_no_more() -> None:
    owner = server(target=50_000)
    owner.streams[1].withhold = 2
    owner.feed(by_hand.data(1, b"x" * 16_384) * 4)
    assert owner.take() == []
    owner.take_events()
    owner.feed(by_hand.data(1, b"x"))
    assert judge(owner) == reset(1, FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("kind", ["open", "gone", "padded"])
def test_the_connection_is_refilled_on_arrival_whatever_becomes_of_the_data(kind: str) -> None:
    owner = server(5, bounds=Bounds(connection_window=65_536))
    if kind == "gone":
        for number in (1, 3, 5, 7, 9):
            cancel(owner.streams[number])
    owner.take()
    padding = 100 if kind == "padded" else None
    size = 16_000 - (101 if kind == "padded" else 0)
    for number in (1, 3):
        owner.feed(by_hand.data(number, b"x" * size, padding=padding))
    assert owner.take() == []
    owner.feed(by_hand.data(5, b"x" * size, padding=padding))
    assert owner.take() == [Frame(WINDOW_UPDATE, 0, 0, by_hand.long(48_000))]


def test_reads_of_any_size_bring_the_same() -> None:
    generator = random.Random(5)
    frames = [by_hand.headers(1, by_hand.request())]
    frames += [by_hand.data(1, generator.randbytes(generator.choice([1, 100, 16_384]))) for _ in range(40)]
    data = b"".join([*frames, by_hand.data(1, end=True)])
    assert len(data) > 128 * 1024
    seen = set()
    for size in (100, 5_000, 65_535, 65_536, 131_072, len(data)):
        owner = Server(target=1 << 20, bounds=Bounds(stream_window=1 << 20))
        owner.feed(*[data[at : at + size] for at in range(0, len(data), size)])
        seen.add(repr(owner.events))
        assert owner.events[-1] == ("end", 1)
    assert len(seen) == 1


def test_a_violation_ends_a_stream_and_not_what_the_others_get() -> None:
    owner = server(2)
    owner.feed(by_hand.window_update(1, 0) + by_hand.data(1, b"x") + by_hand.data(3, b"y"))
    assert owner.take()[-1] == Frame(RST_STREAM, 0, 1, by_hand.long(PROTOCOL_ERROR))
    assert owner.events[-1] == ("data", 3, b"y")


# The h2 library as the receiver: it raises when a window or the frame size is exceeded.


class Receiver:
    """An h2 client that grants at random, and our server that sends at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.client.initiate_connection()
        self.client.update_settings({INITIAL_WINDOW_SIZE: self.random.choice([0, 10, 1000, 65_535])})
        self.owner = Server(settings=self.client.data_to_send().removeprefix(PREFACE))
        self.owner.out += by_hand.join(self.owner.start)
        self.sending: dict[int, AskedStream] = {}
        self.expected: dict[int, bytearray] = {}
        self.got: dict[int, bytearray] = {}
        self.ended: set[int] = set()

    def exchange(self) -> None:
        """Bytes both ways until both are silent."""
        while True:
            outgoing = self.client.data_to_send()
            self.owner.feed(outgoing)
            incoming = bytes(self.owner.out)
            self.owner.out.clear()
            if not (outgoing or incoming):
                break
            for event in self.client.receive_data(incoming):
                if isinstance(event, h2.events.DataReceived):
                    self.got[event.stream_id] += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
        assert not self.owner.machine.dead

    def open(self) -> None:
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, [(k.decode(), v.decode()) for k, v in by_hand.pseudo()], end_stream=True)
        self.exchange()
        self.owner.streams[number].send_head(by_hand.response(), False)
        self.sending[number] = self.owner.streams[number]
        self.expected[number], self.got[number] = bytearray(), bytearray()

    def send(self) -> None:
        number = self.random.choice(list(self.sending))
        size = self.random.choice([0, 1, 100, 3_000, 16_384, 16_385, 40_000])
        piece = self.random.randbytes(size)
        self.expected[number] += piece
        end = self.random.random() < 0.1
        self.sending[number].send_data(piece, end)
        if end:
            del self.sending[number]
        elif self.random.random() < 0.1:
            self.sending.pop(number).send_trailers(TRAILERS)

    def grant(self) -> None:
        open_streams = [number for number in self.got if number not in self.ended]
        number = self.random.choice([None, None, *open_streams])
        self.client.increment_flow_control_window(self.random.choice([1, 50, 5_000, 60_000]), number)

    def configure(self) -> None:
        self.client.update_settings(
            self.random.choice(
                [
                    {INITIAL_WINDOW_SIZE: self.random.choice([0, 5, 2_000, 65_535, 200_000])},
                    {MAX_FRAME_SIZE: self.random.choice([16_384, 20_000, 70_000])},
                ]
            )
        )

    def finish(self) -> None:
        for stream in list(self.sending.values()):
            stream.send_trailers(TRAILERS)
        for _ in range(40):
            self.exchange()
            for number in [None, *[number for number in self.got if number not in self.ended]]:
                self.client.increment_flow_control_window(50_000, number)
        self.exchange()


@pytest.mark.parametrize("seed", range(12))
def test_a_strict_receiver_never_complains_and_gets_all(seed: int) -> None:
    receiver = Receiver(seed)
    receiver.open()
    for _ in range(150):
        step = receiver.random.choice(["open", "send", "send", "send", "grant", "grant", "configure", "exchange"])
        if (step != "open" or len(receiver.got) < 8) and (step != "send" or receiver.sending):
            getattr(receiver, step)()
            if receiver.random.random() < 0.7:
                receiver.exchange()
    receiver.finish()
    assert receiver.got == receiver.expected
    assert receiver.ended == set(receiver.got)
    assert not receiver.owner.machine.streams
    assert not receiver.owner.machine.waiting
    assert sorted(receiver.owner.gone) == sorted(receiver.got)


def test_a_client_sends_by_the_same_rules() -> None:
    owner = Client(settings=by_hand.settings((INITIAL_WINDOW_SIZE, 10)))
    stream = owner.open()
    stream.send_data(b"x" * 15, True)
    assert sent(owner) == [(1, 10, False)]
    owner.feed(by_hand.rst_stream(1, CANCEL))
    assert not owner.machine.waiting
    late = owner.open()
    late.send_data(b"x" * 15, True)
    owner.feed(by_hand.settings((INITIAL_WINDOW_SIZE, 20)))
    assert sent(owner) == [(3, 10, False), (3, 5, True)]
