"""The synthetic predictor over HTTP and as a command: answers that belong to their requests, and its errors."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest
from aiohttp import web

from agent.demo import predictor
from agent.demo.executor import Behaviour, Executor
from agent.demo.predictor import Predictor
from loadgen.http_client import fetch
from loadgen.payload import encode_request
from protos.open_inference_pb2 import ModelInferRequest
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

FAST = Behaviour(slots=3, service_s=0.002)


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[Predictor, aiohttp.ClientSession]]:
    """A predictor named m on a free port, and a client whose paths are relative to it."""
    served = Predictor("m", behaviour, Executor(behaviour, asyncio.get_running_loop()))
    runner = web.AppRunner(served.application(), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield served, session
    finally:
        await runner.cleanup()


def inference(*numbers: float, **more: object) -> dict[str, object]:
    return {"inputs": [{"name": "input-0", "shape": [len(numbers)], "datatype": "FP32", "data": list(numbers)}], **more}


async def test_a_failed_execution_is_a_500_and_took_its_slot() -> None:
    async with serving(replace(FAST, fail_share=1.0)) as (served, session):
        for path, body in (("/v2/models/m/infer", inference(1)), ("/v1/models/m:predict", {"instances": [1]})):
            async with session.post(path, json=body) as answer:
                assert answer.status == 500
                assert "error" in await answer.json()
        assert (served.executor.failed, served.executor.served, served.executor.peak_executing) == (2, 0, 1)


async def test_each_answer_belongs_to_its_request() -> None:
    async with serving(replace(FAST, cv=0.5)) as (_, session):

        async def ask(number: int) -> None:
            body = inference(number, 0.5, id=f"r{number}")
            async with session.post("/v2/models/m/versions/1/infer", json=body) as answer:
                assert answer.status == 200
                assert await answer.json() == {
                    "model_name": "m",
                    "model_version": "1",
                    "id": f"r{number}",
                    "outputs": [{"name": "output-0", "datatype": "FP32", "shape": [1], "data": [number + 0.5]}],
                }

        await asyncio.gather(*(ask(number) for number in range(30)))


async def test_v1_predictions_are_sums_too() -> None:
    body = {"instances": [[1, 2], [3, [4]], "four", True]}
    async with serving(FAST) as (_, session), session.post("/v1/models/m:predict", json=body) as answer:
        assert await answer.json() == {"predictions": [3, 7, 4, 1]}


@pytest.mark.parametrize("size", [0, 400, 5_000, 1_000_000])
async def test_answers_are_padded_to_the_byte(size: int) -> None:
    async with (
        serving(replace(FAST, response_bytes=size)) as (_, session),
        session.post("/v2/models/m/infer", json=inference(1)) as answer,
    ):
        body = await answer.read()
        assert json.loads(body)["outputs"][0]["data"] == [1.0]
        assert len(body) == size if size else len(body) < 400


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/other/infer", b"{}", 404),
        ("/v1/models/other:predict", b"{}", 404),
        ("/v2/models/m/infer", b"{", 400),
        ("/v2/models/m/infer", b"[]", 400),
        ("/v2/models/m/infer", b"{}", 400),
        ("/v2/models/m/infer", b'{"inputs":[]}', 400),
        ("/v2/models/m/infer", b'{"inputs":[1]}', 400),
        ("/v2/models/m/infer", b'{"inputs":[{"name":"a"}]}', 400),
        ("/v2/models/m/infer", b'{"inputs":[{"data":[1]},2]}', 400),
        ("/v1/models/m:predict", b'{"inputs":[]}', 400),
        ("/v1/models/m:predict", b'"instances"', 400),
        ("/nothing", b"{}", 404),
    ],
)
async def test_bad_requests_are_refused_without_a_slot(path: str, body: bytes, status: int) -> None:
    async with serving(FAST) as (served, session):
        async with session.post(path, data=body) as answer:
            assert answer.status == status
        assert served.executor.peak_executing == 0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2", {"name": "headgate-demo", "version": "1", "extensions": []}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/m/ready", {"name": "m", "ready": True}),
        ("/v2/models/m/versions/1/ready", {"name": "m", "ready": True}),
        ("/v1/models", {"models": ["m"]}),
        ("/v1/models/m", {"name": "m", "ready": True}),
        ("/stats", {"executing": 0, "waiting": 0, "peak_executing": 0, "served": 0, "failed": 0}),
    ],
)
async def test_health_and_metadata(path: str, expected: object) -> None:
    async with serving(FAST) as (_, session), session.get(path) as answer:
        assert (answer.status, await answer.json()) == (200, expected)


async def test_metadata_names_the_input_and_unknown_models_are_404() -> None:
    async with serving(FAST) as (_, session):
        async with session.get("/v2/models/m") as answer:
            assert (await answer.json())["inputs"] == [{"name": "input-0", "datatype": "FP32", "shape": [-1, 16]}]
        for path in ("/v2/models/x", "/v2/models/x/ready", "/v1/models/x"):
            async with session.get(path) as answer:
                assert answer.status == 404


async def test_a_caller_that_leaves_saves_nothing() -> None:
    async with serving(Behaviour(slots=1, service_s=0.2)) as (served, session):
        leaving = asyncio.create_task(session.post("/v2/models/m/infer", json=inference(1)))
        async with asyncio.timeout(5):
            while not (await (await session.get("/stats")).json())["executing"]:
                pass
        leaving.cancel()
        async with session.post("/v2/models/m/infer", json=inference(2)) as answer:
            assert answer.status == 200
        assert served.executor.served == 2


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, int]]]:
    """The predictor as a process of its own, and the line in which it tells its ports."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.demo.predictor", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            record = json.loads(await process.stdout.readline())
            assert record["event"] == "listening"
            yield process, record
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_alone_it_prints_its_port_and_ends_at_once_with_work_inside(number: signal.Signals) -> None:
    async with started("--slots", "1", "--service-time", "1h") as (process, ports):
        port = ports["port"]
        body = json.dumps(inference(1)).encode()
        request = encode_request("POST", "test", "/v2/models/synthetic/infer", (), body)
        asking = [asyncio.create_task(fetch(("127.0.0.1", port), request, 60.0)) for _ in range(3)]
        stats = encode_request("GET", "test", "/stats")
        while json.loads((await fetch(("127.0.0.1", port), stats, 5.0)).body)["waiting"] < 2:
            pass
        process.send_signal(number)
        assert await process.wait() == 0
        assert {(await task).status for task in asking} == {0}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--slots", "0"],
        ["--service-time", "5"],
        ["--cv", "-1"],
        ["--fail-share", "2"],
        ["--port", "70000"],
        ["--grpc-port", "-1"],
        ["--bogus"],
    ],
)
def test_bad_settings_are_exit_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        predictor.main(arguments)
    assert caught.value.code == 64
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(("taken", "flag"), [("port", "--port"), ("grpc_port", "--grpc-port")])
async def test_a_port_in_use_is_exit_1(taken: str, flag: str) -> None:
    async with started("--grpc-port", "0") as (_, ports):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.demo.predictor", flag, f"{ports[taken]}", stderr=asyncio.subprocess.PIPE
        )
        _, err = await second.communicate()
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{ports[taken]}" in err.decode()


