"""TLS on one connection: a protocol to TCP below, and to what is spoken above a transport like any other.

The loops' own TLS transports cannot half-close, and lose what a peer sent before its end while reading is paused
(uvloop) or take a cut connection for an ended one (asyncio). Here both loops behave alike: close_notify is the peer's
end, and a connection that ends without it is lost, never ended (RFC 8446 section 6.1).

    HANDSHAKING --> OPEN --close, write_eof--> SHUT --> GONE
"""

import asyncio
import contextlib
import ssl
from enum import IntEnum
from typing import Any, Protocol, cast

# What goes into a memory BIO at once. Its room grows, and is kept while the connection lasts: 280 KB each way for as
# much as is read and written at once in the clear (DECISIONS 44).
_PIECE = 64 * 1024
# TLS answers for itself: key updates, and renegotiation, which it refuses. This much may wait for a peer that asks for
# answers and reads none; it is more than is written ahead of any answer of the predictor's.
_MAX_UNREAD = 4 * 1024 * 1024


class Phase(IntEnum):
    """What may pass."""

    HANDSHAKING = 0  # nothing
    OPEN = 1
    SHUT = 2  # nothing: close_notify is on its way, and what the peer still sends is not looked at
    GONE = 3


HANDSHAKING, OPEN, SHUT, GONE = Phase


class Owner(Protocol):
    """Who decides about handshakes: of `succeeded` and `failed` one is called, once. Broken records fail, too."""

    def begun(self, layer: "Tls") -> None:
        """There is a TCP connection."""

    def heard(self, layer: "Tls") -> None:
        """The peer has sent its next part: `layer.shake` is to be called."""

    def succeeded(self, layer: "Tls") -> asyncio.BaseProtocol | None:
        """The peer is known: what is above, or None to end the connection."""

    def failed(self, layer: "Tls", error: Exception) -> None:
        """There will be no TLS, or no more of it."""


