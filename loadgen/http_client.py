"""HTTP/1.1 client for load: prebuilt requests over keep-alive connections, no task, future or timer per request.

aiohttp costs some 67 us of CPU per request, this 5 to 6: a generator that saturates first measures itself. A request
takes an idle connection or has a new one opened; nothing ever waits for another request's answer until
`max_connections` are open, and what waits then is counted in `backlogged` while its clock runs.
"""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import cast

import httptools

from loadgen.record import Cause, Outcome, Sample, outcome_of_status
from loadgen.units import NS_PER_S

MAX_CONNECTIONS = 10_000

# uvicorn drops idle connections after 5 s; reusing an older one races with its close and shows as the server's error.
_IDLE_NS = 4 * NS_PER_S
_MIN_TIMER_S = 0.001
# Answers are kept only where metadata is read; the largest seen (Triton, hundreds of tensors) is below 1 MiB.
_MAX_BODY = 16 * 1024 * 1024

_SIZING = frozenset({b"content-length", b"transfer-encoding"})

Address = tuple[str, int]


class _SurplusError(Exception):
    """Raised into the parser: bytes follow the answer, so the next answer could not be told from them."""


async def resolve(host: str, port: int) -> Address:
    """The first TCP address of `host`, looked up once so that no lookup falls into the run. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0]), port


async def fetch(address: Address, request: bytes, timeout_s: float) -> Sample:
    """One exchange on a connection of its own; the returned sample carries the answer's body."""
    done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
    client = Client(address, done.set_result, timeout_s, keep_bodies=True)
    try:
        client.send(request, Sample(time.monotonic_ns()))
        return await done
    finally:
        await client.close()


