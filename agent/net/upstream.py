"""Connections to one predictor: a pool of HTTP/1.1 connections, dialled when needed and reused while fresh."""

import asyncio
from collections import OrderedDict, deque
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Fault
from agent.net.connection import Connection, Shared
from agent.values import Address
from agent.wire.head import Fields, RequestHead, ResponseHead
from agent.wire.http1 import ClientHttp1
from agent.wire.message import Limits, State

if TYPE_CHECKING:
    from agent.net.exchange import Exchange

READY = State.READY
# What the predictor ends by closing the connection, as it should.
_ENDED_BY_CLOSING = {State.UNTIL_EOF, State.TUNNEL}

# uvicorn, under KServe and MLServer alike, closes an idle connection after 5 s; a request sent into that close is lost.
MAX_IDLE_S = 4.0
# A server that shuts down, or whose model has raised, closes the connection right after its answer without saying so
# (uvicorn does both). A connection rests this long before it is used again, so that the close can arrive first.
REST_S = 0.002
CONNECT_TIMEOUT_S = 5.0
# While the predictor refuses connections, one dial at a time: first soon, for a restart may be nearly over, then rarer.
FIRST_BACKOFF_S = 0.01
MAX_BACKOFF_S = 0.25


class Upstream(Connection):
    """One connection to the predictor; serves one exchange at a time.

    `exchange` is the current one, `fresh` whether none came before it, `answered` whether the predictor has sent
    anything for it.
    """

    __slots__ = ("_machine", "_pool", "answered", "exchange", "fresh", "idle_since")

    def __init__(self, shared: Shared, pool: "Pool", limits: Limits) -> None:
        super().__init__(shared)
        self._pool = pool
        self._machine = ClientHttp1(self, limits, shared.heads)
        self.exchange: Exchange | None = None
        self.fresh = True
        self.answered = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._pool.connected(self)
        self._shared.flush()

    def begin(self, exchange: "Exchange", head: RequestHead) -> None:
        """Send a request head; the answer goes to `exchange`."""
        self.exchange = exchange
        self.answered = False
        self._machine.expect(head.method, upgrade=bool(head.upgrade))
        self._view = self._shared.large
        self.write(head.serialize(self._pool.authority))

    def end(self, *, reusable: bool) -> None:
        """The exchange is over; keep the connection if its next answer cannot be mistaken."""
        self.exchange = None
        self.fresh = False
        # Congested: the predictor answered without reading all of the body, and the next head would wait behind it.
        if reusable and self._machine.state is READY and not (self._paused or self.congested):
            self._view = self._shared.small
            self._pool.release(self)
        else:
            self.discard()

    def finish(self) -> None:
        """Send what is queued and close: the end of a tunnel."""
        self.exchange = None
        self._machine.stop()
        self.close()

    def discard(self) -> None:
        """End the connection visibly: what it was sent must not look complete to the predictor."""
        self.exchange = None
        self._machine.stop()
        self.abort()

    @property
    def usable(self) -> bool:
        """Whether the transport is still there for another request."""
        return self._transport is not None and not self._transport.is_closing()

    # Connection

    def received(self, data: memoryview) -> None:
        self.answered = True
        self._machine.feed(data)

    def ended(self) -> bool:
        if self.exchange is not None and self._machine.state not in _ENDED_BY_CLOSING:
            self._pool.distrust()
        self._machine.eof()
        exchange = self.exchange
        if exchange is not None:
            exchange.on_upstream_lost()
        return False

    def lost(self) -> None:
        self._pool.lost(self)
        exchange = self.exchange
        if exchange is not None:
            self._pool.distrust()
            exchange.on_upstream_lost()

    def writable(self, *, ready: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_writable(ready=ready)

    def fail(self) -> None:
        exchange = self.exchange
        self.discard()
        if exchange is not None:
            exchange.abandon()

    # Sink of the machine

    def on_response(self, head: ResponseHead, end: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_response(head, end)

    def on_interim(self, head: ResponseHead) -> None:
        if self.exchange is not None:
            self.exchange.on_interim(head)

    def on_body(self, data: memoryview, end: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_response_body(data, end)

    def on_trailers(self, fields: Fields) -> None:
        if self.exchange is not None:
            self.exchange.on_response_trailers(fields)

    def on_fault(self, fault: Fault) -> None:
        exchange = self.exchange
        if exchange is None:
            self.discard()  # bytes that answer no request must never meet the next one
        else:
            exchange.on_upstream_fault(fault)


class Pool:
    """The connections to one predictor, and the exchanges that wait for one.

    Idle connections are taken first in, first out: the one that has rested longest has had the most time to show that
    the other end has closed it.
    """

    __slots__ = (
        "_address",
        "_backoff",
        "_dialling",
        "_limits",
        "_loop",
        "_redial",
        "_shared",
        "_tasks",
        "authority",
        "connections",
        "idle",
        "waiting",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, shared: Shared, address: Address, limits: Limits) -> None:
        self.authority = address.authority
        self.idle: deque[Upstream] = deque()
        self.connections: set[Upstream] = set()
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        self._loop = loop
        self._shared = shared
        self._address = address
        self._limits = limits
        # A dial is over when its connection is made. Its task ends a few turns later, too late to be counted: whoever
        # came in between would wait for a dial that serves nobody.
        self._dialling: set[Upstream] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redial: asyncio.TimerHandle | None = None
        self._backoff = FIRST_BACKOFF_S

    @property
    def is_refusing(self) -> bool:
        """Whether the last dial failed, so that the next is put off."""
        return self._redial is not None

    def take(self, now: float) -> Upstream | None:
        """The connection that has rested longest, or None if none has rested enough."""
        idle = self.idle
        while idle:
            rested = now - idle[0].idle_since
            if rested < REST_S:
                break
            connection = idle.popleft()
            if connection.usable and rested < MAX_IDLE_S:
                return connection
            connection.close()
        return None

    def wait(self, exchange: "Exchange") -> None:
        """Give the exchange the next connection that is made: `exchange.attach` is called with it."""
        self.waiting[exchange] = None
        # With a redial pending the predictor is known to refuse; more dials now would only be refused as well.
        if self._redial is None and len(self._dialling) < len(self.waiting):
            self._dial()

    def forget(self, exchange: "Exchange") -> None:
        """The exchange no longer waits."""
        self.waiting.pop(exchange, None)

    def connected(self, connection: Upstream) -> None:
        """A dial has succeeded."""
        self._backoff = FIRST_BACKOFF_S
        self._dialling.discard(connection)
        self.connections.add(connection)
        if self.waiting:
            exchange, _ = self.waiting.popitem(last=False)
            exchange.attach(connection)
        else:
            self.release(connection)
        for _ in range(len(self.waiting) - len(self._dialling)):
            self._dial()

    def release(self, connection: Upstream) -> None:
        """An exchange has ended cleanly; keep its connection for another."""
        connection.idle_since = monotonic()
        self.idle.append(connection)

    def lost(self, connection: Upstream) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def distrust(self) -> None:
        """The predictor has ended a connection in the middle of an exchange: it may be dying.

        The ends of the idle ones may arrive in the same turn of the loop, but after this one; and a process that is
        killed accepts connections for another moment, only to reset them.
        """
        while self.idle:
            self.idle.popleft().close()
        self._put_off()

    def drop_idle(self, now: float) -> None:
        """Close the connections that have been idle for too long."""
        while self.idle and now - self.idle[0].idle_since >= MAX_IDLE_S:
            self.idle.popleft().close()

    def close(self) -> None:
        """Close everything; exchanges must have ended before."""
        if self._redial is not None:
            self._redial.cancel()
        for task in self._tasks:
            task.cancel()
        for connection in list(self.connections):
            connection.discard()

    def _dial(self) -> None:
        # A task a connection, not a request: connections live for thousands of requests.
        connection = Upstream(self._shared, self, self._limits)
        self._dialling.add(connection)
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Upstream) -> None:
        address = self._address
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if address.path:
                    await self._loop.create_unix_connection(lambda: connection, address.path)
                else:
                    await self._loop.create_connection(lambda: connection, address.host, address.port)
        except OSError:  # refused, no such socket, no route, no descriptor left, or TimeoutError: all may pass
            self._dialling.discard(connection)
            self._failed()

    def _failed(self) -> None:
        # First of all, so that what is dispatched in place of a refused exchange does not dial at once.
        if self._redial is None:
            self._put_off()
            self._backoff = min(self._backoff * 2, MAX_BACKOFF_S)
        for exchange in list(self.waiting):
            exchange.on_refused_connection()
        self._shared.flush()

    def _put_off(self) -> None:
        """Dial for those who wait after a while, and for nobody before."""
        if self._redial is None:
            self._redial = self._loop.call_later(self._backoff, self._try_again)

    def _try_again(self) -> None:
        self._redial = None
        if self.waiting:
            self._dial()
