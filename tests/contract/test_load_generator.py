"""headgate-load against real predictors: the model's own metadata is enough, in every protocol that each of them
speaks."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .processes import Server, eventually, get

pytestmark = pytest.mark.contract

HTTP = [("http", "json"), ("http", "binary"), ("v1", "json")]
GRPC = [("grpc", "binary"), ("grpc", "json"), ("grpc-stream", "binary")]


def run(url: str, *more: str, model: str = "double") -> tuple[int, dict[str, Any], str]:
    """Exit code, what was measured, and standard error of 50 requests from 4 callers."""
    command = [sys.executable, "-m", "loadgen", "run", url, "-m", model, "-n", "50", "-c", "4", *more]
    ended = subprocess.run(
        [*command, "--format", "json", "--fail-on", "none"],
        env={**os.environ, "HEADGATE_LOAD_HISTORY": "off"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    level = json.loads(ended.stdout)["levels"][0] if ended.stdout else {}
    return ended.returncode, level, ended.stderr


def check(server: Server, protocol: str, form: str, shape: Sequence[str] = ()) -> None:
    where = f"grpc://{server.grpc_address}" if protocol.startswith("grpc") else f"http://{server.address}"
    code, level, said = run(where, "-i", protocol, "--tensor-format", form, *shape)
    assert code == 0, said
    assert level["statuses"] == ({"0": 50} if protocol.startswith("grpc") else {"200": 50})


@pytest.mark.parametrize(("protocol", "form"), [*HTTP[:1], *GRPC])
def test_triton_answers(triton: Server, protocol: str, form: str) -> None:
    check(triton, protocol, form)


@pytest.mark.parametrize(("protocol", "form"), [*HTTP[:1], *GRPC[:2]])
def test_mlserver_answers(mlserver: Server, protocol: str, form: str) -> None:
    check(mlserver, protocol, form)


@pytest.mark.parametrize(("protocol", "form"), [*HTTP, *GRPC[:2]])
def test_kserve_answers(kserve: Server, protocol: str, form: str) -> None:
    check(kserve, protocol, form, ["--shape", "INPUT0:1,4:FP32"])


@pytest.mark.parametrize(
    ("name", "model", "answers"),
    [("triton", "double", 50), ("triton", "stream", 150), ("mlserver", "double", 150)],
)
def test_all_answers_of_a_stream_are_counted(
    name: str, model: str, answers: int, request: pytest.FixtureRequest
) -> None:
    """Triton's `stream` is decoupled and marks the end of three answers with an empty one, `double` gives one; MLServer
    gives three and marks none."""
    server: Server = request.getfixturevalue(name)
    code, level, said = run(f"grpc://{server.grpc_address}", "-i", "grpc-stream", "--slo", "ttft<10s", model=model)
    assert code == 0, said
    assert (level["statuses"], level["tokens"], level["first"]["count"]) == ({"0": 50}, answers, 50)
    assert level["first"]["mean_ms"] <= level["outcomes"]["ok"]["service"]["mean_ms"]


@pytest.mark.parametrize("name", ["triton", "mlserver"])
def test_a_wrong_shape_is_told_in_the_servers_words(name: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(name)
    code, _, said = run(f"http://{server.address}", "--shape", "nobody:4:FP32")
    assert code == 3, said
    assert "nobody" in said


def test_a_decoupled_model_is_told_to_be_asked_over_streams(triton: Server) -> None:
    code, _, said = run(f"grpc://{triton.grpc_address}", model="stream")
    assert code == 3, said
    assert "try --protocol grpc-stream" in said


@pytest.mark.parametrize(("protocol", "model"), [("http", "double"), ("grpc", "double"), ("grpc-stream", "stream")])
def test_triton_reads_inputs_from_shared_memory(triton: Server, protocol: str, model: str) -> None:
    where = f"grpc://{triton.grpc_address}" if protocol.startswith("grpc") else f"http://{triton.address}"
    code, level, said = run(where, "-i", protocol, "--shm", "system", model=model)
    assert code == 0, said
    assert level["statuses"] == ({"0": 50} if protocol.startswith("grpc") else {"200": 50})
    status, left = get(triton.address, "/v2/systemsharedmemory/status")
    assert (status, json.loads(left)) == (200, [])
    # Those of other tests on this machine go within moments.
    eventually(lambda: not list(Path("/dev/shm").glob("headgate-load-*")), "nothing is left behind")


def test_who_knows_no_shared_memory_is_told(mlserver: Server) -> None:
    code, _, said = run(f"http://{mlserver.address}", "--shm", "system")
    assert (code, "--shm system: HTTP 404" in said) == (3, True), said
