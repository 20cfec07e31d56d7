"""Feeds one case in every way that a socket may deliver it, and demands the same events each time."""

import random
from collections.abc import Iterator
from itertools import pairwise

from agent.errors import Outcome
from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, Limits, State
from tests.fakes import Event, RecordingSink

LIMITS = Limits()

# What follows the case on the connection. Told apart from any case by its target.
TAIL = b"GET /tail HTTP/1.1\r\nHost: tail\r\n\r\n"
TAIL_EVENTS: list[Event] = [("request", TAIL), ("end",)]
SURPLUS: list[Event] = [("fault", Outcome.UPSTREAM_INVALID)]

_COMPLETE = {"end", "trailers"}


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and at random places that are the same on every run; some pieces are empty."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    generator = random.Random(data)
    for _ in range(6):
        yield cut(data, [generator.randint(0, len(data)) for _ in range(generator.randint(1, 6))])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(places), len(data)])]


def feed(machine: ServerHttp1 | ClientHttp1, pieces: list[bytes]) -> None:
    """Each piece comes in the same buffer, as reads of a connection do: what a machine keeps, it has to copy."""
    buffer = bytearray(max(map(len, pieces), default=0))
    for piece in pieces:
        with memoryview(buffer) as whole, whole[: len(piece)] as view:
            view[:] = piece
            machine.feed(view)
            view[:] = b"\xaa" * len(piece)


def requests(data: bytes, *, limits: Limits = LIMITS, eof: bool = False) -> list[Event]:
    """What a server makes of `data`, whose first message is not answered; however it arrives, and whatever follows."""
    cache = HeadCache()
    expected, complete = _requests_once([data], limits, HeadCache(), eof=eof)
    for pieces in splits(data):
        for heads in (HeadCache(), cache, cache, cache):
            seen = _requests_once(pieces, limits, heads, eof=eof)
            assert seen == (expected, complete), f"{seen} in reads of {[*map(len, pieces)][:9]}"
    if expected and not eof:
        for pieces in splits(data + TAIL):
            _check_tail(pieces, limits, expected, complete=complete)
    return expected


def _requests_once(pieces: list[bytes], limits: Limits, heads: HeadCache, *, eof: bool) -> tuple[list[Event], bool]:
    sink = RecordingSink()
    machine = ServerHttp1(sink, limits, heads)
    feed(machine, pieces)
    if eof:
        machine.eof()
    return sink.events, machine.state is State.READY


def _check_tail(pieces: list[bytes], limits: Limits, expected: list[Event], *, complete: bool) -> None:
    sink = RecordingSink()
    machine = ServerHttp1(sink, limits, HeadCache())
    feed(machine, pieces)
    if complete:
        assert sink.events == expected
        assert machine.held == TAIL
        machine.next_message()
        assert sink.events == expected + TAIL_EVENTS
    elif expected[-1][0] == "fault":
        assert sink.events == expected
        assert machine.state is State.DEAD
        assert not machine.held


def responses(
    data: bytes, *, method: bytes = b"GET", upgrade: bool = False, limits: Limits = LIMITS, eof: bool = False
) -> list[Event]:
    """What a client makes of `data` as the answer to one request, however it arrives, and whatever follows."""
    cache = HeadCache()

    def once(pieces: list[bytes], heads: HeadCache) -> tuple[list[Event], State]:
        sink = RecordingSink()
        machine = ClientHttp1(sink, limits, heads)
        machine.expect(method, upgrade=upgrade)
        feed(machine, pieces)
        if eof:
            machine.eof()
        return sink.events, machine.state

    expected = once([data], HeadCache())
    for pieces in splits(data):
        for heads in (HeadCache(), cache, cache, cache):
            seen = once(pieces, heads)
            assert seen == expected, f"{seen} in reads of {[*map(len, pieces)][:9]}"
    events, state = expected
    if state in {State.READY, State.DEAD} and not eof:
        for pieces in splits(data + TAIL):
            # Surplus in the read that ends the answer kills the machine silently; later on it is a fault as well.
            more, then = once(pieces, HeadCache())
            assert then is State.DEAD
            assert more[: len(events)] == events
            assert not more[len(events) :] or (state is State.READY and more[len(events) :] == SURPLUS)
    return events


def is_complete(events: list[Event]) -> bool:
    """Whether the events end a message cleanly."""
    return bool(events) and events[-1][0] in _COMPLETE
