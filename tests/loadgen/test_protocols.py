"""Every protocol as a command, against servers that know what is right: aiohttp, the demo predictor over gRPC, TLS."""

import asyncio
import json
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import trustme
from aiohttp import web

from loadgen.exits import Exit
from tests.loadgen.test_cli import command
from tests.loadgen.test_tune import GRPC_PORTS, predictor

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def demo(*more: str) -> tuple[str, ...]:
    return ("agent.demo.predictor", "--model", "m", "--slots", "8", "--service-time", "2ms", "--grpc-port", "0", *more)


async def result_of(*arguments: str) -> tuple[dict[str, object], str]:
    """The one level of a run, and what was said on standard error."""
    code, out, err = await command(*arguments, "--format", "json", "--fail-on", "none")
    assert code == 0, err
    return json.loads(out)["levels"][0], err


@pytest.mark.parametrize("kind", ["grpc", "grpc-stream"])
@pytest.mark.parametrize("form", ["binary", "json"])
async def test_grpc_calls_and_streams_are_answered(kind: str, form: str) -> None:
    async with predictor(*demo()) as url:
        arguments = ["-m", "m", "-i", kind, "--tensor-format", form, "-c", "8", "-n", "200", "--streams", "4"]
        level, _ = await result_of("run", f"grpc://127.0.0.1:{GRPC_PORTS[url]}", *arguments)
    assert (level["count"], level["statuses"]) == (200, {"0": 200})
    assert level["generator"]["connections"] == 2  # type: ignore[index]


async def test_a_model_that_is_not_there_is_exit_3_in_the_servers_words() -> None:
    async with predictor(*demo()) as url:
        for where, status in ((url, "HTTP 404"), (f"grpc://127.0.0.1:{GRPC_PORTS[url]}", "gRPC NOT_FOUND")):
            code, out, err = await command("run", where, "-m", "other", "-n", "1")
            assert (code, out) == (Exit.UNREACHABLE, "")
            assert f"answered {status} ('model m is the only one here'); is there a model 'other'?" in err


async def test_tritonclient_sends_the_same_tensors(tmp_path: Path) -> None:
    """Equal inputs make equal bodies, in JSON, in binary and over gRPC: what tritonclient would send is what we
    send."""
    bodies: list[tuple[str, bytes]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"name": "m", "extensions": ["binary_tensor_data"], "inputs": []})
        bodies.append((request.headers.get("Inference-Header-Content-Length", ""), await request.read()))
        return web.json_response({"outputs": []})

    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
    words = np.array([b"queue", b""], dtype=np.object_)
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps({"a": values.ravel().tolist(), "b": ["queue", ""]}))
    shapes = ["--shape", "a:2,3:FP32", "--shape", "b:2:BYTES", "--input-data", f"{file}"]
    async with http_server(handler) as port:
        for form in ("json", "binary"):
            arguments = ["-m", "m", "-n", "1", "--tensor-format", form, *shapes]
            code, _, err = await command("run", f"http://127.0.0.1:{port}", *arguments)
            assert code == 0, err
    inputs = [triton_http.InferInput("a", [2, 3], "FP32"), triton_http.InferInput("b", [2], "BYTES")]
    for ours, binary in zip(bodies, (False, True), strict=True):
        inputs[0].set_data_from_numpy(values, binary_data=binary)
        inputs[1].set_data_from_numpy(words, binary_data=binary)
        theirs, size = triton_http.InferenceServerClient.generate_request_body(inputs)
        heads = [
            json.loads(body[: int(length) if length else len(body)])
            for length, body in (ours, (f"{size or ''}", bytes(theirs)))
        ]
        assert _without_data(heads[0]) == _without_data(heads[1])
        if binary:
            assert ours[1][int(ours[0]) :] == bytes(theirs)[size:]
        else:
            assert np.allclose(heads[0]["inputs"][0]["data"], np.ravel(heads[1]["inputs"][0]["data"]))


