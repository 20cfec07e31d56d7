"""The synthetic predictor over gRPC: the Open Inference Protocol with ModelStreamInfer, and grpc.health.v1.

As in Triton a cancelled call is computed to its end all the same, and what goes wrong inside a stream is told in the
stream, which goes on. Answers are raw where the request was.
"""

import asyncio
import struct
from collections.abc import AsyncIterator

import grpc

from agent.demo.executor import Behaviour, Executor
from agent.demo.tensors import TensorError, total
from protos import health_pb2, health_pb2_grpc, open_inference_pb2, open_inference_pb2_grpc
from protos.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ModelReadyResponse,
    ModelStreamInferResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)

_MAX_MESSAGE = 256 * 1024 * 1024
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    # Else a port in use is shared with its owner, and calls land here or there.
    ("grpc.so_reuseport", 0),
)
_Shape = ModelMetadataResponse.TensorMetadata


class CallError(Exception):
    """A call that ends with another status than OK."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class GrpcPredictor(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The gRPC face of one model, on slots that it may share with other faces."""

    def __init__(self, model: str, behaviour: Behaviour, executor: Executor) -> None:
        self._model = model
        self._response_bytes = behaviour.response_bytes
        self._executor = executor

    async def ServerLive(self, *_: object) -> ServerLiveResponse:
        return ServerLiveResponse(live=True)

    async def ServerReady(self, *_: object) -> ServerReadyResponse:
        return ServerReadyResponse(ready=True)

    async def ServerMetadata(self, *_: object) -> ServerMetadataResponse:
        return ServerMetadataResponse(name="headgate-demo", version="1")

    async def ModelReady(
        self, request: open_inference_pb2.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> ModelReadyResponse:
        await self._check_model(request.name, context)
        return ModelReadyResponse(ready=True)

    async def ModelMetadata(
        self, request: open_inference_pb2.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> ModelMetadataResponse:
        await self._check_model(request.name, context)
        return ModelMetadataResponse(
            name=self._model,
            versions=["1"],
            platform="synthetic",
            inputs=[_Shape(name="input-0", datatype="FP32", shape=[-1, 16])],
            outputs=[_Shape(name="output-0", datatype="FP32", shape=[1])],
        )

    async def ModelInfer(self, request: ModelInferRequest, context: grpc.aio.ServicerContext) -> ModelInferResponse:
        try:
            return await self._infer(request)
        except CallError as error:
            await context.abort(error.code, str(error))
            raise AssertionError("unreachable") from error

    async def ModelStreamInfer(
        self, requests: AsyncIterator[ModelInferRequest], _: grpc.aio.ServicerContext
    ) -> AsyncIterator[ModelStreamInferResponse]:
        async for request in requests:
            try:
                yield ModelStreamInferResponse(infer_response=await self._infer(request))
            except CallError as error:
                named = ModelInferResponse(model_name=request.model_name, id=request.id)
                yield ModelStreamInferResponse(error_message=str(error), infer_response=named)

    async def _infer(self, request: ModelInferRequest) -> ModelInferResponse:
        """Raises CallError."""
        if request.model_name != self._model:
            raise CallError(grpc.StatusCode.NOT_FOUND, self._other_model())
        try:
            sum_ = total(request)
        except TensorError as error:
            raise CallError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from None
        if not await self._executor.execute():
            raise CallError(grpc.StatusCode.INTERNAL, "the model failed, as it was told to")
        answer = ModelInferResponse(model_name=self._model, model_version="1", id=request.id)
        raw = bool(request.raw_input_contents)
        _add_output(answer, "output-0", "FP32", sum_, raw=raw)
        missing = self._response_bytes - answer.ByteSize()
        if missing > 0:
            _add_output(answer, "padding", "BYTES", b"x" * missing, raw=raw)
        return answer

    async def _check_model(self, name: str, context: grpc.aio.ServicerContext) -> None:
        if name != self._model:
            await context.abort(grpc.StatusCode.NOT_FOUND, self._other_model())

    def _other_model(self) -> str:
        return f"model {self._model} is the only one here"


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1 for the server as a whole: it serves as long as it runs."""

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if request.service:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service}")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        states = health_pb2.HealthCheckResponse
        yield states(status=states.SERVICE_UNKNOWN if request.service else states.SERVING)
        await asyncio.Event().wait()  # nothing changes until the call or the server ends


def _add_output(answer: ModelInferResponse, name: str, datatype: str, value: float | bytes, *, raw: bool) -> None:
    """One output of a single element."""
    output = answer.outputs.add(name=name, datatype=datatype, shape=[1])
    if isinstance(value, bytes):
        if raw:
            answer.raw_output_contents.append(struct.pack("<I", len(value)) + value)
        else:
            output.contents.bytes_contents.append(value)
    elif raw:
        answer.raw_output_contents.append(struct.pack("<f", value))
    else:
        output.contents.CopyFrom(InferTensorContents(fp32_contents=[value]))


async def start(host: str, port: int, predictor: GrpcPredictor) -> tuple[grpc.aio.Server, int]:
    """A server that answers, and its port. Raises RuntimeError when the port cannot be had."""
    server = grpc.aio.server(options=_OPTIONS)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(predictor, server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    taken = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    await server.start()
    return server, taken
