"""A KServe SDK predictor on loopback with the models `double` and `other`; HTTP_PORT and GRPC_PORT are its ports.

Both double tensors over V2, REST and gRPC, and rows of numbers over V1, and do what `behaviour` describes: V2 requests
ask in `parameters`, V1 requests at the top level. Two V1 wishes are of their own: `stream` sends the rows one by one in
chunks, `mirror` answers with the header fields that the model was given.
"""

import json
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import kserve.model_server
import kserve.protocol.grpc.server
import numpy
from behaviour import BadInputError, Behaviour
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import to_http_parameters
from kserve.protocol.rest.server import RESTServer

HOST = "127.0.0.1"


class Double(Model):
    """Answers with twice what it is sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name, return_response_headers=True)
        self._behaviour = Behaviour()
        self.load()

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> object:
        over_v2 = isinstance(payload, InferRequest)
        try:
            await self._behaviour.play(to_http_parameters(payload.parameters or {}) if over_v2 else payload)
        except BadInputError as error:
            raise InvalidInput(str(error)) from error
        if response_headers is not None:
            response_headers["x-model"] = self.name
        return self._infer(payload) if over_v2 else self._predict(payload, headers or {})

    def _infer(self, request: InferRequest) -> InferResponse:
        tensor = request.inputs[0].as_numpy()
        output = InferOutput("output-0", list(tensor.shape), "FP32")
        output.set_data_from_numpy(numpy.float32(2) * tensor.astype(numpy.float32), binary_data=request.from_grpc)
        return InferResponse(
            request.id or "",
            self.name,
            [output],
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )

    def _predict(self, payload: dict[str, Any], headers: dict[str, str]) -> object:
        if payload.get("mirror"):
            return {"predictions": list(headers.items())}
        rows = [[2 * value for value in row] for row in payload["instances"]]
        return _lines(rows) if payload.get("stream") else {"predictions": rows}


async def _lines(rows: list[list[float]]) -> AsyncIterator[bytes]:
    for row in rows:
        yield json.dumps(row).encode() + b"\n"


class LoopbackServer(RESTServer):
    """The SDK listens on every address and has no setting for it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.config.host = HOST


def loopback_grpc_server(*args: Any, **settings: Any) -> grpc.aio.Server:
    """The same for gRPC."""
    server = grpc.aio.server(*args, **settings)
    add_port = server.add_insecure_port
    server.add_insecure_port = lambda address: add_port(address.replace("[::]", HOST))
    return server


if __name__ == "__main__":
    kserve.model_server.RESTServer = LoopbackServer
    kserve.protocol.grpc.server.aio = SimpleNamespace(server=loopback_grpc_server)
    ports = {"http_port": int(os.environ["HTTP_PORT"]), "grpc_port": int(os.environ["GRPC_PORT"])}
    ModelServer(**ports).start([Double("double"), Double("other")])
