"""The clients that people use see no difference: tritonclient, aiohttp, curl."""

import asyncio
import gc
import inspect
import json
import random
import subprocess
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from .conftest import Pair
from .payloads import INFER, JSON, PREDICT, STREAM, floats, tensor, v1, v2, v2_binary, wanted

pytestmark = pytest.mark.contract


def infer(model: str = "double", *, size: int = 64, binary: bool = True, **options: Any) -> Callable[[Any], Any]:
    """An inference of `size` bytes of FP32."""

    def ask(client: Any) -> Any:
        inputs, outputs = [tensor(floats(size), binary=binary)], [wanted(binary=binary)]
        return client.infer(model, inputs, outputs=outputs, request_id="7", **options)

    return ask


TRITON: dict[str, Callable[[Any], Any]] = {
    "live": lambda client: client.is_server_live(),
    "ready": lambda client: client.is_server_ready(),
    "model ready": lambda client: client.is_model_ready("double"),
    "unknown model ready": lambda client: client.is_model_ready("nobody"),
    "server": lambda client: client.get_server_metadata(),
    "model": lambda client: client.get_model_metadata("double"),
    "unknown model": lambda client: client.get_model_metadata("nobody"),
    "config": lambda client: client.get_model_config("double"),
    "statistics": lambda client: client.get_inference_statistics("double"),
    "repository": lambda client: client.get_model_repository_index(),
    "load nobody": lambda client: client.load_model("nobody"),
    "binary": infer(),
    "binary 1 MB": infer(size=1_000_000),
    "json": infer(binary=False),
    "json with its content type": infer(binary=False, headers={"Content-Type": "application/json"}),
    "version": infer(model_version="3"),
    "unknown model infers": infer("nobody"),
    "bad input": infer(parameters={"fail": "input"}),
    "zipped": infer(
        size=8_000,
        binary=False,
        headers={"Content-Type": "application/json"},
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    ),
}


async def outcome(client: Any, operation: Callable[[Any], Any]) -> object:
    """What the caller of a tritonclient sees, as plain values."""
    try:
        result = operation(client)
        if inspect.isawaitable(result):
            result = await result
    except InferenceServerException as error:
        return ("raised", error.status(), error.message())
    if isinstance(result, tritonclient.http.InferResult):
        return (result.get_response(), result.as_numpy("output-0").tolist())
    return result


@pytest.mark.parametrize("operation", TRITON)
async def test_tritonclient(pair: Pair, operation: str) -> None:
    seen = []
    for address in pair.addresses:
        with tritonclient.http.InferenceServerClient(address) as client:
            seen.append(await outcome(client, TRITON[operation]))
    direct, through = seen
    assert through == direct


@pytest.mark.parametrize("operation", TRITON)
async def test_tritonclient_aio(pair: Pair, operation: str) -> None:
    seen = []
    for address in pair.addresses:
        async with tritonclient.http.aio.InferenceServerClient(address) as client:
            seen.append(await outcome(client, TRITON[operation]))
    await discard_unread_answers()
    direct, through = seen
    assert through == direct


async def discard_unread_answers() -> None:
    """tritonclient leaves answers about health unread; aiohttp complains of that when they are collected."""
    await asyncio.sleep(0)  # lets go of the connections that were closed with the client
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


async def test_tritonclient_is_served_at_all(pair: Pair) -> None:
    """The comparisons would hold between two failures as well."""
    headers = {"Content-Type": "application/json"}
    async with tritonclient.http.aio.InferenceServerClient(pair.agent.address) as client:
        result = await client.infer("double", [tensor(floats(64), binary=False)], headers=headers)
        assert result.as_numpy("output-0").ravel().tolist() == (2 * floats(64)).tolist()


BINARY, BINARY_FIELDS = v2_binary(floats(4_000))
AIOHTTP: dict[str, tuple[str, str, bytes | None, tuple[str, ...]]] = {
    "live": ("GET", "/v2/health/live", None, ()),
    "v1": ("POST", PREDICT, v1(), (JSON,)),
    "v1 in chunks": ("POST", PREDICT, v1(stream=True), (JSON,)),
    "v2": ("POST", INFER, v2(), (JSON,)),
    "v2 binary": ("POST", INFER, BINARY, BINARY_FIELDS),
    "events": ("POST", STREAM, v2(), (JSON,)),
    "unknown": ("GET", "/no/such/route", None, ()),
}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", AIOHTTP)
async def test_aiohttp(pair: Pair, name: str, *, chunked: bool) -> None:
    method, target, body, fields = AIOHTTP[name]
    headers = dict(field.split(": ", 1) for field in fields)
    seen = []
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        for address in pair.addresses:
            data = _pieces(body) if body and chunked else body
            async with session.request(method, f"http://{address}{target}", data=data, headers=headers) as answer:
                shown = [field for field in answer.raw_headers if field[0].lower() not in {b"date", b"connection"}]
                seen.append((answer.status, answer.reason, shown, await answer.read()))
    direct, through = seen
    assert through == direct


