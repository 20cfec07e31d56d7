"""The predictor over HTTP/1.1: does with each request what the request says, and writes down what it did."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast
from zlib import crc32

from tests.soak import book
from tests.soak.body import Body, chunk, field
from tests.soak.plan import Deed, answer, deed_of

_EVENTS = 4
_EVENT_GAP_S = 0.004
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EARLY = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n"
_INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
_READY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class HttpPredictor(asyncio.Protocol):
    """One connection of the agent."""

    def __init__(self, log: book.Book, open_ones: set["HttpPredictor"]) -> None:
        self._log = log
        self._open = open_ones
        self._buffer = bytearray()
        self._body: Body | None = None
        self._number = 0
        self._digest = 0
        self._deed, self._size, self._delay_ms = Deed.ANSWER, 0, 0
        self._busy = self._ending = False
        self._transport: asyncio.Transport
        self._later = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def end(self) -> None:
        """End the connection, after the answer that is under way."""
        self._ending = True
        if not self._busy:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body is None:
            at = self._buffer.find(b"\r\n\r\n")
            if at < 0:
                return
            head = bytes(self._buffer[:at])
            del self._buffer[: at + 4]
            self._begin(head)
        body = self._body
        if body is not None and not body.done:
            self._digest = crc32(body.take(self._buffer), self._digest)
            if body.done:
                self._complete()

    def _begin(self, head: bytes) -> None:
        self._busy = True
        if head.startswith(b"GET "):
            self._finish(_READY)
            return
        head = head.lower()
        length = field(head, b"content-length")
        number, words = field(head, b"x-id"), field(head, b"x-plan")
        assert number is not None
        assert words is not None
        self._number = int(number)
        self._log.arrive(self._number)
        self._deed, self._size, self._delay_ms = deed_of(words)
        self._digest = 0
        self._body = body = Body(None if length is None else int(length))
        if self._deed is Deed.EARLY and not body.done:
            content = answer(self._number, 0, self._size)
            self._log.do(self._number, book.ANSWERED)
            self._transport.write(_EARLY % len(content) + content)
        elif body.done:
            self._complete()

    def _complete(self) -> None:
        self._log.execute(self._number)
        if self._delay_ms:
            self._later(self._delay_ms / 1000, self._act)
        else:
            self._act()

    def _act(self) -> None:
        if self._transport.is_closing():
            return
        deed, write = self._deed, self._transport.write
        content = answer(self._number, self._digest, self._size)
        if deed in _BREAKING:
            self._log.do(self._number, book.FAILED)
            _BREAKING[deed](self, content)
        elif deed is Deed.EARLY:  # answered long ago
            self._finish(b"")
        elif deed is Deed.CHUNKED:
            half = len(content) // 2
            write(_CHUNKED + chunk(content[:half]))
            self._finish(chunk(content[half:]) + chunk(b""))
        elif deed is Deed.EVENTS:
            write(_EVENT_STREAM)
            self._event(content, 0)
        elif deed is Deed.CLOSING or self._ending:
            self._ending = True
            self._finish(_CLOSING % len(content) + content)
        elif deed is Deed.SURPLUS:
            self._finish(_OK % len(content) + content + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
        else:
            if deed is Deed.INTERIM:
                write(_INTERIM)
            self._finish(_OK % len(content) + content)

    def _event(self, content: bytes, index: int) -> None:
        if self._transport.is_closing():
            return
        size = len(content) // _EVENTS + 1
        self._transport.write(chunk(content[index * size : (index + 1) * size] or b"\n"))
        if index + 1 < _EVENTS:
            self._later(_EVENT_GAP_S, self._event, content, index + 1)
        else:
            self._finish(chunk(b""))

    def _finish(self, data: bytes) -> None:
        """The last bytes of an answer; then the next request."""
        if self._body is not None:
            self._log.do(self._number, book.ANSWERED)
        self._transport.write(data)
        self._body = None
        self._busy = False
        if self._ending:
            self._transport.close()
        elif self._buffer:
            self.data_received(b"")

    # Failures

    def _never(self, content: bytes) -> None:
        pass

    def _reset(self, content: bytes) -> None:
        if self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _truncate(self, content: bytes) -> None:
        self._transport.write(_OK % len(content) + content[: len(content) // 2])
        self._later(0.001, self._reset, content)

    def _close(self, content: bytes) -> None:
        self._transport.write_eof()

    def _half(self, content: bytes) -> None:
        self._transport.write(_CHUNKED + chunk(content[: len(content) // 2]))
        self._transport.write_eof()

    def _garble(self, content: bytes) -> None:
        self._transport.write(b"\x00\xffnot HTTP at all\r\n\r\n" + content[:100])


_BREAKING: dict[Deed, Callable[[HttpPredictor, bytes], None]] = {
    Deed.NEVER: HttpPredictor._never,
    Deed.RESET: HttpPredictor._reset,
    Deed.TRUNCATED: HttpPredictor._truncate,
    Deed.CLOSED: HttpPredictor._close,
    Deed.HALF: HttpPredictor._half,
    Deed.GARBAGE: HttpPredictor._garble,
}
