"""A server that answers at once and costs next to nothing: `python -m loadgen.stub`, for `selftest` and benchmarks.

HTTP/1.1 and gRPC over HTTP/2 on one free port, told in one line of JSON. Answers are valid V2, always the same; GET
/count tells how many inferences were answered.
"""

import asyncio
import json
import signal
from typing import cast

import uvloop
from hpack import Encoder, NeverIndexedHeaderTuple

from loadgen import h2
from protos.open_inference_pb2 import ModelInferResponse, ModelMetadataResponse

MODEL = "stub"
_OUTPUT = '{"model_name":"stub","outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[1.0]}]}'
_METADATA = json.dumps(
    {"name": MODEL, "platform": "stub", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8]}], "outputs": []}
)
_WINDOW = 1 << 30


def _http(body: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


_INFERRED, _TOLD = _http(_OUTPUT), _http(_METADATA)


def _block(*fields: tuple[str, str]) -> bytes:
    return Encoder().encode(NeverIndexedHeaderTuple(name.encode(), value.encode()) for name, value in fields)


_START = _block((":status", "200"), ("content-type", "application/grpc"))
_END = _block(("grpc-status", "0"))
_INFER = h2.message(ModelInferResponse(model_name=MODEL, raw_output_contents=[b"\0\0\x80?"]).SerializeToString())
_SHAPE = ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[1, 8])
_META = h2.message(ModelMetadataResponse(name=MODEL, inputs=[_SHAPE]).SerializeToString())
_GREETING = h2.settings({h2.INITIAL_WINDOW_SIZE: h2.MAX_WINDOW, h2.MAX_CONCURRENT_STREAMS: 1000}) + h2.window_update(
    0, _WINDOW
)


class _Connection(asyncio.Protocol):
    """Either protocol, told by its first bytes."""

    answered = 0  # by all connections

    def __init__(self) -> None:
        self._rest = b""
        self._is_h2: bool | None = None
        self._metadata: set[int] = set()
        self._received = 0
        self._heads = h2.Heads()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if self._is_h2 is None:
            if len(data) < len(h2.PREFACE) and h2.PREFACE.startswith(data):
                self._rest = data
                return
            self._is_h2 = data.startswith(h2.PREFACE)
            if self._is_h2:
                data = data[len(h2.PREFACE) :]
                self._transport.write(_GREETING)
        self._rest = self._frames(data) if self._is_h2 else self._requests(data)

    def _requests(self, data: bytes) -> bytes:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            at = data.lower().find(b"content-length:", 0, end)
            length = int(data[at + 15 : data.index(b"\r", at)]) if at >= 0 else 0
            if len(data) < end + 4 + length:
                break
            self._transport.write(self._told(data) if data.startswith(b"GET") else _INFERRED)
            _Connection.answered += not data.startswith(b"GET")
            data = data[end + 4 + length :]
        return data

    def _told(self, request: bytes) -> bytes:
        return _http(f"{_Connection.answered}") if request.startswith(b"GET /count ") else _TOLD

    def _frames(self, data: bytes) -> bytes:
        out, at = [], 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = h2.FRAME_HEAD.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            if end > len(data):
                break
            if kind == h2.SETTINGS and not flags & h2.ACK:
                out.append(h2.frame(h2.SETTINGS, h2.ACK, 0))
            elif kind == h2.PING and not flags & h2.ACK:
                out.append(h2.frame(h2.PING, h2.ACK, 0, data[at + 9 : end]))
            elif kind == h2.HEADERS and self._asks_metadata(data[at + 9 : end], flags):
                self._metadata.add(stream)
            if kind in {h2.HEADERS, h2.DATA} and flags & h2.END_STREAM:
                self._received += end - at
                out.append(self._answer(stream))
            at = end
        if self._received > _WINDOW // 2:
            out.append(h2.window_update(0, self._received))
            self._received = 0
        if out:
            self._transport.write(b"".join(out))
        return data[at:]

    def _asks_metadata(self, block: bytes, flags: int) -> bool:
        meaning = self._heads.read(block[5:] if flags & h2.PRIORITY else block)
        return meaning is not None and any(value.endswith(b"/ModelMetadata") for _, value in meaning.fields)

    def _answer(self, stream: int) -> bytes:
        message = _META if stream in self._metadata else _INFER
        _Connection.answered += message is _INFER
        self._metadata.discard(stream)
        return (
            h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _START)
            + h2.frame(h2.DATA, 0, stream, message)
            + h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, _END)
        )


async def serve() -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"event": "listening", "port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve())
