"""Whatever bytes come, nothing raises, what is written is frames, and each stream ends once."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.wire.frames import Code
from agent.wire.message import Limits
from agent.wire.stream import Bounds, Stream
from tests.examples import examples
from tests.wire import frames_by_hand as by_hand
from tests.wire.feeding import cut
from tests.wire.recording import Client, Owner, Server
from tests.wire.test_http2_client import ANSWERS
from tests.wire.test_http2_limits import CONTENT
from tests.wire.test_http2_server import LENGTHS, SECTIONS, SETTINGS_CASES

BOUNDS = Bounds(streams=4, stream_window=70_000, connection_window=80_000, resets=3, budget=300)
LIMITS = Limits(head=3_000, fields=20, target=200)
RUNS = settings(max_examples=examples(400))

streams = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1])
numbers = st.sampled_from([0, 1, 2, 5, 16_384, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
blocks = st.sampled_from(
    [
        by_hand.request(),
        by_hand.request(b"/answer"),
        by_hand.request(b"/reset"),
        by_hand.request(b"/", (b"content-length", b"3")),
        by_hand.request() + by_hand.indexing(b"x-a", b"b"),
        by_hand.request() + by_hand.reference(62),
        by_hand.table_size(0) + by_hand.request(),
        by_hand.response(),
        by_hand.response(100),
        by_hand.response(200, (b"content-length", b"3")),
        by_hand.block([(b"grpc-status", b"0")]),
        by_hand.block([(b"A", b"b")]),
        by_hand.block([(b":method", b"CONNECT"), (b":authority", b"a")]),
        b"",
        b"\x80",
    ]
)
flags = st.sampled_from([0, 1, 4, 5, 5, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF])
payloads = blocks | st.binary(max_size=12) | st.builds(by_hand.long, numbers) | st.just(b"x" * 16_384)
frames = st.one_of(
    st.builds(by_hand.frame, st.integers(0, 11), streams, payloads, flags),
    st.builds(by_hand.headers, streams, blocks, end=st.booleans()),
    st.builds(by_hand.data, streams, st.sampled_from([b"", b"xyz", b"x" * 16_000]), end=st.booleans()),
    st.builds(by_hand.rst_stream, streams),
    st.builds(by_hand.window_update, streams, numbers),
    st.builds(by_hand.settings, st.tuples(st.integers(1, 6), numbers)),
    st.builds(by_hand.goaway, streams),
    st.just(by_hand.ping()),
)


class Restless:
    """An owner that, whatever it is told, does something with one of its streams; the same on every run."""

    def __init__(self, owner: Owner, seed: int) -> None:
        self.owner, self.random = owner, random.Random(seed)
        owner.on_end = owner.on_drained = self.act
        for path in (b"/", b"/answer", b"/reset"):
            owner.acts[path] = self.act

    def act(self, told: Stream) -> None:
        stream = self.random.choice([told, *self.owner.machine.streams.values()])
        action = self.random.randrange(6)
        if action == 0:
            stream.reset(Code.CANCEL)
        elif action == 1:
            stream.withhold ^= 1
            stream.target = 70_000
            stream.credit()
        elif not stream.local_open or stream.id not in self.owner.machine.streams:
            return
        elif action == 2:
            stream.send_head(by_hand.response(), True) if not stream.blocked else None
        else:
            stream.send_data(b"x" * self.random.choice([0, 1, 20_000, 100_000]), action == 5)


def make(side: str) -> Owner:
    if side == "server":
        return Server(limits=LIMITS, bounds=BOUNDS)
    client = Client(limits=LIMITS, bounds=BOUNDS)
    for count in range(4):
        client.open(end=bool(count & 1))
    client.take()
    return client


def check(owner: Owner, data: bytes, seed: int) -> None:
    generator = random.Random(seed)
    Restless(owner, seed)
    owner.feed(*cut(data, [generator.randint(0, len(data)) for _ in range(generator.randint(0, 4))]))
    machine = owner.machine
    written = by_hand.parse(bytes(owner.out))
    goaways = [frame for frame in written if frame.kind == by_hand.GOAWAY]
    assert len(goaways) == machine.dead
    assert ("broken" in {event[0] for event in owner.events}) == machine.dead
    assert not machine.dead or owner.events[-1][0] == "broken"
    assert len(set(owner.gone)) == len(owner.gone)
    assert set(owner.gone).isdisjoint(machine.streams)
    assert set(machine.waiting) <= set(machine.streams.values())
    assert all(stream.blocked for stream in machine.waiting)
    assert len(machine.streams) <= BOUNDS.streams
    assert len(machine._forgotten) <= BOUNDS.resets
    assert len(machine._block) <= BOUNDS.block
    assert len(machine._partial) < 9 + 16_384
    sent = sum(len(frame.payload) for frame in written if frame.kind == by_hand.DATA)
    granted = sum(
        frame.number & by_hand.MAX_31
        for frame in by_hand.parse(data[: _whole(data)])
        if (frame.kind, frame.stream) == (by_hand.WINDOW_UPDATE, 0) and len(frame.payload) == 4
    )
    assert sent <= 65_535 + granted


def _whole(data: bytes) -> int:
    """Where the last complete frame of `data` ends."""
    at = 0
    while at + 9 <= len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        if end > len(data):
            break
        at = end
    return at


@pytest.mark.parametrize("side", ["server", "client"])
@given(data=st.binary(max_size=300), seed=st.integers(0, 99))
@RUNS
def test_random_bytes(side: str, data: bytes, seed: int) -> None:
    check(make(side), data, seed)


@pytest.mark.parametrize("side", ["server", "client"])
@given(sequence=st.lists(frames, max_size=25), seed=st.integers(0, 99))
@RUNS
def test_random_frames(side: str, sequence: list[bytes], seed: int) -> None:
    check(make(side), b"".join(sequence), seed)


@pytest.mark.parametrize("side", ["server", "client"])
@given(sequence=st.lists(frames, max_size=12), places=st.lists(st.integers(0, 1 << 16), max_size=6))
@RUNS
def test_frames_mean_the_same_under_any_split(side: str, sequence: list[bytes], places: list[int]) -> None:
    data = b"".join(sequence)
    owners = [make(side), make(side)]
    owners[0].feed(data)
    owners[1].feed(*cut(data, [place % (len(data) + 1) for place in places]))
    # But for the moment at which the connection's window is refilled, or found to be overdrawn: the end of a read.
    whole, pieces = ([frame for frame in owner.take() if frame[:3:2] != (by_hand.WINDOW_UPDATE, 0)] for owner in owners)
    if all(by_hand.FLOW_CONTROL_ERROR not in event[1:] for owner in owners for event in owner.events[-1:]):
        assert owners[0].events == owners[1].events
        assert whole == pieces
    for owner in owners:
        told, written = len(owner.events), len(owner.out)
        owner.machine.stop()
        owner.feed(data)
        assert (len(owner.events), len(owner.out)) == (told, written)


class Edit(NamedTuple):
    at: int
    removed: int
    inserted: bytes


edits = st.lists(
    st.builds(Edit, st.integers(0, 1 << 12), st.integers(0, 3), st.binary(max_size=3) | frames), min_size=1, max_size=3
)

OPENING = by_hand.headers(1, by_hand.request())
ASKED = [OPENING + data for data, _ in (*LENGTHS.values(), *SECTIONS.values()) if len(data) < 500]
ASKED += [data for data, _ in SETTINGS_CASES.values()]
ASKED += [
    by_hand.headers(11, by_hand.request(b"/", (b"content-length", length))) + b"".join(frames)
    for length, frames, _ in CONTENT.values()
]
SEEDS = {"server": ASKED, "client": [data for data, _ in ANSWERS.values()]}


def mutated(data: bytes, changes: list[Edit]) -> bytes:
    for at, removed, inserted in changes:
        at %= len(data) + 1
        data = data[:at] + inserted + data[at + removed :]
    return data


@pytest.mark.parametrize("side", ["server", "client"])
@given(data=st.data(), changes=edits, seed=st.integers(0, 99))
@RUNS
def test_mutants_of_what_the_tables_hold(side: str, data: st.DataObject, changes: list[Edit], seed: int) -> None:
    check(make(side), mutated(data.draw(st.sampled_from(SEEDS[side])), changes), seed)


@pytest.mark.parametrize("make_data", [lambda: by_hand.ping() * 9_000, lambda: by_hand.data(1, b"x" * 9_000) * 9])
def test_reads_larger_than_a_copy_is_worth_come_to_the_same(make_data: Callable[[], bytes]) -> None:
    data = by_hand.headers(1, by_hand.request()) + make_data()
    assert len(data) > 64 * 1024
    owners = [Server(), Server()]
    owners[0].feed(data)
    owners[1].feed(*[data[at : at + 1000] for at in range(0, len(data), 1000)])
    assert owners[0].events == owners[1].events
    assert owners[0].out == owners[1].out
