"""A synthetic predictor over HTTP: `python -m agent.demo.predictor --port 0 --slots 4 --service-time 50ms`.

It fails the way real model servers do under overload: N requests execute at once, every further one waits inside
without bound, and a caller that leaves saves nothing, because the model computes its answer all the same. Once it
listens it prints one JSON line with its port.

V2: /v2, /v2/health/{live,ready}, /v2/models/M (metadata), .../ready, .../infer, each with or without /versions/V.
V1: /v1/models, /v1/models/M, /v1/models/M:predict. Its own: /stats with `executing`, `waiting`, `peak_executing`,
`served` and `failed`. The answer to an inference is the sum of its numbers, so a mixed-up answer is seen.
"""

import argparse
import asyncio
import json
import math
import random
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import uvloop
from aiohttp import web

from loadgen.units import parse_duration

_MAX_BODY = 256 * 1024 * 1024
# A slot that is freed late, since timers round up to a millisecond, hands the lateness to its next request as a shorter
# wait, so that capacity stays slots / service time. Beyond this the process was stopped, and then time is lost.
_CATCH_UP_S = 0.01
# aiohttp reads 0 as "wait for ever".
_SHUTDOWN_S = 0.1
_PADDING_OUTPUT = {"name": "padding", "datatype": "BYTES", "shape": [1], "data": [""]}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the model behaves; equal values give equal behaviour.

    Service times are lognormal with mean `service_s` and coefficient of variation `cv` (0 = constant). `fail_share`
    (0..1) of the executions end in a 500. Answers are padded to at least `response_bytes`.
    """

    slots: int = 4
    service_s: float = 0.05
    cv: float = 0.0
    fail_share: float = 0.0
    response_bytes: int = 0
    seed: int = 0


class Executor:
    """The slots: at most `behaviour.slots` executions at once, the rest first come, first served.

    The n-th execution to start always has the n-th service time and fate drawn from the seed.
    """

    def __init__(self, behaviour: Behaviour, loop: asyncio.AbstractEventLoop) -> None:
        self.executing = 0
        self.peak_executing = 0
        self.served = 0
        self.failed = 0
        self._loop = loop
        self._slots = behaviour.slots
        self._fail_share = behaviour.fail_share
        self._cv = behaviour.cv
        self._service_s = behaviour.service_s
        self._source = random.Random(behaviour.seed)
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return len(self._waiting)

    async def execute(self) -> bool:
        """Wait for a slot and hold it for one service time; whether the model succeeded."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(future)
        if self.executing < self._slots:
            self._start(self._loop.time())
        return await future

    def draw(self) -> tuple[float, bool]:
        """The service time in seconds and the success of the next execution."""
        succeeds = self._source.random() >= self._fail_share
        if not self._cv:
            return self._service_s, succeeds
        variance = math.log1p(self._cv**2)
        return self._service_s * self._source.lognormvariate(-variance / 2, math.sqrt(variance)), succeeds

    def _start(self, start: float) -> None:
        future = self._waiting.popleft()
        service_s, succeeds = self.draw()
        self.executing += 1
        self.peak_executing = max(self.peak_executing, self.executing)
        self._loop.call_at(start + service_s, self._end, start + service_s, future, succeeds)

    def _end(self, planned: float, future: "asyncio.Future[bool]", succeeds: bool) -> None:
        self.executing -= 1
        self.served += succeeds
        self.failed += not succeeds
        if not future.done():
            future.set_result(succeeds)
        if self._waiting:
            self._start(max(planned, self._loop.time() - _CATCH_UP_S))


class Predictor:
    """The HTTP face of one model."""

    def __init__(self, model: str, behaviour: Behaviour) -> None:
        self.executor = Executor(behaviour, asyncio.get_running_loop())
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


async def serve(host: str, port: int, model: str, behaviour: Behaviour) -> None:
    """Serve until SIGTERM or SIGINT, then stop at once. Raises OSError when the port cannot be had."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(Predictor(model, behaviour).application(), access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        print(json.dumps({"event": "listening", "host": host, "port": runner.addresses[0][1]}), flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(64, f"{self.prog}: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the predictor; exit code 1 when the port cannot be had, 64 for bad settings."""
    parser = _Parser(prog="python -m agent.demo.predictor", description="A synthetic V1 and V2 predictor.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_within(int, 0, 65535), default=0, metavar="N", help="0 to 65535; 0: any free")
    parser.add_argument("--model", default="synthetic", metavar="NAME")
    parser.add_argument(
        "--slots", type=_within(int, 1, 100_000), default=4, metavar="N", help="how many execute at once"
    )
    parser.add_argument(
        "--service-time", type=_within(parse_duration, 0, 3600), default=0.05, metavar="DUR", help="mean"
    )
    parser.add_argument("--cv", type=_within(float, 0, 10), default=0.0, metavar="X", help="spread of service times")
    parser.add_argument(
        "--fail-share", type=_within(float, 0, 1), default=0.0, metavar="X", help="share of 500 answers"
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
        uvloop.run(serve(given.host, given.port, given.model, behaviour))
    except OSError as error:
        print(f"cannot listen on {given.host}:{given.port}: {error.strerror}", file=sys.stderr)
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