def _without_data(head: dict[str, object]) -> list[object]:
    entries: list[dict[str, object]] = head["inputs"]  # type: ignore[assignment]
    return [{name: value for name, value in entry.items() if name != "data"} for entry in entries]


async def test_grpc_messages_are_read_by_tritonclients_own_classes(tmp_path: Path) -> None:
    from loadgen.bodies import grpc_body  # noqa: PLC0415
    from loadgen.payload import Tensor  # noqa: PLC0415

    tensors = [(Tensor("a", "INT16", (3,)), [1, -2, 3]), (Tensor("b", "BYTES", (1,)), ["x"])]
    for as_raw in (True, False):
        message = grpc_body("m", "2", tensors, 7, as_raw=as_raw)
        read = triton_grpc.service_pb2.ModelInferRequest.FromString(message)
        assert (read.model_name, read.model_version, read.id) == ("m", "2", "7")
        if as_raw:
            assert list(read.raw_input_contents) == [struct.pack("<3h", 1, -2, 3), struct.pack("<I", 1) + b"x"]
        else:
            assert list(read.inputs[0].contents.int_contents) == [1, -2, 3]


async def test_v1_takes_instances(tmp_path: Path) -> None:
    async with predictor(*demo()) as url:
        arguments = ["-m", "m", "-i", "v1", "-n", "20", "--shape", "x:2,4", "--input-data", "zero"]
        level, _ = await result_of("run", url, *arguments)
        assert level["statuses"] == {"200": 20}
        code, out, _ = await command("inspect", url, "-m", "m", "-i", "v1", "--shape", "x:2,4", "--input-data", "zero")
        assert code == 0
        assert '"predictions": [0.0, 0.0]' in out
        code, _, err = await command("run", url, "-m", "m", "-i", "v1", "-n", "1")
        assert (code, "V1 has no metadata" in err) == (Exit.USAGE, True)


