"""An HTTP/2 client that shows an answer as it came: every field in its order, the body, the trailers, the reset.

Frames and fields are read by the library h2, which raises on what is not HTTP/2. It shares no code with the agent.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events

from .rawhttp import split

_TIMEOUT_S = 30.0
_READ = 256 * 1024

Fields = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A request: its path, the messages of its body as they go over the wire, and further fields."""

    path: str
    messages: tuple[bytes, ...] = ()
    fields: Fields = ()
    content_type: bytes = b"application/grpc"

    @property
    def head(self) -> Fields:
        return (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", self.path.encode()),
            (b":authority", b"predictor.test"),
            (b"content-type", self.content_type),
            (b"te", b"trailers"),
            *self.fields,
        )


@dataclass(slots=True)
class Answer:
    """What came on a stream. `reset` is the error code of a RST_STREAM, and None where the stream ended by itself."""

    fields: Fields = ()
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = ()
    reset: int | None = None
    ended: bool = False

    def value(self, name: bytes) -> bytes:
        """A field or trailer that comes once; empty where it is missing. Raises ValueError where it comes twice."""
        values = [value for known, value in (*self.fields, *self.trailers) if known == name]
        if len(values) > 1:
            raise ValueError(f"{name!r} came more than once: {values}")
        return values[0] if values else b""

    @property
    def status(self) -> int:
        """The status of a gRPC call."""
        return int(self.value(b"grpc-status"))

    @property
    def messages(self) -> list[bytes]:
        """The messages of a gRPC call. Raises ValueError where the last one is cut short."""
        found, rest = [], bytes(self.body)
        while rest:
            size = 5 + int.from_bytes(rest[1:5], "big")
            if len(rest) < size:
                raise ValueError(f"{len(rest)} bytes of a message of {size}")
            found.append(rest[5:size])
            rest = rest[size:]
        return found

    def without(self, *names: bytes) -> "Answer":
        """The same answer without these fields."""
        return replace(self, fields=tuple(known for known in self.fields if known[0] not in names))


class H2Client:
    """One connection to "host:port". Use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._socket = socket.create_connection(split(address), timeout=_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers: dict[int, Answer] = {}
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        # Room for whole tensors: what is tested here is the agent's windows, not those of this client.
        self._connection.increment_flow_control_window(2**30)
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, call: Call) -> Answer:
        """Send a request, and read its answer to the end."""
        stream = self.begin(call)
        self.end(stream)
        return self.finish(stream)

    def begin(self, call: Call) -> int:
        """Send a request without its end. Returns the number of its stream."""
        stream = self._connection.get_next_available_stream_id()
        self._answers[stream] = Answer()
        self._connection.send_headers(stream, list(call.head))
        self._flush()
        for sent in call.messages:
            self.send(stream, sent)
        return stream

    def send(self, stream: int, data: bytes) -> None:
        """Send a piece of a body; waits for the windows to have room for it."""
        while data and not self._answers[stream].ended:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room:
                self._connection.send_data(stream, data[:room])
                data = data[room:]
                self._flush()
            else:
                self._read()

    def end(self, stream: int) -> None:
        """Say that a body is complete."""
        if not self._answers[stream].ended:
            self._connection.end_stream(stream)
            self._flush()

    def cancel(self, stream: int) -> None:
        """Give a stream up: RST_STREAM with CANCEL."""
        self._connection.reset_stream(stream, 8)
        self._flush()

    def finish(self, stream: int) -> Answer:
        """Read an answer to its end."""
        while not self._answers[stream].ended:
            self._read()
        return self._answers.pop(stream)

    def receive(self, stream: int, messages: int) -> list[bytes]:
        """Read until so many messages have come; the answer goes on."""
        answer = self._answers[stream]
        while _count(answer.body) < messages:
            assert not answer.ended, answer
            self._read()
        whole = Answer(body=answer.body)
        return whole.messages[:messages]

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())

    def _read(self) -> None:
        data = self._socket.recv(_READ)
        if not data:
            raise EOFError("the connection ended")
        for event in self._connection.receive_data(data):
            self._take(event)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self._answers[event.stream_id].fields = tuple(map(tuple, event.headers))
            case h2.events.TrailersReceived():
                self._answers[event.stream_id].trailers = tuple(map(tuple, event.headers))
            case h2.events.DataReceived():
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._answers[event.stream_id].body += event.data
            case h2.events.StreamEnded():
                self._answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self._answers[event.stream_id].reset = int(event.error_code)
                self._answers[event.stream_id].ended = True
            case _:
                pass


def _count(body: bytes | bytearray) -> int:
    """How many whole messages these are."""
    at = count = 0
    while len(body) >= at + 5 and len(body) >= (end := at + 5 + int.from_bytes(body[at + 1 : at + 5], "big")):
        at, count = end, count + 1
    return count


def ask(address: str, *calls: Call) -> list[Answer]:
    """Send requests one after another on one connection; their answers."""
    with H2Client(address) as client:
        return [client.call(call) for call in calls]


def ask_at_once(address: str, calls: Sequence[Call]) -> list[Answer]:
    """Send requests on one connection before the first is answered; their answers."""
    with H2Client(address) as client:
        streams = [client.begin(call) for call in calls]
        for stream in streams:
            client.end(stream)
        return [client.finish(stream) for stream in streams]
