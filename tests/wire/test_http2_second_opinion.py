"""Frames of a peer that is mostly in order: our machines and the h2 library accept and refuse the same.

How hard the answer is (the stream or the connection ends) may differ; what is accepted is read in the same way.
"""

import re
from typing import NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.wire import frames_by_hand as by_hand
from tests.wire.peers import PREFACE
from tests.wire.recording import Client, Owner, Server

HTTP2 = {
    side: h2.config.H2Configuration(client_side=side == "client", header_encoding=None) for side in ("server", "client")
}
LENGTH = (b"content-length", b"3")
BAD = [(b"A", b"b"), (b"connection", b"x"), (b"te", b"gzip"), (b"x", b"a\r\nb"), (b"x y", b"z"), (b":status", b"200")]

numbers = st.sampled_from([0, 1, 5, 16_384, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
streams = st.sampled_from([1, 1, 3, 3, 5, 7, 0, 2, 9])
ends = st.booleans()


def orderly(head: list[by_hand.Pair], *, lengths: bool) -> st.SearchStrategy[bytes]:
    """What a peer in its right mind sends, if perhaps not in this order: with lengths, or with trailers."""
    odd = st.sampled_from([1, 3, 5, 7])
    good = st.sampled_from([by_hand.block(head), by_hand.block(head) + by_hand.indexing(b"x-a", b"b")])
    # The library does not miss a body that a length promises where a header section ends the stream.
    promising = st.builds(by_hand.headers, odd, st.just(by_hand.block([*head, LENGTH])))
    trailers = st.builds(by_hand.headers, odd, st.just(by_hand.block([(b"grpc-status", b"0")])), end=st.just(True))
    return st.one_of(
        st.builds(by_hand.headers, odd, good, end=ends),
        promising if lengths else trailers,
        st.builds(by_hand.data, odd, st.sampled_from([b"", b"xyz", b"x" * 16_000]), end=ends),
        st.builds(by_hand.data, odd, st.just(b"xyz"), end=ends, padding=st.sampled_from([0, 3])),
        st.builds(by_hand.window_update, st.sampled_from([0, 1]), st.just(5)),
        st.builds(by_hand.settings, st.tuples(st.sampled_from([1, 4, 7]), st.sampled_from([0, 5, 65_535]))),
        st.just(by_hand.ping()),
    )


def anything(head: list[by_hand.Pair]) -> st.SearchStrategy[bytes]:
    """What breaks most rules."""
    bad = [by_hand.block([*head, field]) for field in BAD] + [by_hand.block(head) + by_hand.reference(62), b"\x80", b""]
    return st.one_of(
        st.builds(by_hand.headers, streams, st.sampled_from(bad), end=ends),
        st.builds(by_hand.data, streams, st.just(b"xyz"), end=ends),
        st.builds(by_hand.rst_stream, streams),
        st.builds(by_hand.window_update, streams, numbers),
        st.builds(by_hand.settings, st.tuples(st.integers(1, 7), numbers)),
        st.just(by_hand.ping(b"short")),
        st.builds(by_hand.priority, streams, streams),
        st.builds(by_hand.frame, st.sampled_from([2, 3, 4, 6, 7, 8, 9, 0x20]), streams, st.sampled_from([b"", b"xyz"])),
    )


def sequences(head: list[by_hand.Pair]) -> st.SearchStrategy[list[bytes]]:
    odd = st.lists(anything(head), max_size=1)
    return st.one_of(
        st.builds(lambda *parts: [frame for part in parts for frame in part], good, odd, good)
        for good in (st.lists(orderly(head, lengths=lengths), max_size=12) for lengths in (False, True))
    )


class Opinion(NamedTuple):
    """`refusal` is "" for what is accepted; `told` is what the owner has heard: heads, bodies and ends by stream."""

    refusal: str
    told: tuple[set[int], dict[int, bytes], set[int]]


class Ours:
    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._told: tuple[set[int], dict[int, bytes], set[int]] = (set(), {}, set())

    def read(self, data: bytes) -> Opinion:
        owner, refusal = self._owner, ""
        owner.feed(data)
        heads, bodies, ended = self._told
        for name, number, *values in owner.take_events():
            if name in {"request", "response"}:
                heads.add(number)
                bodies[number] = b""
            elif name == "data":
                bodies[number] += bytes(values[0])
            elif name in {"end", "trailers"}:
                ended.add(number)
            elif name in {"fault", "malformed"}:
                refusal = name
        if owner.machine.dead:
            refusal = owner.details[-1]
        if any(frame.kind == by_hand.RST_STREAM for frame in owner.take()):
            refusal = refusal or "reset"
        return Opinion(refusal, self._told)


class Theirs:
    def __init__(self, connection: h2.connection.H2Connection) -> None:
        self._h2 = connection
        self._told: tuple[set[int], dict[int, bytes], set[int]] = (set(), {}, set())

    def read(self, data: bytes) -> Opinion:
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            return Opinion(f"{type(error).__name__} {error}", self._told)
        heads, bodies, ended = self._told
        for one in events:
            match one:
                case h2.events.RequestReceived() | h2.events.ResponseReceived():
                    heads.add(one.stream_id)
                    bodies[one.stream_id] = b""
                case h2.events.DataReceived():
                    bodies[one.stream_id] += one.data
                    self._h2.acknowledge_received_data(one.flow_controlled_length, one.stream_id)
                case h2.events.StreamEnded():
                    ended.add(one.stream_id)
        resets = [frame for frame in by_hand.parse(self._h2.data_to_send()) if frame.kind == by_hand.RST_STREAM]
        return Opinion("reset" if resets else "", self._told)


def server() -> tuple[Ours, Theirs]:
    owner = Server()
    owner.target = 65_535
    connection = h2.connection.H2Connection(HTTP2["server"])
    connection.initiate_connection()
    connection.receive_data(PREFACE + by_hand.settings())
    connection.data_to_send()
    return Ours(owner), Theirs(connection)


def client() -> tuple[Ours, Theirs]:
    owner = Client()
    connection = h2.connection.H2Connection(HTTP2["client"])
    connection.initiate_connection()
    connection.receive_data(by_hand.settings())
    for number in (1, 3, 5):
        stream = owner.open(end=number != 5)
        stream.target = 65_535
        connection.send_headers(number, by_hand.pseudo(), end_stream=number != 5)
    owner.take()
    connection.data_to_send()
    return Ours(owner), Theirs(connection)


SIDES = {"server": (server, sequences(by_hand.pseudo())), "client": (client, sequences([(b":status", b"200")]))}

# Where one of the two refuses what the other takes, and is right to or may:
# - RFC 9113 section 5.1 makes every frame but PRIORITY on an idle stream a connection error;
# - what a server sends on a stream that is gone is ignored here, the library resets it or ends the connection;
# - the reserved bit of WINDOW_UPDATE must be ignored (section 6.9).
OURS_ALONE = re.compile("frame on an idle stream")
THEIRS_ALONE = re.compile("reset|StreamClosedError|ProtocolError Received frame with non-compliant data")


@pytest.mark.parametrize("side", SIDES)
@given(data=st.data())
@settings(max_examples=examples(400))
def test_what_we_accept_h2_accepts_and_reads_the_same_way(side: str, data: st.DataObject) -> None:
    make, some = SIDES[side]
    ours, theirs = make()
    for frame in data.draw(some):
        mine, other = ours.read(frame), theirs.read(frame)
        if mine.refusal or other.refusal:
            assert mine.refusal or THEIRS_ALONE.match(other.refusal), other.refusal
            assert other.refusal or OURS_ALONE.match(mine.refusal), mine.refusal
            event("refused")
            return
        assert mine.told == other.told
    event("accepted")
