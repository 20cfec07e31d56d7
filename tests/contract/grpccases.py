"""What is asked of the real predictors over gRPC, directly and through the agent."""

from dataclasses import dataclass

import numpy
from tritonclient.grpc import service_pb2 as inference

from .grpcpayloads import INFER, SERVICE, STREAM, deflated, message, prefixed, zipped
from .rawh2 import Call

ALL = ("kserve", "mlserver", "triton")
BOTH = ("kserve", "mlserver")
STREAMS = ("mlserver", "triton")
KSERVE = ("kserve",)
MLSERVER = ("mlserver",)
TRITON = ("triton",)

OK = 0
UNKNOWN = 2
INVALID_ARGUMENT = 3
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Case:
    """A call and the gRPC status that the predictors answer with. `messages` is how many answers they make of it."""

    name: str
    predictors: tuple[str, ...]
    status: int
    call: Call
    messages: int

    @property
    def is_inference(self) -> bool:
        """Whether the agent counts it."""
        return self.call.path in {INFER, STREAM}


def infer(name: str, predictors: tuple[str, ...], status: int, sent: bytes, *fields: tuple[bytes, bytes]) -> Case:
    """A ModelInfer call with one message, given with its prefix."""
    return Case(name, predictors, status, Call(INFER, (sent,), fields), int(status == OK))


def other(name: str, predictors: tuple[str, ...], status: int, method: str, sent: bytes = b"") -> Case:
    """A call that is not inference, with one message."""
    path = method if method.startswith("/") else SERVICE + method
    return Case(name, predictors, status, Call(path, (prefixed(sent),)), int(status == OK))


def inference_calls() -> list[Case]:
    """Calls that are counted and admitted, and the ways in which they go wrong."""
    whole = prefixed(message())
    proto = Call(INFER, (whole,), content_type=b"application/grpc+proto")
    pieces = Call(INFER, tuple(whole[at : at + 1] for at in range(len(whole))))
    return [
        infer("raw tensor", ALL, OK, whole),
        infer("typed tensor", ALL, OK, prefixed(message(typed=True))),
        infer("no id", ALL, OK, prefixed(message(request_id=""))),
        infer("other model", ALL, OK, prefixed(message(model="other"))),
        infer("parameters", ALL, OK, prefixed(message(wishes={"delay_s": "0.01", "more": True, "and": 7}))),
        Case("byte by byte", ALL, OK, pieces, 1),
        Case("grpc+proto", ALL, OK, proto, 1),
        Case("two messages", ALL, OK, Call(INFER, (whole, whole)), 1),
        infer("gzip", ALL, OK, zipped(message()), _encoding(b"gzip")),
        infer("deflate", ALL, OK, deflated(message()), _encoding(b"deflate")),
        infer("announced, not compressed", ALL, OK, whole, _encoding(b"gzip")),
        infer("1 MB gzip", ALL, OK, zipped(message(_megabytes(1))), _encoding(b"gzip")),
        infer("accepts gzip", ALL, OK, whole, (b"grpc-accept-encoding", b"identity, gzip")),
        infer("metadata", ALL, OK, whole, (b"x-trace", b"1"), (b"x-trace", b"2"), (b"x-raw-bin", b"AAEC/w==")),
        infer("deadline", ALL, OK, whole, (b"grpc-timeout", b"20S")),
        infer("unknown encoding", BOTH, INTERNAL, prefixed(b"?", compressed=True), _encoding(b"br")),
        infer("unknown model", ALL, NOT_FOUND, prefixed(message(model="nobody"))),
        infer("bad input", ALL, INVALID_ARGUMENT, prefixed(message(wishes={"fail": "input"}))),
        infer("model crash", BOTH, INTERNAL, prefixed(message(wishes={"fail": "crash"}))),
        infer("bad shape", BOTH, INTERNAL, prefixed(_bad_shape())),
        infer("bad shape", TRITON, INVALID_ARGUMENT, prefixed(_bad_shape())),
        infer("version", KSERVE, INTERNAL, prefixed(_version("9"))),
        infer("version", STREAMS, NOT_FOUND, prefixed(_version("9"))),
        infer("empty message", ALL, NOT_FOUND, prefixed(b"")),
        infer("not protobuf", BOTH, UNKNOWN, prefixed(b"\xff\xff\xff")),
    ]