async def test_without_a_grpc_port_no_grpc_is_loaded() -> None:
    for arguments, loaded in (((), False), (("--grpc-port", "0"), True)):
        async with started(*arguments) as (process, ports):
            assert ("grpc_port" in ports) is loaded
            assert ("cygrpc" in mapped_by(process.pid)) is loaded


def mapped_by(pid: int) -> str:
    """The files in the memory of a process, its shared libraries among them."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_both_protocols_share_the_slots_and_end_at_once(number: signal.Signals) -> None:
    slow = ("--grpc-port", "0", "--slots", "1", "--service-time", "1h", "--model", "m")
    async with started(*slow) as (process, ports):
        request = encode_request("POST", "test", "/v2/models/m/infer", (), json.dumps(inference(1)).encode())
        stats = encode_request("GET", "test", "/stats")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['grpc_port']}") as channel:
            call = GRPCInferenceServiceStub(channel).ModelInfer(grpc_inference())
            asking = asyncio.create_task(fetch(("127.0.0.1", ports["port"]), request, 60.0))
            state: dict[str, int] = {}
            while state.get("waiting") != 1:
                state = json.loads((await fetch(("127.0.0.1", ports["port"]), stats, 5.0)).body)
            assert (state["executing"], state["waiting"]) == (1, 1)
            process.send_signal(number)
            with pytest.raises(grpc.aio.AioRpcError):
                await call
            assert (await asking).status == 0
        assert await process.wait() == 0


def grpc_inference() -> ModelInferRequest:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="i", datatype="FP32", shape=[1]).contents.fp32_contents.append(1)
    return request
