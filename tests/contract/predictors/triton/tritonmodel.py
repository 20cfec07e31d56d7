"""What the models of a Triton predictor share. Each instance of a model is a process of its own.

No instance sees the requests of another, so a key that was released (see `behaviour`) is a file in the folder GATES.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import triton_python_backend_utils as triton
from behaviour import BadInputError, Behaviour

_POLL_S = 0.002


class SharedBehaviour(Behaviour):
    """The state of all models of the server."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(os.environ["GATES"])

    def _open(self, key: str) -> None:
        self._file(key).touch()

    async def _pass(self, key: str) -> None:
        while not self._file(key).exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(_POLL_S)

    def _file(self, key: str) -> Path:
        return self._folder / sha256(key.encode()).hexdigest()


class Player:
    """Does what requests ask for, one at a time."""

    def __init__(self) -> None:
        self._behaviour = SharedBehaviour()
        self._loop = asyncio.new_event_loop()

    def play(self, wishes: Mapping[str, object]) -> None:
        """Raises TritonError where the request is to blame, and ZeroDivisionError for a crash."""
        try:
            self._loop.run_until_complete(self._behaviour.play(wishes))
        except BadInputError as error:
            raise triton.TritonModelException(str(error)) from error


def wishes(request: "triton.InferenceRequest") -> Mapping[str, object]:
    """The parameters of a request."""
    parameters: Mapping[str, object] = json.loads(request.parameters() or "{}")
    return parameters


def tensor(request: "triton.InferenceRequest", name: str = "input-0") -> object:
    """One of its inputs, as a numpy array."""
    return triton.get_input_tensor_by_name(request, name).as_numpy()


def response(**outputs: object) -> "triton.InferenceResponse":
    """An answer with these tensors; an underscore in their name stands for a hyphen."""
    return triton.InferenceResponse([triton.Tensor(name.replace("_", "-"), values) for name, values in outputs.items()])


def failure(error: Exception) -> "triton.InferenceResponse":
    """The answer to a request that is to blame."""
    return triton.InferenceResponse(error=triton.TritonError(str(error), triton.TritonError.INVALID_ARG))
