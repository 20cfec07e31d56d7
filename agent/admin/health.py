"""grpc.health.v1 (the gRPC project's health checking protocol) on the admin port, for gRPC probes of the kubelet.

The service's two messages are a string and a number, so neither grpcio nor protobuf is loaded for them (9 MB). The
services "" and "readiness" follow /readyz, "liveness" follows /healthz.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from agent.errors import Fault
from agent.net.drain import Stage
from agent.net.guests import NOBODY, Guest, Guests
from agent.wire.fields import Http2Request, Trailers
from agent.wire.frames import Code
from agent.wire.grpc import model_name, percent_encode
from agent.wire.head import Fields
from agent.wire.hpack import encode
from agent.wire.http2 import ServerHttp2, ServerStream
from agent.wire.message import Limits
from agent.wire.sniff import PREFACE, Protocol, detect
from agent.wire.stream import Bounds

if TYPE_CHECKING:
    from agent.net.drain import Drain

_CHECK, _WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
# HealthCheckResponse.ServingStatus
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_OK, _INVALID_ARGUMENT, _NOT_FOUND, _UNIMPLEMENTED = 0, 3, 5, 12
_MAX_REQUEST = 4096
# Answers of a few dozen bytes that nobody reads: such a client asks without end.
_MAX_UNREAD = 256 * 1024
_HEAD: Fields = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_LIMITS = Limits(head=16 * 1024)
_BOUNDS = Bounds(streams=16, connection_window=256 * 1024)


class Door(Guest):
    """A new connection to the admin port: HTTP/2 is for the health service, anything else for `pages`."""

    def __init__(
        self, guests: Guests, drain: "Drain", pages: Callable[[], asyncio.Protocol], ports: "set[HealthPort]"
    ) -> None:
        super().__init__(guests)
        self._drain = drain
        self._pages = pages
        self._ports = ports
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        if self.above is NOBODY:
            data = self._seen = self._seen + data
            protocol = detect(self._seen)
            if protocol is Protocol.MORE:
                return
            if protocol is Protocol.HTTP2:
                self.above, data = HealthPort(self._drain, self._ports), self._seen[len(PREFACE) :]
            else:
                self.above = self._pages()
            self._seen = b""
            self.above.connection_made(self._transport)
        super().data_received(data)


class HealthPort(asyncio.Protocol):
    """A connection that asks for health over HTTP/2."""

    def __init__(self, drain: "Drain", ports: "set[HealthPort]") -> None:
        self.drain = drain
        self._ports = ports
        self._out: list[bytes] = []
        self._machine = ServerHttp2(self, _LIMITS, _BOUNDS)
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ports.add(self)

    def data_received(self, data: bytes) -> None:
        self._machine.feed(memoryview(data))
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._ports.discard(self)
        for stream in self.calls:
            stream.stop_watching()

    @property
    def calls(self) -> "list[HealthCall]":
        """Those that are open."""
        return [stream for stream in self._machine.streams.values() if isinstance(stream, HealthCall)]

    def flush(self) -> None:
        """Write what has gathered."""
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            if self._transport.get_write_buffer_size() > _MAX_UNREAD:
                self._machine.stop()
                self._transport.abort()

    def close(self) -> None:
        """End the connection."""
        self._machine.end()
        self.flush()
        self._transport.close()

    # Sink of the machine

    def write(self, data: bytes) -> None:
        """Queue bytes for the flush."""
        self._out.append(data)

    def open_stream(self) -> "HealthCall":
        """A call of the client's."""
        return HealthCall(self)

    def on_stream_end(self, stream: object) -> None:
        """A call has ended."""
        if isinstance(stream, HealthCall):
            stream.stop_watching()

    def on_malformed(self, fault: Fault) -> None:
        """Nothing to do: the client has been told."""

    def on_broken(self, code: Code, detail: str) -> None:  # noqa: ARG002 - wire.connection.Sink
        """Nothing more can be said on this connection."""
        self.flush()
        self._transport.close()


class HealthCall(ServerStream):
    """One call of Check or Watch."""

    __slots__ = ("_port", "_request", "_service", "_told", "_watches")

    def __init__(self, port: HealthPort) -> None:
        super().__init__()
        self._port = port
        self._request = bytearray()
        self._service = ""
        self._watches = False
        self._told = 0

    def on_request(self, head: Http2Request, fault: Fault | None, end: bool) -> None:
        self._watches = head.target == _WATCH
        if fault is not None or not head.grpc or head.target not in {_CHECK, _WATCH}:
            self._fail(_UNIMPLEMENTED, "only grpc.health.v1.Health is served here")
        elif end:
            self._fail(_INVALID_ARGUMENT, "a request is expected")

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        self._request += data
        if len(self._request) > _MAX_REQUEST:
            self._fail(_INVALID_ARGUMENT, "the request is too large")
        elif end:
            self._answer()

    def on_trailers(self, trailers: Trailers) -> None:  # noqa: ARG002 - they say nothing
        self._answer()

    def on_reset(self, code: int) -> None:
        pass

    def on_fault(self, fault: Fault) -> None:
        pass

    def on_blocked(self) -> None:
        pass

    def on_drained(self) -> None:
        pass

    def stop_watching(self) -> None:
        """The call is over."""
        self._port.drain.watchers.discard(self._tell)

    def _answer(self) -> None:
        self._service = model_name(bytes(self._request), whole=True) or ""
        if self._watches:
            self.send_head(encode(_HEAD), False)
            self._port.drain.watchers.add(self._tell)
            self._tell()
        elif self._status() == _SERVICE_UNKNOWN:
            self._fail(_NOT_FOUND, "unknown service")
        else:
            self.send_head(encode(_HEAD), False)
            self.send_data(_response(self._status()), False)
            self.send_trailers(encode([(b"grpc-status", b"%d" % _OK)]))

    def _tell(self) -> None:
        """Send the status to one who watches, if it is another than the last."""
        status = self._status()
        if status != self._told:
            self._told = status
            self.send_data(_response(status), False)
            self._port.flush()

    def _status(self) -> int:
        if self._service == "liveness":
            return _SERVING
        if self._service not in {"", "readiness"}:
            return _SERVICE_UNKNOWN
        return _SERVING if self._port.drain.stage is Stage.SERVING else _NOT_SERVING

    def _fail(self, status: int, message: str) -> None:
        fields = [*_HEAD, (b"grpc-status", b"%d" % status), (b"grpc-message", percent_encode(message))]
        self.send_head(encode(fields), True)


def _response(status: int) -> bytes:
    # The message prefix, then field 1 as a number.
    return b"\0\0\0\0\2\x08%c" % status
