"""What the clients of all protocols share: connections, the backlog, and the one timer for the earliest deadline.

No task, future or timer per request. A request takes a connection with room or has a new one opened; nothing ever waits
for another request's answer until `max_connections` are open, and what waits then is counted in `backlogged` while its
clock runs.
"""

import asyncio
import socket
import ssl
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from loadgen.record import Cause, Outcome, Sample
from loadgen.units import NS_PER_S

MAX_CONNECTIONS = 10_000
_MIN_TIMER_S = 0.001
_OUTCOMES = {Cause.TIMEOUT: Outcome.TIMEOUT, Cause.CANCELLED: Outcome.CANCELLED}

Address = tuple[str, int]


class Tls(NamedTuple):
    """How to speak TLS: `name` is what the certificate must be for, and what SNI says."""

    context: ssl.SSLContext
    name: str


async def resolve(host: str, port: int) -> Address:
    """The first TCP address of `host`, looked up once so that no lookup falls into the run. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return str(found[0][4][0]), port


class Link(asyncio.Protocol, ABC):
    """One connection."""

    @abstractmethod
    def send(self, request: bytes, sample: Sample) -> None:
        """Start an exchange; the connection must have room."""

    @abstractmethod
    def cancel(self, sample: Sample) -> None:
        """Take back the exchange of `sample` and report nothing for it."""

    @abstractmethod
    def abandon(self) -> None:
        """Close at once and report nothing more."""


_L = TypeVar("_L", bound=Link)


def settle(waiting: asyncio.Future[Sample]) -> Callable[[Sample], None]:
    """What to do with the sample that somebody waits for, who may have left in the same turn of the loop."""
    return lambda sample: None if waiting.done() else waiting.set_result(sample)


class BaseClient(ABC, Generic[_L]):
    """Sends requests to one address and reports each sample's end, exactly once, to `on_done`.

    `timeout_s` runs from a sample's intended time, so samples must be sent in that order. Must be made and used inside
    one running loop. `on_done` may send the next request.
    """

    # How many requests a connection that is being opened will have room for.
    streams = 1

    def __init__(
        self,
        address: Address,
        on_done: Callable[[Sample], None],
        timeout_s: float,
        *,
        max_connections: int = MAX_CONNECTIONS,
        keep_bodies: bool = False,
        tls: Tls | None = None,
    ) -> None:
        self.backlogged = 0
        self.opened = 0
        self.keep_bodies = keep_bodies
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._tls = tls
        self._on_done = on_done
        self._timeout_s = timeout_s
        self._timeout_ns = round(timeout_s * NS_PER_S)
        self._max_connections = max_connections
        # Ordered by intended time, hence by deadline: one timer for the head serves all.
        self._unanswered: dict[Sample, _L | None] = {}
        self._pending: deque[tuple[bytes, Sample]] = deque()
        self._connections: set[_L] = set()
        self._dialing: set[_L] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._closed: asyncio.Future[None] | None = None

    @abstractmethod
    def _make(self) -> _L:
        """A connection that is not open yet."""

    @abstractmethod
    def _take(self) -> _L | None:
        """A connection with room, which the caller fills."""

    @abstractmethod
    def _forget(self, connection: _L) -> None:
        """The connection has no room any more."""

    @property
    def inflight(self) -> int:
        """How many requests were sent and have not ended."""
        return len(self._unanswered)

    async def connect(self, count: int) -> None:
        """Open `count` connections ahead of the load. Raises OSError (TimeoutError is one) when the first fails."""
        await self._open(self._make())
        await asyncio.gather(*(self._open(self._make()) for _ in range(count - 1)), return_exceptions=True)

    def send(self, request: bytes, sample: Sample) -> None:
        """Send now, or as soon as a connection is there; the end of `sample` is reported to `on_done`."""
        connection = self._take()
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
        self._closing = True
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

    async def _open(self, connection: _L) -> None:
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

    async def _link(self, connection: _L, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            await self._loop.create_connection(lambda: connection, sock=sock)
        else:
            await self._loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls.context,
                server_hostname=self._tls.name,
                ssl_handshake_timeout=self._timeout_s,
            )
        await self._settled(connection)

    async def _settled(self, connection: _L) -> None:
        """Wait until the peer has said what a new connection needs to know. Raises OSError."""

    def _dial_if_short(self) -> bool:
        if len(self._pending) <= len(self._dialing) * self.streams:
            return True
        if len(self._connections) + len(self._dialing) >= self._max_connections:
            return False
        connection = self._make()
        self._dialing.add(connection)
        task = self._loop.create_task(self._dial(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _dial(self, connection: _L) -> None:
        try:
            await self._open(connection)
        except OSError:
            for _ in range(self.streams):
                self._fail_pending()

    def _fail_pending(self) -> None:
        while self._pending:
            _, sample = self._pending.popleft()
            if sample.outcome is None:
                self.on_failed(sample, Cause.CONNECT)
                return

    def cancel(self, sample: Sample) -> None:
        """Take `sample` back, unless it has ended."""
        if sample in self._unanswered:
            if (connection := self._unanswered[sample]) is not None:
                connection.cancel(sample)
            self.on_failed(sample, Cause.CANCELLED)

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
                connection.cancel(sample)
            self.on_failed(sample, Cause.TIMEOUT)
        if self._unanswered and self._timer is None:
            self._arm()

    def _end(self, sample: Sample, outcome: Outcome) -> None:
        del self._unanswered[sample]
        sample.outcome = outcome
        sample.done_ns = time.monotonic_ns()
        if not sample.sent_ns:
            sample.sent_ns = sample.done_ns
        self._on_done(sample)

    def on_connected(self, connection: _L) -> None:
        """A new connection may be used."""
        self.opened += 1
        self._connections.add(connection)

    def on_failed(self, sample: Sample, cause: Cause) -> None:
        """`sample` will not be answered."""
        sample.cause = cause
        self._end(sample, _OUTCOMES.get(cause, Outcome.ERROR))

    def on_lost(self, connection: _L) -> None:
        """The connection is gone; its samples have been reported already."""
        self._forget(connection)
        self._connections.discard(connection)
        if self._closed is not None:
            if not self._connections and not self._closed.done():
                self._closed.set_result(None)
        elif self._pending:
            self._dial_if_short()

    def _next_pending(self, connection: _L) -> tuple[bytes, Sample] | None:
        """The request that has waited longest and still wants an answer, now on its way over `connection`."""
        while self._pending:
            request, sample = self._pending.popleft()
            if sample.outcome is None:
                sample.sent_ns = sample.sent_ns or time.monotonic_ns()
                self._unanswered[sample] = connection
                return request, sample
        return None
