"""A client's HTTP/1.1 connection: requests in, replies out, in order, until one of them ends the connection."""

import asyncio
from enum import IntEnum
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Fault, Outcome
from agent.net import replies
from agent.net.connection import PAUSE_ALL, PAUSE_PIPELINE, ClientConnection
from agent.net.exchange import Exchange
from agent.net.gate import Gate
from agent.net.progress import Pace, Progress
from agent.net.sides import Pool
from agent.scale.page import Page
from agent.wire.fields import Trailers
from agent.wire.head import NO_STATUS, Fields, RequestHead, ResponseHead
from agent.wire.http1 import ServerHttp1
from agent.wire.message import Limits, State

if TYPE_CHECKING:
    from agent.net.arrival import Arrival

READY = State.READY

# Bytes of a refused request's body that are worth reading to keep the connection; beyond, a new connection is cheaper.
MAX_DRAIN = 256 * 1024
# Pipelined bytes kept while a reply is under way; more stay in the socket.
MAX_HELD = 64 * 1024
# Seconds to go on reading after an early reply, so that the client reads it before our close resets the connection
# (RFC 9112 section 9.6).
LINGER_S = 2.0


class Phase(IntEnum):
    """What the connection waits for, and so which time-out applies."""

    IDLE = 0  # a request, or the rest of its head
    BUSY = 1  # the exchange, or the rest of a request that has been answered
    LINGERING = 2  # the client's end, after an early reply


IDLE, BUSY, LINGERING = Phase


