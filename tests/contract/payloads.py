"""Request bodies for the model `double` and what it answers."""

import gzip
import json
from typing import Any

import numpy
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

JSON = "Content-Type: application/json"
INFER = "/v2/models/double/infer"
STREAM = "/v2/models/double/infer_stream"
PREDICT = "/v1/models/double:predict"


def v2(data: list[float] | None = None, model_parameters: dict[str, Any] | None = None, request_id: str = "7") -> bytes:
    """A V2 request with one FP32 tensor, in JSON; MLServer makes an id up where there is none."""
    values = [1.0, 2.5, -3.0] if data is None else data
    tensor = {"name": "input-0", "shape": [len(values)], "datatype": "FP32", "data": values}
    return json.dumps({"id": request_id, "parameters": model_parameters or {}, "inputs": [tensor]}).encode()


def v1(rows: list[list[float]] | None = None, **wishes: object) -> bytes:
    """A V1 request."""
    return json.dumps({"instances": rows or [[1.0, 2.5], [-3.0, 0.0]], **wishes}).encode()


def floats(size: int) -> numpy.ndarray:
    """FP32 values that fill `size` bytes, the same every time."""
    return numpy.arange(size // 4, dtype=numpy.float32)


def tensor(values: numpy.ndarray, *, binary: bool = True) -> InferInput:
    """What tritonclient sends."""
    made = InferInput("input-0", list(values.shape), "FP32")
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def wanted(*, binary: bool = True) -> InferRequestedOutput:
    """What tritonclient asks for."""
    return InferRequestedOutput("output-0", binary_data=binary)


def v2_binary(values: numpy.ndarray, *, binary_answer: bool = True) -> tuple[bytes, tuple[str, ...]]:
    """The same by tritonclient's own encoder: the body, and the fields that go with it."""
    body, json_size = InferenceServerClient.generate_request_body(
        [tensor(values)], outputs=[wanted(binary=binary_answer)], request_id="7"
    )
    return body, (f"Inference-Header-Content-Length: {json_size}", "Content-Type: application/octet-stream")


def zipped(body: bytes) -> bytes:
    """Compressed, with the same bytes every time."""
    return gzip.compress(body, mtime=0)
