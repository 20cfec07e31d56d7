"""The requests of the benchmark: V2 inference, a small JSON one and tensors of 1 MiB in binary form."""

import json
import random
from dataclasses import dataclass, replace

TENSOR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. `header_length` is where the JSON part of a binary body ends; 0 means that the body is JSON.

    `unique` gives each request a request id and a trace of its own, as a mesh does; `alone` a connection of its own.
    """

    path: str
    body: bytes
    header_length: int = 0
    unique: bool = False
    alone: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What a V2 client sends beside Host and Content-Length."""
        if not self.header_length:
            return {"Content-Type": "application/json", **({"Connection": "close"} if self.alone else {})}
        return {
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(self.header_length),
        }

    def encode(self, host: str) -> bytes:
        """The whole request as bytes."""
        fields = {"Host": host, **self.headers, "Content-Length": str(len(self.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


def _tensor(kind: str, key: str) -> tuple[bytes, int]:
    """A binary V2 message with one FP32 tensor, and the length of its JSON part."""
    side = TENSOR_BYTES // 4
    described = {
        "name": key,
        "shape": [1, side],
        "datatype": "FP32",
        "parameters": {"binary_data_size": TENSOR_BYTES},
    }
    head = json.dumps({kind: [described]}, separators=(",", ":")).encode()
    return head + random.Random(7).randbytes(TENSOR_BYTES), len(head)


_UPLOAD, _UPLOAD_HEADER = _tensor("inputs", "image")

SMALL = Request(
    "/v2/models/small/infer",
    b'{"id":"42","inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}',
)
UNIQUE = replace(SMALL, unique=True)
ALONE = replace(SMALL, alone=True)
UPLOAD = Request("/v2/models/upload/infer", _UPLOAD, _UPLOAD_HEADER)
DOWNLOAD = Request("/v2/models/download/infer", SMALL.body)

SMALL_ANSWER = (
    b'{"model_name":"small","model_version":"1","id":"42",'
    b'"outputs":[{"name":"y","shape":[1,3],"datatype":"FP32","data":[0.97,0.02,0.01]}]}'
)
TENSOR_ANSWER, TENSOR_ANSWER_HEADER = _tensor("outputs", "embedding")
