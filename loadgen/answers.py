"""PURE: the answers of ModelStreamInfer, read: whose they are, and whether more will come.

Triton wraps each answer, beside an error, and marks the last one of a request; a decoupled model's last one may be
empty, and comes only where the request asks for it (protocol extension "decoupled"). MLServer sends answers bare and
marks none: they end with the stream.
"""

from typing import NamedTuple

from google.protobuf.message import DecodeError

from protos.open_inference_pb2 import ModelInferResponse, ModelStreamInferResponse

FINAL = "triton_final_response"
WANTS_FINAL = "triton_enable_empty_final_response"
# An id of fixed length in every request of a stream, to be replaced by one that no other request has.
PLACEHOLDER = b"headgate"
_ID_FIELD = bytes([3 << 3 | 2, len(PLACEHOLDER)])


class Answer(NamedTuple):
    """`is_last` is None where the server does not say; without outputs it is an error or only a mark."""

    ident: str
    error: str
    is_last: bool | None
    has_outputs: bool


def read_answer(payload: bytes) -> Answer:
    """A message without its prefix. Raises ValueError for what is none."""
    try:
        if _is_bare(payload):
            error, answer = "", ModelInferResponse.FromString(payload)
        else:
            wrapped = ModelStreamInferResponse.FromString(payload)
            error, answer = wrapped.error_message, wrapped.infer_response
    except DecodeError as broken:
        raise ValueError(str(broken)) from None
    mark = answer.parameters.get(FINAL)
    return Answer(answer.id, error, None if mark is None else mark.bool_param, bool(answer.outputs))


def _is_bare(payload: bytes) -> bool:
    """The wrapper has fields 1 and 2 alone, both with a length; an answer always has more."""
    at = 0
    while at < len(payload):
        if payload[at] not in {0x0A, 0x12}:
            return True
        at += 1
        shift = length = 0
        while at < len(payload):
            byte = payload[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        at += length
    return False


def place_of_id(message: bytes) -> int:
    """Where the id of a request begins; -1 where it has none to replace."""
    at = message.find(_ID_FIELD + PLACEHOLDER)
    return at + len(_ID_FIELD) if at >= 0 else -1
