"""A synthetic predictor: `python -m agent.demo.predictor --port 0 --grpc-port 0 --slots 4 --service-time 50ms`.

It fails the way real model servers do under overload: N requests execute at once, every further one waits inside
without bound, and a caller that leaves saves nothing, because the model computes its answer all the same. Once it
listens it prints one JSON line with its ports.

V2: /v2, /v2/health/{live,ready}, /v2/models/M (metadata), .../ready, .../infer, each with or without /versions/V.
V1: /v1/models, /v1/models/M, /v1/models/M:predict. Its own: /stats with `executing`, `waiting`, `peak_executing`,
`served` and `failed`. The answer to an inference is the sum of its numbers, so a mixed-up answer is seen. With
--grpc-port also the gRPC of V2, on the same slots: see grpc_predictor.
"""

import argparse
import asyncio
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import NoReturn

import uvloop
from aiohttp import web

from agent.demo.executor import Behaviour, Executor
from loadgen.units import parse_duration

_MAX_BODY = 256 * 1024 * 1024
# aiohttp reads 0 as "wait for ever".
_SHUTDOWN_S = 0.1
_PADDING_OUTPUT = {"name": "padding", "datatype": "BYTES", "shape": [1], "data": [""]}


class ListenError(Exception):
    """A port cannot be had; the text names it."""


class Predictor:
    """The HTTP face of one model, on slots that it may share with other faces."""

    def __init__(self, model: str, behaviour: Behaviour, executor: Executor) -> None:
        self.executor = executor
        self._model = model
        self._response_bytes = behaviour.response_bytes

    def application(self) -> web.Application:
        """All routes."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_get("/v2", self._server_metadata)
        app.router.add_get("/v2/health/{kind:live|ready}", self._health)
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            app.router.add_get(prefix, self._model_metadata)
            app.router.add_get(f"{prefix}/ready", self._model_ready)
            app.router.add_post(f"{prefix}/infer", self._infer)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/v1/models/{model}", self._v1_status)
        app.router.add_post("/v1/models/{model}:predict", self._predict)
        app.router.add_get("/stats", self._stats)
        return app

    async def _server_metadata(self, _: web.Request) -> web.Response:
        return web.json_response({"name": "headgate-demo", "version": "1", "extensions": []})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({request.match_info["kind"]: True})

    async def _model_metadata(self, request: web.Request) -> web.Response:
        self._check_model(request)
        return web.json_response(
            {
                "name": self._model,
                "versions": ["1"],
                "platform": "synthetic",
                "inputs": [{"name": "input-0", "datatype": "FP32", "shape": [-1, 16]}],
                "outputs": [{"name": "output-0", "datatype": "FP32", "shape": [1]}],
            }
        )

    async def _model_ready(self, request: web.Request) -> web.Response:
        self._check_model(request)
        return web.json_response({"name": self._model, "ready": True})

    async def _list_models(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [self._model]})

    async def _v1_status(self, request: web.Request) -> web.Response:
        self._check_model(request)
        return web.json_response({"name": self._model, "ready": True})

    async def _stats(self, _: web.Request) -> web.Response:
        names = ("executing", "waiting", "peak_executing", "served", "failed")
        return web.json_response({name: getattr(self.executor, name) for name in names})

    async def _infer(self, request: web.Request) -> web.Response:
        self._check_model(request)
        match await _read_json(request):
            case {"inputs": [_, *_] as inputs, **rest} if all(
                isinstance(entry, dict) and "data" in entry for entry in inputs
            ):
                total = math.fsum(_sum(entry["data"]) for entry in inputs)
            case _:
                raise _refusal(web.HTTPBadRequest, "a V2 inference request needs inputs with data")
        await self._execute()
        output = {"name": "output-0", "datatype": "FP32", "shape": [1], "data": [total]}
        answer: dict[str, object] = {"model_name": self._model, "model_version": "1", "outputs": [output]}
        if "id" in rest:
            answer["id"] = rest["id"]
        return web.Response(body=self._padded(answer), content_type="application/json")

    async def _predict(self, request: web.Request) -> web.Response:
        self._check_model(request)
        match await _read_json(request):
            case {"instances": [*instances]}:
                predictions = [_sum(instance) for instance in instances]
            case _:
                raise _refusal(web.HTTPBadRequest, "a V1 request needs instances")
        await self._execute()
        return web.json_response({"predictions": predictions})

    async def _execute(self) -> None:
        if not await self.executor.execute():
            raise _refusal(web.HTTPInternalServerError, "the model failed, as it was told to")

    def _padded(self, answer: dict[str, object]) -> bytes:
        body = json.dumps(answer).encode()
        if len(body) >= self._response_bytes:
            return body
        outputs = answer["outputs"]
        assert isinstance(outputs, list)
        bare = json.dumps({**answer, "outputs": [*outputs, _PADDING_OUTPUT]})
        padding = {**_PADDING_OUTPUT, "data": ["x" * max(0, self._response_bytes - len(bare))]}
        return json.dumps({**answer, "outputs": [*outputs, padding]}).encode()

    def _check_model(self, request: web.Request) -> None:
        if request.match_info["model"] != self._model:
            raise _refusal(web.HTTPNotFound, f"model {self._model} is the only one here")


async def _read_json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise _refusal(web.HTTPBadRequest, "the body is not JSON") from None


def _sum(data: object) -> float:
    """The sum of all numbers in nested lists; anything else counts as its length."""
    if isinstance(data, bool | int | float):
        return float(data)
    if isinstance(data, list):
        return math.fsum(map(_sum, data))
    return float(len(data)) if isinstance(data, str) else 0.0


def _refusal(kind: type[web.HTTPException], text: str) -> web.HTTPException:
    return kind(text=json.dumps({"error": text}), content_type="application/json")


async def serve(host: str, port: int, grpc_port: int | None, model: str, behaviour: Behaviour) -> None:
    """Serve until SIGTERM or SIGINT, then stop at once; no gRPC without `grpc_port`. Raises ListenError."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    executor = Executor(behaviour, loop)
    async with AsyncExitStack() as stack:
        http_port = await _start_http(host, port, Predictor(model, behaviour, executor), stack)
        listening = {"event": "listening", "host": host, "port": http_port}
        if grpc_port is not None:
            # Here, as it takes 60 ms and 11 MB that most runs save.
            from agent.demo.grpc_predictor import GrpcPredictor, start  # noqa: PLC0415

            try:
                server, listening["grpc_port"] = await start(host, grpc_port, GrpcPredictor(model, behaviour, executor))
            except RuntimeError as error:
                raise ListenError(f"{host}:{grpc_port} for gRPC") from error
            stack.push_async_callback(server.stop, None)
        print(json.dumps(listening), flush=True)
        await stop.wait()


