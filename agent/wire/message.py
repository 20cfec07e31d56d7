"""What the two sides of an HTTP/1.1 connection share: finding the end of a head, and reading a body (RFC 9112).

                     feed(): head complete                  body complete
    READY --expect()--> HEAD -----------> LENGTH | CHUNKED | UNTIL_EOF ------> READY
      ^   (a server     |  ^ 1xx (client)          |                             |
      |   starts here)  +--+                       |                             |
      +------------------------ next_message() ----+-----------------------------+
    HEAD --upgrade--> TUNNEL          any state --fault--> DEAD

httptools (llhttp) parses heads and nothing else: each head gets a parser of its own, which never sees a body byte.
Framing, bodies, pipelining, 1xx, HEAD and upgrades are decided here from the parsed fields, so what llhttp cannot know
(that an answer belongs to HEAD) or lets through (two Hosts, `gzip, chunked`, doubled spaces, unbounded sections) has
one place to be right in. A head that was seen before, byte for byte, is not parsed again (see HeadCache).
"""

from enum import IntEnum
from typing import NamedTuple, Protocol, TypeVar

from httptools import HttpParserError, HttpParserUpgrade

from agent.errors import Fault, Outcome
from agent.wire.chunked import ChunkedReader, ChunkError
from agent.wire.head import Fields, Head, RequestHead, ResponseHead


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


class Limits(NamedTuple):
    """Bounds on what a peer may make us hold, in bytes and fields. Precedents: Envoy 60 KiB / 100, HAProxy 16 KiB."""

    head: int = 64 * 1024
    fields: int = 128
    target: int = 16 * 1024
    extensions: int = 8 * 1024
    trailers: int = 8 * 1024


_Head = TypeVar("_Head", bound=Head)


class HeadCache:
    """Heads by their exact bytes, shared by the machines of a process.

    Clients and predictors repeat themselves: without request ids a client's heads are all alike, and a predictor's
    change once a second with their Date. Equal bytes mean an equal head, so parsing them again would tell nothing new;
    what is kept is immutable. Unique heads cost a look-up more (`make bench`, rows `small` and `unique`).
    """

    __slots__ = ("_once", "requests", "responses")

    # Bounds what hostile heads can pin to about a megabyte.
    MAX_HEADS = 256
    MAX_HEAD_BYTES = 1024

    def __init__(self) -> None:
        self.requests: dict[bytes, RequestHead] = {}
        self.responses: dict[bytes, ResponseHead] = {}
        self._once: set[int] = set()

    def keep(self, heads: dict[bytes, _Head], raw: bytes, head: _Head) -> None:
        """Remember a head that is complete and without fault, the second time that it comes."""
        mark = hash(raw)
        if mark not in self._once:
            # Keeping heads that never come again would cost more than parsing them: their memory is never warm.
            if len(self._once) >= self.MAX_HEADS:
                self._once.clear()
            self._once.add(mark)
        elif len(raw) <= self.MAX_HEAD_BYTES:
            if len(heads) >= self.MAX_HEADS:
                heads.clear()
            heads[raw] = head


class BodySink(Protocol):
    """What the owner of a machine implements; called from inside `feed`, which must not be called from there.

    `data` views are valid only during the call. `end` marks the end of the message; after `on_trailers` there is no
    other. In a tunnel `on_body` gets the raw bytes.
    """

    def on_body(self, data: memoryview, end: bool) -> None: ...

    def on_trailers(self, fields: Fields) -> None: ...

    def on_fault(self, fault: Fault) -> None: ...


_END_OF_HEAD = b"\r\n\r\n"
# Bytes of empty lines before a request line: RFC 9112 section 2.2 asks for one line to be ignored. Each costs another
# look at what has come, so without a bound 64 KiB of them would take seconds.
MAX_EMPTY = 16
_EMPTY = memoryview(b"")


