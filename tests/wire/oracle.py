"""h11 as a second opinion: another strict reader of HTTP/1.1, by other people."""

from typing import NamedTuple

import h11

HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"expect", b"http2-settings"}
FRAMING = {b"host", b"content-length", b"transfer-encoding"}

Pairs = list[tuple[bytes, bytes]]


class Reading(NamedTuple):
    """What h11 makes of the first message in some bytes. `rest` is what follows it, once it is complete."""

    start: tuple[bytes, ...]
    fields: Pairs
    body: bytes
    trailers: Pairs
    complete: bool
    rest: bytes


def read_request(data: bytes) -> Reading | str:
    """Read as a server. A text says why h11 refuses."""
    return _read(h11.Connection(h11.SERVER), data)


def read_response(data: bytes, method: bytes, *, eof: bool = False) -> Reading | str:
    """Read as a client that has sent a request with this method."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    return _read(connection, data, eof=eof)


def _read(connection: h11.Connection, data: bytes, *, eof: bool = False) -> Reading | str:
    try:
        connection.receive_data(data)
        if eof:
            connection.receive_data(b"")
        return _collect(connection)
    except h11.RemoteProtocolError as error:
        return str(error)


def _collect(connection: h11.Connection) -> Reading:
    reading = Reading((), [], b"", [], False, b"")
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            reading = reading._replace(start=(event.method, event.target), fields=event.headers.raw_items())
        elif isinstance(event, h11.Response):
            status = b"%d" % event.status_code
            reading = reading._replace(start=(status, bytes(event.reason)), fields=event.headers.raw_items())
        elif isinstance(event, h11.Data):
            reading = reading._replace(body=reading.body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            rest, _ = connection.trailing_data
            return reading._replace(trailers=event.headers.raw_items(), complete=True, rest=rest)
        elif event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return reading
