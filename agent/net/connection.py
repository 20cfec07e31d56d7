"""What both kinds of connections share: gathered writes, bounded reads, back-pressure, a guard around callbacks.

Reads go into a buffer that the whole process shares, so an idle connection costs no buffer, and a connection whose
request is not yet admitted takes at most `SMALL_READ` bytes a read: a thousand queued uploads cannot fill the memory
between two callbacks.
"""

import asyncio
import contextlib
import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable
from typing import cast

from agent.errors import Outcome
from agent.wire.message import HeadCache

# Before admission: head and small bodies. After it: as much as a socket buffer gives, for fewer system calls a
# megabyte.
SMALL_READ = 16 * 1024
LARGE_READ = 256 * 1024
# Above this many unsent bytes the other side is paused; Envoy's default for a connection is 1 MiB, HAProxy's 16 KiB.
HIGH_WATER = 256 * 1024

# From this size on, pieces go to the kernel as they are (writev); joining them would copy a megabyte for nothing.
_GATHER_ABOVE = 8 * 1024

# Why reading is paused; each reason is set and cleared on its own.
PAUSE_QUEUED, PAUSE_PEER, PAUSE_PIPELINE = 1, 2, 4
PAUSE_ALL = PAUSE_QUEUED | PAUSE_PEER | PAUSE_PIPELINE


class Shared:
    """Process-wide buffers, known heads, and the connections with bytes to flush. One thread uses them all."""

    __slots__ = ("dirty", "heads", "large", "report", "small", "turn")

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self.large = memoryview(bytearray(LARGE_READ))
        self.small = self.large[:SMALL_READ]
        self.dirty: list[Connection] = []
        self.turn = 0
        self.heads = HeadCache()
        self.report = report

    def flush(self) -> None:
        """Hand what this turn produced to the transports: one write a connection, however many pieces there are."""
        # Flushing can pause or resume peers, which may write again; the list may grow while it is walked.
        for connection in self.dirty:
            connection.flush()
        self.dirty.clear()
        self.turn += 1


def asking(transport: asyncio.BaseTransport, events: int) -> Callable[[int], list[tuple[int, int]]]:
    """How to ask the kernel whether one of these events has come on a transport's socket (poll(2)): call it with 0."""
    poller = select.poll()
    poller.register(transport.get_extra_info("socket").fileno(), events)
    return poller.poll


class Connection(asyncio.BufferedProtocol):
    """A transport with gathered writes. Subclasses implement `received`, `ended`, `lost`, `writable` and `fail`.

    `written` counts the bytes that the transport was given.
    """

    __slots__ = ("_out", "_paused", "_shared", "_transport", "_view", "congested", "written")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._view = shared.small
        self._out: list[bytes] = []
        self._paused = 0
        self._transport: asyncio.Transport | None = None
        self.congested = False
        self.written = 0

    # What a subclass does about it

    def received(self, data: memoryview) -> None:
        """Bytes have arrived; `data` is valid during the call only."""
        raise NotImplementedError

    def ended(self) -> bool:
        """The peer has sent all it will. Returns whether to keep the connection open for writing."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone. Called once."""
        raise NotImplementedError

    def writable(self, *, ready: bool) -> None:
        """The write buffer filled up (`ready` false) or drained."""
        raise NotImplementedError

    def fail(self) -> None:
        """A callback has raised, which is our bug: end what this connection carries."""
        raise NotImplementedError

    # What a subclass and its peers call

    def write(self, data: bytes) -> None:
        """Queue bytes for the flush at the end of this turn."""
        if not self._out:
            self._shared.dirty.append(self)
        self._out.append(data)

    def flush(self) -> None:
        """Write what has gathered."""
        out = self._out
        if not out:
            return
        self._out = []
        transport = self._transport
        if transport is not None:
            if len(out) == 1:
                data = out[0]
                self.written += len(data)
                transport.write(data)
            elif max(map(len, out)) < _GATHER_ABOVE:
                data = b"".join(out)
                self.written += len(data)
                transport.write(data)
            else:
                self.written += sum(map(len, out))
                transport.writelines(out)

    def expect_bulk(self, *, bulk: bool) -> None:
        """Choose the size of reads: large once bytes can be passed on at once."""
        self._view = self._shared.large if bulk else self._shared.small

    def pause(self, reason: int) -> None:
        """Stop reading for a reason."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: int) -> None:
        """Withdraw a reason; reading goes on when none is left."""
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused and self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def unsent(self) -> int:
        """How many bytes the peer has not taken, beyond what the kernel holds for it."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send what is queued, then close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def half_close(self) -> None:
        """Send what is queued and end our side; the peer's is still read."""
        self.flush()
        if self._transport is not None and self._transport.can_write_eof():
            # asyncio raises where the peer has reset the connection and we have not heard of it yet.
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def abort(self) -> None:
        """Drop the connection so that the peer cannot take what it has for complete: RST, not FIN."""
        transport = self._transport
        self._out.clear()
        # One that closes with nothing left to send is on its way out, and its FIN may be on the wire; one that still
        # has bytes for a peer that does not read would never end.
        if transport is None or (transport.is_closing() and not transport.get_write_buffer_size()):
            return
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Without it the kernel ends the stream with FIN, which means "complete" to a body that lasts until the end.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def take_over(self, data: bytes) -> None:
        """Act on what came before the transport was ours."""
        try:
            self.received(memoryview(data))
        except Exception as error:
            self._shared.report(error)
            self.fail()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not isinstance: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.received(self._view[:nbytes])
        except Exception as error:
            self._shared.report(error)
            self.fail()
        self._shared.flush()

    def eof_received(self) -> bool:
        keep = False
        try:
            keep = self.ended()
        except Exception as error:
            self._shared.report(error)
            self.fail()
        self._shared.flush()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._out.clear()
        try:
            self.lost()
        except Exception as error:
            self._shared.report(error)
            self.fail()
        self._shared.flush()

    def pause_writing(self) -> None:
        self._congest(congested=True)

    def resume_writing(self) -> None:
        self._congest(congested=False)
        self._shared.flush()

    def _congest(self, *, congested: bool) -> None:
        self.congested = congested
        try:
            self.writable(ready=not congested)
        except Exception as error:
            self._shared.report(error)
            self.fail()


class ClientConnection(Connection):
    """A client's connection, as the end of the service sees it."""

    __slots__ = ()

    @property
    def untaken(self) -> int:
        """How many bytes the client has not acknowledged, or 0 as long as the kernel takes all that there is for it.

        The kernel asks for more once a third of its buffer is free, which on a fast link is a megabyte: of a client
        that takes 10 KB a second it alone would tell nothing for two minutes.
        """
        transport, size = self._transport, self.unsent
        if transport is not None and size:
            sock = transport.get_extra_info("socket")
            # The descriptor may be closed before we hear of it.
            with contextlib.suppress(OSError, ValueError):
                size += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return size

    def announce_end(self) -> None:
        """Tell the client that the service will end, where its protocol can."""

    def close_if_idle(self) -> None:
        """Take nothing more, and end the connection unless something is under way."""
        raise NotImplementedError

    def refuse_all(self, outcome: Outcome) -> None:
        """Answer what neither admission nor the predictor's side knows of."""

    def close_when_sent(self) -> None:
        """All has been answered: end the connection once the client has it."""
        self.close()
