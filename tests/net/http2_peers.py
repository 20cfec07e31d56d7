"""Both ends of the agent over HTTP/2 in the hands of a test: the h2 library on sockets that are read only when asked.

h2 is strict: a frame of the agent's that breaks a rule raises here and fails the test. GOAWAY is kept from it, for h2
takes a connection for closed on its first sight; what h2 refuses to send goes out as raw bytes.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import h2.events as on
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

from tests.sockets import Peer
from tests.wire import frames_by_hand as raw
from tests.wire.frames_by_hand import Frame

Field = tuple[bytes, bytes]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + raw.settings()
INFER = b"/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = b"/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = b"/inference.GRPCInferenceService/ServerLive"


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def infer(tail: bytes = b"", model: bytes = b"m") -> bytes:
    """The message of a ModelInfer call: the model's name, then a field 7 with the bytes of `tail`."""
    return framed(b"\n" + raw.integer(len(model), 7) + model + b":" + _varint(len(tail)) + tail)


def _varint(number: int) -> bytes:
    return raw.integer(number, 7) if number < 127 else _long_varint(number)


def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def grpc_head(path: bytes = INFER, *more: Field) -> list[Field]:
    """The head of a gRPC call, as clients send it."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"m.test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]


def plain_head(method: bytes = b"POST", path: bytes = b"/v2/models/m/infer", *more: Field) -> list[Field]:
    """The head of a request that is not gRPC."""
    return [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"m.test"), *more]


GRPC_ANSWER: list[Field] = [(b":status", b"200"), (b"content-type", b"application/grpc")]
GRPC_OK: list[Field] = [(b"grpc-status", b"0")]


@dataclass(slots=True, eq=False)
class Half:
    """What has come on a stream: `reset` is the code of RST_STREAM, `credits` the WINDOW_UPDATE increments."""

    id: int
    fields: list[Field] = field(default_factory=list)
    interim: list[list[Field]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: list[Field] | None = None
    is_complete: bool = False
    reset: int | None = None
    credits: list[int] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.is_complete or self.reset is not None

    @property
    def status(self) -> int:
        return int(self.value(b":status") or 0)

    @property
    def grpc_status(self) -> int | None:
        value = self.value(b"grpc-status")
        return None if value is None else int(value)

    @property
    def reason(self) -> bytes | None:
        return self.value(b"x-headgate-reason")

    def value(self, name: bytes) -> bytes | None:
        """The only value of a field, of the head or the trailers."""
        values = [value for key, value in [*self.fields, *(self.trailers or [])] if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None


class Goaway(NamedTuple):
    last: int
    code: int


class Http2Peer:
    """One end of a connection. Nothing is read unless a method waits for it.

    `is_eager` gives the window back for what was read, at once; otherwise `grant` does. `frames` are all that came.
    """

    def __init__(self, peer: Peer, *, is_client: bool, settings: Mapping[int, int] | None = None) -> None:
        self.peer = peer
        self.is_eager = True
        self.frames: list[Frame] = []
        self.halves: dict[int, Half] = {}
        self.goaways: list[Goaway] = []
        self.pings = 0
        self.has_settings = False
        self.is_acknowledged = False
        self.credits: list[int] = []
        self._partial = b""
        config = H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            normalize_inbound_headers=False,
        )
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(
            client=is_client, initial_values={SettingCodes(key): value for key, value in (settings or {}).items()}
        )
        self.h2.initiate_connection()

    async def flush(self) -> None:
        """Send what h2 has made."""
        data = self.h2.data_to_send()
        if data:
            await self.peer.send(data)

    async def read(self) -> None:
        """Take one read's worth. Raises IncompleteError at the end of the connection."""
        data = self._partial + await self.peer.more()
        self.peer.taken = len(self.peer.received)
        if not self.h2.config.client_side and not self.frames and not self.has_settings:
            if len(data) < len(PREFACE):
                self._partial = data
                return
            assert data.startswith(PREFACE)
            self.h2.receive_data(PREFACE)
            data = data[len(PREFACE) :]
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            size = 9 + int.from_bytes(data[:3], "big")
            self._take(data[:size])
            data = data[size:]
        self._partial = data
        await self.flush()

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until the condition holds."""
        while not condition():
            await self.read()

    def half(self, number: int) -> Half:
        return self.halves.setdefault(number, Half(number))

    async def send_head(self, half: Half, fields: Sequence[Field], *, end: bool = False) -> None:
        self.h2.send_headers(half.id, list(fields), end_stream=end)
        await self.flush()

    async def send_data(self, half: Half, data: bytes, *, end: bool = False) -> None:
        """Send all of it; reads while the agent gives no window. Stops where the agent resets the stream."""
        at = 0
        while at < len(data) or end:
            room = min(self.h2.local_flow_control_window(half.id), self.h2.max_outbound_frame_size)
            piece = data[at : at + max(room, 0)]
            if at < len(data) and not piece:
                await self.read()
                if half.reset is not None:
                    return
                continue
            at += len(piece)
            is_last = end and at == len(data)
            self.h2.send_data(half.id, piece, end_stream=is_last)
            await self.flush()
            if is_last:
                return

    async def stuff(self, half: Half, data: bytes) -> int:
        """Send as much as the agent's window allows at the moment. Returns how many bytes."""
        sent = 0
        while (room := min(self.h2.local_flow_control_window(half.id), self.h2.max_outbound_frame_size)) > 0:
            piece = data[sent : sent + room]
            if not piece:
                break
            self.h2.send_data(half.id, piece)
            sent += len(piece)
        await self.flush()
        return sent

    async def reset(self, half: Half, code: int = raw.CANCEL) -> None:
        self.h2.reset_stream(half.id, code)
        await self.flush()

    async def grant(self, size: int, half: Half | None = None) -> None:
        """Give window, for a stream or the connection."""
        self.h2.increment_flow_control_window(size, None if half is None else half.id)
        await self.flush()

    async def configure(self, **settings: int) -> None:
        """Change settings, and wait until the agent has acknowledged them."""
        self.is_acknowledged = False
        self.h2.update_settings({SettingCodes[name]: value for name, value in settings.items()})
        await self.flush()
        await self.until(lambda: self.is_acknowledged)

    async def settled(self) -> None:
        """Until the agent has acted on all that was sent before."""
        before = self.pings
        self.h2.ping(b"settled?")
        await self.flush()
        await self.until(lambda: self.pings > before)

    def _take(self, data: bytes) -> None:
        [frame] = raw.parse(data)
        self.frames.append(frame)
        if frame.kind == raw.GOAWAY:
            self.goaways.append(Goaway(int.from_bytes(frame.payload[:4], "big"), frame.payload[7]))
            return
        for event in self.h2.receive_data(data):
            self._act(event)

    def _act(self, event: Any) -> None:
        if isinstance(event, on.RemoteSettingsChanged):
            self.has_settings = True
        elif isinstance(event, on.SettingsAcknowledged):
            self.is_acknowledged = True
        elif isinstance(event, on.PingAckReceived):
            self.pings += 1
        elif isinstance(event, on.WindowUpdated):
            assert event.delta is not None
            (self.half(event.stream_id).credits if event.stream_id else self.credits).append(event.delta)
        elif getattr(event, "stream_id", None):
            self._act_on_stream(event, self.half(event.stream_id))

    def _act_on_stream(self, event: Any, half: Half) -> None:
        if isinstance(event, on.RequestReceived | on.ResponseReceived):
            half.fields = list(event.headers)
        elif isinstance(event, on.InformationalResponseReceived):
            half.interim.append(list(event.headers))
        elif isinstance(event, on.TrailersReceived):
            half.trailers = list(event.headers)
        elif isinstance(event, on.DataReceived):
            half.body += event.data
            if self.is_eager and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, on.StreamEnded):
            half.is_complete = True
        elif isinstance(event, on.StreamReset):
            half.reset = int(event.error_code)


