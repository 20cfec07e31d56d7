"""The models of a Triton predictor; the folder `models` is its repository.

`double` and `other` double FP32 tensors. `stream` is decoupled: it has as many answers as the parameter `events` says,
or three: the input times 1, 2, 3 and so on; only the last one waits for what `hold` names, `delay_s` comes before each.
`batched` doubles what Triton has gathered into a batch, and says how many rows that were. `mixed` gives back tensors of
several types. The first three do what `behaviour` describes. Each instance of a model is a process of its own, so a key
that was released is a file in the folder GATES. An instance does one thing at a time, and there are few: after
HOLD_S it goes on without having been released, so that a test that fails does not take the others along.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy
import triton_python_backend_utils as triton
from behaviour import BadInputError, Behaviour

POLL_S = 0.002
HOLD_S = 20.0


class SharedBehaviour(Behaviour):
    """The state of all models of the server."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(os.environ["GATES"])

    def _open(self, key: str) -> None:
        self._file(key).touch()

    async def _pass(self, key: str) -> None:
        until = time.monotonic() + HOLD_S
        while not self._file(key).exists() and time.monotonic() < until:  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(POLL_S)

    def _file(self, key: str) -> Path:
        return self._folder / sha256(key.encode()).hexdigest()


class Double:
    """Answers with twice what it is sent."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        self._behaviour = SharedBehaviour()
        self._loop = asyncio.new_event_loop()

    def execute(self, requests: Sequence["triton.InferenceRequest"]) -> list["triton.InferenceResponse"]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: "triton.InferenceRequest") -> "triton.InferenceResponse":
        try:
            self._play(_wishes(request))
        except BadInputError as error:
            return _failure(error)
        return _times(request, 2)

    def _play(self, wishes: Mapping[str, object]) -> None:
        self._loop.run_until_complete(self._behaviour.play(wishes))


class Stream(Double):
    """Answers several times."""

    def execute(self, requests: Sequence["triton.InferenceRequest"]) -> None:
        for request in requests:
            self._send(request, request.get_response_sender())

    def _send(self, request: "triton.InferenceRequest", sender: "triton.InferenceResponseSender") -> None:
        wishes = _wishes(request)
        last = int(str(wishes.get("events", 3)))
        for factor in range(1, last):
            time.sleep(float(str(wishes.get("delay_s", 0))))
            if request.is_cancelled():
                sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                return
            sender.send(_times(request, factor))
        try:
            self._play(wishes)
            answer = _times(request, last)
        except BadInputError as error:
            answer = _failure(error)
        sender.send(answer)
        sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class Batched:
    """Answers with twice what it is sent, and how many rows were computed at once."""

    def execute(self, requests: Sequence["triton.InferenceRequest"]) -> list["triton.InferenceResponse"]:
        inputs = [_tensor(request, "input-0") for request in requests]
        rows = sum(len(values) for values in inputs)
        return [
            _response({"output-0": 2 * values, "rows": numpy.full((len(values), 1), rows, numpy.int32)})
            for values in inputs
        ]


class Mixed:
    """Answers with what it is sent: `in-fp32` as `out-fp32` and so on."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        self._names = [tensor["name"] for tensor in json.loads(arguments["model_config"])["input"]]

    def execute(self, requests: Sequence["triton.InferenceRequest"]) -> list["triton.InferenceResponse"]:
        return [
            _response({name.replace("in-", "out-"): _tensor(request, name) for name in self._names})
            for request in requests
        ]


def _wishes(request: "triton.InferenceRequest") -> Mapping[str, object]:
    parameters: Mapping[str, object] = json.loads(request.parameters() or "{}")
    return parameters


def _tensor(request: "triton.InferenceRequest", name: str) -> numpy.ndarray:
    values: numpy.ndarray = triton.get_input_tensor_by_name(request, name).as_numpy()
    return values


def _times(request: "triton.InferenceRequest", factor: int) -> "triton.InferenceResponse":
    return _response({"output-0": numpy.float32(factor) * _tensor(request, "input-0")})


def _response(tensors: Mapping[str, numpy.ndarray]) -> "triton.InferenceResponse":
    return triton.InferenceResponse([triton.Tensor(name, values) for name, values in tensors.items()])


def _failure(error: Exception) -> "triton.InferenceResponse":
    return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
