"""A client's HTTP/2 connection: each stream an exchange of its own, side by side with the others."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Fault, Outcome
from agent.net import replies
from agent.net.connection import LARGE_READ, ClientConnection
from agent.net.exchange import Exchange
from agent.net.gate import Gate
from agent.net.progress import Pace, Progress
from agent.net.sides import Pool
from agent.scale.page import Page
from agent.wire.fields import Http2Request, Http2Response, Trailers
from agent.wire.frames import Code
from agent.wire.head import ResponseHead
from agent.wire.http2 import ServerHttp2, ServerStream
from agent.wire.message import Limits
from agent.wire.stream import Bounds

if TYPE_CHECKING:
    from agent.net.arrival import Arrival

# What a client may send ahead once its request is at the predictor; before, it is the bound on a queued body.
BULK_WINDOW = LARGE_READ


class Inbound(ServerStream):
    """A request on its way in: a stream of the client's connection, and the client of an exchange.

    `exchange` is None where there is none, or none any more that could be told anything.
    """

    __slots__ = ("_connection", "_grpc", "_pace", "_progress", "exchange", "protocol")

    def __init__(self, connection: "Http2Downstream") -> None:
        super().__init__()
        self._connection = connection
        self._grpc = False
        self.exchange: Exchange | None = None
        self.protocol = "http"
        self._progress: Progress | None = None  # most streams end before anybody looks
        self._pace: Pace | None = None

    @property
    def peer(self) -> str:
        return self._connection.peer

    @property
    def congested(self) -> bool:
        """Whether the client takes no more for now."""
        return self._held is not None or self._connection.congested

    @property
    def unsent(self) -> int:
        """How many bytes the client's window holds up."""
        return sum(map(len, self._held)) if self._held else 0

    # Stream

    def on_request(self, head: Http2Request, fault: Fault | None, end: bool) -> None:
        connection = self._connection
        if head.grpc:
            self._grpc = True
            self.protocol = "grpc"
        if fault is not None:
            connection.gate.hooks.faulted(fault, connection.peer, monotonic())
            self.send_refusal(fault.outcome, fault.detail, 0.0)
            return
        exchange = self.exchange = Exchange(connection.gate, connection.pool, self, head, uploaded=end)
        exchange.begin()

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        if self.exchange is not None:
            self.exchange.on_request_body(data, end)

    def on_trailers(self, trailers: Trailers) -> None:
        if self.exchange is not None:
            self.exchange.on_request_trailers(trailers)

    def on_reset(self, code: int) -> None:  # noqa: ARG002 - whatever the reason, the client is gone
        self.leave()

    def on_fault(self, fault: Fault) -> None:
        connection, exchange = self._connection, self.exchange
        self.exchange = None
        if exchange is not None:
            exchange.hear(lambda: exchange.on_client_fault(fault))
        else:
            connection.gate.hooks.faulted(fault, connection.peer, monotonic())

    def on_blocked(self) -> None:
        if self.exchange is not None:
            self.exchange.on_client_writable(ready=False)

    def on_drained(self) -> None:
        if self.exchange is not None and not self._connection.congested:
            self.exchange.on_client_writable(ready=True)

    def has_stalled(self, now: float, patience: float) -> bool:
        """Whether the client is the one that is waited for, and for more than `patience` seconds nothing has moved."""
        exchange = self.exchange
        unsent = self.unsent
        waits = unsent > 0 or (exchange is not None and exchange.lacks_body and not self.withhold)
        if self._progress is None:
            self._progress = Progress()
        moved = (unsent, exchange.bytes_in if exchange is not None else 0)
        return self._progress.has_stalled(moved, now, patience, waits=waits)

    def is_behind(self, elapsed: float, rate: int, grace: float) -> bool:
        """Whether the client keeps a slot busy by its slowness on this stream; see `Pace.is_behind`."""
        exchange = self.exchange
        if exchange is None or not exchange.is_served:
            return False
        unsent = self.unsent
        waits = unsent > 0 or (exchange.owes_body and not self.withhold)
        if self._pace is None:
            self._pace = Pace()
        moved = exchange.bytes_in + exchange.bytes_out - unsent
        return self._pace.is_behind(exchange.began, moved, elapsed, rate, grace, waits=waits)

    def turn_away(self) -> None:
        """The client is too slow. What it does not take must not stay."""
        exchange = self.exchange
        if exchange is not None:
            exchange.refuse(Outcome.CLIENT_SLOW)
        if self.blocked:
            self.reset(Code.CANCEL)

    def give_up(self) -> None:
        """The client neither sends nor takes what it should on this stream."""
        self.reset(Code.CANCEL)
        self.leave()

    def leave(self) -> None:
        """The client has left."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.hear(exchange.on_client_gone)

    # Client of an exchange

    def send_continue(self) -> None:
        """Nothing to do: over HTTP/2 an expectation is the predictor's, and so is its 100."""

    def send_interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx answer."""
        assert isinstance(head, Http2Response)
        self.send_head(head.block, False)

    def start(self, head: ResponseHead, end: bool) -> None:
        """Begin the answer."""
        assert isinstance(head, Http2Response)
        self.send_head(head.block, end)

    def finish(self, trailers: Trailers) -> None:
        """End the answer with trailers."""
        self.send_trailers(trailers.block)

    def send_refusal(self, outcome: Outcome, detail: str, retry_s: float | None) -> None:
        """Answer for the predictor."""
        known = self._connection.gate.replies
        if self._grpc:
            self.send_head(known.grpc(outcome, detail, retry_s), True)
        else:
            block, body = known.http2(outcome, detail, retry_s)
            self.send_head(block, False)
            self.send_data(body, True)

    def send_page(self, page: Page, *, bodyless: bool) -> None:
        """Answer for the agent itself."""
        self.send_head(replies.page_http2(page), bodyless)
        if not bodyless:
            self.send_data(page.body, True)

    def start_tunnel(self, head: ResponseHead) -> None:
        """Never: HTTP/2 has no 101."""
        raise NotImplementedError

    def close_tunnel(self) -> None:
        """Never: see `start_tunnel`."""
        raise NotImplementedError

    def cut(self, outcome: Outcome) -> None:
        """End an answer that has begun: with a status where the client reads one, else with RST_STREAM."""
        if self._grpc and outcome is not Outcome.INTERNAL:  # after a bug of ours, who knows what was sent
            self.send_trailers(self._connection.gate.replies.trailers(outcome))
        else:
            self.reset(Code.INTERNAL_ERROR)

    def expect_bulk(self, *, bulk: bool) -> None:
        """The request is at the predictor: let the client send as fast as that reads."""
        self.target = BULK_WINDOW if bulk else 0
        self.credit()


class Http2Downstream(ClientConnection):
    """One client connection. `since` is when it last had a stream, in seconds of the monotonic clock."""

    __slots__ = ("_heads", "_machine", "_pace", "_progress", "gate", "is_lingering", "peer", "pool", "since")

    def __init__(self, gate: Gate, pool: Pool, limits: Limits, bounds: Bounds) -> None:
        super().__init__(gate.shared)
        self.gate = gate
        self.pool = pool
        self.since = 0.0
        self.peer = ""
        self.is_lingering = False
        self._progress = Progress()
        self._heads = Progress()
        self._pace = Pace()
        self._view = gate.shared.large
        self._machine = ServerHttp2(self, limits, bounds)

    @property
    def streams(self) -> list[Inbound]:
        """Those that are open."""
        return [stream for stream in self._machine.streams.values() if isinstance(stream, Inbound)]

    @property
    def has_settings(self) -> bool:
        """Whether the client has sent what a connection begins with."""
        return self._machine.has_settings

    # Connection

    def adopt(self, arrival: "Arrival", transport: asyncio.BaseTransport) -> None:
        """Take over a connection that turned out to speak HTTP/2."""
        self.connection_made(transport)
        self.gate.connections.add(self)
        self.since, self.peer = monotonic(), arrival.peer
        if self.gate.closing:
            self._machine.announce_end()

    def received(self, data: memoryview) -> None:
        self._machine.feed(data)

    def ended(self) -> bool:
        self._leave()
        return False

    def lost(self) -> None:
        self.gate.depart(self)
        self._machine.stop()
        self._leave()

    def writable(self, *, ready: bool) -> None:
        for stream in self.streams:
            if stream.exchange is not None and not stream.blocked:
                stream.exchange.on_client_writable(ready=ready)

    def fail(self) -> None:
        exchanges = [stream.exchange for stream in self.streams if stream.exchange is not None]
        self.abort()
        for exchange in sorted(exchanges, key=lambda exchange: not exchange.waits):
            exchange.abandon()

    def abort(self) -> None:
        self._machine.stop()
        super().abort()

    # Time-outs and drain

    def has_stalled(self, now: float, patience: float) -> bool:
        """Whether for more than `patience` seconds the client has taken none of what is there for it."""
        unsent = self.untaken
        return self._progress.has_stalled(unsent, now, patience, waits=unsent > 0)

    def has_overdue_head(self, now: float, patience: float) -> bool:
        """Whether the same header section has been on its way for more than `patience` seconds."""
        section = self._machine.open_section
        return self._heads.has_stalled(section, now, patience, waits=bool(section))

    def is_behind(self, elapsed: float, rate: int, grace: float) -> bool:
        """Whether the client keeps slots busy by not taking what is there for it; see `Pace.is_behind`."""
        unsent = self.untaken
        waits = unsent > 0 and any(stream.exchange is not None and stream.exchange.is_served for stream in self.streams)
        return self._pace.is_behind(None, self.written - unsent, elapsed, rate, grace, waits=waits)

    def turn_away(self) -> None:
        """The client is too slow: it has lost whatever it has here."""
        self._leave_queue()
        self.refuse_all(Outcome.CLIENT_SLOW)
        self.give_up()

    def refill(self, seconds: float) -> None:
        """So much time has passed."""
        self._machine.refill(seconds)

    def give_up(self) -> None:
        """The client does not take what it should: it is as good as gone."""
        self.abort()
        self._leave()

    def announce_end(self) -> None:
        """Ask for no more streams (the first of two steps)."""
        if not self._machine.dead:
            self._machine.announce_end()

    def refuse_all(self, outcome: Outcome) -> None:
        """Answer what has not been answered."""
        for stream in self.streams:
            if stream.exchange is not None and not stream.exchange.is_over:
                stream.exchange.refuse(outcome)

    def close_if_idle(self) -> None:
        """Take no more streams, and end the connection once it has none."""
        self._machine.end()
        self._close_when_done()

    def close_when_sent(self) -> None:
        # Its streams may hold what the client has given no window for.
        self.close_if_idle()

    def close(self) -> None:
        """End the connection; what it carries must have been answered before."""
        self._machine.end()
        self._machine.stop()
        self._leave()
        super().close()

    # Sink of the machine

    def open_stream(self) -> Inbound:
        """A stream of the client's."""
        return Inbound(self)

    def on_stream_end(self, stream: object) -> None:  # noqa: ARG002 - wire.connection.Sink
        """A stream is gone."""
        if not self._machine.streams:
            self.since = monotonic()
            if self.gate.closing:
                self._close_when_done()

    def on_malformed(self, fault: Fault) -> None:
        """A client's mistake that became no request."""
        self.gate.hooks.faulted(fault, self.peer, monotonic())

    def on_broken(self, code: Code, detail: str) -> None:  # noqa: ARG002 - wire.connection.Sink
        """The client broke a rule of the connection, and GOAWAY tells it so."""
        self.gate.hooks.faulted(Fault(Outcome.BAD_REQUEST, detail), self.peer, monotonic())
        self._leave()
        self.since = monotonic()
        self.is_lingering = True
        # Closing while the client still sends would reset the connection and take GOAWAY with it.
        self.half_close()

    # Inside

    def _leave(self) -> None:
        self._leave_queue()
        for stream in self.streams:
            stream.leave()

    def _leave_queue(self) -> None:
        # First those that wait: else the slots of the others would go to them, and the predictor would see them.
        for stream in self.streams:
            if stream.exchange is not None and stream.exchange.waits:
                stream.leave()

    def _close_when_done(self) -> None:
        if self._machine.closing and not self._machine.streams:
            self.close()
