"""The gRPC calls of the benchmark: V2 inference with a small tensor and with one of 1 MiB, as protobuf bytes.

Field numbers are those of the Open Inference Protocol's ModelInferRequest, ModelInferResponse and Triton's
ModelStreamInferResponse. They are written by hand: the benchmark shares no code with what it measures.
"""

import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from .payload import TENSOR_BYTES

UNARY = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
HEADERS: Mapping[str, str] = {
    "content-type": "application/grpc",
    "te": "trailers",
    "user-agent": "grpc-python/1.81.1 grpc-c/51.0.0 (linux; chttp2)",
}


@dataclass(frozen=True, slots=True)
class Call:
    """What one call, or one message of a stream, sends and must get back; messages without their gRPC prefix."""

    name: str
    method: str
    request: bytes
    answer: bytes


def framed(message: bytes) -> bytes:
    """A message behind its five bytes of prefix, uncompressed (gRPC over HTTP2, "Length-Prefixed-Message")."""
    return struct.pack(">BL", 0, len(message)) + message


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _tensor(name: str, side: int) -> bytes:
    """The description of an FP32 tensor of shape [1, side]; the packed shape needs no lengths above 127."""
    return _field(1, name.encode()) + _field(2, b"FP32") + _field(3, _varint(1) + _varint(side))


def _request(model: str, tensor: bytes) -> bytes:
    described = _field(5, _tensor("x", len(tensor) // 4))
    return _field(1, model.encode()) + _field(3, b"42") + described + _field(7, tensor)


def _answer(model: str, tensor: bytes) -> bytes:
    described = _field(5, _tensor("y", len(tensor) // 4))
    return _field(1, model.encode()) + _field(2, b"1") + _field(3, b"42") + described + _field(6, tensor)


_IN = struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
_OUT = struct.pack("<3f", 0.97, 0.02, 0.01)
_LARGE = random.Random(7).randbytes(TENSOR_BYTES)

SMALL = Call("small", UNARY, _request("small", _IN), _answer("small", _OUT))
UPLOAD = Call("upload", UNARY, _request("upload", _LARGE), _answer("upload", _OUT))
DOWNLOAD = Call("download", UNARY, _request("download", _IN), _answer("download", _LARGE))
MESSAGE = Call("stream", STREAM, _request("stream", _IN), _field(2, _answer("stream", _OUT)))
# A message of exactly 1 MiB with its prefix: what a stream without end repeats.
_ENVELOPE = len(framed(_request("pour", _LARGE))) - TENSOR_BYTES
POUR = Call("pour", STREAM, _request("pour", _LARGE[: TENSOR_BYTES - _ENVELOPE]), b"")
