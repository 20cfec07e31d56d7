"""HTTP/2 (RFC 9113) as push-style machines, one for each side of a connection. See `connection` for what they share."""

from typing import Protocol

from agent.errors import Fault, Outcome
from agent.wire import frames
from agent.wire.connection import Http2, Sink
from agent.wire.fields import Http2Request, Http2Response
from agent.wire.frames import ACK, DEFAULT_WINDOW, MAX_STREAM, Code, Setting
from agent.wire.message import Limits
from agent.wire.sniff import PREFACE
from agent.wire.stream import COST_CONTROL, COST_RESET, EARNS_FINISHED, Bounds, Stream

# Until its SETTINGS come, a server is taken to accept this many streams, the least that the RFC recommends.
_ASSUMED_STREAMS = 100
# Enough for any sequence a server sends in earnest (100, 103); a flood of them would hold a slot for ever.
_MAX_INTERIM = 16
# Control frames of a server that reads none of our replies to them; Envoy and Go hold as many (CVE-2019-9512, 9515).
_MAX_OWED = 10_000


class ServerStream(Stream):
    """A stream that a client has opened."""

    __slots__ = ()

    def on_request(self, head: Http2Request, fault: Fault | None, end: bool) -> None:
        """The request's head; with a fault, it has to be answered all the same."""
        raise NotImplementedError


class ClientStream(Stream):
    """A stream that we open with `ClientHttp2.open`."""

    __slots__ = ()

    def on_interim(self, head: Http2Response) -> None:
        """A 1xx answer."""
        raise NotImplementedError

    def on_response(self, head: Http2Response, end: bool) -> None:
        """The final answer's head."""
        raise NotImplementedError


class ServerSink(Sink, Protocol):
    """What the owner of a server-side machine implements."""

    def open_stream(self) -> ServerStream: ...

    def on_malformed(self, fault: Fault) -> None:
        """A client's mistake that has been answered with RST_STREAM and became no request."""


class ClientSink(Sink, Protocol):
    """What the owner of a client-side machine implements."""

    def on_ready(self) -> None:
        """The server's SETTINGS have come, or the number of streams that it accepts has changed."""

    def on_goaway(self) -> None:
        """No more streams on this connection."""


class ServerHttp2(Http2[ServerStream]):
    """The server's side. The client's preface has been taken off; what follows it is fed.

    `closing` says that streams which come from now on are ignored.
    """

    __slots__ = ("_first_window", "_server", "closing")

    _BROKEN = Outcome.BAD_REQUEST

    def __init__(self, sink: ServerSink, limits: Limits, bounds: Bounds) -> None:
        super().__init__(sink, limits, bounds)
        self._server = sink
        self.closing = False
        # RFC 9113 section 6.9.2: what the client sends before it has seen our SETTINGS has the default window.
        self._first_window = max(bounds.stream_window, DEFAULT_WINDOW)
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: bounds.streams,
            Setting.INITIAL_WINDOW_SIZE: bounds.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.head,
        }
        self.write(
            frames.settings(settings.items()) + frames.window_update(0, bounds.connection_window - DEFAULT_WINDOW)
        )

    def announce_end(self) -> None:
        """First step of a graceful end: no new streams, please; those on their way are still served."""
        if not (self.closing or self.dead):
            self.write(frames.goaway(MAX_STREAM, Code.NO_ERROR))

    def end(self) -> None:
        """Second step: streams that come from now on are not acted on, and the client knows (RFC 9113 section 6.8)."""
        if not (self.closing or self.dead):
            self.closing = True
            self.write(frames.goaway(self._acted, Code.NO_ERROR))

    def end_local(self, stream: ServerStream) -> None:
        stream.local_open = False
        if stream.remote_open:
            # The answer is complete and the rest of the request is of no use (RFC 9113 section 8.1).
            self.reset(stream, Code.NO_ERROR)
        else:
            self._finish(stream)

    def _on_section(self, number: int, block: bytes, end: bool) -> None:
        stream = self.streams.get(number)
        if stream is not None:
            self._on_trailers(stream, block, end)
            return
        if number <= self._last or not number & 1:
            self._sections.skip(block)
            if not number & 1:
                self._break(Code.PROTOCOL_ERROR, "even stream number from a client")
            elif number not in self._forgotten:
                self._break(Code.STREAM_CLOSED, "HEADERS on a closed stream")
            else:
                self._spend(COST_CONTROL)  # trailers that cross our reset come once; decoding them is not free
            return
        self._last = number
        head, fault = self._sections.request(block)
        length = -1 if head.length is None else head.length
        if self.closing:
            self._remember(number)
            return
        self._acted = number
        if len(self.streams) >= self._bounds.streams:
            self._refuse(number, Code.REFUSED_STREAM)
        elif fault is not None and fault.outcome is Outcome.BAD_REQUEST:
            self._server.on_malformed(fault)
            self._refuse(number, Code.PROTOCOL_ERROR)
        elif end and length > 0:
            self._server.on_malformed(Fault(Outcome.BAD_REQUEST, "content-length without a body"))
            self._refuse(number, Code.PROTOCOL_ERROR)
        else:
            new = self._server.open_stream()
            self._add(new, number, self._first_window)
            new.answered = True
            new._length = length
            new.remote_open = not end
            new.on_request(head, fault, end)
            if fault is not None:
                # The answer costs more than the request did, and its end must not pay for it.
                self._spend(COST_RESET + EARNS_FINISHED)

    def _refuse(self, number: int, code: Code) -> None:
        self.write(frames.rst_stream(number, code))
        self._remember(number)
        self._spend(COST_RESET)

    def _spend(self, cost: int) -> bool:
        self.budget -= cost
        if self.budget < 0:
            self._break(Code.ENHANCE_YOUR_CALM, "more resets and control frames than work")
        return not self.dead

    def _may_enable_push(self, value: int) -> bool:
        return value in {0, 1}


