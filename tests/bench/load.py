"""Load and probes against one port: wrk for saturation, a single checked request for correctness."""

import http.client
import json
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .payload import DOWNLOAD, TENSOR_ANSWER, UPLOAD, Request
from .process import BenchError, Child, Cores, Meter

CONNECTIONS = 32
_SCRIPT = Path(__file__).with_name("load.lua")
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(port: int, request: Request, *, tls: bool = False) -> Answer:
    """Send one request on a connection of its own. Raises OSError without an answer, BenchError if it is malformed.

    With `tls`, whoever answers is trusted.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_TIMEOUT_S)
    if tls:
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=_PROBE_TIMEOUT_S, context=context)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    except http.client.HTTPException as error:
        raise BenchError(f"no answer on port {port}: {error!r}") from error
    finally:
        connection.close()


def get_json(port: int, path: str) -> dict[str, Any]:
    """A JSON document from an admin port. Raises OSError, BenchError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        document = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as error:
        raise BenchError(f"no JSON at {path} on port {port}: {error!r}") from error
    finally:
        connection.close()
    if not isinstance(document, dict):
        raise BenchError(f"{path} on port {port} is no JSON object")
    return document


def verify(port: int, request: Request, *, tls: bool = False) -> None:
    """One request must come through whole, both ways. Raises OSError, BenchError."""
    answer = exchange(port, request, tls=tls)
    if answer.status != 200:
        raise BenchError(f"{request.path} on port {port} was answered {answer.status}")
    if request is UPLOAD and int(answer.headers.get("x-received", "0")) <= len(UPLOAD.body):
        raise BenchError(f"the backend behind port {port} did not receive the whole upload")
    if request is DOWNLOAD and answer.body != TENSOR_ANSWER:
        raise BenchError(f"port {port} did not pass on the whole tensor")


def saturate(
    child: Child,
    port: int,
    request: Request,
    *,
    seconds: int,
    cores: Cores,
    directory: Path,
    refused: bool = False,
    tls: bool = False,
) -> dict[str, float]:
    """Run wrk for whole seconds against a proxy and meter the proxy meanwhile.

    Returns cpu_us (per request), rps, p50_us, p99_us, and what share of the proxy's core went to the proxy (cpu_share)
    and to others (others_share). Every answer must be a success, or with `refused` a refusal. Raises BenchError.
    """
    meter = Meter.start(child, cores.proxy)
    scheme = "https" if tls else "http"
    summary = _wrk(f"{scheme}://127.0.0.1:{port}{request.path}", request, seconds, cores, directory)
    requests = int(summary["requests"])
    elapsed_s = summary["duration_us"] / 1e6
    used = meter.read(max(requests, 1), elapsed_s)
    expected = requests if refused else 0
    if not requests or summary["status"] != expected or summary["broken"] or summary["wrong"]:
        raise BenchError(f"{request.path} on port {port}: unexpected answers under load: {summary}")
    if request is DOWNLOAD and summary["bytes"] < requests * len(TENSOR_ANSWER):
        raise BenchError(f"port {port} cut tensors short under load: {summary}")
    return {
        "cpu_us": used["cpu_us"],
        "rps": requests / elapsed_s,
        "p50_us": summary["p50_us"],
        "p99_us": summary["p99_us"],
        "cpu_share": used["cpu_share"],
        "others_share": used["others_share"],
    }


def _wrk(url: str, request: Request, seconds: int, cores: Cores, directory: Path) -> dict[str, float]:
    body = directory / f"{request.path.replace('/', '_')}.body"
    if not body.exists():
        body.write_bytes(request.body)
    argv = ["taskset", "-c", ",".join(map(str, sorted(cores.client)))]
    argv += ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", str(seconds), "--timeout", "10", "-s", str(_SCRIPT)]
    for name, value in request.headers.items():
        argv += ["-H", f"{name}: {value}"]
    argv += [url, "--", str(body)]
    if request.unique:
        argv.append("unique")
    if request is UPLOAD:
        argv.append(str(len(UPLOAD.body)))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            summary: dict[str, float] = json.loads(line)
            return summary
    raise BenchError(f"wrk failed: {(done.stderr or done.stdout)[-400:]}")
