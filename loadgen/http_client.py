"""HTTP/1.1 client for load: prebuilt requests over keep-alive connections.

aiohttp costs some 67 us of CPU per request, this 5 to 6: a generator that saturates first measures itself.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from enum import IntEnum
from typing import cast

import httptools

from loadgen.client import MAX_CONNECTIONS, Address, BaseClient, Link, Tls, resolve, settle
from loadgen.record import Cause, Sample, outcome_of_status
from loadgen.sse import Events
from loadgen.units import NS_PER_S

__all__ = ["MAX_CONNECTIONS", "Address", "Client", "Tls", "fetch", "resolve"]

# uvicorn drops idle connections after 5 s; reusing an older one races with its close and shows as the server's error.
_IDLE_NS = 4 * NS_PER_S
# Answers are kept only where metadata is read; the largest seen (Triton, hundreds of tensors) is below 1 MiB.
_MAX_BODY = 16 * 1024 * 1024

_SIZING = frozenset({b"content-length", b"transfer-encoding"})


class _SurplusError(Exception):
    """Raised into the parser: bytes follow the answer, so the next answer could not be told from them."""


async def fetch(address: Address, request: bytes, timeout_s: float, tls: Tls | None = None) -> Sample:
    """One exchange on a connection of its own; the returned sample carries the answer's head and body."""
    done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
    client = Client(address, settle(done), timeout_s, keep_bodies=True, tls=tls)
    try:
        client.send(request, Sample(time.monotonic_ns()))
        return await done
    finally:
        await client.close()


class Client(BaseClient["_Connection"]):
    """One request at a time on each connection; the connection used last is used next.

    With `streaming`, answers are server-sent events, and their number and the time of the first are kept.
    """

    def __init__(
        self,
        address: Address,
        on_done: Callable[[Sample], None],
        timeout_s: float,
        *,
        max_connections: int = MAX_CONNECTIONS,
        keep_bodies: bool = False,
        tls: Tls | None = None,
        streaming: bool = False,
    ) -> None:
        super().__init__(address, on_done, timeout_s, max_connections=max_connections, keep_bodies=keep_bodies, tls=tls)
        self.streaming = streaming
        self._idle: dict[_Connection, int] = {}

    def _make(self) -> "_Connection":
        return _ReadingConnection(self) if self.keep_bodies or self.streaming else _Connection(self)

    def _take(self) -> "_Connection | None":
        while self._idle:
            connection, since_ns = self._idle.popitem()
            if time.monotonic_ns() - since_ns < _IDLE_NS:
                return connection
            connection.abandon()
        return None

    def _forget(self, connection: "_Connection") -> None:
        self._idle.pop(connection, None)

    def on_connected(self, connection: "_Connection") -> None:
        super().on_connected(connection)
        self._dialing.discard(connection)
        self._on_free(connection)

    def on_answered(self, connection: "_Connection", sample: Sample, status: int, reusable: bool) -> None:
        """The answer to `sample` arrived whole."""
        if reusable:
            self._on_free(connection)
        sample.status = status
        self._end(sample, outcome_of_status(status))

    def _on_free(self, connection: "_Connection") -> None:
        if self._pending and (waiting := self._next_pending(connection)):
            connection.send(*waiting)
        else:
            self._idle[connection] = time.monotonic_ns()


class _State(IntEnum):
    """FREE -send-> SENT -first byte-> HEAD -head complete-> BODY -end of message-> COMPLETE -reported-> FREE.

    An interim (1xx) answer leads from BODY back to HEAD.
    """

    FREE = 0
    SENT = 1
    HEAD = 2
    BODY = 3
    COMPLETE = 4


# An enumeration's own attributes take 50 ns each to look up.
_FREE, _SENT, _HEAD, _BODY, _COMPLETE = _State


class _Connection(Link):
    """One connection with at most one request on it."""

    __slots__ = (
        "_body",
        "_client",
        "_events",
        "_headers",
        "_parser",
        "_retry_after",
        "_reusable",
        "_sample",
        "_sized",
        "_state",
        "_status",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._sample: Sample | None = None
        self._state = _FREE
        self._status = 0
        self._sized = False  # Content-Length or chunked; without either the close ends the body
        self._reusable = False
        self._body = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._retry_after: bytes | None = None
        self._events = Events() if client.streaming else None

    def send(self, request: bytes, sample: Sample) -> None:
        assert self._state is _FREE, "one request at a time"
        self._sample = sample
        self._state = _SENT
        self._sized = False
        self._transport.write(request)

    def cancel(self, _: Sample) -> None:
        # HTTP/1.1 has no other way to take a request back.
        self.abandon()

    def abandon(self) -> None:
        self._sample = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._client.on_connected(self)

    def data_received(self, data: bytes) -> None:
        if self._sample is None:
            self._transport.abort()
            return
        if self._state is _SENT:
            self._state = _HEAD
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What follows a complete answer spoils the connection, not the answer.
            self._reusable = False
            if self._state is not _COMPLETE:
                self._fail(Cause.INVALID)
                return
        if self._state is _COMPLETE:
            self._answered()
        elif len(self._body) > _MAX_BODY:
            self._fail(Cause.INVALID)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sample is not None:
            if self._state is _SENT:
                self._fail(Cause.CLOSED if exc is None else Cause.RESET)
            elif self._state is _BODY and exc is None and not self._sized:
                self._reusable = False
                self._answered()
            else:
                self._fail(Cause.TRUNCATED)
        self._client.on_lost(self)

    def on_message_begin(self) -> None:
        if self._state is _COMPLETE:
            raise _SurplusError

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in _SIZING:
            self._sized = True
        elif lower == b"retry-after":
            self._retry_after = value
        if self._client.keep_bodies:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._state = _BODY

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._state = _HEAD
            return
        self._state = _COMPLETE
        self._reusable = self._parser.should_keep_alive()

    def _answered(self) -> None:
        sample, self._sample = self._sample, None
        assert sample is not None
        if self._client.keep_bodies:
            sample.body, sample.headers = bytes(self._body), self._headers
            self._body.clear()
            self._headers = []
        if self._retry_after is not None:
            sample.retry_after_s = _seconds(self._retry_after)
            self._retry_after = None
        if self._events is not None:
            self._events.reset()
        self._state = _FREE
        reusable = self._reusable and not self._transport.is_closing()
        if not reusable:
            self._transport.abort()
        self._client.on_answered(self, sample, self._status, reusable)

    def _fail(self, cause: Cause) -> None:
        sample, self._sample = self._sample, None
        assert sample is not None
        self._transport.abort()
        self._client.on_failed(sample, cause)


class _ReadingConnection(_Connection):
    """One that looks at bodies; the parser calls only what a class has, and calls are what answers cost."""

    __slots__ = ()

    def on_body(self, data: bytes) -> None:
        if self._client.keep_bodies:
            self._body += data
        if self._events is not None and self._status == 200 and (found := self._events.feed(data)):
            assert self._sample is not None
            self._sample.first_ns = self._sample.first_ns or time.monotonic_ns()
            self._sample.tokens += found


def _seconds(value: bytes) -> float | None:
    """Retry-After as seconds from now: a number, or a date (RFC 9110 section 10.2.3); None for anything else."""
    text = value.decode("latin-1").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
