"""HTTP/1.1 connections to one predictor: dialled when needed, one exchange at a time, reused while fresh."""

import asyncio
import select
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Fault
from agent.net.connection import Connection, Shared, asking
from agent.net.pool import Dialler
from agent.values import Address
from agent.wire.fields import Trailers
from agent.wire.head import NO_STATUS, Fields, RequestHead, ResponseHead
from agent.wire.http1 import ClientHttp1
from agent.wire.message import Limits, State

if TYPE_CHECKING:
    from agent.net.exchange import Exchange
    from agent.net.handshakes import Dialled

READY = State.READY
# What the predictor ends by closing the connection, as it should.
_ENDED_BY_CLOSING = {State.UNTIL_EOF, State.TUNNEL}

# uvicorn, under KServe and MLServer alike, closes an idle connection after 5 s; a request sent into that close is lost.
MAX_IDLE_S = 4.0
# A server that shuts down, or whose model has raised, closes the connection right after its answer without saying so
# (uvicorn does both). A connection rests this long before it is used again, so that the close can arrive first.
REST_S = 0.002


class Http1Upstream(Connection):
    """One connection to the predictor; serves one exchange at a time.

    `exchange` is the current one.
    """

    __slots__ = ("_answered", "_chunked", "_fresh", "_machine", "_poll", "_pool", "exchange", "idle_since")

    # Closing the connection tells a model server nothing: it goes on computing (DECISIONS 5).
    cancels = False

    def __init__(self, shared: Shared, pool: "Http1Pool", limits: Limits) -> None:
        super().__init__(shared)
        self._pool = pool
        self._machine = ClientHttp1(self, limits, shared.heads)
        self.exchange: Exchange | None = None
        self._fresh = True
        self._answered = False
        self._chunked = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._poll = asking(transport, select.POLLIN)
        self._pool.connected(self)
        self._shared.flush()

    @property
    def stale(self) -> bool:
        """Whether it has served before, and nothing has come for this exchange."""
        return not (self._fresh or self._answered)

    def begin(self, exchange: "Exchange", head: RequestHead, end: bool, elapsed: float) -> None:  # noqa: ARG002 - sides
        """Send a request head; the answer goes to `exchange`."""
        self.exchange = exchange
        self._answered = False
        self._chunked = head.chunked
        self._machine.expect(head.method, upgrade=bool(head.upgrade))
        self._view = self._shared.large
        self.write(head.serialize(self._pool.authority))
        if end and head.chunked:
            self.write(b"0\r\n\r\n")

    def send_data(self, data: bytes, end: bool) -> None:
        """Send a piece of the body."""
        if not self._chunked:
            self.write(data)
            return
        if data:
            self.write(b"%x\r\n%b\r\n" % (len(data), data))
        if end:
            self.write(b"0\r\n\r\n")

    def finish(self, trailers: Trailers) -> None:  # noqa: ARG002 - they end here
        """End a chunked body. Trailers are discarded, as RFC 9112 section 7.1.2 allows (DECISIONS 38)."""
        self.write(b"0\r\n\r\n")

    def end(self, *, reusable: bool) -> None:
        """The exchange is over; keep the connection if its next answer cannot be mistaken."""
        self.exchange = None
        self._fresh = False
        # Congested: the predictor answered without reading all of the body, and the next head would wait behind it.
        if reusable and self._machine.state is READY and not (self._paused or self.congested):
            self._view = self._shared.small
            self._pool.release(self)
        else:
            self.discard()

    def shut(self) -> None:
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
        """Whether the transport is still there for another request, and the kernel has nothing that nobody has read.

        An agent that got no processor for a while has not heard of the close that ended a rest (DECISIONS 11).
        """
        transport = self._transport
        return transport is not None and not (transport.is_closing() or self._poll(0))

    # Connection

    def received(self, data: memoryview) -> None:
        if not self._answered:
            self._answered = True
            if self._pool.doubtful:
                self._pool.reassure()
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
            exchange.on_upstream_lost(cut=True)

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
            self.exchange.on_response_trailers(Trailers(fields, b"", NO_STATUS))

    def on_fault(self, fault: Fault) -> None:
        exchange = self.exchange
        if exchange is None:
            self.discard()  # bytes that answer no request must never meet the next one
        else:
            exchange.on_upstream_fault(fault)


class Http1Pool(Dialler):
    """The connections to one predictor.

    Idle connections are taken first in, first out: the one that has rested longest has had the most time to show that
    the other end has closed it.
    """

    __slots__ = ("_limits", "authority", "connections", "idle")

    refuses = False

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        address: Address,
        limits: Limits,
        secure: Callable[[asyncio.BaseProtocol], "Dialled"] | None = None,
    ) -> None:
        super().__init__(loop, shared, address, secure)
        self.authority = address.authority
        self.idle: deque[Http1Upstream] = deque()
        self.connections: set[Http1Upstream] = set()
        self._limits = limits

    def take(self, now: float) -> Http1Upstream | None:
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

    def serve(self) -> None:
        """Nothing to do: whoever waits has asked for an idle connection first."""

    def exchanges(self) -> "Iterator[Exchange]":
        """Those that the predictor has."""
        for connection in list(self.connections):
            if connection.exchange is not None:
                yield connection.exchange

    def counts(self) -> tuple[int, int]:
        """How many connections are busy, and how many idle."""
        return len(self.connections) - len(self.idle), len(self.idle)

    def connected(self, connection: Http1Upstream) -> None:
        """A dial has succeeded."""
        self._succeeded(connection)
        self.connections.add(connection)
        if self.waiting:
            self._next().attach(connection, monotonic())
        else:
            self.release(connection)
        self._dial_more()

    def release(self, connection: Http1Upstream) -> None:
        """An exchange has ended cleanly; keep its connection for another."""
        connection.idle_since = monotonic()
        self.idle.append(connection)

    def lost(self, connection: Http1Upstream) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def doubt(self) -> None:
        """Give the idle connections up, too.

        The ends of the idle ones may arrive in the same turn of the loop, but after this one; and a process that is
        killed accepts connections for another moment, only to reset them.
        """
        while self.idle:
            self.idle.popleft().close()
        super().doubt()

    def drop_idle(self, now: float) -> None:
        """Close the connections that have been idle for too long."""
        while self.idle and now - self.idle[0].idle_since >= MAX_IDLE_S:
            self.idle.popleft().close()

    def close(self) -> None:
        """Close everything; exchanges must have ended before."""
        self.stop_dialling()
        for connection in list(self.connections):
            connection.discard()

    def _new(self) -> Http1Upstream:
        return Http1Upstream(self._shared, self, self._limits)

    def _wanted(self) -> int:
        return len(self.waiting)
