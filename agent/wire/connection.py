"""What the two sides of an HTTP/2 connection share (RFC 9113): frames in, flow control, errors, and a budget.

What breaks a rule inside a stream resets the stream, what breaks one of the connection ends it with GOAWAY, as the RFC
classifies them. One budget answers for floods: resets, control frames and empty frames draw on it; finished streams,
sent data and time pay into it. A client that overdraws it is told ENHANCE_YOUR_CALM (CVE-2023-44487 rapid reset,
CVE-2025-8671 made-you-reset, CVE-2019-9512 to 9518, VU#421644 CONTINUATION flood). What belongs to one side alone is in
`http2`.
"""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from agent.errors import Fault, Outcome
from agent.wire import frames
from agent.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADER,
    HEADER_SIZE,
    HEADERS,
    MAX_FRAME,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    Setting,
)
from agent.wire.hpack import DEFAULT_TABLE_SIZE, EMPTY_TABLE, BlockError
from agent.wire.message import Limits
from agent.wire.sections import Sections
from agent.wire.stream import COST_CONTROL, COST_RESET, EARNS_FINISHED, Bounds, Stream

_unpack = HEADER.unpack_from
# Smaller reads are copied once and sliced as bytes, which is cheaper than slicing views (60 against 250 ns); of larger
# ones each payload is copied where it is kept, and no byte twice.
_COPY_BELOW = 64 * 1024
_WHOLE_SECTION = END_HEADERS | END_STREAM
# Where a frame's header has its type (RFC 9113 section 4.1).
_KIND_AT = 3


class Sink(Protocol):
    """What the owner of a machine implements."""

    def write(self, data: bytes) -> None: ...

    def on_broken(self, code: Code, detail: str) -> None:
        """The connection cannot go on; GOAWAY has been written. Its streams are in `machine.streams`."""

    def on_stream_end(self, stream: "Stream") -> None:
        """A stream is gone, whichever way."""


_S = TypeVar("_S", bound=Stream)


