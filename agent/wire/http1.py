"""HTTP/1.1 (RFC 9112) as push-style machines, one for each side of a connection. See `message` for what they share."""

from typing import Protocol

from httptools import HttpRequestParser, HttpResponseParser

from agent.errors import Fault, Outcome
from agent.wire.head import RequestHead, ResponseHead
from agent.wire.message import CHUNKED, DEAD, HEAD, LENGTH, READY, TUNNEL, UNTIL_EOF, BodySink, HeadCache, Http1, Limits

# Enough for any sequence a server sends in earnest (100, 102, 103); a flood of them would hold a slot for ever.
_MAX_INTERIM = 16
_EMPTY = memoryview(b"")


class RequestSink(BodySink, Protocol):
    """What the owner of a server-side machine implements."""

    def on_request(self, head: RequestHead, end: bool) -> None: ...


class ResponseSink(BodySink, Protocol):
    """What the owner of a client-side machine implements. `on_interim` gets every 1xx but 101."""

    def on_response(self, head: ResponseHead, end: bool) -> None: ...

    def on_interim(self, head: ResponseHead) -> None: ...


class ServerHttp1(Http1):
    """The server's side: requests in. What follows a complete request is held back until `next_message`.

    The bytes held back are in `held`; the owner stops reading when they grow.
    """

    __slots__ = ("_head", "_parser", "_requests", "held")

    _BROKEN = Outcome.BAD_REQUEST

    def __init__(self, sink: RequestSink, limits: Limits, cache: HeadCache) -> None:
        super().__init__(sink, limits, cache, HEAD)
        self.held = bytearray()
        self._requests = sink
        self._head: RequestHead
        self._parser: HttpRequestParser | None = None

    def eof(self) -> None:
        """The peer ended its side of the connection cleanly."""
        if self.state is LENGTH or self.state is CHUNKED or self._partial:
            self._fail(Outcome.BAD_REQUEST, "connection ended inside a request")

    def next_message(self) -> None:
        """The reply to the request is complete; go on with what the client sent after it."""
        if self.state is READY:
            self.state = HEAD
            self._release()

    def start_tunnel(self) -> None:
        """The upgrade was accepted with 101; from now on `on_body` gets raw bytes."""
        self.state = TUNNEL
        self._release()

    def stop(self) -> None:
        super().stop()
        self.held.clear()

    def _release(self) -> None:
        if self.held and not self._feeding:
            data, self.held = self.held, bytearray()
            self.feed(memoryview(bytes(data)))

    def _parse(self, data: bytes) -> int:
        if self._parser is None:
            self._head = RequestHead()
            self._parser = HttpRequestParser(self._head)
        self._parser.feed_data(data)
        return len(self._head.fields)

    def _on_surplus(self, data: memoryview) -> None:
        self.held += data

    def _end_message(self, rest: memoryview) -> None:  # noqa: ARG002 - the client's side looks at it
        self.state = READY

    def _too_large(self) -> Outcome:
        head = self._head if self._parser is not None else None
        too_long = head is not None and len(head.target) > self._limits.target
        return Outcome.URI_TOO_LONG if too_long else Outcome.HEAD_TOO_LARGE

    def _on_known_head(self, raw: bytes, rest: memoryview) -> bool:
        head = self._cache.requests.get(raw)
        if head is None or self._parser is not None:
            return False
        self._requests.on_request(head, self._begin_body(head, rest))
        return True

    def _on_parsed(self, raw: bytes, rest: memoryview) -> None:
        head = self._head
        fault = self._judge(head, raw)
        self._parser = None
        if fault is None:
            self._cache.keep(self._cache.requests, raw, head)
            self._requests.on_request(head, self._begin_body(head, rest))
        else:
            self._fail(fault.outcome, fault.detail)

    def _judge(self, head: RequestHead, raw: bytes) -> Fault | None:
        """What httptools does not look at. Returns what is wrong with the request, or None."""
        assert self._parser is not None
        if raw[0] < 33:
            line = raw.lstrip(b"\r\n")
            empty = len(raw) - len(line)
            # llhttp skips bare CR and LF here as well.
            if raw[:empty] != b"\r\n" * (empty >> 1):
                return Fault(Outcome.BAD_REQUEST, "malformed line before the request line")
            raw = line
        end = raw.find(b"\r\n")
        version = raw[end - 9 : end]
        if version == b" HTTP/1.0":
            head.minor = 0
        elif version != b" HTTP/1.1":
            return Fault(Outcome.VERSION_UNSUPPORTED, "only HTTP/1.1 and HTTP/1.0 are served here")
        # llhttp skips surplus spaces in the request line, and a bare LF after the target is HTTP/0.9 to it; a peer that
        # does neither would read another target.
        if raw.count(b" ", 0, end) != 2 or raw.find(b"\n", 0, end) >= 0:
            return Fault(Outcome.BAD_REQUEST, "malformed request line")
        if len(head.fields) > self._limits.fields:
            return Fault(Outcome.HEAD_TOO_LARGE, "too many header fields")
        if len(head.target) > self._limits.target:
            return Fault(Outcome.URI_TOO_LONG, "request target too long")
        head.method = self._parser.get_method()
        return head.complete()


