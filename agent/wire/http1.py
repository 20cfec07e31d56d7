"""HTTP/1.1 (RFC 9112) as a push-style machine that plays either side of a connection.

                     feed(): head complete                  body complete
    READY --expect()--> HEAD -----------> LENGTH | CHUNKED | UNTIL_EOF ------> READY
      ^   (a server     |  ^ 1xx (client)          |                             |
      |   starts here)  +--+                       |                             |
      +------------------------ next_message() ----+-----------------------------+
    HEAD --upgrade--> TUNNEL          any state --fault--> DEAD

httptools (llhttp) parses heads and nothing else: each head gets a parser of its own, which never sees a body byte.
Framing, bodies, pipelining, 1xx, HEAD and upgrades are decided here from the parsed fields, so what llhttp cannot know
(that an answer belongs to HEAD) or lets through (two Hosts, `gzip, chunked`, doubled spaces, unbounded sections) has
one place to be right in. A fresh parser costs 0.27 us (`tests/bench`, row `wire`).
"""

from enum import IntEnum
from typing import NamedTuple, Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from agent.errors import Fault, Outcome
from agent.wire.chunked import ChunkedReader, ChunkError
from agent.wire.head import Fields, Head, RequestHead, ResponseHead


class Role(IntEnum):
    """Which side of the connection the machine is."""

    SERVER = 0
    CLIENT = 1


class State(IntEnum):
    """See the diagram in the module's docstring."""

    READY = 0
    HEAD = 1
    LENGTH = 2
    CHUNKED = 3
    UNTIL_EOF = 4
    TUNNEL = 5
    DEAD = 6


# Bound once: looking a member up on its class costs more than the comparison (CPython 3.11: 60 against 15 ns).
READY, HEAD, LENGTH, CHUNKED, UNTIL_EOF, TUNNEL, DEAD = State
SERVER, CLIENT = Role


class Limits(NamedTuple):
    """Bounds on what a peer may make us hold, in bytes and fields. Precedents: Envoy 60 KiB / 100, HAProxy 16 KiB."""

    head: int = 64 * 1024
    fields: int = 128
    target: int = 16 * 1024
    extensions: int = 8 * 1024
    trailers: int = 8 * 1024


class Sink(Protocol):
    """What the owner of a machine implements; called from inside `feed`, which must not be called from there.

    `data` views are valid only during the call. `end` marks the end of the message; after `on_trailers` there is no
    other.
    """

    def on_head(self, head: Head, end: bool) -> None: ...

    def on_interim(self, head: ResponseHead) -> None: ...

    def on_body(self, data: memoryview, end: bool) -> None: ...

    def on_trailers(self, fields: Fields) -> None: ...

    def on_fault(self, fault: Fault) -> None: ...


_END_OF_HEAD = b"\r\n\r\n"
_EMPTY = memoryview(b"")
# Enough for any sequence a server sends in earnest (100, 102, 103); a flood of them would hold a slot for ever.
_MAX_INTERIM = 16