class Client:
    """Sends requests to one address and reports each sample's end, exactly once, to `on_done`.

    `timeout_s` runs from a sample's intended time, so samples must be sent in that order. Must be made and used inside
    one running loop. `on_done` may send the next request.
    """

    def __init__(
        self,
        address: Address,
        on_done: Callable[[Sample], None],
        timeout_s: float,
        *,
        max_connections: int = MAX_CONNECTIONS,
        keep_bodies: bool = False,
    ) -> None:
        self.backlogged = 0
        self.opened = 0
        self.keep_bodies = keep_bodies
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._on_done = on_done
        self._timeout_s = timeout_s
        self._timeout_ns = round(timeout_s * NS_PER_S)
        self._max_connections = max_connections
        # Ordered by intended time, hence by deadline: one timer for the head serves all.
        self._unanswered: dict[Sample, _Connection | None] = {}
        self._pending: deque[tuple[bytes, Sample]] = deque()
        self._idle: dict[_Connection, int] = {}
        self._connections: set[_Connection] = set()
        self._dialing: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None

    @property
    def inflight(self) -> int:
        """How many requests were sent and have not ended."""
        return len(self._unanswered)

    async def connect(self, count: int) -> None:
        """Open `count` connections ahead of the load. Raises OSError (TimeoutError is one) when the first fails."""
        await self._open(_Connection(self))
        await asyncio.gather(*(self._open(_Connection(self)) for _ in range(count - 1)), return_exceptions=True)

    def send(self, request: bytes, sample: Sample) -> None:
        """Send now, or as soon as a connection is there; the end of `sample` is reported to `on_done`."""
        connection = self._take_idle()
        self._unanswered[sample] = connection
        if self._timer is None:
            self._arm()
        if connection is not None:
            sample.sent_ns = time.monotonic_ns()
            connection.send(request, sample)
            return
        self._pending.append((request, sample))
        if self._dial_if_short():
            sample.sent_ns = time.monotonic_ns()
        else:
            self.backlogged += 1

    async def close(self) -> None:
        """Drop every connection at once; samples that have not ended are reported to nobody."""
        self._unanswered.clear()
        self._pending.clear()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._links, return_exceptions=True)
        if self._connections:
            self._closed = self._loop.create_future()
            for connection in list(self._connections):
                connection.abandon()
            await self._closed

    async def _open(self, connection: "_Connection") -> None:
        self._dialing.add(connection)
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                async with asyncio.timeout(self._timeout_s):
                    await self._loop.sock_connect(sock, self._address)
            except BaseException:
                sock.close()
                raise
            # Cancelled in here, asyncio and uvloop can make a protocol that never hears of its connection's end.
            link = self._loop.create_task(self._link(connection, sock))
            self._links.add(link)
            link.add_done_callback(self._links.discard)
            await asyncio.shield(link)
        finally:
            self._dialing.discard(connection)

    async def _link(self, connection: "_Connection", sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._loop.create_connection(lambda: connection, sock=sock)

    def _dial_if_short(self) -> bool:
        if len(self._pending) <= len(self._dialing):
            return True
        if len(self._connections) + len(self._dialing) >= self._max_connections:
            return False
        connection = _Connection(self)
        self._dialing.add(connection)
        task = self._loop.create_task(self._dial(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _dial(self, connection: "_Connection") -> None:
        try:
            await self._open(connection)
        except OSError:
            while self._pending:
                _, sample = self._pending.popleft()
                if sample.outcome is None:
                    self._fail(sample, Cause.CONNECT)
                    return

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection, since_ns = self._idle.popitem()
            if time.monotonic_ns() - since_ns < _IDLE_NS:
                return connection
            connection.abandon()
        return None

    def _arm(self) -> None:
        head = next(iter(self._unanswered))
        delay_s = (head.intended_ns + self._timeout_ns - time.monotonic_ns()) / NS_PER_S
        self._timer = self._loop.call_later(max(_MIN_TIMER_S, delay_s), self._expire)

    def _expire(self) -> None:
        self._timer = None
        latest_ns = time.monotonic_ns() - self._timeout_ns
        expired = []
        for sample, connection in self._unanswered.items():
            if sample.intended_ns > latest_ns:
                break
            expired.append((sample, connection))
        for sample, connection in expired:
            if connection is not None:
                # HTTP/1.1 has no other way to take a request back.
                connection.abandon()
            self._fail(sample, Cause.TIMEOUT)
        if self._unanswered and self._timer is None:
            self._arm()

    def _fail(self, sample: Sample, cause: Cause) -> None:
        sample.cause = cause
        self._end(sample, Outcome.TIMEOUT if cause is Cause.TIMEOUT else Outcome.ERROR)

    def _end(self, sample: Sample, outcome: Outcome) -> None:
        del self._unanswered[sample]
        sample.outcome = outcome
        sample.done_ns = time.monotonic_ns()
        if not sample.sent_ns:
            sample.sent_ns = sample.done_ns
        self._on_done(sample)

    def on_connected(self, connection: "_Connection") -> None:
        """A new connection may be used."""
        self.opened += 1
        self._dialing.discard(connection)
        self._connections.add(connection)
        self._on_free(connection)

    def on_answered(self, connection: "_Connection", sample: Sample, status: int, reusable: bool) -> None:
        """The answer to `sample` arrived whole."""
        if reusable:
            self._on_free(connection)
        sample.status = status
        self._end(sample, outcome_of_status(status))

    def on_failed(self, sample: Sample, cause: Cause) -> None:
        """`sample` will not be answered."""
        self._fail(sample, cause)

    def on_lost(self, connection: "_Connection") -> None:
        """The connection is gone; its sample has been reported already."""
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        if self._closed is not None:
            if not self._connections and not self._closed.done():
                self._closed.set_result(None)
        elif self._pending:
            self._dial_if_short()

    def _on_free(self, connection: "_Connection") -> None:
        while self._pending:
            request, sample = self._pending.popleft()
            if sample.outcome is None:
                sample.sent_ns = sample.sent_ns or time.monotonic_ns()
                self._unanswered[sample] = connection
                connection.send(request, sample)
                return
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


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    __slots__ = ("_body", "_client", "_parser", "_reusable", "_sample", "_sized", "_state", "_status", "_transport")

    _transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._sample: Sample | None = None
        self._state = _State.FREE
        self._status = 0
        self._sized = False  # Content-Length or chunked; without either the close ends the body
        self._reusable = False
        self._body = bytearray()

    def send(self, request: bytes, sample: Sample) -> None:
        """Start an exchange; the connection must be free."""
        assert self._state is _State.FREE, "one request at a time"
        self._sample = sample
        self._state = _State.SENT
        self._sized = False
        self._transport.write(request)

    def abandon(self) -> None:
        """Close at once and report nothing more."""
        self._sample = None
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._client.on_connected(self)

    def data_received(self, data: bytes) -> None:
        if self._sample is None:
            self._transport.abort()
            return
        if self._state is _State.SENT:
            self._state = _State.HEAD
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # What follows a complete answer spoils the connection, not the answer.
            self._reusable = False
            if self._state is not _State.COMPLETE:
                self._fail(Cause.INVALID)
                return
        if self._state is _State.COMPLETE:
            self._answered()
        elif len(self._body) > _MAX_BODY:
            self._fail(Cause.INVALID)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sample is not None:
            if self._state is _State.SENT:
                self._fail(Cause.CLOSED if exc is None else Cause.RESET)
            elif self._state is _State.BODY and exc is None and not self._sized:
                self._reusable = False
                self._answered()
            else:
                self._fail(Cause.TRUNCATED)
        self._client.on_lost(self)

    def on_message_begin(self) -> None:
        if self._state is _State.COMPLETE:
            raise _SurplusError

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in _SIZING:
            self._sized = True

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._state = _State.BODY

    def on_body(self, data: bytes) -> None:
        if self._client.keep_bodies:
            self._body += data

    def on_message_complete(self) -> None:
        if self._status < 200:
            self._state = _State.HEAD
            return
        self._state = _State.COMPLETE
        self._reusable = self._parser.should_keep_alive()

    def _answered(self) -> None:
        sample, self._sample = self._sample, None
        assert sample is not None
        if self._body:
            sample.body = bytes(self._body)
            self._body.clear()
        self._state = _State.FREE
        reusable = self._reusable and not self._transport.is_closing()
        if not reusable:
            self._transport.abort()
        self._client.on_answered(self, sample, self._status, reusable)

    def _fail(self, cause: Cause) -> None:
        sample, self._sample = self._sample, None
        assert sample is not None
        self._transport.abort()
        self._client.on_failed(sample, cause)
