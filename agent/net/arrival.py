"""A client's connection until its first bytes tell what it speaks; then another protocol takes it over."""

import asyncio
from time import monotonic

from agent.errors import Fault, Outcome
from agent.net.connection import ClientConnection
from agent.net.gate import Gate
from agent.net.http1_downstream import Http1Downstream
from agent.net.http2_downstream import Http2Downstream
from agent.net.sides import Pool
from agent.wire import frames
from agent.wire.message import Limits
from agent.wire.sniff import PREFACE, Protocol, detect
from agent.wire.stream import Bounds

HTTP2, MORE = Protocol.HTTP2, Protocol.MORE

# SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED (RFC 9113 section 7): the predictor behind this port speaks no HTTP/2.
_HTTP2_REFUSAL = frames.settings([]) + frames.goaway(0, frames.Code.HTTP_1_1_REQUIRED)


class Arrival(ClientConnection):
    """A new connection. `http1` and `http2` lead to the predictor that speaks each, or are None.

    `since` is when it was accepted, in seconds of the monotonic clock, `head_since` when its first byte came, 0.0 if
    none has.
    """

    __slots__ = ("_bounds", "_gate", "_http1", "_http2", "_limits", "_seen", "head_since", "peer", "since")

    def __init__(self, gate: Gate, limits: Limits, bounds: Bounds, http1: Pool | None, http2: Pool | None) -> None:
        super().__init__(gate.shared)
        self._gate = gate
        self._limits = limits
        self._bounds = bounds
        self._http1 = http1
        self._http2 = http2
        self._seen = b""
        self.since = 0.0
        self.head_since = 0.0
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._gate.connections) >= self._gate.max_connections:
            transport.close()
            return
        self._gate.connections.add(self)
        self.since = monotonic()
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) and len(peer) >= 2 else "unix"

    def received(self, data: memoryview) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        seen = self._seen = self._seen + bytes(data)
        if not self.head_since:
            self.head_since = monotonic()
        protocol = detect(seen)
        if protocol is MORE:
            return
        if protocol is HTTP2:
            if self._http2 is None:
                self.write(_HTTP2_REFUSAL)
                self.close()
            else:
                self._become(Http2Downstream(self._gate, self._http2, self._limits, self._bounds), seen[len(PREFACE) :])
        elif self._http1 is None:
            self._refuse(Fault(Outcome.VERSION_UNSUPPORTED, "this port speaks HTTP/2"))
        else:
            self._become(Http1Downstream(self._gate, self._http1, self._limits), seen)

    def ended(self) -> bool:
        return False

    def lost(self) -> None:
        self._gate.depart(self)

    def writable(self, *, ready: bool) -> None:
        pass

    def fail(self) -> None:
        self.abort()

    def expire_head(self) -> None:
        """The rest of the first bytes is overdue."""
        self._refuse(Fault(Outcome.HEAD_TIMEOUT, ""))
        self._gate.shared.flush()

    def close_if_idle(self) -> None:
        """End the connection unless something is on its way."""
        if not self.head_since:
            self.close()

    def _refuse(self, fault: Fault) -> None:
        self._gate.hooks.faulted(fault, self.peer, monotonic())
        self.write(self._gate.replies.http(fault.outcome, close=True, detail=fault.detail))
        self.close()

    def _become(self, connection: Http1Downstream | Http2Downstream, data: bytes) -> None:
        transport = self._transport
        assert transport is not None
        transport.set_protocol(connection)
        connection.adopt(self, transport)
        self._gate.connections.discard(self)
        self._transport = None
        connection.take_over(data)