class Http1:
    """One side of an HTTP/1.1 connection. `feed` takes what the peer sent and calls the sink.

    A server holds back what follows a complete request until `next_message`; the bytes wait in `held` and the owner
    stops reading when they grow. A client is told of each request by `expect`; an answer that is followed by more bytes
    in the same read leaves the machine DEAD instead of READY, and bytes that come later unasked are a fault.
    """

    __slots__ = (
        "_chunks",
        "_feeding",
        "_head",
        "_interim",
        "_limits",
        "_method",
        "_parser",
        "_partial",
        "_remaining",
        "_role",
        "_sink",
        "_upgrade",
        "held",
        "state",
    )

    def __init__(self, role: Role, sink: Sink, limits: Limits) -> None:
        self.state = HEAD if role is SERVER else READY
        self.held = bytearray()
        self._role = role
        self._sink = sink
        self._limits = limits
        self._partial = bytearray()
        self._remaining = 0
        self._interim = 0
        self._method = b""
        self._upgrade = False
        self._feeding = False
        self._chunks: ChunkedReader | None = None
        self._head: Head
        self._parser: HttpRequestParser | HttpResponseParser | None = None

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._partial)

    def feed(self, data: memoryview) -> None:
        """Take bytes from the peer. Never raises for what they are."""
        assert not self._feeding, "feed is not reentrant"
        self._feeding = True
        try:
            self._feed(data)
        finally:
            self._feeding = False

    def eof(self) -> None:
        """The peer ended its side of the connection cleanly."""
        if self.state is UNTIL_EOF:
            self.state = READY
            self._sink.on_body(_EMPTY, True)
        elif self.state in {LENGTH, CHUNKED} or self._partial or self._awaits_response:
            self._fail(Outcome.BAD_REQUEST, Outcome.UPSTREAM_CLOSED, "connection ended inside a message")

    @property
    def _awaits_response(self) -> bool:
        return self._role is CLIENT and self.state is HEAD

    def expect(self, method: bytes, *, upgrade: bool = False) -> None:
        """Client: a request with this method has been sent; `upgrade` if it asked for one."""
        assert self._role is CLIENT
        assert self.state is READY
        self._method = method
        self._upgrade = upgrade
        self._interim = 0
        self.state = HEAD

    def next_message(self) -> None:
        """Server: the reply to the request is complete; go on with what the client sent after it."""
        assert self._role is SERVER
        if self.state is not READY:
            return
        self.state = HEAD
        if self.held and not self._feeding:
            data, self.held = self.held, bytearray()
            self.feed(memoryview(bytes(data)))

    def start_tunnel(self) -> None:
        """Server: the upgrade was accepted with 101; from now on `on_body` gets raw bytes."""
        assert self._role is SERVER
        self.state = TUNNEL
        if self.held and not self._feeding:
            data, self.held = self.held, bytearray()
            self.feed(memoryview(bytes(data)))

    def stop(self) -> None:
        """Ignore all further input."""
        self.state = DEAD
        self.held.clear()

    def _feed(self, data: memoryview) -> None:
        while data:
            state = self.state
            if state is HEAD:
                data = self._feed_head(data)
            elif state is LENGTH:
                data = self._feed_length(data)
            elif state is CHUNKED:
                data = self._feed_chunked(data)
            elif state is UNTIL_EOF or state is TUNNEL:
                self._sink.on_body(data, False)
                return
            elif state is READY and self._role is SERVER:
                self.held += data
                return
            else:
                if state is READY:
                    self._fail(Outcome.BAD_REQUEST, Outcome.UPSTREAM_INVALID, "bytes that answer no request")
                return

    def _fail(self, at_server: Outcome, at_client: Outcome, detail: str) -> None:
        self.stop()
        self._sink.on_fault(Fault(at_server if self._role is SERVER else at_client, detail))

    def _feed_length(self, data: memoryview) -> memoryview:
        size = len(data)
        if size < self._remaining:
            self._remaining -= size
            self._sink.on_body(data, False)
            return _EMPTY
        rest = data[self._remaining :]
        body = data[: self._remaining]
        self._remaining = 0
        self._end_message(rest)
        self._sink.on_body(body, True)
        return rest

    def _feed_chunked(self, data: memoryview) -> memoryview:
        chunks = self._chunks
        assert chunks is not None
        try:
            parts, used = chunks.feed(data)
        except ChunkError as error:
            self._fail(Outcome.BAD_REQUEST, Outcome.UPSTREAM_INVALID, str(error))
            return _EMPTY
        for part in parts:
            self._sink.on_body(part, False)
            if self.state is not CHUNKED:
                return _EMPTY  # the sink gave up in the middle of this read
        if chunks.done:
            self._chunks = None
            self._end_message(data[used:])
            if chunks.trailers:
                self._sink.on_trailers(chunks.trailers)
            else:
                self._sink.on_body(_EMPTY, True)
        return data[used:]

    def _feed_head(self, view: memoryview) -> memoryview:
        """Give the parser the bytes up to the end of the head, and act on the head when it is complete."""
        data = bytes(view)
        partial = self._partial
        seen = len(partial)
        if seen:
            partial += data
            end = partial.find(_END_OF_HEAD, max(0, seen - 3))
        else:
            end = data.find(_END_OF_HEAD)
        used = end + 4 - seen if end >= 0 else len(data)
        if seen + used > self._limits.head:
            self._fail(Outcome.HEAD_TOO_LARGE, Outcome.UPSTREAM_INVALID, "header section too large")
            return _EMPTY
        if self._parser is None:
            self._new_parser()
        try:
            self._parser.feed_data(data if used == len(data) else data[:used])  # type: ignore[union-attr]
        except HttpParserUpgrade:
            pass  # what follows the head is ours to decide
        except HttpParserError as error:
            self._fail(self._parser_fault(), Outcome.UPSTREAM_INVALID, str(error) or "malformed head")
            return _EMPTY
        if end < 0:
            if not seen:
                self._partial = bytearray(data)
            return _EMPTY
        raw = bytes(partial[: end + 4]) if seen else data[:used]
        if raw == _END_OF_HEAD:
            # Two empty lines before the request line, which a server ignores (RFC 9112 section 2.2).
            self._partial = bytearray(raw)
            return view[used:]
        if seen:
            self._partial = bytearray()
        rest = view[used:]
        self._on_head(raw, rest)
        return rest

    def _end_message(self, rest: memoryview) -> None:
        """A message is complete. What follows an answer belongs to no request and poisons the connection."""
        self.state = DEAD if rest and self._role is CLIENT else READY

    def _new_parser(self) -> None:
        if self._role is SERVER:
            self._head = RequestHead()
            self._parser = HttpRequestParser(self._head)
        else:
            self._head = ResponseHead()
            self._parser = HttpResponseParser(self._head)

    def _parser_fault(self) -> Outcome:
        head = self._head
        if isinstance(head, RequestHead) and len(head.target) > self._limits.target:
            return Outcome.URI_TOO_LONG
        return Outcome.BAD_REQUEST

    def _on_head(self, raw: bytes, rest: memoryview) -> None:
        head, parser = self._head, self._parser
        self._parser = None
        assert parser is not None
        version = parser.get_http_version()
        if len(head.fields) > self._limits.fields:
            self._fail(Outcome.HEAD_TOO_LARGE, Outcome.UPSTREAM_INVALID, "too many header fields")
        elif version not in {"1.1", "1.0"}:
            self._fail(Outcome.VERSION_UNSUPPORTED, Outcome.UPSTREAM_INVALID, "HTTP version not supported")
        elif isinstance(head, RequestHead):
            assert isinstance(parser, HttpRequestParser)
            head.minor = version == "1.1"
            head.method = parser.get_method()
            self._on_request(head, raw, rest)
        else:
            assert isinstance(head, ResponseHead)
            assert isinstance(parser, HttpResponseParser)
            head.minor = version == "1.1"
            head.status = parser.get_status_code()
            self._on_response(head, rest)

    def _on_request(self, head: RequestHead, raw: bytes, rest: memoryview) -> None:
        if len(head.target) > self._limits.target:
            self._fail(Outcome.URI_TOO_LONG, Outcome.URI_TOO_LONG, "request target too long")
            return
        # llhttp skips surplus spaces in the request line; a peer that does not would read another target.
        if raw[0] < 33:
            raw = raw.lstrip(b"\r\n")
        if raw.count(b" ", 0, raw.find(b"\r\n")) != 2:
            self._fail(Outcome.BAD_REQUEST, Outcome.BAD_REQUEST, "malformed request line")
            return
        fault = head.complete()
        if fault is not None:
            self._fail(fault.outcome, fault.outcome, fault.detail)
        else:
            self._begin_body(head, head.length or 0, rest)

    def _on_response(self, head: ResponseHead, rest: memoryview) -> None:
        fault = head.complete()
        if fault is not None:
            self._fail(fault.outcome, fault.outcome, fault.detail)
        elif head.status == 101:
            if not (self._upgrade and head.upgrade):
                self._fail(
                    Outcome.UPSTREAM_INVALID, Outcome.UPSTREAM_INVALID, "101 to a request that asked for no upgrade"
                )
                return
            self.state = TUNNEL
            self._sink.on_head(head, False)
        elif head.status < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self._fail(Outcome.UPSTREAM_INVALID, Outcome.UPSTREAM_INVALID, "too many interim responses")
            else:
                self._sink.on_interim(head)
        elif self._method == b"HEAD" or head.status in {204, 304}:
            self._end_message(rest)  # never a body, whatever the fields say (RFC 9112 section 6.3)
            self._sink.on_head(head, True)
        elif head.length is None and not head.chunked:
            self.state = UNTIL_EOF
            self._sink.on_head(head, False)
        else:
            self._begin_body(head, head.length or 0, rest)

    def _begin_body(self, head: Head, length: int, rest: memoryview) -> None:
        if head.chunked:
            self._chunks = ChunkedReader(self._limits.extensions, self._limits.trailers)
            self.state = CHUNKED
            self._sink.on_head(head, False)
        elif length:
            self._remaining = length
            self.state = LENGTH
            self._sink.on_head(head, False)
        else:
            self._end_message(rest)
            self._sink.on_head(head, True)
