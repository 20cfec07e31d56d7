"""A predictor that writes down every byte it gets, and reads it as strictly as others can: by h11 and h2.

One port speaks both protocols, as the first bytes say. Everything happens in callbacks, so a case can look at any time.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import h2.events as on
import h2.exceptions
import h11
from h2.config import H2Configuration
from h2.connection import H2Connection

from tests.wire.frames_by_hand import Pair

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# Larger than any head that the agent lets through.
_MAX_HEAD = 1 << 20


@dataclass(slots=True)
class Request:
    """A request as the predictor reads it. `head` is its bytes over HTTP/1.1; `fields` has the pseudo-headers over
    HTTP/2. `complete` says that it ended cleanly.
    """

    start: tuple[bytes, bytes]
    fields: list[Pair]
    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    trailers: list[Pair] = field(default_factory=list)
    complete: bool = False

    @property
    def target(self) -> bytes:
        return self.start[1]


# What a hostile predictor does about a complete request on a connection.
Answer = Callable[["Tape", Request, int], None]


class Tape(asyncio.Protocol):
    """One connection: `data` is all that came, `requests` what it means, `error` why it means nothing."""

    def __init__(self, recorder: "Recorder") -> None:
        self.data = bytearray()
        self.requests: list[Request] = []
        self.error = ""
        self.ended = False
        self.transport: asyncio.Transport
        self._recorder = recorder
        self._h2: H2Connection | None = None
        self._streams: dict[int, Request] = {}
        self._at = 0  # where the current HTTP/1.1 request begins
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._current: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none of asyncio's classes
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._recorder.tapes.append(self)
        if self._recorder.first:
            self.transport.write(self._recorder.first)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def data_received(self, data: bytes) -> None:
        if not self.data and data[:3] == b"PRI":
            self._begin_http2()
        self.data += data
        if self.error:
            return
        try:
            if self._h2 is not None:
                self._on_frames(data)
            else:
                self._reader.receive_data(data)
                self._on_bytes()
        except (h11.RemoteProtocolError, h2.exceptions.ProtocolError) as error:
            self.error = f"{type(error).__name__}: {error}"
            self.transport.abort()

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        self._recorder.requests.append(request)

    # HTTP/1.1

    def _on_bytes(self) -> None:
        while True:
            event = self._reader.next_event()
            if isinstance(event, h11.Request):
                end = self.data.find(b"\r\n\r\n", self._at) + 4
                head = bytes(self.data[self._at : end])
                fields = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
                self._current = Request((bytes(event.method), bytes(event.target)), fields, head)
                self._note(self._current)
                if self._recorder.early:
                    self._recorder.answer(self, self._current, 0)
                if b"\r\nUpgrade: " in head:
                    self._complete(self._current, b"")
                    return
            elif isinstance(event, h11.Data):
                assert self._current is not None
                self._current.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert self._current is not None
                self._current.trailers = [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
                rest, _ = self._reader.trailing_data
                self._complete(self._current, bytes(rest))
                if not rest:
                    return
            else:
                return

    def _complete(self, request: Request, rest: bytes) -> None:
        request.complete = True
        self._current = None
        self._at = len(self.data) - len(rest)
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        if rest:
            self._reader.receive_data(rest)
        if not self._recorder.early:
            self._recorder.answer(self, request, 0)

    # HTTP/2

    def _begin_http2(self) -> None:
        config = H2Configuration(client_side=False, header_encoding=None)
        self._h2 = H2Connection(config)
        self._h2.initiate_connection()
        hello = self._recorder.hello
        # h2 has to have said something before it reads; what the case says in its place is sent instead.
        own = self._h2.data_to_send()
        self.transport.write(own if hello is None else hello)

    def _on_frames(self, data: bytes) -> None:
        assert self._h2 is not None
        for event in self._h2.receive_data(data):
            if isinstance(event, on.RequestReceived):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                pseudo = dict(fields[:4])
                request = Request((pseudo[b":method"], pseudo.get(b":path", b"")), fields)
                self._streams[event.stream_id] = request
                self._note(request)
            elif isinstance(event, on.DataReceived):
                self._streams[event.stream_id].body += event.data
                if event.flow_controlled_length:
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, on.TrailersReceived):
                self._streams[event.stream_id].trailers = list(event.headers)
            elif isinstance(event, on.StreamEnded):
                request = self._streams[event.stream_id]
                request.complete = True
                self._flush()
                self._recorder.answer(self, request, event.stream_id)
        self._flush()

    def _flush(self) -> None:
        assert self._h2 is not None
        data = self._h2.data_to_send()
        if data and self._recorder.hello is None:
            self.transport.write(data)

    # What an answer does

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        self.transport.abort()

    def respond(self, stream: int) -> None:
        """A good answer in the protocol of the request."""
        if stream:
            assert self._h2 is not None
            self._h2.send_headers(stream, [(b":status", b"200")])
            self._h2.send_data(stream, b"ok", end_stream=True)
            self._flush()
        else:
            self.write(OK)


def respond(tape: Tape, request: Request, stream: int) -> None:
    """What a good predictor does."""
    tape.respond(stream)


class Recorder:
    """Listens; `answer` decides what is done about each complete request.

    With `early` that is done as soon as an HTTP/1.1 head has come. `first` is what it says before it has got anything,
    `hello` what it says over HTTP/2 in place of its SETTINGS.
    """

    def __init__(self) -> None:
        self.tapes: list[Tape] = []
        self.requests: list[Request] = []  # all that came since `forget`, in this order
        self.answer: Answer = respond
        self.early = False
        self.first = b""
        self.hello: bytes | None = None
        self.port = 0
        self._server: asyncio.Server

    async def start(self) -> "Recorder":
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Tape(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def busy(self) -> Tape:
        """The one connection that has had requests since `forget`."""
        [tape] = [tape for tape in self.tapes if tape.requests]
        return tape

    @property
    def errors(self) -> list[str]:
        return [tape.error for tape in self.tapes if tape.error]

    def forget(self) -> None:
        """Begin anew; connections that are open stay."""
        self.tapes = [tape for tape in self.tapes if not tape.ended]
        self.requests = []
        for tape in self.tapes:
            tape.requests.clear()
            tape.error = ""
        self.answer, self.early, self.first, self.hello = respond, False, b"", None

    def close(self) -> None:
        """Refuse new connections and end those that exist."""
        self._server.close()
        for tape in self.tapes:
            tape.transport.abort()