async def _start_http(host: str, port: int, predictor: Predictor, stack: AsyncExitStack) -> int:
    runner = web.AppRunner(predictor.application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port, backlog=4096).start()
    except OSError as error:
        raise ListenError(f"{host}:{port}: {error.strerror}") from error
    taken: int = runner.addresses[0][1]
    return taken


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(64, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the predictor; exit code 1 when the port cannot be had, 64 for bad settings."""
    parser = _Parser(prog="python -m agent.demo.predictor", description="A synthetic V1 and V2 predictor.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_within(int, 0, 65535), default=0, metavar="N", help="0 to 65535; 0: any free")
    parser.add_argument("--grpc-port", type=_within(int, 0, 65535), metavar="N", help="the same for gRPC (default off)")
    parser.add_argument("--model", default="synthetic", metavar="NAME")
    parser.add_argument(
        "--slots", type=_within(int, 1, 100_000), default=4, metavar="N", help="how many execute at once"
    )
    parser.add_argument(
        "--service-time", type=_within(parse_duration, 0, 3600), default=0.05, metavar="DUR", help="mean"
    )
    parser.add_argument("--cv", type=_within(float, 0, 10), default=0.0, metavar="X", help="spread of service times")
    parser.add_argument(
        "--fail-share", type=_within(float, 0, 1), default=0.0, metavar="X", help="share of failed executions"
    )
    parser.add_argument("--response-bytes", type=_within(int, 0, _MAX_BODY), default=0, metavar="N", help="pad answers")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    given = parser.parse_args(argv)
    behaviour = Behaviour(
        slots=given.slots,
        service_s=given.service_time,
        cv=given.cv,
        fail_share=given.fail_share,
        response_bytes=given.response_bytes,
        seed=given.seed,
    )
    try:
        uvloop.run(serve(given.host, given.port, given.grpc_port, given.model, behaviour))
    except ListenError as error:
        print(f"cannot listen on {error}", file=sys.stderr)
        return 1
    return 0


def _within(parse: Callable[[str], float], low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = parse(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            unit = "s, written like 50ms" if parse is parse_duration else ""
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: {low} to {high}{unit}")
        return value

    return read


if __name__ == "__main__":
    sys.exit(main())
