"""Inputs in shared memory: Triton's system shared memory extension, for a generator on the host of its predictor.

A request then names a place in a region that the server has mapped, and carries no tensors.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loadgen import h2
from loadgen.bodies import grpc_request, raw
from loadgen.payload import Tensor, Values

_FOLDER = Path("/dev/shm")  # POSIX shared memory on Linux

# Says to the server, by its method, what the region is; the words of a refusal, or nothing.
Ask = Callable[[str, dict[str, Any]], Awaitable[str]]


class Place(NamedTuple):
    """Where a tensor lies."""

    region: str
    offset: int
    size: int

    @property
    def parameters(self) -> dict[str, str | int]:
        """As a request says it."""
        return {
            "shared_memory_region": self.region,
            "shared_memory_offset": self.offset,
            "shared_memory_byte_size": self.size,
        }


class SharedMemoryError(Exception):
    """The server does not take it; the text has its words."""


class Regions:
    """What this process has registered, until it is given back."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Ask]] = []

    async def hold(self, entries: Sequence[Values], ask: Ask) -> list[list[tuple[Tensor, Place]]]:
        """Lay the tensors of all requests into a new region that the server maps. Raises SharedMemoryError, OSError."""
        name = f"headgate-load-{secrets.token_hex(8)}"
        places: list[list[tuple[Tensor, Place]]] = []
        data, offset = [], 0
        for values in entries:
            places.append([])
            for tensor, elements in values:
                data.append(raw(tensor, elements))
                places[-1].append((tensor, Place(name, offset, len(data[-1]))))
                offset += len(data[-1])
        file = _FOLDER / name
        file.write_bytes(b"".join(data))
        try:
            said = await ask("register", {"name": name, "key": f"/{name}", "offset": 0, "byte_size": offset})
        finally:
            file.unlink()  # what is mapped stays, and nothing is left behind whatever becomes of this process
        if said:
            raise SharedMemoryError(said)
        self._held.append((name, ask))
        return places

    async def release(self) -> None:
        """Have the server unmap all."""
        while self._held:
            name, ask = self._held.pop()
            await ask("unregister", {"name": name})


REGIONS = Regions()


def json_shared(places: Sequence[tuple[Tensor, Place]], number: int) -> bytes:
    """A V2 request with its tensors elsewhere."""
    inputs = [
        {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": place.parameters}
        for tensor, place in places
    ]
    return json.dumps({"id": str(number), "inputs": inputs}, separators=(",", ":")).encode()


def grpc_shared(
    model: str, version: str, places: Sequence[tuple[Tensor, Place]], number: int, *, is_stream: bool
) -> bytes:
    """A ModelInferRequest with its tensors elsewhere."""
    request = grpc_request(model, version, number, is_stream=is_stream)
    for tensor, place in places:
        entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for name, value in place.parameters.items():
            if isinstance(value, str):
                entry.parameters[name].string_param = value
            else:
                entry.parameters[name].int64_param = value
    return bytes(request.SerializeToString())


def grpc_message(told: dict[str, Any]) -> bytes:
    """SystemSharedMemoryRegisterRequest or -UnregisterRequest (grpc_service.proto of Triton): name 1, key 2, offset 3,
    byte_size 4."""
    parts = []
    for number, value in enumerate(told.values(), 1):
        if isinstance(value, str):
            parts.append(bytes([number << 3 | 2]) + _varint(len(value.encode())) + value.encode())
        elif value:
            parts.append(bytes([number << 3]) + _varint(value))
    return h2.message(b"".join(parts))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
