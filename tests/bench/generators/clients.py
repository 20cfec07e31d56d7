"""`python -m tests.bench.generators.clients KIND PORT SECONDS`: what people write load with, 32 requests in flight."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import grpc
import numpy as np
import tritonclient.grpc.aio as triton_grpc
import tritonclient.http.aio as triton_http
import uvloop

from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse

CALLERS = 32
MODEL = "stub"
VALUES = np.linspace(0, 1, 8, dtype=np.float32).reshape(1, 8)


def body() -> bytes:
    """A V2 request as the other generators send it."""
    tensor = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": VALUES.round(4).ravel().tolist()}
    return json.dumps({"id": "0", "inputs": [tensor]}).encode()


def message() -> bytes:
    """The same as a ModelInferRequest."""
    request = ModelInferRequest(model_name=MODEL, id="0", raw_input_contents=[VALUES.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    return bytes(request.SerializeToString())


async def repeat(seconds: float, once: Callable[[], Awaitable[object]]) -> None:
    """32 callers for so long."""
    ends = time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < ends:
            await once()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def by_aiohttp(port: int, seconds: float) -> None:
    url, sent = f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer", body()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CALLERS)) as session:

        async def once() -> None:
            async with session.post(url, data=sent, headers={"Content-Type": "application/json"}) as answer:
                await answer.read()

        await repeat(seconds, once)


async def by_triton_http(port: int, seconds: float) -> None:
    async with triton_http.InferenceServerClient(f"127.0.0.1:{port}", conn_limit=CALLERS) as client:
        tensor = triton_http.InferInput("x", [1, 8], "FP32")
        tensor.set_data_from_numpy(VALUES, binary_data=False)
        await repeat(seconds, lambda: client.infer(MODEL, [tensor]))


async def by_grpc(port: int, seconds: float) -> None:
    request = ModelInferRequest.FromString(message())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        await repeat(seconds, lambda: call(request))


async def by_triton_grpc(port: int, seconds: float) -> None:
    async with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        tensor = triton_grpc.InferInput("x", [1, 8], "FP32")
        tensor.set_data_from_numpy(VALUES)
        await repeat(seconds, lambda: client.infer(MODEL, [tensor]))


KINDS = {"aiohttp": by_aiohttp, "tritonhttp": by_triton_http, "grpcaio": by_grpc, "tritongrpc": by_triton_grpc}

if __name__ == "__main__":
    uvloop.run(KINDS[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3])))
