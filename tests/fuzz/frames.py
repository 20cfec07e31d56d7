"""HTTP/2 inputs, and what holds for either machine whatever comes.

The first byte of an input says what follows. Bit 0: frames in records (kind, flags, stream, length, payload) that a
mutation leaves whole, else a connection's bytes as they are. Bit 1: the peer's SETTINGS are not put in front.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

import h2.events

from agent.wire.frames import DEFAULT_WINDOW, HEADER_SIZE, MAX_FRAME
from tests.fuzz.bounds import bounded, reads
from tests.wire import frames_by_hand as by_hand
from tests.wire.feeding import cut
from tests.wire.recording import Event, Owner

_RECORD = 5
# What a peer may send over and over.
UNITS = [
    by_hand.ping(),
    by_hand.SETTINGS_ACK,
    by_hand.settings((by_hand.INITIAL_WINDOW_SIZE, 5)),
    by_hand.settings(*[(by_hand.MAX_CONCURRENT_STREAMS, 5)] * 2_000),
    by_hand.window_update(0, 1),
    by_hand.window_update(1, 1),
    by_hand.priority(1, 3),
    by_hand.rst_stream(1),
    by_hand.frame(0x20, 1, b"x"),
    by_hand.frame(0x20, 1),
]


def read(data: bytes) -> bytes:
    """The bytes of the connection."""
    first = data[0] if data else 0
    start = b"" if first & 2 else by_hand.settings()
    if not first & 1:
        return start + data[1:]
    frames, at = [start], 1
    while at + _RECORD <= len(data):
        kind, flags, number = data[at : at + 3]
        size = int.from_bytes(data[at + 3 : at + 5], "big")
        payload = data[at + _RECORD : at + _RECORD + size]
        frames.append(by_hand.frame(kind, number, payload, flags))
        at += _RECORD + size
    return b"".join(frames)


def loosened(data: bytes) -> Iterator[bytes]:
    """The same frames as an input of the second kind, where they can be told so."""
    records, at = [b"\1"], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        kind, flags, number = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
        payload = data[at + 9 : at + 9 + size]
        at += 9 + size
        if at > len(data) or number > 255:
            return
        records.append(bytes([kind, flags, number]) + len(payload).to_bytes(2, "big") + payload)
    yield b"".join(records)


_Owner = TypeVar("_Owner", bound=Owner)


def check(data: bytes, make: Callable[[], _Owner], judge: Callable[[_Owner, list[Event]], None]) -> None:
    """One input for a machine of `make`, at once and in other reads; `judge` sees what the machine would send on."""
    data = read(data)
    owner = make()
    with bounded(len(data)):
        owner.feed(data)
    events = check_books(owner, data)
    judge(owner, events)
    generator = random.Random(data)
    for _ in range(reads(data)):
        pieces = cut(data, [generator.randint(0, len(data)) for _ in range(generator.randint(1, 4))])
        again = make()
        again.feed(*pieces)
        assert check_books(again, data) == events, [*map(len, pieces)]
    check_end(owner, data)


def check_books(owner: Owner, data: bytes) -> list[Event]:
    """What must be true of a machine and of what it wrote. Returns what its owner was told."""
    machine, events = owner.machine, owner.events
    written = by_hand.parse(bytes(owner.out).removeprefix(getattr(owner, "preface", b"")))
    told = [event[0] for event in events]
    assert told.count("broken") == machine.dead == sum(frame.kind == by_hand.GOAWAY for frame in written)
    assert not machine.dead or (told[-1] == "broken" and written[-1].kind == by_hand.GOAWAY)
    assert len(set(owner.gone)) == len(owner.gone)
    assert set(owner.gone).isdisjoint(machine.streams)
    assert set(machine.waiting) <= set(machine.streams.values())
    bounds = machine._bounds
    assert len(machine._forgotten) <= bounds.resets
    assert len(machine._block) <= bounds.block + MAX_FRAME
    assert len(machine._partial) < HEADER_SIZE + MAX_FRAME
    assert machine._window <= bounds.connection_window
    for stream in machine.streams.values():
        assert 0 <= stream.window <= max(stream.target, 65_535)
    endings = Counter(event[1] for event in events if event[0] in {"reset", "fault"})
    assert not endings or max(endings.values()) == 1
    return [
        (name, *(bytes(value) if isinstance(value, bytearray) else value for value in rest)) for name, *rest in events
    ]


def forwarded(events: list[Event], number: int, block: bytes) -> tuple[bytes, bytes] | None:
    """A whole message as it would be sent on, on stream 1, and its body; None for what is not whole or is too large.

    `block` is its head.
    """
    mine = [event for event in events if event[1:2] == (number,)]
    body = b"".join(event[2] for event in mine if event[0] == "data")
    if not {"end", "trailers"} & {event[0] for event in mine} or len(block) > MAX_FRAME or len(body) > DEFAULT_WINDOW:
        return None
    trailers = [event[2] for event in mine if event[0] == "trailers"]
    pieces = [body[at : at + MAX_FRAME] for at in range(0, len(body), MAX_FRAME)]
    sent = [by_hand.headers(1, block, end=not (pieces or trailers))]
    sent += [by_hand.data(1, piece) for piece in pieces[:-1]]
    sent += [by_hand.data(1, piece, end=not trailers) for piece in pieces[-1:]]
    sent += [by_hand.headers(1, by_hand.block(fields), end=True) for fields in trailers]
    return b"".join(sent), body


def read_body(read: list[h2.events.Event]) -> bytes:
    """The body that the h2 library has read, to its end."""
    assert any(isinstance(event, h2.events.StreamEnded) for event in read)
    return b"".join(event.data for event in read if isinstance(event, h2.events.DataReceived))


def check_end(owner: Owner, data: bytes) -> None:
    """After the end nothing is heard and nothing is said."""
    owner.machine.stop()
    events, written = len(owner.events), len(owner.out)
    owner.feed(data)
    assert (len(owner.events), len(owner.out)) == (events, written)