class ClientHttp1(Http1):
    """The client's side: responses in. Each request is announced by `expect`.

    An answer that is followed by more bytes in the same read leaves the machine DEAD instead of READY, and bytes that
    come later unasked are a fault: they must never meet the next request.
    """

    __slots__ = ("_head", "_interim", "_method", "_parser", "_responses", "_upgrade")

    _BROKEN = Outcome.UPSTREAM_INVALID

    def __init__(self, sink: ResponseSink, limits: Limits, cache: HeadCache) -> None:
        super().__init__(sink, limits, cache, READY)
        self._responses = sink
        self._interim = 0
        self._method = b""
        self._upgrade = False
        self._head: ResponseHead
        self._parser: HttpResponseParser | None = None

    def expect(self, method: bytes, *, upgrade: bool = False) -> None:
        """A request with this method has been sent; `upgrade` if it asked for one."""
        assert self.state is READY, "one request at a time"
        self._method = method
        self._upgrade = upgrade
        self._interim = 0
        self.state = HEAD

    def eof(self) -> None:
        """The peer ended its side of the connection cleanly."""
        if self.state is UNTIL_EOF:
            self.state = DEAD
            self._sink.on_body(_EMPTY, True)
        elif self.state is HEAD or self.state is LENGTH or self.state is CHUNKED:
            self._fail(Outcome.UPSTREAM_CLOSED, "connection ended inside a response")

    def _parse(self, data: bytes) -> int:
        if self._parser is None:
            self._head = ResponseHead()
            self._parser = HttpResponseParser(self._head)
        self._parser.feed_data(data)
        return len(self._head.fields)

    def _on_surplus(self, data: memoryview) -> None:  # noqa: ARG002 - the server's side keeps it
        self._fail(Outcome.UPSTREAM_INVALID, "bytes that answer no request")

    def _end_message(self, rest: memoryview) -> None:
        self.state = DEAD if rest else READY

    def _on_known_head(self, raw: bytes, rest: memoryview) -> bool:
        head = self._cache.responses.get(raw)
        if head is None or self._parser is not None:
            return False
        self._accept(head, rest)
        return True

    def _on_parsed(self, raw: bytes, rest: memoryview) -> None:
        head = self._head
        fault = self._judge(head, raw)
        self._parser = None
        if fault is None:
            self._cache.keep(self._cache.responses, raw, head)
            self._accept(head, rest)
        else:
            self._fail(Outcome.UPSTREAM_INVALID, fault.detail)

    def _judge(self, head: ResponseHead, raw: bytes) -> Fault | None:
        """What httptools does not look at. Returns what is wrong with the response, or None."""
        assert self._parser is not None
        if raw.startswith(b"HTTP/1.0"):
            head.minor = 0
        elif not raw.startswith(b"HTTP/1.1"):
            return Fault(Outcome.UPSTREAM_INVALID, "HTTP version not supported")
        if len(head.fields) > self._limits.fields:
            return Fault(Outcome.UPSTREAM_INVALID, "too many header fields")
        head.status = self._parser.get_status_code()
        return head.complete()

    def _accept(self, head: ResponseHead, rest: memoryview) -> None:
        status = head.status
        if status < 200:
            self._on_interim(head)
        elif self._method == b"HEAD" or status in {204, 304}:
            # Never a body, whatever the fields say (RFC 9112 section 6.3).
            self._end_message(rest)
            self._responses.on_response(head, True)
        elif head.length is None and not head.chunked:
            self.state = UNTIL_EOF
            self._responses.on_response(head, False)
        else:
            self._responses.on_response(head, self._begin_body(head, rest))

    def _on_interim(self, head: ResponseHead) -> None:
        if head.status == 101:
            if self._upgrade and head.upgrade:
                self.state = TUNNEL
                self._responses.on_response(head, False)
            else:
                self._fail(Outcome.UPSTREAM_INVALID, "101 to a request that asked for no upgrade")
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            self._fail(Outcome.UPSTREAM_INVALID, "too many interim responses")
        else:
            self._responses.on_interim(head)
