"""The gRPC clients that people use see no difference: tritonclient with and without asyncio, calls and streams."""

import asyncio
import inspect
import queue
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from .conftest import Pair
from .grpcpayloads import numbers, tensor

pytestmark = pytest.mark.contract

only_triton = pytest.mark.parametrize("pair", ["triton"], indirect=True)
only_mlserver = pytest.mark.parametrize("pair", ["mlserver"], indirect=True)

# A call that is not answered by then never will be.
PATIENCE_S = 30.0

Operation = Callable[[Any], Any]
TYPES = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")


def floats(size: int) -> numpy.ndarray:
    """FP32 values that fill `size` bytes, the same every time."""
    return numpy.arange(size // 4, dtype=numpy.float32)


def infer(model: str = "double", *, values: numpy.ndarray | None = None, **options: Any) -> Operation:
    """An inference."""

    def ask(client: Any) -> Any:
        inputs = [tensor(floats(64) if values is None else values)]
        return client.infer(model, inputs, request_id="7", **{"client_timeout": PATIENCE_S, **options})

    return ask


CALLS: dict[str, Operation] = {
    "live": lambda client: client.is_server_live(),
    "ready": lambda client: client.is_server_ready(),
    "model ready": lambda client: client.is_model_ready("double"),
    "unknown model ready": lambda client: client.is_model_ready("nobody"),
    "server": lambda client: client.get_server_metadata(),
    "model": lambda client: client.get_model_metadata("double"),
    "model as json": lambda client: client.get_model_metadata("double", as_json=True),
    "unknown model": lambda client: client.get_model_metadata("nobody"),
    "config": lambda client: client.get_model_config("double"),
    "repository": lambda client: client.get_model_repository_index(),
    "load nobody": lambda client: client.load_model("nobody"),
    "shared memory": lambda client: client.get_system_shared_memory_status(),
    "infer": infer(),
    "1 MB": infer(values=floats(1_000_000)),
    "4 MB": infer(values=floats(4_000_000)),
    "8 MB": infer(values=floats(8_000_000)),
    "12 MB": infer(values=floats(12_000_000)),
    "gzip": infer(values=floats(200_000), compression_algorithm="gzip"),
    "deflate": infer(values=floats(200_000), compression_algorithm="deflate"),
    "headers": infer(headers={"x-one": "1", "x-two": "2", "x-raw-bin": b"\x00\xff"}),
    "parameters": infer(parameters={"delay_s": "0.01", "number": 3, "yes": True}),
    "timeout": infer(client_timeout=1_000.0),
    "version": infer(model_version="3"),
    "unknown model infers": infer("nobody"),
    "bad input": infer(parameters={"fail": "input"}),
    "two dimensions": infer(values=floats(96).reshape(4, 6)),
    "wrong type": infer(values=numpy.arange(4, dtype=numpy.int64)),
    "integers": infer(values=numpy.arange(4, dtype=numpy.int32)),
    "doubles": infer(values=numpy.arange(4, dtype=numpy.float64)),
    "empty": infer(values=numpy.zeros(0, numpy.float32)),
}


async def outcome(client: Any, operation: Operation) -> object:
    """What the caller of a tritonclient sees, as plain values."""
    try:
        result = operation(client)
        if inspect.isawaitable(result):
            result = await result
    except InferenceServerException as error:
        return ("raised", error.status(), error.message(), str(error.debug_details()).count("\n"))
    if isinstance(result, tritonclient.grpc.InferResult):
        return result.get_response().SerializeToString(deterministic=True)
    return result


async def seen_by(client: Any, operation: Operation) -> object:
    """The same, and the client is closed."""
    try:
        return await outcome(client, operation)
    finally:
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing


def same(found: object, expected: object) -> bool:
    """Compared outside of assert, whose explanation of a difference in megabytes takes minutes."""
    return found == expected


@pytest.mark.parametrize("operation", CALLS)
async def test_tritonclient(pair: Pair, operation: str) -> None:
    direct, through = [
        await seen_by(tritonclient.grpc.InferenceServerClient(address), CALLS[operation])
        for address in pair.grpc_addresses
    ]
    assert same(through, direct), f"{str(through)[:300]} is not {str(direct)[:300]}"


@pytest.mark.parametrize("operation", CALLS)
async def test_tritonclient_aio(pair: Pair, operation: str) -> None:
    direct, through = [
        await seen_by(tritonclient.grpc.aio.InferenceServerClient(address), CALLS[operation])
        for address in pair.grpc_addresses
    ]
    assert same(through, direct), f"{str(through)[:300]} is not {str(direct)[:300]}"


def test_tritonclient_is_served_at_all(pair: Pair) -> None:
    """The comparisons would hold between two failures as well."""
    with tritonclient.grpc.InferenceServerClient(pair.agent.address) as client:
        for size in (64, 1_000_000, 4_000_000):
            result = client.infer("double", [tensor(floats(size))])
            assert numpy.array_equal(result.as_numpy("output-0").ravel(), 2 * floats(size))


@only_triton
def test_every_type_of_tensor(pair: Pair) -> None:
    values = {kind: numpy.array([0, 1, 2, 3]).astype(triton_to_np_dtype(kind)) for kind in TYPES}
    values["BYTES"] = numpy.array([b"", b"a", b"\xff\x00", b"long" * 100], numpy.object_)
    inputs = [tensor(value, f"in-{kind.lower()}") for kind, value in values.items()]
    seen = []
    for address in pair.grpc_addresses:
        with tritonclient.grpc.InferenceServerClient(address) as client:
            result = client.infer("mixed", inputs, request_id="7")
        seen.append(result.get_response())
        for kind, value in values.items():
            assert numpy.array_equal(result.as_numpy(f"out-{kind.lower()}"), value)
    assert seen[1] == seen[0]


@only_triton
def test_calls_from_one_client_are_still_batched(pair: Pair) -> None:
    """They arrive as close together as without the agent."""
    inputs = [tensor(floats(12).reshape(1, 3))]
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(pair.agent.address) as client:
        for _ in range(8):
            client.async_infer("batched", inputs, callback=lambda result, error: ended.put((result, error)))
        replies = [ended.get(timeout=30) for _ in range(8)]
    assert not [error for _, error in replies if error]
    assert max(int(result.as_numpy("rows")[0][0]) for result, _ in replies) > 4


def streamed_by(address: str, model: str, requests: int, **options: Any) -> list[object]:
    """What the callback of start_stream is given for so many requests of four answers each."""
    ended: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: ended.put((result, error)), stream_timeout=PATIENCE_S)
        answers = []
        for number in range(requests):
            client.async_stream_infer(
                model, [tensor(floats(12))], request_id=str(number), parameters={"events": 4}, **options
            )
            each = 4 + bool(options.get("enable_empty_final_response"))
            answers += [ended.get(timeout=30) for _ in range(each)]
        client.stop_stream()
    assert ended.empty()
    return [error.message() if error else result.get_response() for result, error in answers]


