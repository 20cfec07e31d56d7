"""HTTP/2 connections of a gRPC caller: frames in and out, and flow control in both directions."""

import asyncio
import struct
import time
from typing import Protocol, cast

from loadgen import h2
from loadgen.client import Link
from loadgen.record import Cause, GrpcStatus, Outcome, Sample, outcome_of_grpc, outcome_of_status

_STREAM_WINDOW = h2.MAX_WINDOW
_CONNECTION_WINDOW = 1 << 30
_MAX_HEAD = 64 * 1024
_ODD = h2.END_HEADERS | h2.PADDED | h2.PRIORITY
_OK = Outcome.OK  # an enumeration's own attributes take 50 ns each to look up
_NUMBER = struct.Struct(">L")

_GREETING = (
    h2.PREFACE
    + h2.settings({h2.ENABLE_PUSH: 0, h2.INITIAL_WINDOW_SIZE: _STREAM_WINDOW})
    + h2.window_update(0, _CONNECTION_WINDOW - h2.DEFAULT_WINDOW)
)


class Owner(Protocol):
    """The client, as its connections see it."""

    streams: int
    head: bytes
    keep_bodies: bool

    def on_connected(self, connection: "CallLink") -> None:
        """It is there, and may be dropped."""

    def on_lost(self, connection: "CallLink") -> None:
        """It is gone."""

    def on_going(self, connection: "CallLink") -> None:
        """It takes no further calls."""

    def on_free(self, connection: "CallLink") -> None:
        """It has room for more calls than before."""

    def on_answered(self, sample: Sample, status: int, outcome: Outcome, read_ns: int) -> None:
        """The answer to `sample` was whole with what was read at `read_ns`."""

    def on_failed(self, sample: Sample, cause: Cause) -> None:
        """`sample` will not be answered."""


