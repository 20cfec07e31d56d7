"""PURE: the numbers in a V2 gRPC request, typed or as raw bytes, added up.

Formats: the Open Inference Protocol's gRPC section on tensor data; see also protos/open_inference.proto.
"""

import math
import struct
from collections.abc import Sequence

from protos.open_inference_pb2 import InferTensorContents, ModelInferRequest

# Datatype -> struct code of an element, and the field of typed contents; FP16 and BF16 have none.
_FORMATS = {
    "BOOL": ("?", "bool_contents"),
    "INT8": ("b", "int_contents"),
    "INT16": ("h", "int_contents"),
    "INT32": ("i", "int_contents"),
    "INT64": ("q", "int64_contents"),
    "UINT8": ("B", "uint_contents"),
    "UINT16": ("H", "uint_contents"),
    "UINT32": ("I", "uint_contents"),
    "UINT64": ("Q", "uint64_contents"),
    "FP16": ("e", ""),
    "BF16": ("H", ""),
    "FP32": ("f", "fp32_contents"),
    "FP64": ("d", "fp64_contents"),
    "BYTES": ("", "bytes_contents"),
}
_FIELDS = tuple(field.name for field in InferTensorContents.DESCRIPTOR.fields)
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """The request's tensors contradict themselves; the text says how."""


def total(request: ModelInferRequest) -> float:
    """The sum of all elements of all inputs, of which each BYTES element counts as its length.

    Raises TensorError, also when the sum is beyond FP32, the datatype of the answer.
    """
    if not request.inputs:
        raise TensorError("a V2 inference request needs inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise TensorError(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    values: list[float] = []
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype not in _FORMATS:
            raise TensorError(f"{tensor.name}: no datatype {tensor.datatype!r}")
        if min(tensor.shape, default=0) < 0:
            raise TensorError(f"{tensor.name}: a negative size in its shape")
        if raw and tensor.HasField("contents"):
            raise TensorError(f"{tensor.name}: both raw and typed contents")
        count = math.prod(tensor.shape)
        try:
            found = _raw(tensor.datatype, raw[index], count) if raw else _typed(tensor.datatype, tensor.contents)
        except struct.error:
            raise TensorError(f"{tensor.name}: raw contents of a wrong size") from None
        if len(found) != count:
            raise TensorError(f"{tensor.name}: {len(found)} elements for a shape of {count}")
        values += found
    try:
        whole = math.fsum(values)
        struct.pack("<f", whole)
    except (OverflowError, ValueError):
        raise TensorError("the sum is no FP32 number") from None
    return whole


def _typed(datatype: str, contents: InferTensorContents) -> Sequence[float]:
    field = _FORMATS[datatype][1]
    if not field:
        raise TensorError(f"{datatype} exists as raw contents only")
    if any(len(getattr(contents, other)) for other in _FIELDS if other != field):
        raise TensorError(f"{datatype} belongs into {field} alone")
    elements: Sequence[float] = getattr(contents, field)
    return [len(element) for element in contents.bytes_contents] if datatype == "BYTES" else elements


def _raw(datatype: str, data: bytes, count: int) -> Sequence[float]:
    """Raises struct.error when `data` is not exactly `count` elements."""
    if datatype == "BYTES":
        return _raw_lengths(data)
    code = _FORMATS[datatype][0]
    if struct.calcsize(f"<{code}") * count != len(data):
        raise struct.error
    elements = struct.unpack(f"<{count}{code}", data)
    if datatype == "BF16":
        # The upper half of an FP32 number.
        return struct.unpack(f"<{count}f", struct.pack(f"<{count}I", *(element << 16 for element in elements)))
    return elements


def _raw_lengths(data: bytes) -> list[int]:
    lengths, offset = [], 0
    while offset < len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size + length
        lengths.append(length)
    if offset != len(data):
        raise struct.error
    return lengths