class Http1Downstream(ClientConnection):
    """One client connection. Sink of the server-side machine and the client of its current exchange.

    `since` is when the current phase began, in seconds of the monotonic clock; `head_since` when a head began, 0.0 if
    none has.
    """

    __slots__ = (
        "_chunk_out",
        "_close_after",
        "_exchange",
        "_gate",
        "_head",
        "_machine",
        "_pace",
        "_pool",
        "_progress",
        "head_since",
        "peer",
        "phase",
        "protocol",
        "since",
    )

    def __init__(self, gate: Gate, pool: Pool, limits: Limits) -> None:
        super().__init__(gate.shared)
        self._gate = gate
        self._pool = pool
        self._machine = ServerHttp1(self, limits, gate.shared.heads)
        self._exchange: Exchange | None = None
        self._head: RequestHead
        self._close_after = False
        self._chunk_out = False
        self._progress = Progress()
        self._pace = Pace()
        self.phase = IDLE
        self.since = 0.0
        self.head_since = 0.0
        self.peer = ""
        self.protocol = "http"

    @property
    def exchange(self) -> Exchange | None:
        """The exchange under way."""
        return self._exchange

    # Connection

    def adopt(self, arrival: "Arrival", transport: asyncio.BaseTransport) -> None:
        """Take over a connection that turned out to speak HTTP/1.1."""
        self.connection_made(transport)
        self._gate.connections.add(self)
        self.since, self.head_since, self.peer = arrival.since, arrival.head_since, arrival.peer

    def received(self, data: memoryview) -> None:
        self._machine.feed(data)
        if self.phase is IDLE:
            if not self._machine.in_head:
                self.head_since = 0.0
            elif not self.head_since:
                self.head_since = monotonic()
        if len(self._machine.held) > MAX_HELD:
            self.pause(PAUSE_PIPELINE)

    def ended(self) -> bool:
        exchange = self._exchange
        if exchange is None:
            self._machine.eof()
            return False
        if self._machine.state is READY and exchange.runs:
            # A client that shuts its sending side after a complete request may still read. One that waits in the queue
            # is taken for gone, since leaving looks the same and is what happens in practice (DECISIONS 6).
            # What it asked for beyond that is dropped, as the reply says: it ends the connection.
            self._close_after = True
            self._machine.held.clear()
            return True
        if exchange.responded:
            # It has a part of the answer and may still read: a clean end would make that look whole.
            self.give_up()
        return False

    def lost(self) -> None:
        self._gate.depart(self)
        self._machine.stop()
        if self._exchange is not None:
            self._exchange.on_client_gone(cut=True)
            self._exchange = None

    def writable(self, *, ready: bool) -> None:
        if self._exchange is not None:
            self._exchange.on_client_writable(ready=ready)
        elif ready and self.phase is IDLE:
            self._go_on()

    def fail(self) -> None:
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.abandon()

    def abort(self) -> None:
        self._exchange = None
        self._machine.stop()
        super().abort()

    def close(self) -> None:
        if self._exchange is not None and self._exchange.responded:
            self.give_up()  # a clean end would make what it has of the answer look whole
            return
        # What the client sent and we did not look at must not become a request while the last reply goes out.
        self._machine.stop()
        super().close()

    # Time-outs and drain

    def expire_head(self) -> None:
        """The rest of the head is overdue."""
        self._reply_to_fault(Fault(Outcome.HEAD_TIMEOUT, ""))
        self._gate.shared.flush()

    def give_up(self) -> None:
        """The client neither sends nor takes what it should: it is as good as gone."""
        exchange = self._exchange
        self.abort()
        if exchange is not None:
            exchange.on_client_gone()
        self._gate.shared.flush()

    def has_stalled(self, now: float, patience: float) -> bool:
        """Whether the client is the one that is waited for, and for more than `patience` seconds nothing has moved."""
        exchange = self._exchange
        unsent = self.untaken
        waits = unsent > 0 or (exchange is not None and exchange.lacks_body and not self._paused)
        moved = (unsent, exchange.bytes_in if exchange is not None else 0)
        return self._progress.has_stalled(moved, now, patience, waits=waits)

    def is_behind(self, elapsed: float, rate: int, grace: float) -> bool:
        """Whether the client keeps a slot busy by its slowness; see `Pace.is_behind`."""
        exchange = self._exchange
        if exchange is None or not exchange.is_served:
            return False
        unsent = self.untaken
        waits = unsent > 0 or (exchange.owes_body and not self._paused)
        moved = exchange.bytes_in + self.written - unsent
        return self._pace.is_behind(exchange.began, moved, elapsed, rate, grace, waits=waits)

    def turn_away(self) -> None:
        """The client is too slow."""
        self._close_after = True
        if self._exchange is not None:
            self._exchange.refuse(Outcome.CLIENT_SLOW)

    def close_if_idle(self) -> None:
        """End the connection unless a request is under way or on its way."""
        if self.phase is IDLE and not self.head_since:
            self.close()

    # Sink of the machine

    def on_request(self, head: RequestHead, end: bool) -> None:
        self.phase = BUSY
        self.head_since = 0.0
        self._head = head
        self._close_after = self._gate.closing or not head.minor or not head.keep_alive
        exchange = self._exchange = Exchange(self._gate, self._pool, self, head, uploaded=end)
        exchange.begin()

    def on_body(self, data: memoryview, end: bool) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.on_request_body(data, end)
            if end:
                self._view = self._shared.small
        elif end:
            self._next()

    def on_trailers(self, fields: Fields) -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.on_request_trailers(Trailers(fields, b"", NO_STATUS))
            self._view = self._shared.small
        else:
            self._next()

    def on_fault(self, fault: Fault) -> None:
        exchange = self._exchange
        if exchange is not None:
            self._close_after = True
            exchange.refuse(fault.outcome, fault.detail)
        elif self.phase is LINGERING or self.phase is BUSY:
            self.close()  # what is wrong comes after the reply
        else:
            self._reply_to_fault(fault)

    # Client of an exchange

    def send_continue(self) -> None:
        """Let the client send the body it announced."""
        self.write(replies.CONTINUE)

    def send_interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx answer; HTTP/1.0 knows none, and 100 is ours to send (DECISIONS 7)."""
        if self._head.minor and head.status != 100:
            self.write(head.serialize(chunked=False, close=False))

    def start(self, head: ResponseHead, end: bool) -> None:
        """Begin the reply, framed as the client can read it."""
        bodyless = self._head.method == b"HEAD" or head.status in {204, 304}
        chunked = head.chunked and bool(self._head.minor)
        # Without a length or chunks only the end of the connection ends the body. And a request that is not all here
        # yet would have to be read to its end first.
        if (
            self._machine.state is not READY
            or not (bodyless or chunked or head.length is not None)
            or self._gate.closing
        ):
            self._close_after = True
        self._chunk_out = chunked and not bodyless
        self.write(head.serialize(chunked=chunked, close=self._close_after))
        if end:
            self.send_data(b"", True)

    def send_data(self, data: bytes, end: bool) -> None:
        """Send a piece of the reply's body."""
        if data:
            if self._chunk_out:
                self.write(b"%x\r\n" % len(data))
                self.write(data)
                self.write(b"\r\n")
            else:
                self.write(data)
        if end:
            if self._chunk_out:
                self.write(b"0\r\n\r\n")
            self._exchange = None
            self._next()

    def finish(self, trailers: Trailers) -> None:
        """End the reply's body with trailers, where the client can read them."""
        if self._chunk_out:
            lines = [b"%b: %b\r\n" % field for field in trailers.fields]
            self.write(b"0\r\n%b\r\n" % b"".join(lines))
        self._exchange = None
        self._next()

    def cut(self, outcome: Outcome) -> None:  # noqa: ARG002 - HTTP/1.1 has no way to tell
        """End a reply that has begun: with RST, for FIN could mean that it is complete."""
        self.abort()

    def send_refusal(self, outcome: Outcome, detail: str, retry_s: float | None) -> None:
        """Answer for the predictor."""
        close, bodyless = self._closes(), self._head.method == b"HEAD"
        self._reply(self._gate.replies.http(outcome, close=close, bodyless=bodyless, detail=detail, retry_s=retry_s))

    def send_page(self, page: Page, *, bodyless: bool) -> None:
        """Answer for the agent itself."""
        self._reply(replies.page_http(page, close=self._closes(), bodyless=bodyless))

    def _closes(self) -> bool:
        """Whether the connection ends with a reply of our own, which may come before the request is all here."""
        head = self._head
        if self._gate.closing or (
            self._machine.state is not READY
            and (head.expects_continue or head.length is None or head.length > MAX_DRAIN)
        ):
            self._close_after = True
        return self._close_after

    def _reply(self, data: bytes) -> None:
        self.write(data)
        self._exchange = None
        self.since = monotonic()
        self.resume(PAUSE_ALL)
        self._next()

    def start_tunnel(self, head: ResponseHead) -> None:
        """The predictor has switched protocols; from now on bytes go through as they are."""
        self.write(head.serialize(chunked=False, close=False))
        self._chunk_out = False
        self.expect_bulk(bulk=True)
        # What the client sent ahead of the answer belongs to the tunnel; it may have been too much to hold.
        self.resume(PAUSE_PIPELINE)
        self._machine.start_tunnel()

    def close_tunnel(self) -> None:
        """The predictor has ended the tunnel."""
        self._exchange = None
        self.close()

    # Inside

    def _next(self) -> None:
        """The reply is out. Go on when the request is all in."""
        if self._close_after:
            self._end_connection()
        elif self._machine.state is READY:
            self.phase = IDLE
            self.since = monotonic()
            # Replies to a client that sends requests and reads nothing would gather here without bound.
            if not self.congested:
                self._go_on()

    def _go_on(self) -> None:
        """Look at what the client sent after a request that has been answered."""
        machine = self._machine
        self._view = self._shared.small
        self.resume(PAUSE_ALL)
        if not machine.held:
            machine.next_message()
            return
        machine.next_message()
        if len(machine.held) > MAX_HELD:
            self.pause(PAUSE_PIPELINE)
        if self.phase is IDLE and machine.in_head:
            self.head_since = self.since

    def _end_connection(self) -> None:
        self.since = monotonic()
        if self._machine.state is READY and not self._machine.held:
            self.close()
            return
        # The client is still sending. Closing now would reset the connection and take the reply with it.
        self.flush()
        self._machine.stop()
        self.phase = LINGERING
        self.resume(PAUSE_ALL)
        self.half_close()

    def _reply_to_fault(self, fault: Fault) -> None:
        """Answer what cannot become a request, and look at nothing that follows it."""
        self._machine.stop()
        self._gate.hooks.faulted(fault, self.peer, monotonic())
        self.write(self._gate.replies.http(fault.outcome, close=True, detail=fault.detail))
        self._close_after = True
        self._end_connection()
