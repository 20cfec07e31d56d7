"""The synthetic predictor over gRPC: every call, its errors, streams, cancellation and capacity, on real channels."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from agent.demo.executor import Behaviour, Executor
from agent.demo.grpc_predictor import GrpcPredictor, start
from protos import health_pb2, open_inference_pb2
from protos.health_pb2_grpc import HealthStub
from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.sockets import eventually

FAST = Behaviour(slots=3, service_s=0.002)
Code = grpc.StatusCode


class Serving:
    """A predictor named m on a free port, and a channel to it."""

    def __init__(self, executor: Executor, address: str, channel: grpc.aio.Channel) -> None:
        self.executor = executor
        self.address = address
        self.stub = GRPCInferenceServiceStub(channel)
        self.health = HealthStub(channel)


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[Serving]:
    executor = Executor(behaviour, asyncio.get_running_loop())
    server, port = await start("127.0.0.1", 0, GrpcPredictor("m", behaviour, executor))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Serving(executor, f"127.0.0.1:{port}", channel)
    finally:
        await server.stop(None)


def typed(*numbers: float, model: str = "m", name: str = "") -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, id=name)
    request.inputs.add(name="i", datatype="FP32", shape=[len(numbers)]).contents.fp32_contents.extend(numbers)
    return request


def raw(*numbers: int) -> ModelInferRequest:
    request = ModelInferRequest(model_name="m", raw_input_contents=[struct.pack(f"<{len(numbers)}q", *numbers)])
    request.inputs.add(name="i", datatype="INT64", shape=[len(numbers)])
    return request


async def failure(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_each_answer_belongs_to_its_request() -> None:
    async with serving(replace(FAST, cv=0.5)) as served:
        numbers = range(30)
        answers = await asyncio.gather(*(served.stub.ModelInfer(typed(n, 0.5, name=f"r{n}")) for n in numbers))
        for number, answer in zip(numbers, answers, strict=True):
            expected = ModelInferResponse(model_name="m", model_version="1", id=f"r{number}")
            expected.outputs.add(name="output-0", datatype="FP32", shape=[1]).contents.fp32_contents.append(
                number + 0.5
            )
            assert answer == expected


async def test_raw_requests_have_raw_answers() -> None:
    async with serving(FAST) as served:
        answer = await served.stub.ModelInfer(raw(2, -5))
        assert list(answer.raw_output_contents) == [struct.pack("<f", -3.0)]
        assert not answer.outputs[0].HasField("contents")


async def test_tritonclient_understands_it() -> None:
    data = np.arange(16, dtype=np.float32).reshape(1, 16)
    tensor = tritonclient.grpc.InferInput("input-0", data.shape, "FP32")
    tensor.set_data_from_numpy(data)
    async with (
        serving(replace(FAST, response_bytes=500)) as served,
        tritonclient.grpc.aio.InferenceServerClient(served.address) as client,
    ):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("m")
        for compression in (None, "gzip", "deflate"):
            answer = await client.infer("m", [tensor], request_id="7", compression_algorithm=compression)
            assert (answer.get_response().id, answer.as_numpy("output-0")) == ("7", [120.0])
            assert len(answer.as_numpy("padding")[0]) > 400


@pytest.mark.parametrize("size", [0, 400, 5_000, 6_000_000])
@pytest.mark.parametrize("request_", [typed(1), raw(1)], ids=["typed", "raw"])
async def test_answers_are_padded(size: int, request_: ModelInferRequest) -> None:
    limit = [("grpc.max_receive_message_length", -1)]
    async with (
        serving(replace(FAST, response_bytes=size)) as served,
        grpc.aio.insecure_channel(served.address, limit) as channel,
    ):
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(request_)
        assert size <= answer.ByteSize() < size + 100


async def test_requests_may_be_larger_than_grpcs_usual_4_mib() -> None:
    async with serving(FAST) as served:
        assert (await served.stub.ModelInfer(typed(*[1.0] * 2_000_000))).outputs[0].contents.fp32_contents == [2e6]


async def test_health_and_metadata() -> None:
    async with serving(FAST) as served:
        stub, messages = served.stub, open_inference_pb2
        assert (await stub.ServerLive(messages.ServerLiveRequest())).live
        assert (await stub.ServerReady(messages.ServerReadyRequest())).ready
        assert (await stub.ModelReady(messages.ModelReadyRequest(name="m", version="1"))).ready
        server = await stub.ServerMetadata(messages.ServerMetadataRequest())
        assert (server.name, server.version, list(server.extensions)) == ("headgate-demo", "1", [])
        model = await stub.ModelMetadata(messages.ModelMetadataRequest(name="m"))
        assert (model.name, list(model.versions), model.platform) == ("m", ["1"], "synthetic")
        shapes = [(each.name, each.datatype, list(each.shape)) for each in (*model.inputs, *model.outputs)]
        assert shapes == [("input-0", "FP32", [-1, 16]), ("output-0", "FP32", [1])]
        assert served.executor.peak_executing == 0


async def test_grpc_health_knows_the_server_as_a_whole() -> None:
    whole, part = health_pb2.HealthCheckRequest(), health_pb2.HealthCheckRequest(service="m")
    states = health_pb2.HealthCheckResponse
    async with serving(FAST) as served:
        assert (await served.health.Check(whole)).status == states.SERVING
        assert await failure(served.health.Check(part)) == (Code.NOT_FOUND, "no service m")
        for request, state in ((whole, states.SERVING), (part, states.SERVICE_UNKNOWN)):
            watch = served.health.Watch(request)
            assert (await watch.read()).status == state
            pending = asyncio.create_task(watch.read())
            await served.health.Check(whole)
            assert not pending.done()
            watch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending


async def test_other_models_are_not_found_and_bad_input_is_refused_without_a_slot() -> None:
    other = open_inference_pb2.ModelReadyRequest(name="x"), open_inference_pb2.ModelMetadataRequest(name="x")
    async with serving(FAST) as served:
        for call in (
            served.stub.ModelInfer(typed(1, model="x")),
            served.stub.ModelReady(other[0]),
            served.stub.ModelMetadata(other[1]),
        ):
            assert await failure(call) == (Code.NOT_FOUND, "model m is the only one here")
        code, text = await failure(served.stub.ModelInfer(ModelInferRequest(model_name="m")))
        assert (code, text) == (Code.INVALID_ARGUMENT, "a V2 inference request needs inputs")
        assert served.executor.peak_executing == 0


async def test_a_failed_execution_is_internal_and_took_its_slot() -> None:
    async with serving(replace(FAST, fail_share=1.0)) as served:
        expected = (Code.INTERNAL, "the model failed, as it was told to")
        assert await failure(served.stub.ModelInfer(typed(1))) == expected
        assert (served.executor.failed, served.executor.served) == (1, 0)


async def test_exactly_so_many_execute_at_once() -> None:
    async with serving(FAST) as served:
        await asyncio.gather(*(served.stub.ModelInfer(typed(1)) for _ in range(20)))
        executor = served.executor
        assert (executor.peak_executing, executor.served, executor.waiting) == (3, 20, 0)


async def test_a_stream_answers_each_request_in_order_and_goes_on_after_errors() -> None:
    requests = [typed(1, name="a"), typed(1, model="x", name="b"), ModelInferRequest(model_name="m"), raw(2, 3)]
    async with serving(replace(FAST, cv=1.0)) as served:
        answers = [answer async for answer in served.stub.ModelStreamInfer(iter(requests))]
        assert [(answer.error_message, answer.infer_response.id) for answer in answers] == [
            ("", "a"),
            ("model m is the only one here", "b"),
            ("a V2 inference request needs inputs", ""),
            ("", ""),
        ]
        assert answers[0].infer_response.outputs[0].contents.fp32_contents == [1.0]
        assert answers[3].infer_response.raw_output_contents == [struct.pack("<f", 5.0)]
        assert (served.executor.served, served.executor.peak_executing) == (2, 1)


async def test_a_stream_is_a_conversation() -> None:
    async with serving(FAST) as served:
        stream = served.stub.ModelStreamInfer()
        for number in range(3):
            await stream.write(typed(number))
            answer = await stream.read()
            assert answer.infer_response.outputs[0].contents.fp32_contents == [number]
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is Code.OK


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_call_is_computed_to_its_end(streamed: bool) -> None:
    async with serving(Behaviour(slots=1, service_s=0.2)) as served:
        call = served.stub.ModelStreamInfer(iter([typed(1)])) if streamed else served.stub.ModelInfer(typed(1))
        await eventually(lambda: served.executor.executing == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await (call.read() if streamed else call)
        assert (await served.stub.ModelInfer(typed(2))).outputs[0].contents.fp32_contents == [2.0]
        assert (served.executor.served, served.executor.peak_executing) == (2, 1)


async def test_a_caller_whose_deadline_passed_in_the_models_queue_saves_nothing() -> None:
    async with serving(Behaviour(slots=1, service_s=0.1)) as served:
        first = served.stub.ModelInfer(typed(1))
        await eventually(lambda: served.executor.executing == 1)
        code, _ = await failure(served.stub.ModelInfer(typed(2), timeout=0.03))
        assert code is Code.DEADLINE_EXCEEDED
        assert served.executor.waiting == 1
        await first
        await eventually(lambda: served.executor.served == 2)


async def test_a_port_in_use_is_no_second_server(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving(FAST) as served:
        port = int(served.address.rpartition(":")[2])
        with pytest.raises(RuntimeError):
            await start("127.0.0.1", port, GrpcPredictor("m", FAST, served.executor))
    assert "Address already in use" in capfd.readouterr().err