class ClientHttp2(Http2[ClientStream]):
    """The client's side."""

    __slots__ = ("_client", "_max_streams", "_next", "_owed", "going_away")

    _BROKEN = Outcome.UPSTREAM_INVALID

    def __init__(self, sink: ClientSink, limits: Limits, bounds: Bounds) -> None:
        super().__init__(sink, limits, bounds)
        self._client = sink
        self._max_streams = _ASSUMED_STREAMS
        self._next = 1
        self._owed = 0
        self.going_away = False
        settings = {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: bounds.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.head,
        }
        self.write(PREFACE)
        self.write(
            frames.settings(settings.items()) + frames.window_update(0, bounds.connection_window - DEFAULT_WINDOW)
        )

    def stop(self) -> None:
        super().stop()
        self._max_streams = 0

    def heed(self, *, congested: bool) -> None:
        """After each read: whether the server takes what is written. Its control frames are free as long as it does."""
        if not congested:
            self._owed = 0
        elif self._owed > _MAX_OWED:
            self._break(Code.ENHANCE_YOUR_CALM, "control frames, and nobody who reads the replies")

    @property
    def room(self) -> int:
        """How many more streams may be opened now."""
        return max(0, self._max_streams - len(self.streams))

    def open(self, stream: ClientStream, block: bytes, end: bool) -> None:
        """Send a request's head on a new stream."""
        number = self._next
        self._next = self._last = number
        self._next += 2
        self._add(stream, number, self._bounds.stream_window)
        stream.target = self._bounds.stream_window
        stream.send_head(block, end)
        if self._next > MAX_STREAM:
            self._retire()

    def end_local(self, stream: ClientStream) -> None:
        stream.local_open = False
        if not stream.remote_open:
            self._finish(stream)

    def _on_section(self, number: int, block: bytes, end: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            self._sections.skip(block)
            self._on_stray(number, None)
        elif stream.answered:
            self._on_trailers(stream, block, end)
        else:
            head = self._sections.response(block)
            if isinstance(head, Fault):
                self._reset_for(stream, Code.PROTOCOL_ERROR, head.detail)
            elif head.status < 200:
                self._on_interim(stream, head, end)
            else:
                self._on_response(stream, head, end)

    def _on_response(self, stream: ClientStream, head: Http2Response, end: bool) -> None:
        stream.answered = True
        # Where no body may follow, content-length tells what it would be (RFC 9110 section 8.6), and `_length` stays 0.
        if not (stream.bodyless or head.status in {204, 304}):
            if end and head.length:
                self._reset_for(stream, Code.PROTOCOL_ERROR, "content-length without a body")
                return
            stream._length = -1 if head.length is None else head.length
        stream.remote_open = not end
        stream.on_response(head, end)
        if end and not stream.local_open:
            self._finish(stream)

    def _on_interim(self, stream: ClientStream, head: Http2Response, end: bool) -> None:
        stream.interim += 1
        if end or stream.interim > _MAX_INTERIM:
            self._reset_for(stream, Code.PROTOCOL_ERROR, "too many interim responses, or one that ends the stream")
        else:
            stream.on_interim(head)

    def _spend(self, cost: int) -> bool:
        self._owed += cost
        return not self.dead

    def _on_stray(self, number: int, code: Code | None) -> None:
        # A server may go on sending after our RST_STREAM for as long as it likes; that is its traffic, not its mistake.
        if self._is_idle(number):
            super()._on_stray(number, code)

    def _apply(self, setting: int, value: int) -> None:
        if setting == Setting.MAX_CONCURRENT_STREAMS:
            if not self.going_away:
                self._max_streams = value
        else:
            super()._apply(setting, value)

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if not (self.has_settings or self.going_away or flags & ACK):
            self._max_streams = MAX_STREAM  # no limit unless these SETTINGS name one
        super()._on_settings(flags, number, payload)
        if not (self.dead or flags & ACK):
            self._client.on_ready()

    def _on_goaway(self, number: int, payload: bytes) -> None:
        super()._on_goaway(number, payload)
        if self.dead:
            return
        self._retire()
        last = int.from_bytes(payload[:4], "big") & MAX_STREAM
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            # Never acted on, so as good as refused (RFC 9113 section 6.8).
            if self.streams.pop(stream.id, None) is not None:
                self._drop(stream)
                stream.on_reset(Code.REFUSED_STREAM)

    def _retire(self) -> None:
        """No more streams on this connection."""
        self.going_away = True
        self._max_streams = 0
        self._client.on_goaway()

    def _may_enable_push(self, value: int) -> bool:
        return value == 0
