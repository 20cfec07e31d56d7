"""What the first bytes of an inference request of the Open Inference Protocol (V2) say of it, over HTTP and gRPC.

`timeout` (microseconds) and `priority` are request parameters as Triton knows them, rows the first dimension of the
first input. Only what is at hand is looked at: a request whose tensors come before its parameters says nothing.

Sources: the protocol's REST and gRPC definitions, Triton's scheduling-policy extension, the Protocol Buffers encoding.
"""

import json
import re
from typing import NamedTuple

from agent.wire.grpc import PREFIX, varint

# Parameters and the shape of the first input come within this, or are not found.
_LOOK = 1024
_MAX_PATIENCE_S = 86400.0

NAMES = ("timeout", "priority", "rows")

_KEY = re.compile(r'\s*"([A-Za-z_]{1,32})"\s*:\s*')
_NEXT = re.compile(r"\s*,")
_SHAPE = re.compile(r'\s*\[\s*\{[^{}\[\]]*"shape"\s*:\s*\[\s*([0-9]{1,9})\b')
_DECODER = json.JSONDecoder()

# Keys of the fields in ModelInferRequest, InferInputTensor, a map's entry and InferParameter.
_PARAMETERS, _INPUTS = 0x22, 0x2A
_SHAPE_PACKED, _SHAPE_PLAIN = 0x1A, 0x18
_ENTRY_KEY, _ENTRY_VALUE = 0x0A, 0x12
_INT64, _UINT64 = 0x10, 0x28


class Hints(NamedTuple):
    """`patience` is seconds or None, `priority` V2's (1 is the highest, 0 none), `rows` 0 where unknown."""

    patience: float | None = None
    priority: int = 0
    rows: int = 0


class HintReader:
    """Reads the hints in `wanted`, which are of `NAMES`."""

    __slots__ = ("_wanted",)

    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted

    def read(self, data: bytes, *, grpc: bool) -> Hints:
        """`data` begins with the body of an HTTP request, or with the prefix of a gRPC message."""
        parameters, rows = _of_message(data) if grpc else _of_json(data)
        timeout, priority = parameters.get("timeout"), parameters.get("priority")
        wanted = self._wanted
        return Hints(
            min(timeout / 1e6, _MAX_PATIENCE_S) if timeout and "timeout" in wanted else None,
            priority if priority and "priority" in wanted else 0,
            rows if "rows" in wanted else 0,
        )


def _of_json(data: bytes) -> tuple[dict[str, int], int]:
    """The whole and positive parameters, and the rows."""
    text = data[:_LOOK].decode("latin-1").lstrip()
    found: dict[str, int] = {}
    at = 1 if text.startswith("{") else len(text)
    while (key := _KEY.match(text, at)) is not None:
        if key[1] == "inputs":
            shape = _SHAPE.match(text, key.end())
            return found, int(shape[1]) if shape else 0
        try:
            value, at = _DECODER.raw_decode(text, key.end())
        except (ValueError, RecursionError):
            break  # malformed, or cut off
        if key[1] == "parameters" and isinstance(value, dict):
            found = {name: number for name, number in value.items() if type(number) is int and number > 0}
        comma = _NEXT.match(text, at)
        if comma is None:
            break
        at = comma.end()
    return found, 0


def _of_message(data: bytes) -> tuple[dict[str, int], int]:
    if len(data) < PREFIX or data[0]:
        return {}, 0  # a compressed message is not worth inflating for a hint
    found: dict[str, int] = {}
    for key, value in _fields(data[PREFIX : PREFIX + _LOOK]):
        if key == _PARAMETERS and isinstance(value, bytes):
            name, number = _parameter(value)
            if number > 0:
                found[name] = number
        elif key == _INPUTS and isinstance(value, bytes):
            return found, _rows(value)
    return found, 0


def _parameter(entry: bytes) -> tuple[str, int]:
    name, number = b"", 0
    for key, value in _fields(entry):
        if key == _ENTRY_KEY and isinstance(value, bytes):
            name = value
        elif key == _ENTRY_VALUE and isinstance(value, bytes):
            number = next(
                (one for kind, one in _fields(value) if kind in {_INT64, _UINT64} and isinstance(one, int)), 0
            )
    return name.decode("latin-1"), number if number < 1 << 63 else 0


def _rows(tensor: bytes) -> int:
    for key, value in _fields(tensor):
        if key == _SHAPE_PLAIN and isinstance(value, int):
            return value if value < 1 << 31 else 0
        if key == _SHAPE_PACKED and isinstance(value, bytes):
            rows, at = varint(value, 0)
            return rows if at > 0 and rows < 1 << 31 else 0
    return 0


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of a message that may be cut off, with the values of numbers and of what has a length.

    The last one may be short: of a large tensor the name and the shape come first.
    """
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while 0 <= at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if at < 0 or kind in {3, 4, 6, 7}:
            break
        if kind in {1, 5}:
            at += 8 if kind == 1 else 4
            continue
        value, at = varint(message, at)
        if at < 0:
            break
        if kind == 2:
            found.append((key, message[at : at + value]))
            at += value
        else:
            found.append((key, value))
    return found