class Http2Client(Http2Peer):
    """A client's connection to the agent."""

    def __init__(self, peer: Peer, settings: Mapping[int, int] | None = None) -> None:
        super().__init__(peer, is_client=True, settings=settings)

    async def send(
        self, fields: Sequence[Field], body: bytes = b"", *, end: bool = True, trailers: Sequence[Field] | None = None
    ) -> Half:
        """A new request. Its answer gathers in what is returned."""
        half = self.half(self.h2.get_next_available_stream_id())
        await self.send_head(half, fields, end=end and not body and trailers is None)
        if body:
            await self.send_data(half, body, end=end and trailers is None)
        if trailers is not None:
            await self.send_head(half, trailers, end=True)
        return half

    async def call(self, tail: bytes = b"", *metadata: Field, path: bytes = INFER, end: bool = True) -> Half:
        """A new gRPC call for model m."""
        return await self.send(grpc_head(path, *metadata), infer(tail), end=end)

    async def answer(self, half: Half) -> Half:
        """Until the answer has ended, one way or the other."""
        await self.until(lambda: half.is_over)
        return half


class Http2Server(Http2Peer):
    """The predictor's end of a connection of the agent's."""

    def __init__(self, peer: Peer, settings: Mapping[int, int] | None = None) -> None:
        super().__init__(peer, is_client=False, settings=settings)
        self._handed = 0

    @property
    def requests(self) -> list[Half]:
        """All whose head has come, in this order."""
        return [half for half in self.halves.values() if half.fields]

    async def head(self) -> Half:
        """The next request, as soon as its head has come."""
        await self.until(lambda: len(self.requests) > self._handed)
        self._handed += 1
        return self.requests[self._handed - 1]

    async def request(self) -> Half:
        """The next request, once it has ended."""
        half = await self.head()
        await self.until(lambda: half.is_over)
        return half

    async def respond(
        self,
        half: Half,
        body: bytes = b"",
        *,
        fields: Sequence[Field] = GRPC_ANSWER,
        trailers: Sequence[Field] | None = GRPC_OK,
    ) -> None:
        """A whole answer."""
        await self.send_head(half, fields, end=not body and trailers is None)
        if body:
            await self.send_data(half, body, end=trailers is None)
        if trailers is not None:
            await self.send_head(half, trailers, end=True)

    async def goaway(self, last: int, code: int = raw.NO_ERROR) -> None:
        await self.peer.send(raw.goaway(last, code))

    async def serve(self, respond: Callable[["Http2Server", Half], Awaitable[None]] | None = None) -> None:
        """Answer every request, in order, until the connection ends or the task is cancelled."""
        while True:
            await (respond or partial(_echo))(self, await self.request())


async def _echo(server: Http2Server, half: Half) -> None:
    await server.respond(half, bytes(half.body))


class FrameReader:
    """Frames as they come on a raw connection, for tests that send what no library would."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.seen: list[Frame] = []

    async def next(self) -> Frame:
        header = await self.peer.exactly(9)
        payload = await self.peer.exactly(int.from_bytes(header[:3], "big"))
        [frame] = raw.parse(header + payload)
        self.seen.append(frame)
        return frame

    async def until(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of a kind, on a stream."""
        while True:
            frame = await self.next()
            if frame.kind == kind and stream in {None, frame.stream}:
                return frame
