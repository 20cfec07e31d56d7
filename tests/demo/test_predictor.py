"""The synthetic predictor: exact slots, determinism, answers that belong to their requests, and its errors."""

import asyncio
import json
import math
import signal
import statistics
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from agent.demo import predictor
from agent.demo.predictor import Behaviour, Executor, Predictor
from loadgen.http_client import fetch
from loadgen.payload import encode_request

FAST = Behaviour(slots=3, service_s=0.002)


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[Predictor, aiohttp.ClientSession]]:
    """A predictor named m on a free port, and a client whose paths are relative to it."""
    served = Predictor("m", behaviour)
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


@pytest.mark.parametrize("slots", [1, 3, 8])
async def test_exactly_so_many_execute_at_once_and_the_rest_waits(slots: int) -> None:
    executor = Executor(replace(FAST, slots=slots), asyncio.get_running_loop())
    ended: list[int] = []

    async def one(number: int) -> None:
        await executor.execute()
        ended.append(number)
        assert executor.executing <= slots

    count = 5 * slots
    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    await asyncio.sleep(0)
    assert (executor.executing, executor.waiting) == (slots, count - slots)
    await asyncio.gather(*tasks)
    assert sorted(ended) == list(range(count))
    if slots == 1:
        assert ended == sorted(ended)  # with more slots, a stall between two starts may let a later one end first
    assert (executor.peak_executing, executor.executing, executor.waiting, executor.served) == (slots, 0, 0, count)


class ManualLoop:
    """A loop whose clock stands until the test moves it, and which calls late when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[tuple[float, Callable[..., None], tuple[object, ...]]] = []
        self.create_future = asyncio.get_running_loop().create_future

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[..., None], *arguments: object) -> None:
        self.calls.append((when, call, arguments))

    def run_next(self, late_s: float = 0.0) -> float:
        """Make the earliest call, `late_s` after its time; returns its time."""
        when, call, arguments = self.calls.pop(min(range(len(self.calls)), key=lambda index: self.calls[index][0]))
        self.now = max(self.now, when + late_s)
        call(*arguments)
        return when


async def executions(loop: ManualLoop, behaviour: Behaviour, count: int) -> list[asyncio.Task[bool]]:
    executor = Executor(behaviour, cast("asyncio.AbstractEventLoop", loop))
    tasks = [asyncio.create_task(executor.execute()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_late_timers_do_not_cost_capacity() -> None:
    loop = ManualLoop()
    tasks = await executions(loop, Behaviour(slots=2, service_s=0.05), 8)
    ends = [loop.run_next(late_s=0.004) for _ in range(8)]
    assert ends == pytest.approx([100.05, 100.05, 100.1, 100.1, 100.15, 100.15, 100.2, 100.2])
    await asyncio.gather(*tasks)


async def test_a_process_that_stood_still_has_lost_the_time() -> None:
    loop = ManualLoop()
    tasks = await executions(loop, Behaviour(slots=1, service_s=0.05), 3)
    ends = [loop.run_next(late_s=5.0), loop.run_next(), loop.run_next()]
    assert ends == pytest.approx([100.05, 105.09, 105.14])
    await asyncio.gather(*tasks)


async def test_an_idle_slot_starts_at_once() -> None:
    loop = ManualLoop()
    executor = Executor(Behaviour(slots=1, service_s=0.05), cast("asyncio.AbstractEventLoop", loop))
    for start in (100.0, 200.0):
        loop.now = start
        task = asyncio.create_task(executor.execute())
        await asyncio.sleep(0)
        assert loop.run_next() == start + 0.05
        assert await task


async def draws(behaviour: Behaviour, count: int) -> list[tuple[float, bool]]:
    executor = Executor(behaviour, asyncio.get_running_loop())
    return [executor.draw() for _ in range(count)]


async def test_the_seed_decides_service_times_and_failures() -> None:
    behaviour = Behaviour(cv=0.5, fail_share=0.3, seed=4)
    assert await draws(behaviour, 50) == await draws(behaviour, 50)
    assert await draws(behaviour, 50) != await draws(replace(behaviour, seed=5), 50)


@pytest.mark.parametrize("cv", [0.0, 0.2, 1.0])
async def test_service_times_have_the_mean_and_the_spread(cv: float) -> None:
    times = [service_s for service_s, _ in await draws(Behaviour(service_s=0.05, cv=cv), 20_000)]
    assert statistics.fmean(times) == pytest.approx(0.05, rel=0.04)
    assert statistics.pstdev(times) / statistics.fmean(times) == pytest.approx(cv, rel=0.1)
    assert min(times) > 0


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
async def test_failures_have_their_share(share: float) -> None:
    failures = sum(not succeeds for _, succeeds in await draws(Behaviour(fail_share=share), 4_000))
    assert failures / 4_000 == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4_000))


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
async def started(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The predictor as a process of its own, and its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.demo.predictor", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            assert process.stdout is not None
            record = json.loads(await process.stdout.readline())
            assert record["event"] == "listening"
            yield process, record["port"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_alone_it_prints_its_port_and_ends_at_once_with_work_inside(number: signal.Signals) -> None:
    async with started("--slots", "1", "--service-time", "1h") as (process, port):
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
        ["--bogus"],
    ],
)
def test_bad_settings_are_exit_64(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        predictor.main(arguments)
    assert caught.value.code == 64
    assert arguments[0] in capsys.readouterr().err


async def test_a_port_in_use_is_exit_1() -> None:
    async with started() as (_, port):
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent.demo.predictor", "--port", f"{port}", stderr=asyncio.subprocess.PIPE
        )
        _, err = await second.communicate()
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}" in err.decode()
