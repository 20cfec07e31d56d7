"""Writes the corpus anew: `python -m tests.fuzz.record` runs the usual clients against real predictors.

What tritonclient, grpcio, curl and nghttp send and are answered becomes an input of each target that reads such bytes.
"""

import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import grpc
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from agent.wire.sniff import PREFACE
from protos import health_pb2, health_pb2_grpc
from tests.contract.launchers import LAUNCHERS
from tests.contract.payloads import INFER, floats, tensor, v2, wanted
from tests.fuzz import frames
from tests.fuzz.relay import Relay
from tests.wire import frames_by_hand as by_hand

CORPUS = Path(__file__).parent / "corpus"
# Small inputs are tried more often, and the repository keeps them all.
_MOST = 6_000

Act = Callable[[str], object]


def _run(*argv: str) -> None:
    subprocess.run(argv, capture_output=True, timeout=30, check=False)


def _http(address: str) -> None:
    client = tritonclient.http.InferenceServerClient(address)
    client.is_server_ready()
    client.get_model_metadata("double")
    with suppress(InferenceServerException):  # MLServer wants another content type
        client.infer("double", [tensor(floats(12))], outputs=[wanted()], request_id="7")
    as_json = {"Content-Type": "application/json"}
    client.infer("double", [tensor(floats(12), binary=False)], headers=as_json, priority=1, timeout=250_000)
    client.close()


def _grpc(address: str) -> None:
    client = tritonclient.grpc.InferenceServerClient(address)
    client.is_server_ready()
    made = tritonclient.grpc.InferInput("input-0", [3], "FP32")
    made.set_data_from_numpy(floats(12))
    client.infer("double", [made], request_id="7", priority=1, timeout=250_000, client_timeout=5.0)
    client.infer("double", [made], headers={"x-tenant": "a"}, compression_algorithm="gzip")
    client.close()


def _health(address: str) -> None:
    # Not every predictor has the service.
    with grpc.insecure_channel(address) as channel, suppress(grpc.RpcError):
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5.0)


HTTP1: dict[str, Act] = {
    "tritonclient": _http,
    "curl": lambda to: _run("curl", "-s", f"http://{to}/v2", f"http://{to}/v2/models/nobody", f"http://{to}/v2"),
    "curl-chunked": lambda to: _run(
        "curl",
        "-s",
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "Expect: 100-continue",
        "-d",
        v2().decode(),
        f"http://{to}{INFER}",
    ),
    "curl-head": lambda to: _run("curl", "-s", "-I", "--http1.0", f"http://{to}/v2"),
}
HTTP2: dict[str, Act] = {
    "tritonclient": _grpc,
    "grpcio": _health,
    "nghttp": lambda to: _run("nghttp", "-n", "-m", "3", "-H", "x-tenant: a", f"http://{to}/v2"),
    "curl": lambda to: _run("curl", "-s", "--http2-prior-knowledge", "-d", v2().decode(), f"http://{to}{INFER}"),
}


def write(target: str, name: str, data: bytes) -> None:
    """Keep an input."""
    if data and len(data) <= _MOST:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def record(act: Act, address: str) -> tuple[bytes, bytes]:
    """What a client sends to a predictor, and what that answers."""
    with Relay(address) as relay:
        act(relay.address)
        sent, answered = relay.take_both()
    return b"".join(sent), b"".join(answered)


def _keep_http2(name: str, sent: bytes, answered: bytes) -> None:
    sent = sent.removeprefix(PREFACE)
    for target, data in (("http2_server", sent), ("http2_client", answered)):
        write(target, name, b"\2" + data)
        for number, records in enumerate(frames.loosened(data)):
            write(target, f"{name}-records{number}", b"\3" + records[1:])
    blocks, messages = bytearray(), b""
    for frame in _whole(sent):
        if frame.kind == by_hand.HEADERS and not frame.flags & (by_hand.PADDED | by_hand.WITH_PRIORITY):
            blocks += len(frame.payload).to_bytes(2, "big") + frame.payload
        elif frame.kind == by_hand.DATA:
            messages += frame.payload
    write("hpack_fields", name, bytes(blocks))
    write("model_name", name, messages)
    write("hints", name, b"\1" + messages)


def _whole(data: bytes) -> Iterable[by_hand.Frame]:
    at = 0
    while at + 9 <= len(data) and (end := at + 9 + int.from_bytes(data[at : at + 3], "big")) <= len(data):
        yield from by_hand.parse(data[at:end])
        at = end


def main() -> int:
    for name, launch in LAUNCHERS.items():
        with tempfile.TemporaryDirectory() as folder, launch(Path(folder)) as server:
            for client, act in HTTP1.items():
                sent, answered = record(act, server.address)
                write("http1_request", client, sent)
                write("http1_response", f"{client}-{name}", b"\1" + answered)
            write("hints", "json", b"\0" + v2(model_parameters={"priority": 1, "timeout": 250_000}))
            if name != "mlserver":
                for client, act in HTTP2.items():
                    _keep_http2(f"{client}-{name}", *record(act, server.grpc_address))
            with urllib.request.urlopen(server.metrics_url) as answer:
                write("foreign_metrics", name, answer.read()[:_MOST])
    size = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    print(f"{size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