class CallLink(Link):
    """One connection with a call on each of its streams."""

    def __init__(self, client: Owner) -> None:
        self.room = self._limit = client.streams  # room is negative where the server allows less than are open
        self.is_listed = False  # among those of the client that have room
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Nobody waits for it any more when a dial was given up.
        self.settled.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._client = client
        self._transport: asyncio.Transport
        self._calls: dict[int, Sample] = {}
        self._heads = h2.Heads()
        self._rest = b""
        self._block: tuple[int, int, bytes] | None = None  # a header block that goes on in CONTINUATION
        self._next = 1
        self._window = h2.DEFAULT_WINDOW
        self._initial = h2.DEFAULT_WINDOW
        self._max_frame = h2.MAX_FRAME
        self._whole = min(self._max_frame, self._initial)  # a message of so many bytes is one frame
        self._windows: dict[int, int] = {}  # of streams whose message has not gone out whole
        self._unsent: dict[int, tuple[memoryview, int]] = {}
        self._received = 0
        self._out: list[bytes | memoryview] = []
        # What is before and between the two stream numbers of a call, by the size of its message.
        self._head_start = h2.FRAME_HEAD.pack(0, len(client.head), h2.HEADERS, h2.END_HEADERS, 0)[:5]
        self._middles: dict[int, bytes] = {}
        self._reading = False
        self._read_ns = 0
        self._going = False
        self._reads = client.keep_bodies  # otherwise DATA is only counted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(_GREETING)
        self._client.on_connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.settled.done():
            self.settled.set_exception(exc or ConnectionResetError("closed before its SETTINGS"))
        self._fail_all(Cause.CLOSED if exc is None else Cause.RESET)
        self._client.on_lost(self)

    def abandon(self) -> None:
        self._calls.clear()
        self._transport.abort()

    def cancel(self, sample: Sample) -> None:
        for stream, other in self._calls.items():
            if other is sample:
                self._emit(h2.frame(h2.RST_STREAM, 0, stream, h2.CANCEL.to_bytes(4, "big")))
                self._close_stream(stream)
                return

    def send(self, request: bytes, sample: Sample) -> None:
        stream, size = self._open(sample), len(request)
        if size > self._whole or size > self._window or self._unsent:
            self._emit(self._head_start, _NUMBER.pack(stream), self._client.head)
            self._send_body(stream, request, h2.END_STREAM)
            return
        self._window -= size
        number, middle = _NUMBER.pack(stream), self._middles.get(size) or self._middle_of(size)
        if self._reading:
            self._out += (self._head_start, number, middle, number, request)
        else:
            self._transport.write(b"".join((self._head_start, number, middle, number, request)))

    def _middle_of(self, size: int) -> bytes:
        start = h2.FRAME_HEAD.pack(size >> 16, size & 0xFFFF, h2.DATA, h2.END_STREAM, 0)[:5]
        middle = self._middles[size] = self._client.head + start
        return middle

    def _open(self, sample: Sample) -> int:
        stream = self._next
        self._next += 2
        if self._next > h2.LAST_STREAM:
            self._go()
        self._calls[stream] = sample
        self.room -= 1
        return stream

    def _send_body(self, stream: int, request: bytes, end: int) -> None:
        self._windows.setdefault(stream, self._initial)
        self._unsent[stream] = (memoryview(request), end)
        self._push(stream)

    def _push(self, stream: int) -> None:
        """Send of a message what the windows allow."""
        rest, end = self._unsent[stream]
        while rest:
            size = min(len(rest), self._max_frame, self._window, self._windows[stream])
            if size <= 0:
                self._unsent[stream] = (rest, end)
                return
            self._window -= size
            self._windows[stream] -= size
            flags = end if size == len(rest) else 0
            self._emit(h2.FRAME_HEAD.pack(size >> 16, size & 0xFFFF, h2.DATA, flags, stream), rest[:size])
            rest = rest[size:]
        del self._unsent[stream]
        if end:
            del self._windows[stream]

    def _emit(self, *pieces: bytes | memoryview) -> None:
        if self._reading:
            self._out += pieces
        else:
            self._transport.write(b"".join(pieces))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        self._reading = True
        # One for all that came at once: what the later answers waited for was the generator, not the target.
        self._read_ns = read_ns = time.monotonic_ns()
        at, size = 0, len(data)
        calls, client, heads, reads = self._calls, self._client, self._heads, self._reads
        unpack = h2.FRAME_HEAD.unpack_from
        while size - at >= 9:
            usual = heads.usual  # any block may change it
            if usual is not None and not reads and size - at >= usual.least and (found := usual.read(data, at)):
                stream, length = found
                self._received += length
                if self._windows:  # it may be answered before it has gone out whole
                    if stream in calls:
                        self._finish(stream, 0, _OK, end=True)
                elif (sample := calls.pop(stream, None)) is not None:
                    self.room += 1
                    if not self.is_listed and not self._going:
                        client.on_free(self)
                    client.on_answered(sample, 0, _OK, read_ns)
                at += usual.least + length
                continue
            high, low, kind, flags, stream = unpack(data, at)
            end = at + 9 + (high << 16 | low)
            if end > size:
                if end - at - 9 > h2.MAX_FRAME:  # more than it may send; HTTP/1.1 reads like that
                    self._transport.abort()
                    self._fail_all(Cause.INVALID)
                break
            if kind == h2.DATA:
                self._received += end - at - 9
                if flags or reads:
                    self._on_data(stream, data, at + 9, end, flags)
            elif kind == h2.HEADERS:
                block = data[at + 9 : end]
                if flags & _ODD != h2.END_HEADERS:
                    self._on_headers(stream, block, flags)
                elif flags & h2.END_STREAM or block not in heads.plain or reads:
                    self._on_block(stream, block, flags)
            else:
                self._on_control(kind, flags, stream, data[at + 9 : end])
            at = end
        self._rest = data[at:]
        self._reading = False
        self._flush()

    def _flush(self) -> None:
        """Send what the reading has led to."""
        if self._received > _CONNECTION_WINDOW // 2:
            self._out.append(h2.window_update(0, self._received))
            self._received = 0
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._going and not self._calls:
            self._transport.close()

    def _on_data(self, stream: int, data: bytes, start: int, end: int, flags: int) -> None:
        sample = self._calls.get(stream)
        if sample is None:
            return
        if self._client.keep_bodies:
            sample.body += unpadded(data[start:end], flags)
        if flags & h2.END_STREAM:
            self._fail(stream, Cause.TRUNCATED)  # a gRPC answer ends with trailers

    def _on_headers(self, stream: int, block: bytes, flags: int) -> None:
        block = unpadded(block, flags)
        if flags & h2.PRIORITY:
            block = block[5:]
        if flags & h2.END_HEADERS:
            self._on_block(stream, block, flags)
        else:
            self._block = (stream, flags, block)

    def _on_block(self, stream: int, block: bytes, flags: int) -> None:
        meaning = self._heads.read(block)
        if meaning is None:
            self._transport.abort()
            self._fail_all(Cause.INVALID)
            return
        if meaning.is_plain and not flags & h2.END_STREAM and not self._client.keep_bodies:
            return
        sample = self._calls.get(stream)
        if sample is None:
            return
        if self._client.keep_bodies:
            sample.headers = [*sample.headers, *meaning.fields]
        if meaning.http not in {0, 200} and meaning.http >= 200 and meaning.grpc is None:
            self._finish(stream, meaning.http, outcome_of_status(meaning.http), end=bool(flags & h2.END_STREAM))
        elif flags & h2.END_STREAM:
            if meaning.pushback_s is not None:
                sample.retry_after_s = meaning.pushback_s
            code = GrpcStatus.UNKNOWN if meaning.grpc is None else meaning.grpc
            self._finish(stream, code, outcome_of_grpc(code), end=True)

    def _finish(self, stream: int, status: int, outcome: Outcome, *, end: bool) -> None:
        sample = self._calls[stream]
        if not end or stream in self._unsent:
            # The rest is of no interest, or the server has answered before it had read everything.
            self._emit(h2.frame(h2.RST_STREAM, 0, stream, h2.CANCEL.to_bytes(4, "big")))
        self._close_stream(stream)
        self._client.on_answered(sample, status, outcome, self._read_ns)

    def _close_stream(self, stream: int) -> None:
        del self._calls[stream]
        if self._windows:
            self._windows.pop(stream, None)
            self._unsent.pop(stream, None)
        self.room += 1
        if not self.is_listed and not self._going:
            self._client.on_free(self)

    def _fail(self, stream: int, cause: Cause) -> None:
        sample = self._calls.get(stream)
        if sample is not None:
            self._close_stream(stream)
            self._client.on_failed(sample, cause)

    def _fail_all(self, cause: Cause) -> None:
        self._go()
        for stream in list(self._calls):
            self._fail(stream, cause)

    def _go(self) -> None:
        self._going = True
        self._client.on_going(self)

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.SETTINGS and not flags & h2.ACK:
            self._on_settings(payload)
        elif kind == h2.WINDOW_UPDATE:
            self._on_credit(stream, int.from_bytes(payload, "big"))
        elif kind == h2.PING and not flags & h2.ACK:
            self._out.append(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM:
            refused = int.from_bytes(payload, "big") == h2.REFUSED_STREAM
            self._fail(stream, Cause.GOAWAY if refused else Cause.RESET)
        elif kind == h2.GOAWAY:
            self._go()
            last = int.from_bytes(payload[:4], "big")
            for later in [number for number in self._calls if number > last]:
                self._fail(later, Cause.GOAWAY)
        elif kind == h2.CONTINUATION and self._block is not None:
            first, first_flags, block = self._block
            self._block = None
            if len(block) > _MAX_HEAD:
                self._transport.abort()
            else:
                self._on_headers(first, block + payload, first_flags & ~h2.PADDED & ~h2.PRIORITY | flags)

    def _on_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload) - 5, 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == h2.INITIAL_WINDOW_SIZE:
                # Counts for open streams too (RFC 9113 section 6.9.2).
                for stream in self._windows:
                    self._windows[stream] += value - self._initial
                self._initial = value
            elif key == h2.MAX_FRAME_SIZE:
                self._max_frame = value
            elif key == h2.MAX_CONCURRENT_STREAMS:
                limit = max(1, min(self._client.streams, value))
                self.room += limit - self._limit
                self._limit = limit
        self._whole = min(self._max_frame, self._initial)
        self._out.append(h2.frame(h2.SETTINGS, h2.ACK, 0))
        if not self.settled.done():
            self.settled.set_result(None)
        elif not self._going:
            self._client.on_free(self)
        self._resume()

    def _on_credit(self, stream: int, increment: int) -> None:
        if not stream:
            self._window += increment
        elif stream in self._windows:
            self._windows[stream] += increment
        self._resume()

    def _resume(self) -> None:
        for stream in list(self._unsent):
            self._push(stream)


def unpadded(payload: bytes, flags: int) -> bytes:
    """What a frame carries beside its padding."""
    return payload[1 : len(payload) - payload[0]] if flags & h2.PADDED else payload
