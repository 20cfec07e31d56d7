"""gRPC callers on the very port that the HTTP load goes to: few, evenly paced, as patient as the others."""

import asyncio
import time
from bisect import bisect_right
from types import TracebackType
from typing import Self

import grpc

from agent.demo.story import NO_GATE, PHASES, Calls, Script, calls_of
from loadgen.http_client import Address
from loadgen.record import Cause, Outcome, Recorder, Sample, merged
from loadgen.units import NS_PER_S
from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from protos.open_inference_pb2_grpc import GRPCInferenceServiceStub

_CONNECT_S = 5.0
_ELEMENTS = 16
# With a proxy in the environment gRPC would send even what is for this machine through it.
_OPTIONS = (("grpc.enable_http_proxy", 0),)


class Callers:
    """Calls ModelInfer of `model` on `address`, from `start()` until the gated part of the script is over.

    `recorders` holds one account per phase, of the calls that were due in it.
    """

    def __init__(self, script: Script, address: Address, model: str) -> None:
        self.recorders = [Recorder() for _ in PHASES]
        self._script = script
        self._model = model
        self._authority = f"{address[0]}:{address[1]}"
        self._starts_s = [script.start_s(phase) for phase in range(NO_GATE)]

    async def __aenter__(self) -> Self:
        """Connect. Raises ConnectionError when nobody there speaks HTTP/2."""
        self._channel = grpc.aio.insecure_channel(self._authority, _OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._calling: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._channel.channel_ready()
        except TimeoutError:
            await self._channel.close()
            raise ConnectionError(f"no gRPC on {self._authority} within {_CONNECT_S:g} s") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take back what has not ended."""
        if self._calling is not None:
            self._calling.cancel()
            await asyncio.gather(self._calling, return_exceptions=True)
        await self._channel.close()

    def start(self) -> None:
        """Begin to call."""
        self._calling = asyncio.create_task(self._call_all())

    async def finish(self) -> None:
        """Wait until the last call has ended."""
        assert self._calling is not None, "start comes first"
        await self._calling

    def counts(self) -> Calls:
        """How the calls have ended so far."""
        return calls_of(merged(self.recorders))

    async def _call_all(self) -> None:
        start_ns = time.monotonic_ns()
        count = int(self._script.start_s(NO_GATE) * self._script.calls_rate)
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                due_s = number / self._script.calls_rate
                sample = Sample(start_ns + round(due_s * NS_PER_S), bisect_right(self._starts_s, due_s) - 1)
                await asyncio.sleep(max(0.0, (sample.intended_ns - time.monotonic_ns()) / NS_PER_S))
                group.create_task(self._call(number, sample))

    async def _call(self, number: int, sample: Sample) -> None:
        request = ModelInferRequest(model_name=self._model, id=f"{number}")
        tensor = request.inputs.add(name="input-0", datatype="FP32", shape=[1, _ELEMENTS])
        tensor.contents.fp32_contents.extend([float(number)] * _ELEMENTS)
        sample.sent_ns = time.monotonic_ns()
        try:
            answer = await self._stub.ModelInfer(request, timeout=self._script.patience_s)
        except grpc.aio.AioRpcError as error:
            sample.outcome = _outcome_of(error)
        else:
            sample.outcome = Outcome.OK if _is_answer_to(request, answer) else Outcome.ERROR
        sample.done_ns = time.monotonic_ns()
        if sample.outcome is Outcome.TIMEOUT:
            sample.cause = Cause.TIMEOUT
        self.recorders[sample.step].add(sample)


def _outcome_of(error: grpc.aio.AioRpcError) -> Outcome:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Outcome.TIMEOUT
    # Without the agent's reason it is gRPC's own word for a lost connection.
    refused = error.code() is grpc.StatusCode.UNAVAILABLE and "x-headgate-reason" in (error.trailing_metadata() or ())
    return Outcome.SHED if refused else Outcome.ERROR


def _is_answer_to(request: ModelInferRequest, answer: ModelInferResponse) -> bool:
    """Whether the answer has the request's id, and the sum of its numbers."""
    sums = [value for output in answer.outputs for value in output.contents.fp32_contents]
    return bool(answer.id == request.id and sums == [sum(request.inputs[0].contents.fp32_contents)])
