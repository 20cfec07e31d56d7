"""Messages of the Open Inference Protocol for the models `double`, `stream` and their like."""

import gzip
import zlib
from collections.abc import Mapping, Sequence

import numpy
import tritonclient.grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

SERVICE = "/inference.GRPCInferenceService/"
INFER = SERVICE + "ModelInfer"
STREAM = SERVICE + "ModelStreamInfer"

Wishes = Mapping[str, str | int | bool]


def message(
    values: Sequence[float] | numpy.ndarray = (1.0, 2.5, -3.0),
    model: str = "double",
    wishes: Wishes | None = None,
    request_id: str = "7",
    *,
    typed: bool = False,
) -> bytes:
    """A ModelInferRequest with one FP32 tensor, as raw bytes or, when `typed`, as numbers."""
    array = numpy.asarray(values, numpy.float32)
    sent = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    given = sent.inputs.add(name="input-0", datatype="FP32", shape=array.shape)
    if typed:
        given.contents.fp32_contents.extend(array.ravel().tolist())
    else:
        sent.raw_input_contents.append(array.tobytes())
    _ask(sent, wishes or {})
    return sent.SerializeToString(deterministic=True)


def prefixed(sent: bytes, *, compressed: bool = False) -> bytes:
    """A message as it goes over the wire, behind the five bytes of its prefix."""
    return bytes([compressed]) + len(sent).to_bytes(4, "big") + sent


def zipped(sent: bytes) -> bytes:
    """The same, compressed for `grpc-encoding: gzip`."""
    return prefixed(gzip.compress(sent, mtime=0), compressed=True)


def deflated(sent: bytes) -> bytes:
    """The same, compressed for `grpc-encoding: deflate`."""
    return prefixed(zlib.compress(sent), compressed=True)


def answer(received: bytes) -> service_pb2.ModelInferResponse:
    """A ModelInferResponse."""
    return service_pb2.ModelInferResponse.FromString(received)


def streamed(received: bytes, predictor: str) -> service_pb2.ModelInferResponse:
    """An answer out of a stream. MLServer sends it bare; Triton and its clients put it into a wrapper with an error."""
    if predictor == "mlserver":
        return answer(received)
    return service_pb2.ModelStreamInferResponse.FromString(received).infer_response


def numbers(received: service_pb2.ModelInferResponse) -> list[float]:
    """The numbers of an answer."""
    values = tritonclient.grpc.InferResult(received).as_numpy("output-0")
    assert values is not None
    return [float(value) for value in values.ravel()]


def tensor(values: numpy.ndarray, name: str = "input-0") -> tritonclient.grpc.InferInput:
    """What tritonclient sends."""
    made = tritonclient.grpc.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def _ask(sent: service_pb2.ModelInferRequest, wishes: Wishes) -> None:
    for name, wish in wishes.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(wish)]
        setattr(sent.parameters[name], kind, wish)
