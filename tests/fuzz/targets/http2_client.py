"""A predictor's bytes on an HTTP/2 connection with four requests under way, one of them a HEAD."""

from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events

from tests.fuzz import frames
from tests.fuzz.bounds import large
from tests.wire import frames_by_hand as by_hand
from tests.wire.recording import Client, Event
from tests.wire.test_http2_random import SEEDS

_OF_A_CLIENT = h2.config.H2Configuration(client_side=True, header_encoding=None)
_HEAD = 5


def seeds() -> Iterator[bytes]:
    for data in SEEDS["client"]:
        yield b"\0" + data
        yield from frames.loosened(data)
    answered = b"\0" + by_hand.headers(1, by_hand.response())
    yield from large(answered, *frames.UNITS, by_hand.data(1, b"x"), by_hand.data(1, b"x" * 16_000), by_hand.data(1))
    yield from large(b"\0", by_hand.headers(1, by_hand.response(100)), by_hand.headers(9, by_hand.response()))


def check(data: bytes) -> None:
    frames.check(data, _client, _check_forwarded)


def _client() -> Client:
    owner = Client(settings=b"")
    for number in (1, 3, _HEAD, 7):
        stream = owner.open(end=number != 7, bodyless=number == _HEAD)
        assert stream.id == number
    owner.take()
    return owner


def _check_forwarded(owner: Client, events: list[Event]) -> None:
    """The h2 library reads each whole answer that we would send on in the same way."""
    for number, head in owner.heads.items():
        sent = frames.forwarded(events, number, head.block)
        if sent is None:
            continue
        asking = h2.connection.H2Connection(_OF_A_CLIENT)
        asking.initiate_connection()
        asking.send_headers(1, by_hand.pseudo(b"HEAD" if number == _HEAD else b"GET"), end_stream=True)
        read = asking.receive_data(by_hand.settings() + sent[0])
        fields = next(event.headers for event in read if isinstance(event, h2.events.ResponseReceived))
        assert [*map(tuple, fields)] == [(b":status", b"%d" % head.status), *map(tuple, head.fields)]
        assert frames.read_body(read) == sent[1]
