"""A client's bytes on an HTTP/2 connection after the preface; see `tests.fuzz.frames` for how an input is read."""

from collections.abc import Iterator
from itertools import islice

import h2.config
import h2.connection
import h2.events

from agent.wire.stream import Stream
from tests.fuzz import frames
from tests.fuzz.bounds import COMPARED, large
from tests.wire import frames_by_hand as by_hand
from tests.wire import test_fields
from tests.wire.recording import Event, Server
from tests.wire.test_http2_random import SEEDS

_OF_A_SERVER = h2.config.H2Configuration(client_side=False, header_encoding=None)
_OF_A_CLIENT = h2.config.H2Configuration(client_side=True, header_encoding=None)


def seeds() -> Iterator[bytes]:
    for data in SEEDS["server"]:
        yield b"\0" + data
        yield from frames.loosened(data)
    yield from large(b"\0", *frames.UNITS, by_hand.headers(1, by_hand.request(), end=True))
    opened = b"\0" + by_hand.headers(1, by_hand.request())
    yield from large(opened, *frames.UNITS, by_hand.data(1, b"x"), by_hand.data(1, b"x" * 16_000), by_hand.data(1))
    yield b"\0" + b"".join(by_hand.headers(number, by_hand.request(), end=True) for number in range(1, 1_000, 2))
    yield b"\0" + b"".join(by_hand.headers(number, b"", end=True) for number in range(1, 4_000, 2))
    for field, _ in test_fields.FIELDS.values():
        yield from frames.loosened(by_hand.headers(1, by_hand.request(b"/", field), end=True))


def check(data: bytes) -> None:
    frames.check(data, _server, _check_forwarded)


def _server() -> Server:
    owner = Server(settings=b"")
    owner.target = owner.machine._bounds.stream_window
    owner.on_end = _answer
    return owner


def _answer(stream: Stream) -> None:
    """Every request that has come whole is answered, so that streams end in the ordinary way too."""
    if stream.local_open:
        stream.send_head(by_hand.response(), False)
        stream.send_data(b"x" * 100, True)


def _check_forwarded(owner: Server, events: list[Event]) -> None:
    """The h2 library reads each whole request that we would forward in the same way, and nothing beside it."""
    for number, head in islice(owner.heads.items(), COMPARED):
        request = next(event for event in events if event[:2] == ("request", number))
        sent = frames.forwarded(events, number, head.block(0.0))
        if len(request) > 4 or sent is None:
            continue
        asking = h2.connection.H2Connection(_OF_A_CLIENT)
        asking.initiate_connection()
        asked = h2.connection.H2Connection(_OF_A_SERVER)
        asked.initiate_connection()
        asked.receive_data(asking.data_to_send())
        read = asked.receive_data(sent[0])
        fields = next(event.headers for event in read if isinstance(event, h2.events.RequestReceived))
        pseudo = dict(fields)
        assert (pseudo[b":method"], pseudo[b":path"]) == (head.method, head.target)
        assert [tuple(field) for field in fields if not field[0].startswith(b":")] == [*map(tuple, head.fields)]
        assert frames.read_body(read) == sent[1]
