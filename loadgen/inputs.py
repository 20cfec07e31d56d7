"""Inputs from files: what a user has recorded instead of random tensors.

A file holds JSON, or a line of JSON for each request: a V2 request (`{"inputs": [...]}`), or the elements by input name
(`{"input-0": [..]}`, or `{"input-0": {"content": [..], "shape": [..]}}`), or a list of such under `data` as
perf_analyzer has it. A folder holds one file for each input, named as it: raw little-endian elements, or lines of text
for BYTES.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.bodies import flat
from loadgen.payload import DATATYPES, GivenError, Tensor, Values

_SIZES = {"BOOL": 1, "FP16": 2, "FP32": 4, "FP64": 8} | {
    f"{kind}{bits}": bits // 8 for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}


def read_entries(path: Path) -> list[Any]:
    """One entry for each request. Raises GivenError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise GivenError(f"--input-data {path}: {error}") from None
    try:
        whole = json.loads(text)
    except ValueError:
        whole = [_entry(path, number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        whole = whole["data"]
    entries = whole if isinstance(whole, list) else [whole]
    if not entries:
        raise GivenError(f"--input-data {path}: holds no request")
    return entries


def _entry(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        if line.lstrip().startswith(("{", "[")):
            raise GivenError(f"--input-data {path}: line {number} is not JSON") from None
        return line


def values_of(entry: Any, tensors: Sequence[Tensor]) -> Values:
    """The elements of one request; `tensors` are the model's inputs. Raises GivenError."""
    if not isinstance(entry, dict):
        raise GivenError('--input-data: a V2 request is an object: {"inputs": [...]} or elements by input name')
    if isinstance(entry.get("inputs"), list):
        return [_v2_input(one) for one in entry["inputs"]]
    known = {tensor.name: tensor for tensor in tensors}
    missing = [name for name in known if name not in entry]
    if missing:
        raise GivenError(f"--input-data: a request lacks input {missing[0]}; it has {', '.join(entry) or 'nothing'}")
    return [_named(tensor, entry[name]) for name, tensor in known.items()]


def _v2_input(given: Any) -> tuple[Tensor, list[Any]]:
    match given:
        case {"name": str(name), "datatype": str(datatype), "shape": [*shape], "data": data} if datatype in DATATYPES:
            return _checked(Tensor(name, datatype, tuple(int(dim) for dim in shape)), flat(data))
        case _:
            raise GivenError("--input-data: an input needs name, shape, datatype and data (V2)")


def _named(tensor: Tensor, given: Any) -> tuple[Tensor, list[Any]]:
    if isinstance(given, Mapping):
        if "b64" in given:
            return tensor, elements(tensor, base64.b64decode(given["b64"]))
        if "shape" in given:
            tensor = Tensor(tensor.name, tensor.datatype, tuple(int(dim) for dim in given["shape"]))
        given = given.get("content")
    return _checked(tensor, flat(given))


def _checked(tensor: Tensor, data: list[Any]) -> tuple[Tensor, list[Any]]:
    if len(data) != tensor.elements:
        raise GivenError(
            f"--input-data: {len(data)} elements for {tensor}, which has {tensor.elements}; set its shape with --shape"
        )
    return tensor, data


def read_folder(path: Path, tensors: Sequence[Tensor]) -> Values:
    """One request from a folder with a file for each input. Raises GivenError."""
    values = []
    for tensor in tensors:
        file = path / tensor.name
        try:
            values.append((tensor, elements(tensor, file.read_bytes())))
        except OSError as error:
            raise GivenError(f"--input-data {path}: no file for input {tensor.name}: {error.strerror}") from None
    return values


def elements(tensor: Tensor, data: bytes) -> list[Any]:
    """Elements from raw bytes. Raises GivenError when their number is not that of the shape."""
    if tensor.datatype == "BYTES":
        lines = data.decode(errors="surrogateescape").splitlines()
        return _checked(tensor, lines)[1]
    size = _SIZES[tensor.datatype]
    if len(data) != size * tensor.elements:
        needed = f"{size * tensor.elements}; set its shape with --shape"
        raise GivenError(f"--input-data: {len(data)} bytes for {tensor}, which takes {needed}")
    kind = tensor.datatype
    letter = "e" if kind == "FP16" else {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    if kind.startswith("UINT"):
        letter = letter.upper()
    elif kind in {"FP32", "FP64"}:
        letter = "f" if kind == "FP32" else "d"
    elif kind == "BOOL":
        letter = "?"
    return list(struct.unpack(f"<{tensor.elements}{letter}", data))