class Http2(Generic[_S]):
    """What both sides share. `feed` takes what the peer sent and never raises for what it is."""

    __slots__ = (
        "_acted",
        "_block",
        "_block_end",
        "_block_frames",
        "_block_stream",
        "_bounds",
        "_feeding",
        "_forgotten",
        "_initial_window",
        "_last",
        "_low_window",
        "_ordinary",
        "_partial",
        "_sections",
        "_sink",
        "_window",
        "budget",
        "dead",
        "has_settings",
        "max_frame",
        "send_window",
        "streams",
        "table_update",
        "waiting",
        "write",
    )

    # The outcome of a violation by the peer of this side.
    _BROKEN: Outcome

    def __init__(self, sink: Sink, limits: Limits, bounds: Bounds) -> None:
        self._sink = sink
        self._bounds = bounds
        self.write = sink.write
        self.streams: dict[int, _S] = {}
        self.dead = False
        self.has_settings = False
        self._ordinary = False  # SETTINGS have come, and no header section is under way
        self.max_frame = MAX_FRAME
        self.send_window = DEFAULT_WINDOW
        self.budget = bounds.budget
        self._initial_window = DEFAULT_WINDOW
        self._window = bounds.connection_window
        self._low_window = bounds.connection_window >> 1
        self._last = 0
        self._acted = 0  # the highest of the peer's streams that was or may be acted on, for GOAWAY
        self.table_update = b""
        self._partial = b""
        self._feeding = False
        self._sections = Sections(limits)
        self._block = b""
        self._block_stream = 0
        self._block_end = False
        self._block_frames = 0
        self._forgotten: OrderedDict[int, None] = OrderedDict()
        self.waiting: dict[Stream, None] = {}

    def feed(self, data: memoryview) -> None:
        """Take bytes from the peer."""
        assert not self._feeding, "feed is not reentrant"
        self._feeding = True
        try:
            if not self.dead:
                self._feed(data)
        except BlockError as error:
            self._break(Code.COMPRESSION_ERROR, str(error))
        finally:
            self._feeding = False

    def stop(self) -> None:
        """Ignore all further input."""
        self.dead = True
        self._partial = b""

    @property
    def open_section(self) -> bytes:
        """Tells a header section that has begun and is not all here from any other; empty if there is none."""
        partial = self._partial
        if self._block_frames:
            return self._block_stream.to_bytes(4, "big")
        is_head = len(partial) > _KIND_AT and partial[_KIND_AT] == HEADERS
        return partial[:HEADER_SIZE] if is_head else b""

    def refill(self, seconds: float) -> None:
        """Time has passed: the peer may do a little more."""
        bounds = self._bounds
        self.budget = min(bounds.budget, self.budget + int(seconds * bounds.refill_per_s) + 1)

    # Streams call these

    def end_local(self, stream: _S) -> None:
        """We have sent all of our side."""
        raise NotImplementedError

    def reset(self, stream: _S, code: Code) -> None:
        """End a stream with RST_STREAM."""
        if self.streams.pop(stream.id, None) is None:
            return
        self.write(frames.rst_stream(stream.id, code))
        self._remember(stream.id)
        self._drop(stream)

    # Receiving

    def _feed(self, view: memoryview) -> None:
        if len(view) < _COPY_BELOW:
            data = self._partial + bytes(view) if self._partial else bytes(view)
            self._partial = b""
            self._read(data)
            return
        while self._partial and view:
            view = self._complete(view)
        if not self.dead:
            self._read(view)

    def _complete(self, view: memoryview) -> memoryview:
        """Add to the frame that has begun what belongs to it, no more, so that the rest need not be copied."""
        partial, self._partial = self._partial, b""
        size = HEADER_SIZE
        if len(partial) >= size:
            size += int.from_bytes(partial[:3], "big")
        missing = size - len(partial)
        self._read(partial + bytes(view[:missing]))
        return view[missing:]

    def _read(self, data: bytes | memoryview) -> None:
        """Act on all frames that are whole, and keep what follows them."""
        size, at, received = len(data), 0, 0
        streams = self.streams
        while size - at >= HEADER_SIZE:
            length, flags, number = _unpack(data, at)
            kind = length & 0xFF
            length >>= 8
            if length > MAX_FRAME:
                self._break(Code.FRAME_SIZE_ERROR, "frame above SETTINGS_MAX_FRAME_SIZE")
                return
            start = at + HEADER_SIZE
            at = start + length
            if at > size:
                at = start - HEADER_SIZE
                break
            # The two frames that there are most of, on the paths that they nearly all take.
            if self._ordinary and kind == DATA and flags <= END_STREAM and length:
                stream = streams.get(number)
                window = -1 if stream is None else stream.window - length
                if stream is not None and window >= 0 and stream._length < 0 and stream.remote_open:
                    stream.window = window
                    received += length
                    if flags:
                        stream.remote_open = False
                        stream.on_data(data[start:at], True)
                        if not stream.local_open:
                            self._finish(stream)
                    else:
                        stream.on_data(data[start:at], False)
                        if stream.window <= stream.target >> 1:
                            stream.credit()
                else:
                    self._on_data(number & MAX_STREAM, flags, data[start:at])
            elif self._ordinary and kind == HEADERS and flags | END_STREAM == _WHOLE_SECTION and number:
                self._on_section(number & MAX_STREAM, bytes(data[start:at]), flags & END_STREAM > 0)
            else:
                self._on_frame(kind, flags, number & MAX_STREAM, bytes(data[start:at]))
            if self.dead:
                return
        self._window -= received
        if self._window < self._low_window:
            self._refill_window()
        if at < size:
            self._partial = bytes(data[at:])

    def _on_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        """Any frame but ordinary DATA."""
        if not self.has_settings and (kind != SETTINGS or flags & ACK):
            self._break(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        elif self._block_frames and kind != CONTINUATION:
            self._break(Code.PROTOCOL_ERROR, "frame inside a header section")
        elif kind == HEADERS:
            self._on_headers(flags, number, payload)
        elif kind == DATA:
            self._on_data(number, flags, payload)
        elif kind == WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == RST_STREAM:
            self._on_rst_stream(number, payload)
        elif kind == CONTINUATION:
            self._on_continuation(flags, number, payload)
        elif kind == PING:
            self._on_ping(flags, number, payload)
        elif kind == SETTINGS:
            self._on_settings(flags, number, payload)
        elif kind == PRIORITY:
            self._on_priority(number, payload)
        elif kind == GOAWAY:
            self._on_goaway(number, payload)
        elif kind == PUSH_PROMISE:
            self._break(Code.PROTOCOL_ERROR, "PUSH_PROMISE is not enabled")
        else:
            self._spend(COST_CONTROL)  # unknown types are ignored (RFC 9113 section 5.5)

    def _on_data(self, number: int, flags: int, payload: bytes | memoryview) -> None:
        """DATA that is padded or empty, or that the fast path in `_read` did not take."""
        size = len(payload)
        if not number:
            self._break(Code.PROTOCOL_ERROR, "DATA on stream 0")
            return
        self._window -= size
        if self._window < 0:
            self._break(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
            return
        if flags & PADDED:
            if not size or payload[0] >= size:
                code = Code.PROTOCOL_ERROR if size else Code.FRAME_SIZE_ERROR
                self._break(code, "padding longer than its frame")
                return
            padding = payload[0]
            payload = payload[1 : size - padding]
        if not (payload or flags & END_STREAM or self._spend(COST_CONTROL)):
            return
        stream = self.streams.get(number)
        if stream is None:
            self._on_stray(number, Code.STREAM_CLOSED)
        elif not stream.remote_open:
            self._reset_for(stream, Code.STREAM_CLOSED, "DATA after END_STREAM")
        else:
            stream.window -= size
            self._on_body(stream, payload, flags)

    def _on_body(self, stream: _S, payload: bytes | memoryview, flags: int) -> None:
        """DATA of an open stream, its flow control booked."""
        if stream.window < 0:
            self._reset_for(stream, Code.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
            return
        end = bool(flags & END_STREAM)
        if not stream.answered:
            self._reset_for(stream, Code.PROTOCOL_ERROR, "DATA before HEADERS")
            return
        if stream._length >= 0:
            stream._length -= len(payload)
            if stream._length < 0 or (end and stream._length):
                self._reset_for(stream, Code.PROTOCOL_ERROR, "DATA and content-length differ")
                return
        if end:
            stream.remote_open = False
        stream.on_data(payload, end)
        if not end:
            stream.credit()
        elif not stream.local_open:
            self._finish(stream)

    def _refill_window(self) -> None:
        if self._window < 0:
            self._break(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
            return
        # Granted on arrival: what a stream that waits holds is bounded by its own window and must not stall the others.
        missing = self._bounds.connection_window - self._window
        self._window += missing
        self.write(frames.window_update(0, missing))

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            self._break(Code.PROTOCOL_ERROR, "HEADERS on stream 0")
            return
        start, end = 0, len(payload)
        if flags & PADDED:
            start = 1
            end -= payload[0] if payload else 0
        if flags & HAS_PRIORITY:
            start += 5
        if start > end:
            code = Code.PROTOCOL_ERROR if start <= len(payload) else Code.FRAME_SIZE_ERROR
            self._break(code, "padding or priority longer than the frame")
            return
        if flags & HAS_PRIORITY and int.from_bytes(payload[start - 5 : start - 1], "big") & MAX_STREAM == number:
            # RFC 9113 section 5.3 deprecates priorities; RFC 7540 made this a stream error. The block has to be decoded
            # all the same, so the connection ends, which both allow.
            self._break(Code.PROTOCOL_ERROR, "stream that depends on itself")
            return
        block = payload[start:end] if flags & (PADDED | HAS_PRIORITY) else payload
        if flags & END_HEADERS:
            self._on_section(number, block, bool(flags & END_STREAM))
        else:
            self._block, self._block_stream, self._block_end = block, number, bool(flags & END_STREAM)
            self._block_frames = 1
            self._ordinary = False

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if not self._block_frames or number != self._block_stream:
            self._break(Code.PROTOCOL_ERROR, "CONTINUATION of no header section")
            return
        if not self._spend(COST_CONTROL):
            return
        self._block += payload
        self._block_frames += 1
        if len(self._block) > self._bounds.block or self._block_frames > self._bounds.continuations:
            self._break(Code.ENHANCE_YOUR_CALM, "header section too large or in too many frames")
        elif flags & END_HEADERS:
            block, self._block, self._block_frames = self._block, b"", 0
            self._ordinary = True
            self._on_section(number, block, self._block_end)

    def _on_section(self, number: int, block: bytes, end: bool) -> None:
        """A whole header section. Raises BlockError."""
        raise NotImplementedError

    def _on_trailers(self, stream: _S, block: bytes, end: bool) -> None:
        trailers = self._sections.trailers(block)
        if not stream.remote_open:
            self._reset_for(stream, Code.STREAM_CLOSED, "HEADERS after END_STREAM")
        elif trailers is None or not end or stream._length > 0:
            self._reset_for(stream, Code.PROTOCOL_ERROR, "malformed trailers")
        else:
            stream.remote_open = False
            stream.on_trailers(trailers)
            if not stream.local_open:
                self._finish(stream)

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._break(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
            return
        if not self._spend(COST_CONTROL):
            return
        size = int.from_bytes(payload, "big") & MAX_WINDOW
        if not number:
            self.send_window += size
            if not size or self.send_window > MAX_WINDOW:
                self._break(*_bad_increment(size))
            elif self.waiting:
                self._pump_all()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._on_stray(number, None)
            return
        stream.send_window += size
        if not size or stream.send_window > MAX_WINDOW:
            self._reset_for(stream, *_bad_increment(size))
        elif stream._held is not None:
            stream.pump()

    def _on_rst_stream(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            self._break(Code.FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
            return
        stream = self.streams.pop(number, None)
        if stream is None:
            self._on_stray(number, None)
        else:
            self._drop(stream)
            stream.on_reset(int.from_bytes(payload, "big"))
        self._spend(COST_RESET)

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            self._break(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "malformed PING")
            return
        if self._spend(COST_CONTROL) and not flags & ACK:
            self.write(frames.frame(PING, ACK, 0, payload))

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & ACK and payload):
            self._break(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "malformed SETTINGS")
            return
        if not self._spend(COST_CONTROL + len(payload) // 6) or flags & ACK:
            return
        self.has_settings = self._ordinary = True
        for setting, value in frames.read_settings(payload):
            self._apply(setting, value)
            if self.dead:
                return
        # Nothing may come before the acknowledgement that relies on the new values (RFC 9113 section 6.5.3).
        self.write(frames.SETTINGS_ACK)
        if self.waiting:
            self._pump_all()

    def _apply(self, setting: int, value: int) -> None:
        if setting == Setting.HEADER_TABLE_SIZE:
            # Our encoder keeps no table, but a strict peer waits for the word that it has shrunk.
            if value < DEFAULT_TABLE_SIZE:
                self.table_update = EMPTY_TABLE
        elif setting == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                self._break(Code.FLOW_CONTROL_ERROR, "initial window above 2^31-1")
                return
            change, self._initial_window = value - self._initial_window, value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > MAX_WINDOW:
                    self._break(Code.FLOW_CONTROL_ERROR, "window above 2^31-1")
                    return
        elif setting == Setting.MAX_FRAME_SIZE:
            if not MAX_FRAME <= value < 1 << 24:
                self._break(Code.PROTOCOL_ERROR, "frame size outside 2^14..2^24-1")
                return
            self.max_frame = value
        elif setting == Setting.ENABLE_PUSH and not self._may_enable_push(value):
            self._break(Code.PROTOCOL_ERROR, "bad SETTINGS_ENABLE_PUSH")

    def _may_enable_push(self, value: int) -> bool:
        raise NotImplementedError

    def _on_priority(self, number: int, payload: bytes) -> None:
        if not self._spend(COST_CONTROL):
            return
        if not number:
            self._break(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        elif len(payload) != 5 or int.from_bytes(payload[:4], "big") & MAX_STREAM == number:
            code = Code.PROTOCOL_ERROR if len(payload) == 5 else Code.FRAME_SIZE_ERROR
            stream = self.streams.get(number)
            if stream is not None:
                self._reset_for(stream, code, "malformed PRIORITY")
            elif self._is_idle(number):
                # RST_STREAM must not be sent for an idle stream (RFC 9113 section 6.4).
                self._break(code, "malformed PRIORITY")
            else:
                self.write(frames.rst_stream(number, code))
                self._spend(COST_RESET)

    def _on_goaway(self, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            self._break(Code.PROTOCOL_ERROR if number else Code.FRAME_SIZE_ERROR, "malformed GOAWAY")
        else:
            self._spend(COST_CONTROL)

    def _on_stray(self, number: int, code: Code | None) -> None:
        """A frame on a stream that is not open: idle, or gone. `code` is None where a closed stream may get it."""
        if self._is_idle(number):
            self._break(Code.PROTOCOL_ERROR, "frame on an idle stream")
        elif code is not None and number not in self._forgotten:
            self._break(code, "frame on a closed stream")

    def _is_idle(self, number: int) -> bool:
        """Even streams are the server's to open, and none does."""
        return not number & 1 or number > self._last

    def _pump_all(self) -> None:
        """Windows have grown: whoever waited longest goes first."""
        for stream in list(self.waiting):
            if self.send_window <= 0:
                return
            if stream in self.waiting:  # else the owner of another one has just reset it
                del self.waiting[stream]
                stream.pump()

    # Endings

    def _spend(self, cost: int) -> bool:
        """Charge the peer. Returns whether the connection goes on."""
        self.budget -= cost
        return not self.dead

    def _finish(self, stream: _S) -> None:
        """Both sides have ended it."""
        if self.streams.pop(stream.id, None) is not None:
            self.budget += EARNS_FINISHED
            self._sink.on_stream_end(stream)

    def _add(self, stream: _S, number: int, window: int) -> None:
        """A stream has been opened."""
        stream._machine = self
        stream.id = number
        stream.window = window
        stream.send_window = self._initial_window
        self.streams[number] = stream

    def _drop(self, stream: _S) -> None:
        """A stream was reset."""
        stream.local_open = stream.remote_open = False
        stream._held = None
        self.waiting.pop(stream, None)
        self._sink.on_stream_end(stream)

    def _remember(self, number: int) -> None:
        """Frames of the peer that crossed a reset are still to come."""
        self._forgotten[number] = None
        if len(self._forgotten) > self._bounds.resets:
            self._forgotten.popitem(last=False)

    def _reset_for(self, stream: _S, code: Code, detail: str) -> None:
        """The peer broke a rule inside a stream."""
        self.reset(stream, code)
        stream.on_fault(Fault(self._BROKEN, detail))
        self._spend(COST_RESET)

    def _break(self, code: Code, detail: str) -> None:
        """The peer broke a rule of the connection."""
        if not self.dead:
            self.stop()
            self.write(frames.goaway(self._acted, code))
            self._sink.on_broken(code, detail)


def _bad_increment(size: int) -> tuple[Code, str]:
    if size:
        return Code.FLOW_CONTROL_ERROR, "window above 2^31-1"
    return Code.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing"
