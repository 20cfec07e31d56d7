"""HTTP/2 connections to one predictor: each carries many requests, and another is dialled when it takes no more."""

import asyncio
import select
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Fault, Outcome
from agent.net.connection import Connection, Shared, asking
from agent.net.pool import Dialler
from agent.values import Address
from agent.wire.fields import Http2Request, Http2Response, Trailers
from agent.wire.frames import Code
from agent.wire.head import RequestHead
from agent.wire.http2 import ClientHttp2, ClientStream
from agent.wire.message import Limits
from agent.wire.stream import Bounds

if TYPE_CHECKING:
    from agent.net.exchange import Exchange
    from agent.net.handshakes import Dialled


class Outbound(ClientStream):
    """A request on its way out: a stream of a connection to the predictor, and the upstream of an exchange."""

    __slots__ = ("_connection", "exchange")

    # RST_STREAM reaches the model server, and some stop computing.
    cancels = True
    stale = False

    def __init__(self, connection: "Http2Upstream") -> None:
        super().__init__()
        self._connection = connection
        self.exchange: Exchange | None = None

    @property
    def congested(self) -> bool:
        """Whether the predictor takes no more for now."""
        return self._held is not None or self._connection.congested

    # Stream

    def on_interim(self, head: Http2Response) -> None:
        if self.exchange is not None:
            self.exchange.on_interim(head)

    def on_response(self, head: Http2Response, end: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_response(head, end)

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_response_body(data, end)

    def on_trailers(self, trailers: Trailers) -> None:
        if self.exchange is not None:
            self.exchange.on_response_trailers(trailers)

    def on_reset(self, code: int) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            returned = code == Code.REFUSED_STREAM
            exchange.hear(exchange.on_upstream_returned if returned else exchange.on_upstream_reset)

    def on_fault(self, fault: Fault) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.hear(lambda: exchange.on_upstream_fault(fault))

    def on_blocked(self) -> None:
        if self.exchange is not None:
            self.exchange.on_upstream_writable(ready=False)

    def on_drained(self) -> None:
        if self.exchange is not None and not self._connection.congested:
            self.exchange.on_upstream_writable(ready=True)

    # Upstream of an exchange

    def begin(self, exchange: "Exchange", head: RequestHead, end: bool, elapsed: float) -> None:
        """Open the stream with a request's head; the answer goes to `exchange`."""
        assert isinstance(head, Http2Request)
        self.exchange = exchange
        self.bodyless = head.method == b"HEAD"
        self._connection.open(self, head.block(elapsed), end)

    def finish(self, trailers: Trailers) -> None:
        """End the request's body with trailers."""
        self.send_trailers(trailers.block)

    def end(self, *, reusable: bool) -> None:  # noqa: ARG002 - the connection outlives its streams
        """The answer is complete; what is left of the request is of no use."""
        self.exchange = None
        if self.local_open:
            self.reset(Code.NO_ERROR)

    def discard(self) -> None:
        """Cancel the request."""
        self.exchange = None
        if self.id:
            self.reset(Code.CANCEL)

    def shut(self) -> None:
        """Never: HTTP/2 has no 101."""
        raise NotImplementedError


class Http2Upstream(Connection):
    """One connection to the predictor."""

    __slots__ = ("_asked", "_bounds", "_is_retired", "_limits", "_machine", "_poll", "_pool", "open", "streams")

    def __init__(self, shared: Shared, pool: "Http2Pool", limits: Limits, bounds: Bounds) -> None:
        super().__init__(shared)
        self._pool = pool
        self._view = shared.large
        self._limits = limits
        self._bounds = bounds
        self._is_retired = False
        self._asked = -1
        self._machine: ClientHttp2

    @property
    def room(self) -> int:
        """How many more requests it takes; none where its end has come, heard of or not (DECISIONS 11)."""
        room, turn = self._machine.room, self._shared.turn
        if room and self._asked != turn:  # once for all calls of a turn
            if self._poll(0):
                return 0
            self._asked = turn
        return room

    def exchanges(self) -> "Iterator[Exchange]":
        """Those that the predictor has."""
        for stream in list(self.streams.values()):
            if isinstance(stream, Outbound) and stream.exchange is not None:
                yield stream.exchange

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._poll = asking(transport, select.POLLRDHUP)
        # Not before: the machine speaks first.
        machine = self._machine = ClientHttp2(self, self._limits, self._bounds)
        self.open, self.streams = machine.open, machine.streams
        self._pool.connected(self)
        self._shared.flush()

    def received(self, data: memoryview) -> None:
        if self._pool.doubtful:
            self._pool.reassure()
        self._machine.feed(data)
        self._machine.heed(congested=self.congested)

    def ended(self) -> bool:
        self._lose()
        return False

    def lost(self) -> None:
        self._pool.lost(self)
        self._machine.stop()
        self._lose()

    def writable(self, *, ready: bool) -> None:
        for stream in list(self.streams.values()):
            if isinstance(stream, Outbound) and stream.exchange is not None and not stream.blocked:
                stream.exchange.on_upstream_writable(ready=ready)

    def fail(self) -> None:
        exchanges = list(self.exchanges())
        self.discard()
        for exchange in exchanges:
            exchange.abandon()

    def discard(self) -> None:
        """End the connection at once."""
        self._pool.retire(self)
        self._machine.stop()
        self.abort()

    def retire(self) -> None:
        """Take no more requests, and end with the last of those that it has."""
        self._is_retired = True
        self._pool.retire(self)
        self._close_when_done()

    # Sink of the machine

    def on_ready(self) -> None:
        """The predictor's SETTINGS have come."""
        self._pool.serve()

    def on_goaway(self) -> None:
        """The predictor takes no more requests here."""
        self.retire()

    def on_stream_end(self, stream: object) -> None:  # noqa: ARG002 - wire.connection.Sink
        """A stream is gone, and another may take its place."""
        if self._pool.waiting:
            self._pool.serve()
        if self._is_retired:
            self._close_when_done()

    def on_broken(self, code: Code, detail: str) -> None:  # noqa: ARG002 - wire.connection.Sink
        """The predictor broke a rule of the connection."""
        self._pool.retire(self)
        for exchange in list(self.exchanges()):
            exchange.on_upstream_fault(Fault(Outcome.UPSTREAM_INVALID, detail))
        if self.congested:
            self.abort()  # it reads nothing, so it would not read GOAWAY either
        else:
            self.close()

    # Inside

    def _lose(self) -> None:
        """The predictor has ended the connection."""
        self._pool.retire(self)
        exchanges = list(self.exchanges())
        if exchanges:
            self._pool.distrust()
        for exchange in exchanges:
            exchange.on_upstream_lost()

    def _close_when_done(self) -> None:
        if not self.streams:
            self.close()


class Http2Pool(Dialler):
    """The connections to one predictor that take requests, the oldest first; the others end when they are done."""

    __slots__ = ("_bounds", "_limits", "_open", "connections")

    refuses = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        address: Address,
        limits: Limits,
        bounds: Bounds,
        secure: Callable[[asyncio.BaseProtocol], "Dialled"] | None = None,
    ) -> None:
        super().__init__(loop, shared, address, secure)
        self.connections: set[Http2Upstream] = set()
        self._open: list[Http2Upstream] = []
        self._limits = limits
        self._bounds = bounds

    def take(self, now: float) -> Outbound | None:  # noqa: ARG002 - sides.Pool
        """A stream on a connection that takes one more, or None."""
        if not self.waiting and self._redial is None:
            for connection in self._open:
                if connection.room:
                    return Outbound(connection)
        return None

    def serve(self) -> None:
        """Give those who wait what room there is."""
        for connection in list(self._open):
            while self.waiting and connection.room:
                exchange = self._next()
                try:
                    exchange.attach(Outbound(connection), monotonic())
                except Exception as error:
                    # A bug in one request, which is in no connection yet: those that wait behind it are served.
                    self._shared.report(error)
                    exchange.abandon()

    def exchanges(self) -> "Iterator[Exchange]":
        """Those that the predictor has."""
        for connection in list(self.connections):
            yield from connection.exchanges()

    def counts(self) -> tuple[int, int]:
        """How many connections are busy, and how many idle."""
        busy = sum(1 for connection in self.connections if connection.streams)
        return busy, len(self.connections) - busy

    def wait(self, exchange: "Exchange") -> None:
        self.waiting[exchange] = None
        if not self.is_refusing:
            self.serve()
            if self.waiting:
                # Not yet: where the end of one call lets the next begin, its stream is about to be free again.
                self._loop.call_soon(self._dial_if_wanted)

    def connected(self, connection: Http2Upstream) -> None:
        """A dial has succeeded."""
        self._succeeded(connection)
        self.connections.add(connection)
        self._open.append(connection)
        self.serve()
        self._dial_more()

    def retire(self, connection: Http2Upstream) -> None:
        """A connection takes no more requests."""
        if connection in self._open:
            self._open.remove(connection)

    def lost(self, connection: Http2Upstream) -> None:
        """A connection has ended."""
        self.connections.discard(connection)

    def doubt(self) -> None:
        """Send nothing more on any of the connections.

        On a busy machine a process that is killed closes them many milliseconds apart, and what is sent to one that is
        still open would be lost. What they have they may finish.
        """
        for connection in list(self._open):
            connection.retire()
        super().doubt()

    def drop_idle(self, now: float) -> None:
        """Nothing to do: servers keep HTTP/2 connections, and announce their end with GOAWAY."""

    def close(self) -> None:
        """Close everything; exchanges must have ended before."""
        self.stop_dialling()
        for connection in list(self.connections):
            connection.discard()

    def _dial_if_wanted(self) -> None:
        if not self.is_refusing:
            self._dial_more()

    def _new(self) -> Http2Upstream:
        return Http2Upstream(self._shared, self, self._limits, self._bounds)

    def _wanted(self) -> int:
        return 1 if self.waiting else 0
