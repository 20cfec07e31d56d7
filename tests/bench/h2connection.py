"""One side of an HTTP/2 connection, as lean as a benchmark's own side must be: no HPACK, no CONTINUATION, no checks.

It keeps to SETTINGS, PING and flow control in both directions, so that it works with any peer.
"""

import asyncio
from typing import cast

from . import h2frames as h2

_STREAMS = 10_000


class Connection(asyncio.Protocol):
    """Subclasses say what headers and data mean. Output collects in `out` and leaves in one write for each read.

    `stream_window` is what each stream may send us unread; it and the connection's window are given back by halves.
    """

    # Whether equal DATA frames that follow each other are handled as one, which saves their parsing.
    joins = False

    def __init__(self, *, server: bool, stream_window: int = 1 << 24, connection_window: int = 1 << 30) -> None:
        self.out: list[bytes | memoryview] = []
        self.window = h2.DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.transport: asyncio.Transport
        self._waiting: dict[int, tuple[memoryview, bytes]] = {}
        self._initial = h2.DEFAULT_WINDOW
        self._stream_half, self._connection_half = stream_window // 2, connection_window // 2
        self._received = 0
        self._received_on: dict[int, int] = {}
        self._preface = server
        self._rest = b""
        wanted = {h2.INITIAL_WINDOW_SIZE: stream_window}
        wanted |= {h2.MAX_CONCURRENT_STREAMS: _STREAMS} if server else {}
        greeting = h2.settings(wanted) + h2.window_update(0, connection_window - h2.DEFAULT_WINDOW)
        self.out.append(greeting if server else h2.PREFACE + greeting)

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        """A head or trailers, still encoded."""

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        """Content; its bytes have been counted already."""

    def on_credit(self) -> None:
        """The peer takes more than before."""

    def on_fault(self, reason: str) -> None:
        """A stream or the connection was ended by the peer."""

    def on_reset(self, stream: int, code: int) -> None:
        """A stream was ended by the peer."""
        self.on_fault(f"stream {stream} reset with code {code}")

    def on_goaway(self, last: int, code: int, detail: bytes) -> None:
        """The peer looks at no stream above `last`."""
        if code:
            self.on_fault(f"GOAWAY with code {code}: {detail!r}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.on_fault(f"connection lost: {exc}")

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, size, view = 0, len(data), memoryview(data)
        if self._preface:
            if size < len(h2.PREFACE):
                self._rest = data
                return
            if not data.startswith(h2.PREFACE):
                raise ValueError(f"not HTTP/2: {data[:24]!r}")
            self._preface, at = False, len(h2.PREFACE)
        while size - at >= 9:
            high, low, kind, flags, stream = h2.FRAME_HEAD.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            if end > size:
                break
            payload = view[at + 9 : end]
            if kind == h2.DATA:
                if self.joins and (times := _times(data, at, end)) > 1:
                    payload = memoryview(bytes(payload) * times)
                    end = at + (end - at) * times
                self._count(stream, len(payload), flags & h2.END_STREAM)
                self.on_data(stream, _unpadded(payload, flags), bool(flags & h2.END_STREAM))
            elif kind == h2.HEADERS:
                self._headers(stream, payload, flags)
            else:
                self._control(kind, flags, stream, payload)
            at = end
        self._rest = data[at:]
        self.flush()

    def flush(self) -> None:
        """Write what has collected."""
        if self.out:
            self.transport.write(b"".join(self.out))
            self.out.clear()

    def open(self, stream: int, block: bytes, *, end: bool = False) -> None:
        """Send a request's head."""
        self.windows[stream] = self._initial
        self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if end else 0), stream, block))

    def send(self, stream: int, data: memoryview, last: bytes = b"") -> bool:
        """Send data as far as the windows allow, the rest when they open, then the frames `last`, which end it.

        Returns whether all of it went out. What is sent while something waits goes behind it.
        """
        if stream in self._waiting:
            before, _ = self._waiting[stream]
            data = memoryview(b"".join((before, data)))
        while data:
            length = min(len(data), h2.MAX_FRAME, self.window, self.windows[stream])
            if length <= 0:
                self._waiting[stream] = (data, last)
                return False
            self.spend(stream, length)
            self.out += (h2.head(length, h2.DATA, 0, stream), data[:length])
            data = data[length:]
        self._waiting.pop(stream, None)
        if last:
            self.out.append(last)
            del self.windows[stream]
        return True

    def forget(self, stream: int) -> None:
        """Send nothing more on a stream."""
        self.windows.pop(stream, None)
        self._waiting.pop(stream, None)
        self._received_on.pop(stream, None)

    def is_blocked(self, stream: int) -> bool:
        """Whether data of the stream waits for a window."""
        return stream in self._waiting

    def spend(self, stream: int, length: int) -> None:
        """Take the length of a DATA frame from both windows."""
        self.window -= length
        self.windows[stream] -= length

    def _count(self, stream: int, length: int, end: int) -> None:
        self._received += length
        if self._received >= self._connection_half:
            self.out.append(h2.window_update(0, self._received))
            self._received = 0
        if end:
            self._received_on.pop(stream, None)
            return
        received = self._received_on.get(stream, 0) + length
        if received >= self._stream_half:
            self.out.append(h2.window_update(stream, received))
            received = 0
        self._received_on[stream] = received

    def _headers(self, stream: int, payload: memoryview, flags: int) -> None:
        if not flags & h2.END_HEADERS:
            raise ValueError("a header block over several frames is not expected here")
        payload = _unpadded(payload, flags)
        self.windows.setdefault(stream, self._initial)
        self.on_headers(stream, payload[5:] if flags & h2.PRIORITY else payload, bool(flags & h2.END_STREAM))

    def _control(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if kind == h2.WINDOW_UPDATE:
            self._credit(stream, int.from_bytes(payload, "big"))
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            self._settings(payload)
        elif kind == h2.PING and not flags & h2.ACK:
            self.out.append(h2.frame(h2.PING, h2.ACK, 0, bytes(payload)))
        elif kind == h2.RST_STREAM:
            self.forget(stream)
            self.on_reset(stream, int.from_bytes(payload, "big"))
        elif kind == h2.GOAWAY:
            last, code = int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            self.on_goaway(last, code, bytes(payload[8:]))

    def _settings(self, payload: memoryview) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == h2.INITIAL_WINDOW_SIZE:
                initial = int.from_bytes(payload[at + 2 : at + 6], "big")
                # Counts for open streams too (RFC 9113 section 6.9.2).
                for stream in self.windows:
                    self.windows[stream] += initial - self._initial
                self._initial = initial
        self.out.append(h2.frame(h2.SETTINGS, h2.ACK, 0))
        self._resume()

    def _credit(self, stream: int, increment: int) -> None:
        if stream == 0:
            self.window += increment
        elif stream in self.windows:
            self.windows[stream] += increment
        self._resume()

    def _resume(self) -> None:
        for stream, (data, last) in list(self._waiting.items()):
            del self._waiting[stream]
            self.send(stream, data, last)
        self.on_credit()


def _times(data: bytes, at: int, end: int) -> int:
    """How many equal frames begin at `at`, of which the first ends at `end`; a lower number if that is hard to tell."""
    size = end - at
    times = (len(data) - at) // size
    # What equals itself one frame further on is one frame repeated.
    while times > 1 and data[at : at + (times - 1) * size] != data[end : end + (times - 1) * size]:
        times //= 2
    return times


def _unpadded(payload: memoryview, flags: int) -> memoryview:
    return payload[1 : len(payload) - payload[0]] if flags & h2.PADDED else payload