def tensors() -> list[Case]:
    """Large tensors, and those beyond what a predictor takes."""
    return [
        infer("1 MB", ALL, OK, prefixed(message(_megabytes(1)))),
        infer("1 MB typed", ALL, OK, prefixed(message(_megabytes(1), typed=True))),
        infer("4 MB", ALL, OK, prefixed(message(_megabytes(4)))),
        infer("8 MB", ("kserve", "triton"), OK, prefixed(message(_megabytes(8)))),
        infer("16 MB", TRITON, OK, prefixed(message(_megabytes(16)))),
        infer("5 MB is too much", MLSERVER, RESOURCE_EXHAUSTED, prefixed(message(_megabytes(5)))),
        infer("9 MB is too much", BOTH, RESOURCE_EXHAUSTED, prefixed(message(_megabytes(9)))),
    ]


def metadata() -> list[Case]:
    """Calls that go through uncounted."""
    double, nobody = (inference.ModelReadyRequest(name=name).SerializeToString() for name in ("double", "nobody"))
    absent = inference.RepositoryModelLoadRequest(model_name="nobody").SerializeToString()
    return [
        other("live", ALL, OK, "ServerLive"),
        other("ready", ALL, OK, "ServerReady"),
        other("server", ALL, OK, "ServerMetadata"),
        other("model ready", ALL, OK, "ModelReady", double),
        other("model", ALL, OK, "ModelMetadata", double),
        other("unknown model ready", KSERVE, NOT_FOUND, "ModelReady", nobody),
        other("unknown model ready", MLSERVER, UNKNOWN, "ModelReady", nobody),
        other("unknown model ready", TRITON, OK, "ModelReady", nobody),
        other("unknown model", ALL, NOT_FOUND, "ModelMetadata", nobody),
        other("config", TRITON, OK, "ModelConfig", double),
        other("config", BOTH, UNIMPLEMENTED, "ModelConfig", double),
        other("repository", STREAMS, OK, "RepositoryIndex"),
        other("load nobody", KSERVE, UNKNOWN, "RepositoryModelLoad", absent),
        other("load nobody", MLSERVER, NOT_FOUND, "RepositoryModelLoad", absent),
        other("load nobody", TRITON, UNAVAILABLE, "RepositoryModelLoad", absent),
        other("unknown method", ALL, UNIMPLEMENTED, "Nothing"),
        other("unknown service", ALL, UNIMPLEMENTED, "/no.Such/Method"),
        other("health", TRITON, OK, "/grpc.health.v1.Health/Check"),
        other("health of a model", TRITON, OK, "/grpc.health.v1.Health/Check", b"\x0a\x06double"),
        other("health", BOTH, UNIMPLEMENTED, "/grpc.health.v1.Health/Check"),
    ]


def streams() -> list[Case]:
    """ModelStreamInfer whose requests are all sent before the first answer is read."""
    empty_final = {"events": 5, "triton_enable_empty_final_response": True}
    bad = message(model="stream", wishes={"fail": "input"})
    return [
        _stream("stream", MLSERVER, OK, 3, message()),
        _stream("stream", TRITON, OK, 3, message(model="stream")),
        _stream("one answer each", TRITON, OK, 1, message()),
        _stream("fifty", MLSERVER, OK, 50, message(wishes={"events": 50})),
        _stream("fifty", TRITON, OK, 50, message(model="stream", wishes={"events": 50})),
        _stream("empty final answer", TRITON, OK, 6, message(model="stream", wishes=empty_final)),
        _stream("1 MB each", MLSERVER, OK, 3, message(_megabytes(1))),
        _stream("1 MB each", TRITON, OK, 3, message(_megabytes(1), model="stream")),
        _stream("error at the end", MLSERVER, INVALID_ARGUMENT, 2, message(wishes={"fail": "input"})),
        _stream("error in an answer", TRITON, OK, 3, bad),
        _stream("unknown model", MLSERVER, NOT_FOUND, 0, message(model="nobody")),
        _stream("unknown model", TRITON, OK, 1, message(model="nobody")),
        _stream("nothing", MLSERVER, INTERNAL, 0),
        _stream("nothing", TRITON, OK, 0),
        _stream("no streams", KSERVE, UNIMPLEMENTED, 0, message()),
    ]


def _stream(name: str, predictors: tuple[str, ...], status: int, messages: int, *sent: bytes) -> Case:
    return Case(name, predictors, status, Call(STREAM, tuple(map(prefixed, sent))), messages)


def _encoding(name: bytes) -> tuple[bytes, bytes]:
    return b"grpc-encoding", name


def _megabytes(count: int) -> numpy.ndarray:
    """FP32 values of slightly less: a whole message must fit a limit of as many MiB."""
    return numpy.arange(count * 250_000, dtype=numpy.float32)


def _bad_shape() -> bytes:
    sent = inference.ModelInferRequest.FromString(message())
    sent.inputs[0].shape[0] = 5
    return sent.SerializeToString()


def _version(version: str) -> bytes:
    return inference.ModelInferRequest(model_name="double", model_version=version).SerializeToString()