class Http1:
    """What both sides share: finding the end of heads, and reading bodies. `feed` takes what the peer sent."""

    __slots__ = ("_cache", "_chunks", "_feeding", "_limits", "_partial", "_remaining", "_sink", "state")

    # The outcome of a violation by the peer of this side.
    _BROKEN: Outcome

    def __init__(self, sink: BodySink, limits: Limits, cache: HeadCache, state: State) -> None:
        self.state = state
        self._cache = cache
        self._sink = sink
        self._limits = limits
        self._partial = bytearray()
        self._remaining = 0
        self._feeding = False
        self._chunks: ChunkedReader | None = None

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._partial)

    def feed(self, data: memoryview) -> None:
        """Take bytes from the peer. Never raises for what they are."""
        assert not self._feeding, "feed is not reentrant"
        self._feeding = True
        try:
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
                else:
                    if state is READY:
                        self._on_surplus(data)
                    return
        finally:
            self._feeding = False

    def stop(self) -> None:
        """Ignore all further input."""
        self.state = DEAD
        self._partial = bytearray()

    # What the two sides do differently

    def _parse(self, data: bytes) -> int:
        """Give the current head's parser more bytes. Returns how many fields have come. Raises HttpParserError."""
        raise NotImplementedError

    def _on_known_head(self, raw: bytes, rest: memoryview) -> bool:
        """Act on a head that was seen before; `rest` follows it. Returns whether it was."""
        raise NotImplementedError

    def _on_parsed(self, raw: bytes, rest: memoryview) -> None:
        """The head `raw` is complete and the parser has it; `rest` follows it."""
        raise NotImplementedError

    def _on_surplus(self, data: memoryview) -> None:
        """Bytes follow a complete message."""
        raise NotImplementedError

    def _end_message(self, rest: memoryview) -> None:
        """A message is complete, and `rest` follows it."""
        raise NotImplementedError

    def _fail(self, outcome: Outcome, detail: str) -> None:
        self.stop()
        self._sink.on_fault(Fault(outcome, detail))

    def _feed_length(self, data: memoryview) -> memoryview:
        size = len(data)
        remaining = self._remaining
        if size < remaining:
            self._remaining = remaining - size
            self._sink.on_body(data, False)
            return _EMPTY
        if size == remaining:
            self._end_message(_EMPTY)
            self._sink.on_body(data, True)
            return _EMPTY
        rest = data[remaining:]
        self._end_message(rest)
        self._sink.on_body(data[:remaining], True)
        return rest

    def _feed_chunked(self, data: memoryview) -> memoryview:
        chunks = self._chunks
        assert chunks is not None
        broken = None
        try:
            parts, used = chunks.feed(data)
        except ChunkError as error:
            parts, used, broken = error.parts, len(data), error
        for part in parts:
            self._sink.on_body(part, False)
            if self.state is not CHUNKED:
                return _EMPTY  # the sink gave up in the middle of this read
        if broken is not None:
            self._fail(self._BROKEN, str(broken))
            return _EMPTY
        rest = data[used:]
        if chunks.done:
            self._chunks = None
            self._end_message(rest)
            if chunks.trailers:
                self._sink.on_trailers(chunks.trailers)
            else:
                self._sink.on_body(_EMPTY, True)
        return rest

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
            if end >= 0:
                rest = view[end + 4 :]
                if self._on_known_head(data[: end + 4], rest):
                    return rest
        used = end + 4 - seen if end >= 0 else len(data)
        fitting = min(used, self._limits.head - seen)
        piece = data[:fitting]
        count = 0
        try:
            count = self._parse(piece)
        except HttpParserUpgrade:
            pass  # what follows the head is ours to decide
        except HttpParserError as error:
            self._fail(self._BROKEN, str(error) or "malformed head")
            return _EMPTY
        if fitting < used:
            self._fail(self._too_large(), "header section too large")
            return _EMPTY
        if end < 0:
            # Parsed, a field of four bytes takes a hundred; the head's end is not waited for.
            if count > self._limits.fields:
                self._fail(self._too_large(), "too many header fields")
            elif not seen:
                self._partial = bytearray(piece)
            return _EMPTY
        raw = bytes(partial[: end + 4]) if seen else piece
        rest = view[used:]
        if raw[0] == 13 and not raw.strip(b"\r\n"):
            # Nothing but empty lines before the request line, which a server ignores (RFC 9112 section 2.2).
            if len(raw) > MAX_EMPTY:
                self._fail(self._BROKEN, "too many empty lines before a message")
                return _EMPTY
            self._partial = bytearray(raw)
            return rest
        if seen:
            self._partial = bytearray()
        self._on_parsed(raw, rest)
        return rest

    def _too_large(self) -> Outcome:
        return self._BROKEN

    def _begin_body(self, head: Head, rest: memoryview) -> bool:
        """Enter the state that reads the body. Returns whether there is none."""
        if head.length:
            self._remaining = head.length
            self.state = LENGTH
            return False
        if head.chunked:
            self._chunks = ChunkedReader(self._limits.extensions, self._limits.trailers)
            self.state = CHUNKED
            return False
        self._end_message(rest)
        return True
