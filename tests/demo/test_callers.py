"""The demo's gRPC callers against a scripted server and against the predictor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from agent.demo import callers
from agent.demo.callers import Callers
from agent.demo.executor import Behaviour, Executor
from agent.demo.grpc_predictor import GrpcPredictor, start
from agent.demo.story import Calls, Script
from loadgen.http_client import Address
from loadgen.record import Outcome
from loadgen.units import NS_PER_S
from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.sockets import eventually

# Nine calls in 0.48 s, each with a second of patience: no call that is answered is late, however busy the machine.
SCRIPT = Script(duration_s=0.6, slots=40, service_s=0.1, seed=1)
PHASE_OF_EACH = [0, 0, 1, 1, 2, 2, 3, 3, 4]
MODEL = Behaviour(slots=4, service_s=0.01)


class Scripted(GrpcPredictor):
    """Answers each call, known by its number, as told; or all of them as number `always`."""

    always = ""

    async def ModelInfer(  # noqa: N802 (the interface names it)
        self, request: ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> ModelInferResponse:
        right = sum(request.inputs[0].contents.fp32_contents)
        answer = ModelInferResponse(id=request.id)
        output = answer.outputs.add(name="output-0", datatype="FP32", shape=[1])
        output.contents.fp32_contents.append(right)
        refused = grpc.StatusCode.UNAVAILABLE
        match int(self.always or request.id):
            case 1 | 7:
                await context.abort(refused, "the queue is full", (("x-headgate-reason", "queue_full"),))
            case 2:
                await context.abort(refused, "connection refused")
            case 3:
                await asyncio.Event().wait()
            case 4:
                output.contents.fp32_contents[:] = [right + 1]
            case 5:
                answer.id = "4"
            case 6:
                await context.abort(grpc.StatusCode.INTERNAL, "x", (("x-headgate-reason", "internal"),))
        return answer


ENDS = {
    Outcome.OK: [0, 8],
    Outcome.SHED: [1, 7],
    Outcome.TIMEOUT: [3],
    Outcome.ERROR: [2, 4, 5, 6],
}


@asynccontextmanager
async def serving(kind: type[GrpcPredictor], behaviour: Behaviour = MODEL) -> AsyncIterator[tuple[Executor, Address]]:
    executor = Executor(behaviour, asyncio.get_running_loop())
    server, port = await start("127.0.0.1", 0, kind("m", behaviour, executor))
    try:
        yield executor, ("127.0.0.1", port)
    finally:
        await server.stop(None)


async def test_each_call_ends_in_the_account_of_its_phase() -> None:
    async with serving(Scripted) as (_, address), Callers(SCRIPT, address, "m") as calling:
        assert calling.counts() == Calls()
        calling.start()
        await calling.finish()
        found = [{outcome: recorder.count_of(outcome) for outcome in Outcome} for recorder in calling.recorders]
        assert found == [
            {outcome: sum(PHASE_OF_EACH[number] == phase for number in ENDS.get(outcome, ())) for outcome in Outcome}
            for phase in range(6)
        ]
        assert calling.counts() == Calls(answered=2, refused=2, late=1, failed=4)
        late = calling.recorders[PHASE_OF_EACH[3]].response[Outcome.TIMEOUT]
        assert SCRIPT.patience_s * 0.9 < late.max / NS_PER_S < SCRIPT.patience_s + 1


async def test_calls_are_paced_and_checked_against_the_predictor() -> None:
    async with serving(GrpcPredictor) as (executor, address), Callers(SCRIPT, address, "m") as calling:
        begun = asyncio.get_running_loop().time()
        calling.start()
        await calling.finish()
        took_s = asyncio.get_running_loop().time() - begun
        assert calling.counts() == Calls(answered=9)
        assert executor.served == 9
        assert 8 / SCRIPT.calls_rate <= took_s < 8 / SCRIPT.calls_rate + SCRIPT.patience_s + 0.2


async def test_a_median_refusal_time_needs_a_few_refusals() -> None:
    class Full(Scripted):
        always = "1"

    async with serving(Full) as (_, address), Callers(SCRIPT, address, "m") as calling:
        calling.start()
        await eventually(lambda: calling.counts().refused == 1)
        assert calling.counts().refusal_p50 == "-"
        await calling.finish()
        assert calling.counts().refused == 9
        assert calling.counts().refusal_p50.endswith(("us", "ms"))


async def test_leaving_takes_back_what_has_not_ended() -> None:
    async with serving(GrpcPredictor, Behaviour(slots=1, service_s=60)) as (executor, address):
        patient = Script(duration_s=60.0, slots=4, service_s=3.0, seed=1)
        async with Callers(patient, address, "m") as calling:
            calling.start()
            await eventually(lambda: executor.executing == 1)
        assert calling.counts() == Calls()
        assert calling._calling is not None
        assert calling._calling.cancelled()


async def test_a_port_without_http2_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "_CONNECT_S", 0.2)
    deaf = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with deaf:
        port = deaf.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match=f"no gRPC on 127.0.0.1:{port} within 0.2 s"):
            await Callers(SCRIPT, ("127.0.0.1", port), "m").__aenter__()


async def test_a_proxy_in_the_environment_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(callers, "_CONNECT_S", 2.0)
    async with serving(GrpcPredictor) as (_, address), Callers(SCRIPT, address, "m") as calling:
        assert calling.counts() == Calls()
