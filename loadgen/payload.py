"""PURE: V2 inference bodies with random tensors, and whole HTTP/1.1 requests, encoded before the clock starts.

A pool of distinct bodies, not one: a predictor with a cache or with data-dependent cost lies about a repeated input.
"""

import json
import math
import random
import string
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

# Bodies are drawn element by element in Python (about 0.3 us each), so large tensors get fewer distinct bodies.
POOL_BODIES = 64
POOL_ELEMENTS = 2_000_000
MAX_ELEMENTS = 50_000_000

STRING_LENGTH = 16
_LETTERS = string.ascii_lowercase + string.digits


class PayloadError(Exception):
    """No request can be made; the text tells the user what to add."""


class GivenError(PayloadError):
    """None can be made of what the user has given, such as a file with inputs; the text says what is wrong with it."""


class Tensor(NamedTuple):
    """One input: its V2 `datatype` (see DATATYPES) and `shape`, all dimensions at least 1."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many values the tensor holds."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}[{','.join(map(str, self.shape))}]"


def _integer(bits: int) -> Callable[[random.Random], object]:
    # At most 16 bits of range: embeddings and labels index tables, and a wild index is the predictor's 400.
    top = min((1 << bits) - 1, 0xFFFF)
    return lambda source: source.randint(0, top)


_VALUES: dict[str, Callable[[random.Random], object]] = {
    "BOOL": lambda source: source.random() < 0.5,
    **{f"UINT{bits}": _integer(bits) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": _integer(bits - 1) for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": lambda source: round(source.random(), 4) for bits in (16, 32, 64)},
}
DATATYPES = (*_VALUES, "BYTES")

# The elements of each input of one request, flattened: bool, int, float or str, as the datatype says.
Values = list[tuple[Tensor, list[Any]]]


def random_values(tensors: Sequence[Tensor], source: random.Random, string_length: int = STRING_LENGTH) -> Values:
    """One request's worth of random elements."""
    return [(tensor, _random(tensor, source, string_length)) for tensor in tensors]


def zero_values(tensors: Sequence[Tensor]) -> Values:
    """Nothing but zeros and empty strings: the cheapest request of its size, and the same every time."""
    zeros: dict[str, object] = {"BYTES": "", "BOOL": False}
    return [
        (tensor, [zeros.get(tensor.datatype, 0.0 if tensor.datatype.startswith("FP") else 0)] * tensor.elements)
        for tensor in tensors
    ]


def _random(tensor: Tensor, source: random.Random, string_length: int) -> list[Any]:
    if tensor.datatype == "BYTES":
        return ["".join(source.choices(_LETTERS, k=string_length)) for _ in range(tensor.elements)]
    value = _VALUES[tensor.datatype]
    return [value(source) for _ in range(tensor.elements)]


def pool_size(tensors: Sequence[Tensor]) -> int:
    """How many distinct bodies `tensors` get."""
    elements = sum(tensor.elements for tensor in tensors)
    return max(1, min(POOL_BODIES, POOL_ELEMENTS // max(1, elements)))


def infer_bodies(tensors: Sequence[Tensor], count: int, seed: int) -> list[bytes]:
    """`count` distinct V2 JSON inference bodies; equal arguments give equal bytes."""
    source = random.Random(seed)
    return [json_body(random_values(tensors, source), number) for number in range(count)]


def json_body(values: Values, number: int) -> bytes:
    """A V2 request with JSON tensors."""
    inputs = [
        {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype, "data": data}
        for tensor, data in values
    ]
    return json.dumps({"id": str(number), "inputs": inputs}, separators=(",", ":")).encode()


def model_path(prefix: str, model: str, version: str = "") -> str:
    """The V2 path of `model` below a URL path `prefix`."""
    path = f"{prefix.rstrip('/')}/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def encode_request(
    method: str,
    authority: str,
    path: str,
    headers: Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    own: Sequence[tuple[str, str]] = (("Accept", "application/json"), ("Content-Type", "application/json")),
) -> bytes:
    """One HTTP/1.1 request. `headers` come after, and replace by name, those it sends by itself: Host and `own`."""
    own = [("Host", authority), *(field for field in own if body or field[0] != "Content-Type")]
    given = {name.lower() for name, _ in headers}
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in own if name.lower() not in given]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def resolve_tensors(metadata: object, shapes: Sequence[Tensor], batch: int = 1) -> list[Tensor]:
    """The inputs to send: those of the model's V2 `metadata` (parsed JSON), with `shapes` laid over them by name.

    Without usable metadata `shapes` alone counts. A variable dimension (-1) becomes 1, and the first of an input
    `batch`, unless a shape sets it. An empty datatype in `shapes` means the metadata's, or FP32. Raises PayloadError.
    """
    known = _metadata_inputs(metadata, batch)
    given = {shape.name: shape for shape in shapes}
    if not known and not given:
        raise PayloadError(
            "the model gives no V2 metadata with inputs; describe them with --shape NAME:DIM,DIM[:DATATYPE]"
        )
    unknown = [name for name in given if known and name not in known]
    if unknown:
        raise PayloadError(f"--shape {unknown[0]}: the model has no such input; accepted: {', '.join(known)}")
    tensors = []
    for name in known or given:
        datatype, dims = known.get(name, ("FP32", ()))
        shape = given.get(name)
        tensor = Tensor(name, (shape and shape.datatype) or datatype, shape.shape if shape else dims)
        if tensor.datatype not in DATATYPES:
            raise PayloadError(f"input {tensor.name} has datatype {tensor.datatype}; accepted: {', '.join(DATATYPES)}")
        tensors.append(tensor)
    if sum(tensor.elements for tensor in tensors) > MAX_ELEMENTS:
        raise PayloadError(f"a request of {', '.join(map(str, tensors))}; accepted: at most {MAX_ELEMENTS:,} elements")
    return tensors


def _metadata_inputs(metadata: object, batch: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """name -> (datatype, shape); empty unless every input is well-formed."""
    inputs = metadata.get("inputs") if isinstance(metadata, dict) else None
    known: dict[str, tuple[str, tuple[int, ...]]] = {}
    for entry in inputs if isinstance(inputs, list) else []:
        match entry:
            case {"name": str(name), "datatype": str(datatype), "shape": [*dims]} if all(
                type(dim) is int for dim in dims
            ):
                first = [batch if dim < 0 else dim for dim in dims[:1]]
                known[name] = (datatype, tuple(max(1, dim) for dim in (*first, *dims[1:])))
            case _:
                return {}
    return known
