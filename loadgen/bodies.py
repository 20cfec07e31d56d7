"""PURE: inference requests in every protocol but V2 JSON, as bytes."""

import json
import math
import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.answers import PLACEHOLDER, WANTS_FINAL
from loadgen.payload import Tensor, Values
from protos.open_inference_pb2 import ModelInferRequest

# struct's letter, or array's, for each datatype that has raw bytes.
_LETTERS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_WORDS = ("why", "the", "queue", "grows", "when", "a", "model", "is", "late", "and", "who", "waits", "for", "it", "now")


def raw(tensor: Tensor, data: Sequence[Any]) -> bytes:
    """The elements row-major and little-endian, each of BYTES after its length (Triton's binary tensor extension)."""
    if tensor.datatype == "BYTES":
        encoded = [value if isinstance(value, bytes) else str(value).encode() for value in data]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    letter = _LETTERS[tensor.datatype]
    if letter in "?e" or struct.pack("=H", 1) != struct.pack("<H", 1):
        return struct.pack(f"<{len(data)}{letter}", *data)
    return array(letter, data).tobytes()


def binary_body(values: Values, number: int) -> tuple[bytes, int]:
    """A V2 request with binary tensors, and the length of its JSON head, which a header must tell the server."""
    inputs, tails = [], []
    for tensor, data in values:
        tail = raw(tensor, data)
        size = {"binary_data_size": len(tail)}
        inputs.append({"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "parameters": size})
        tails.append(tail)
    head = json.dumps(
        {"id": str(number), "inputs": inputs, "parameters": {"binary_data_output": True}}, separators=(",", ":")
    ).encode()
    return b"".join([head, *tails]), len(head)


def grpc_request(model: str, version: str, number: int, *, is_stream: bool) -> ModelInferRequest:
    """A request without inputs. For a stream its id can be replaced, and it asks that its last answer be marked."""
    ident = PLACEHOLDER.decode() if is_stream else str(number)
    request = ModelInferRequest(model_name=model, model_version=version, id=ident)
    if is_stream:
        request.parameters[WANTS_FINAL].bool_param = True
    return request


def grpc_body(model: str, version: str, values: Values, number: int, *, as_raw: bool, is_stream: bool = False) -> bytes:
    """A ModelInferRequest; elements go raw, or typed where the server wants that (FP16 cannot be typed)."""
    request = grpc_request(model, version, number, is_stream=is_stream)
    for tensor, data in values:
        entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if as_raw:
            request.raw_input_contents.append(raw(tensor, data))
        else:
            elements = [value.encode() if isinstance(value, str) else value for value in data]
            getattr(entry.contents, _CONTENTS[tensor.datatype]).extend(elements)
    return bytes(request.SerializeToString())


def v1_body(values: Values) -> bytes:
    """A V1 request: one instance for each entry of the first dimension; named members where there are several
    inputs."""
    columns = {tensor.name: nested(data, tensor.shape) for tensor, data in values}
    if len(columns) == 1:
        (instances,) = columns.values()
    else:
        instances = [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    return json.dumps({"instances": instances}, separators=(",", ":")).encode()


def chat_body(model: str, messages: Sequence[Mapping[str, object]], max_tokens: int) -> bytes:
    """An OpenAI chat request that streams its answer."""
    request = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "stream": True}
    return json.dumps(request, separators=(",", ":")).encode()


def random_prompt(source: random.Random, length: int) -> str:
    """About `length` characters of words, no two prompts alike, so that no prefix cache answers for the model."""
    words = [f"{source.getrandbits(32):08x}"]
    size = len(words[0])
    while size < length:
        words.append(source.choice(_WORDS))
        size += len(words[-1]) + 1
    return " ".join(words)


def nested(data: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """Flat row-major elements as lists of lists."""
    if len(shape) <= 1:
        return list(data)
    step = math.prod(shape[1:])
    return [nested(data[start : start + step], shape[1:]) for start in range(0, len(data), step)]


def flat(data: object) -> list[Any]:
    """The elements of nested lists, row-major."""
    if isinstance(data, list):
        return [element for part in data for element in flat(part)]
    return [data]
