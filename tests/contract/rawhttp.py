"""An HTTP/1.1 client that shows an answer as it came: field names with their case, order and duplicates, body bytes.

It shares no code with the agent, and forgives nothing: what is not HTTP raises ValueError.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

# A predictor that takes longer has hung; a big tensor through JSON takes seconds.
_TIMEOUT_S = 30.0
_CHUNK = 256 * 1024

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its bytes; the method decides how its answer is framed."""

    method: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A final answer. `interim` holds the status lines of the 1xx answers before it; `body` is without its framing."""

    status_line: bytes
    fields: Fields
    body: bytes = b""
    trailers: Fields = ()
    interim: tuple[bytes, ...] = ()

    @property
    def status(self) -> int:
        return int(self.status_line.split(b" ")[1])

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, whatever its case."""
        return [value for field, value in self.fields if field.lower() == name]

    def comparable(self) -> "Answer":
        """The answer without what may differ: the time of day, and what speaks of one hop, Connection and version."""
        version, _, rest = self.status_line.partition(b" ")
        answer = replace(self.without(b"date", b"connection"), status_line=version[:-1] + b"x " + rest)
        if answer.body.startswith(b"\x1f\x8b"):
            # Bytes 4 to 8 of a gzip header are the time of compression (RFC 1952 section 2.3).
            return replace(answer, body=answer.body[:4] + bytes(4) + answer.body[8:])
        return answer

    def without(self, *names: bytes) -> "Answer":
        """The same answer without these fields, given in lower case."""
        fields = tuple(field for field in self.fields if field[0].lower() not in names)
        return replace(self, fields=fields)


def request(method: str, target: str, body: bytes | None = None, *fields: str, version: str = "1.1") -> Request:
    """A request with a fixed Host, so that its bytes are the same wherever it goes. `fields` are whole lines."""
    lines = [f"{method} {target} HTTP/{version}", "Host: predictor.test", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return Request(method, "\r\n".join([*lines, "", ""]).encode() + (body or b""))


def chunked(method: str, target: str, chunks: list[bytes], *fields: str, trailer: str = "") -> Request:
    """A request whose body comes in these chunks, with an optional trailer line."""
    head = [f"{method} {target} HTTP/1.1", "Host: predictor.test", "Transfer-Encoding: chunked", *fields, "", ""]
    body = b"".join(b"%X\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    end = "0\r\n" + (f"{trailer}\r\n" if trailer else "") + "\r\n"
    return Request(method, "\r\n".join(head).encode() + body + end.encode())


def split(address: str) -> tuple[str, int]:
    """ "host:port" as a socket address."""
    host, _, port = address.rpartition(":")
    return host, int(port)


class RawClient:
    """One connection to "host:port". Use it as a context manager. Whatever takes longer raises TimeoutError."""

    def __init__(self, address: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._socket = socket.create_connection(split(address), timeout=timeout_s)
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave as a client does that has what it wanted."""
        self._socket.close()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def reset(self) -> None:
        """Leave so that nobody can take it for a client that still reads: RST instead of FIN."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def exchange(self, request: Request) -> Answer:
        """Send a request and read its answer."""
        self.send(request.data)
        return self.receive(request.method)

    def receive(self, method: str = "GET") -> Answer:
        """Read the answer to a request with this method. Raises ValueError, or EOFError where it ends too early."""
        interim = []
        head = self.receive_head()
        while 100 <= head.status < 200:
            interim.append(head.status_line)
            head = self.receive_head()
        body, trailers = b"", Fields()
        if method != "HEAD" and head.status not in {204, 304}:
            if head.values(b"transfer-encoding") == [b"chunked"]:
                body, trailers = b"".join(self.receive_chunks()), self._receive_fields()
            elif lengths := head.values(b"content-length"):
                (length,) = lengths
                body = self._take(int(length))
            else:
                body = self._take_all()
        return Answer(head.status_line, head.fields, body, trailers, tuple(interim))

    def receive_head(self) -> Answer:
        """Read a status line and the fields below it."""
        status_line = self._take_line()
        if not status_line.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
            raise ValueError(f"not a status line: {status_line!r}")
        return Answer(status_line, self._receive_fields())

    def receive_chunks(self) -> Iterator[bytes]:
        """Read the chunks of a body one by one, up to the last."""
        while size := int(self._take_line(), 16):
            yield self._take(size)
            if self._take(2) != b"\r\n":
                raise ValueError("a chunk without its end")

    def at_end(self) -> bool:
        """Whether the peer closes the connection without another byte. Waits for one or the other."""
        return not self._buffer and not self._socket.recv(1)

    def _receive_fields(self) -> Fields:
        fields = []
        while line := self._take_line():
            name, colon, value = line.partition(b":")
            if not colon:
                raise ValueError(f"not a field: {line!r}")
            fields.append((name, value.strip(b" \t")))
        return tuple(fields)

    def _take_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._fill()
        return self._take(end + 2)[:-2]

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _take_all(self) -> bytes:
        try:
            while True:
                self._fill()
        except EOFError:
            return self._take(len(self._buffer))

    def _fill(self) -> None:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise EOFError(f"the connection ended after {bytes(self._buffer[-80:])!r}")
        self._buffer += data


def exchange(address: str, *requests: Request) -> list[Answer]:
    """Send requests one after another on one connection; their answers."""
    with RawClient(address) as client:
        return [client.exchange(request) for request in requests]