class Tls(asyncio.BufferedProtocol, asyncio.Transport):
    """One connection. `room` is a buffer that the whole process shares, for what arrives during the handshake.

    `has_spoken` tells whether the peer has sent anything.
    """

    __slots__ = (
        "_above",
        "_decrypt",
        "_encrypt",
        "_has_ended",
        "_incoming",
        "_is_buffered",
        "_is_done",
        "_loop",
        "_object",
        "_outgoing",
        "_owner",
        "_paused",
        "_pending",
        "_room",
        "_tcp",
        "_view",
        "has_spoken",
        "phase",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        owner: Owner,
        context: ssl.SSLContext,
        room: memoryview,
        server_hostname: str | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._owner = owner
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=server_hostname
        )
        # Bound once: they are called for every record.
        self._decrypt: Any = self._object.read  # a number of bytes, where it is given a buffer
        self._encrypt, self._pending = self._object.write, self._object.pending
        self._room = self._view = room
        self._tcp: asyncio.Transport
        self._above: Any = None
        self._is_buffered = False
        self._paused = False
        # TCP's end has come; and the peer's own, which must come before.
        self._has_ended = self._is_done = False
        self.has_spoken = False
        self.phase = HANDSHAKING

    @property
    def alpn(self) -> str | None:
        """What the two sides have agreed to speak."""
        return self._object.selected_alpn_protocol()

    @property
    def peer_certificate(self) -> dict[str, Any]:
        """The peer's certificate as Python tells it; empty for none, and for one that cannot be told."""
        try:
            return self._object.getpeercert() or {}
        except UnicodeDecodeError:  # a name in it is no UTF-8
            return {}

    @property
    def peer_names(self) -> set[tuple[str, str]]:
        """The subject alternative names of the peer's certificate, if it has shown one: type and value, in full."""
        return set(self.peer_certificate.get("subjectAltName", ()))

    def shake(self) -> None:
        """Go on with the handshake."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            self._send()  # the alert that says why
            self._give_up(error)
            return
        self.phase = OPEN
        self._send()
        above = self._owner.succeeded(self)
        if above is None:
            self.close()
            return
        self.set_protocol(above)
        above.connection_made(self)
        self._read()

    def reject(self, error: Exception) -> None:
        """End a handshake."""
        if self.phase is HANDSHAKING:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.phase = SHUT
        self._owner.failed(self, error)
        self._tcp.close()

    # A protocol to TCP

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not isinstance: uvloop's transports are none of asyncio's classes.
        self._tcp = cast(asyncio.Transport, transport)
        self._owner.begun(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        # Never more than what is above would read at once, so that no more than that is held here.
        self._view = self._above.get_buffer(sizehint)[:_PIECE] if self._is_buffered else self._room
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        if self.phase is OPEN:
            if not self._is_done:  # nothing counts after close_notify, and nothing may gather
                self._incoming.write(self._view[:nbytes])
                self._read()
        elif self.phase is HANDSHAKING:
            self.has_spoken = True
            self._incoming.write(self._view[:nbytes])
            self._owner.heard(self)

    def eof_received(self) -> bool:
        if self.phase is HANDSHAKING:
            self._give_up(ConnectionResetError("the peer has left"))
        elif self.phase is OPEN:
            self._has_ended = True
            self._read()
            # While reading is paused the end waits, too; after close_notify it may be the end of one direction.
            return self.phase is OPEN and (self._paused or self._is_done)
        elif self._above is not None:
            self._above.eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        phase, self.phase = self.phase, GONE
        above, self._above = self._above, None
        self._is_buffered = False
        if phase is HANDSHAKING:
            self._owner.failed(self, exc or ConnectionResetError("the peer has left"))
        elif above is not None:
            above.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    # A transport to what is above: reading

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._above = protocol
        self._is_buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._above)

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._tcp.resume_reading()
        if self._has_ended or self._incoming.pending or self._pending():
            # Not at once: whoever resumes does not expect to be called from within.
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        """Hand up what has come, piece by piece, for as long as it is wanted."""
        incoming, pending = self._incoming, self._pending
        while self.phase is OPEN and not (self._paused or self._is_done) and (incoming.pending or pending()):
            if not (self._hand_up() if self._is_buffered else self._hand_up_copy()):
                break
        if self._outgoing.pending:
            self._send()
            if self._tcp.get_write_buffer_size() > _MAX_UNREAD:
                self.abort()
        if self._has_ended and self.phase is OPEN and not (self._paused or self._is_done):
            # Cut, not ended: whatever lasts until the end is not complete.
            self._tcp.abort()

    def _hand_up(self) -> bool:
        """Decrypt into the buffer above. Returns whether there may be more."""
        read, incoming, pending = self._decrypt, self._incoming, self._pending
        view = self._above.get_buffer(-1)
        size, room, got = 0, len(view), 0
        fault: ssl.SSLError | None = None
        try:
            while size < room:
                got = read(room - size, view[size:] if size else view)
                size += got
                # Asking for what is not there raises, which costs more than to look.
                if not got or not (incoming.pending or pending()):
                    break
        except ssl.SSLError as error:
            fault = error.with_traceback(None)  # which holds this frame, and so this connection
        if size:
            self._above.buffer_updated(size)
        return (got > 0 and fault is None) or self._goes_on(got, fault)

    def _hand_up_copy(self) -> bool:
        data, fault = b"", None
        try:
            data = self._object.read(_PIECE)
        except ssl.SSLError as error:
            fault = error.with_traceback(None)  # as above
        if data:
            self._above.data_received(data)
        return self._goes_on(len(data), fault)

    def _goes_on(self, got: int, fault: ssl.SSLError | None) -> bool:
        """Whether reading goes on after a read of so many bytes, or one that raised."""
        if isinstance(fault, ssl.SSLWantReadError) or self.phase is not OPEN:
            return False
        if fault is not None:
            self._owner.failed(self, fault)
            self._tcp.abort()
            return False
        if not got:
            self._is_done = True
            self._incoming.read()
            if not self._above.eof_received():
                self.close()
            return False
        return True

    # A transport to what is above: writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.phase is not OPEN or not data or self._tcp.is_closing():
            return
        put, take, size = self._encrypt, self._outgoing.read, len(data)
        try:
            if size <= _PIECE:
                put(data)
                self._tcp.write(take())
                return
            pieces, rest, sent = [], memoryview(data), 0
            while sent < size:
                sent += put(rest[sent : sent + _PIECE])
                pieces.append(take())
        except ssl.SSLError:
            self._tcp.abort()
            return
        self._tcp.writelines(pieces)

    def writelines(self, list_of_data: Any) -> None:
        # Copied together: a record is at most 16 KiB, and small ones cost as much as large ones.
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say that nothing follows. What the peer still sends is dropped, until it ends or we close."""
        self._notify()
        self._tcp.write_eof()

    def close(self) -> None:
        """Say that nothing follows, and close; that the peer says so, too, is not waited for."""
        self._notify()
        self._tcp.close()

    def abort(self) -> None:
        self.phase = SHUT
        self._tcp.abort()

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tcp.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._object
        if name == "sslcontext":
            return self._object.context
        if name == "peercert":
            return self.peer_certificate
        return self._tcp.get_extra_info(name, default)

    def _notify(self) -> None:
        if self.phase is OPEN:
            self.phase = SHUT
            with contextlib.suppress(ssl.SSLError):  # the peer's answer to it is not there yet
                self._object.unwrap()
            self._send()

    def _send(self) -> None:
        data = self._outgoing.read()
        if data and not self._tcp.is_closing():
            self._tcp.write(data)