@pytest.mark.parametrize("options", [{}, {"enable_empty_final_response": True}], ids=["plain", "empty final answer"])
@only_triton
def test_start_stream(pair: Pair, options: dict[str, bool]) -> None:
    direct, through = (streamed_by(address, "stream", 3, **options) for address in pair.grpc_addresses)
    assert through == direct
    assert [numbers(found) for found in through[:4]] == [[0, n, 2 * n] for n in (1, 2, 3, 4)]


@only_mlserver
def test_start_stream_of_mlserver(pair: Pair) -> None:
    """tritonclient reads MLServer's answers as errors, for they have no wrapper; all the same both ways."""
    direct, through = (streamed_by(address, "double", 1) for address in pair.grpc_addresses)
    assert through == direct == ["double"] * 4


@only_triton
async def test_stream_infer_aio(pair: Pair) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "stream", "inputs": [tensor(floats(12))], "parameters": {"events": 5}}

    seen = []
    for address in pair.grpc_addresses:
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            answers = client.stream_infer(requests())
            seen.append([(str(error), result.get_response()) async for result, error in answers])
    direct, through = seen
    assert len(direct) == 5
    assert through == direct


async def test_many_at_once_get_their_own_answers(pair: Pair) -> None:
    """300 calls over 4 channels, long and short, each with a tensor of its own."""

    async def ask(client: Any, number: int) -> None:
        values = numpy.full(3 if number % 5 else 40_000, number, numpy.float32)
        result = await client.infer("double", [tensor(values)], request_id=str(number))
        assert result.get_response().id == str(number)
        assert numpy.array_equal(result.as_numpy("output-0").ravel(), 2 * values)

    channel_args = [("grpc.use_local_subchannel_pool", 1)]
    clients = [
        tritonclient.grpc.aio.InferenceServerClient(pair.agent.address, channel_args=channel_args) for _ in range(4)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(ask(clients[number % 4], number))
    finally:
        for client in clients:
            await client.close()