async def test_chats_are_streamed_and_their_pieces_timed() -> None:
    prompts: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        prompts.append(asked["messages"][0]["content"])
        assert (asked["stream"], asked["max_tokens"], request.path) == (True, 5, "/v1/chat/completions")
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        role = {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        pieces = [{"choices": [{"delta": {"content": "x"}}]}] * asked["max_tokens"]
        for chunk in (role, *pieces, {"choices": [], "usage": {}}):
            text = f"data: {json.dumps(chunk)}\n\n".encode()
            await answer.write(text[:9])
            await answer.write(text[9:])
        await answer.write(b"data: [DONE]\n\n")
        return answer

    async with http_server(handler) as port:
        arguments = ["-m", "llm", "-i", "openai", "-n", "40", "-c", "4", "--max-tokens", "5", "--slo", "ttft<9s"]
        level, _ = await result_of("run", f"http://127.0.0.1:{port}", *arguments)
    assert (level["tokens"], level["first"]["count"]) == (200, 40)  # type: ignore[index]
    assert 0 < level["first"]["mean_ms"] <= level["outcomes"]["ok"]["response"]["mean_ms"]  # type: ignore[index]
    assert len(set(prompts)) == 40


async def test_any_body_goes_to_any_path() -> None:
    seen: set[tuple[str, bytes, str]] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.add((request.path, await request.read(), request.headers["Content-Type"]))
        return web.Response()

    async with http_server(handler) as port:
        arguments = ["-i", "post", "--path", "/deep/path", "-d", "hello", "-H", "Content-Type: text/plain", "-n", "3"]
        await result_of("run", f"http://127.0.0.1:{port}/base", *arguments)
    assert seen == {("/base/deep/path", b"hello", "text/plain")}


async def test_tls_is_checked_against_the_authority_that_is_asked_for(tmp_path: Path) -> None:
    hosts: set[str] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        hosts.add(request.host)
        return web.Response()

    authority, pem = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("model.example").configure_cert(context)
    async with http_server(handler, context) as port:
        url, plain = f"https://127.0.0.1:{port}", ["-i", "post", "-d", "x", "-n", "5"]
        trusted = ["--ca", f"{pem}", "--authority", "model.example"]
        level, _ = await result_of("run", url, *plain, *trusted)
        assert level["statuses"] == {"200": 5}
        assert hosts == {"model.example"}
        for wrong in (["--ca", f"{pem}"], ["--authority", "model.example"]):
            code, _, err = await command("run", url, *plain, *wrong)
            assert code == Exit.UNREACHABLE, err
        level, _ = await result_of("run", url, *plain, "--insecure")
        assert level["statuses"] == {"200": 5}


async def test_a_trace_is_replayed_at_its_times(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]})
        seen.append((request.path, await request.read()))
        return web.json_response({})

    trace = tmp_path / "trace.jsonl"
    lines = [
        {"t": 100.0, "model": "a"},
        {"t": 100.2, "model": "b", "batch": 3},
        {"t": 100.1, "model": "a", "body": {"inputs": []}},
    ]
    trace.write_text("\n".join(map(json.dumps, lines)))
    async with http_server(handler) as port:
        level, _ = await result_of("replay", f"http://127.0.0.1:{port}", f"{trace}", "--speed", "2")
        trace.write_text("not a trace")
        code, _, err = await command("replay", f"http://127.0.0.1:{port}", f"{trace}")
    assert (code, "line 1 is neither JSON nor of an access log" in err) == (Exit.USAGE, True)
    assert [path for path, _ in seen] == [f"/v2/models/{name}/infer" for name in "aab"]
    assert seen[1][1] == b'{"inputs":[]}'
    assert json.loads(seen[2][1])["inputs"][0]["shape"] == [3, 2]
    assert level["seconds"] == pytest.approx(0.1)
    assert {name: part["count"] for name, part in level["models"].items()} == {"a": 2, "b": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("load", [("-q", "200"), ("-c", "2")])
async def test_tables_by_model_leave_the_warm_up_out(load: tuple[str, str]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.002)
        return web.json_response({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]})

    async with http_server(handler) as port:
        more = ["-m", "a=3,b=1", "-z", "400ms", "--warmup", "200ms", "--window", "100ms"]
        level, _ = await result_of("run", f"http://127.0.0.1:{port}", *load, *more)
    counts = {name: part["count"] for name, part in level["models"].items()}  # type: ignore[attr-defined]
    assert sum(counts.values()) == level["count"]
    assert counts["a"] == pytest.approx(3 * counts["b"], abs=4)


async def test_the_selftest_measures_this_machine() -> None:
    code, out, err = await command("selftest", "-z", "100ms", "--format", "json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    assert [(row["protocol"], row["load"]) for row in rows][:3] == [
        ("http", "1 in flight"),
        ("http", "32 in flight"),
        ("http", "500/s"),
    ]
    assert all(row["sent"] > 0 for row in rows)
    assert {row["protocol"] for row in rows} == {"http", "grpc"}


async def test_the_servers_own_metrics_split_waiting_from_computing() -> None:
    count = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal count
        if request.path == "/metrics":
            lines = ["nv_inference_request_success %d", "nv_inference_queue_duration_us %d000"]
            lines.append("nv_inference_compute_infer_duration_us %d000")
            return web.Response(text="".join(f"{line % (count * (2 if 'compute' in line else 1))}\n" for line in lines))
        count += 1
        await asyncio.sleep(0)
        return web.json_response({})

    async with http_server(handler) as port:
        url = f"http://127.0.0.1:{port}"
        level, _ = await result_of("run", url, "-i", "post", "-d", "x", "-n", "20", "--scrape", f"{url}/metrics")
    assert level["server"] == {"queue_ms": 1.0, "compute_ms": 2.0, "source": "Triton"}