@pytest.mark.parametrize("pair", ["kserve", "mlserver"], indirect=True)
async def test_aiohttp_asks_for_a_head(pair: Pair) -> None:
    seen = []
    async with aiohttp.ClientSession() as session:
        for address in pair.addresses:
            async with session.head(f"http://{address}/v2") as answer:
                seen.append((answer.status, answer.headers.get("Allow"), await answer.read()))
    assert seen == [(405, "GET", b"")] * 2


async def _pieces(body: bytes) -> Any:
    for at in range(0, len(body), 1_000):
        yield body[at : at + 1_000]


CURL: dict[str, tuple[str, ...]] = {
    "get": ("/v2",),
    "twice on one connection": ("/v2", "/v2/health/live"),
    "head": ("-I", "/v2"),
    "options": ("-X", "OPTIONS", INFER),
    "http/1.0": ("-0", "/v2"),
    "asks for http/2": ("--http2", "/v2"),
    "v2": ("-H", JSON, "-d", "@small", INFER),
    "v1": ("-H", JSON, "-d", "@rows", PREDICT),
    "form by mistake": ("-d", "@small", INFER),
    "expects 100": ("-H", JSON, "-H", "Expect: 100-continue", "-d", "@large", INFER),
    "expects 100, chunked": ("-H", JSON, "-H", "Expect: 100-continue", "-T", "large", "-X", "POST", INFER),
    "chunked": ("-H", JSON, "-H", "Transfer-Encoding: chunked", "-d", "@large", INFER),
    "compressed": ("--compressed", "-H", JSON, "-d", "@large", INFER),
    "events": ("-N", "-H", JSON, "-d", "@small", STREAM),
    "upload to nowhere": ("-T", "large", "-H", "Expect:", "/no/such/route"),
}


@pytest.mark.parametrize("name", CURL)
def test_curl(pair: Pair, curl: str, tmp_path: Path, name: str) -> None:
    for file, content in {"small": v2(), "rows": v1(), "large": v2(floats(150_000).tolist())}.items():
        (tmp_path / file).write_bytes(content)
    seen = []
    for address in pair.addresses:
        arguments = [f"http://{address}{word}" if word.startswith("/") else word for word in CURL[name]]
        command = [curl, "--silent", "--show-error", "--include", "--max-time", "20", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        seen.append(_without_hop(done.stdout))
    direct, through = seen
    assert through == direct
    if "Expect: 100-continue" in CURL[name]:
        assert direct[0] == b"HTTP/1.1 100 Continue"


def _without_hop(output: bytes) -> list[bytes]:
    """The lines that curl shows, without Date, Connection and the version."""
    lines = output.replace(b"HTTP/1.0 ", b"HTTP/1.1 ").split(b"\r\n")
    return [line for line in lines if not line.lower().startswith((b"date:", b"connection:"))]


async def test_many_at_once_get_their_own_answers(pair: Pair) -> None:
    """400 requests from 64 connections, JSON and chunked, long and short, each with a tensor of its own."""
    rng = random.Random(1)

    async def ask(number: int, session: aiohttp.ClientSession) -> None:
        values = [float(number), *(float(n) for n in range(rng.choice([1, 10, 5_000])))]
        delay_s = rng.choice([0, 0, 0.02])
        body = v2(values, {"delay_s": delay_s}, request_id=str(number))
        data: Any = _pieces(body) if number % 3 == 0 else body
        async with session.post(f"{pair.agent.url}{INFER}", data=data) as answer:
            assert answer.status == 200
            got = json.loads(await answer.read())
        assert got["id"] == str(number)
        assert got["outputs"][0]["data"] == [2 * value for value in values]

    await _at_once(400, 64, ask)


async def _at_once(
    count: int, connections: int, ask: Callable[[int, aiohttp.ClientSession], Coroutine[Any, Any, None]]
) -> None:
    connector = aiohttp.TCPConnector(limit=connections)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session, asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(ask(number, session))
