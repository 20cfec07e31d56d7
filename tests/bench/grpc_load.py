"""gRPC load and probes against one port: h2load for saturation, grpcio as an independent client for correctness."""

import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from .grpc_payload import HEADERS, STREAM, Call, framed
from .process import BenchError, Child, Cores, Meter

_PROBE_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 60.0
# A channel of its own for each probe: no connection, back-off or proxy of the environment is taken over.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]

_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s),", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout",
    re.MULTILINE,
)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_MEAN = re.compile(r"^time for request: +\S+ +\S+ +([\d.]+)(us|ms|s)", re.MULTILINE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """How load is spread: `streams` calls at a time on each of `connections`."""

    connections: int
    streams: int


@dataclass(frozen=True, slots=True)
class Reply:
    """How a call ended: the status code's name, the messages, the trailing metadata."""

    code: str
    messages: list[bytes]
    trailers: Mapping[str, str | bytes]


@dataclass(frozen=True, slots=True)
class Summary:
    """What h2load reports. `data_bytes` is the content of all DATA frames it received."""

    elapsed_s: float
    succeeded: int
    lost: int
    data_bytes: int
    mean_us: float


def ask(port: int, call: Call, messages: int = 1) -> Reply:
    """Make one call on a connection of its own. A status other than OK is no error here."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        running = channel.stream_stream(call.method)(iter([call.request] * messages), timeout=_PROBE_TIMEOUT_S)
        received: list[bytes] = []
        with suppress(grpc.RpcError):  # is what code() tells
            received.extend(running)
        return Reply(running.code().name, received, dict(running.trailing_metadata() or ()))


def verify(port: int, call: Call) -> None:
    """One call, or three messages of a stream, must come through whole, both ways. Raises BenchError."""
    messages = 3 if call.method == STREAM else 1
    reply = ask(port, call, messages)
    if reply.code != "OK" or reply.messages != [call.answer] * messages:
        found = f"{reply.code}, {len(reply.messages)} messages, {reply.trailers}"
        raise BenchError(f"{call.name} on port {port} was answered {found}")


def saturate(
    child: Child, port: int, call: Call, shape: Shape, *, count: int, cores: Cores, directory: Path, refused: bool
) -> dict[str, float]:
    """Make `count` calls through a proxy as fast as it lets h2load, and meter the proxy meanwhile.

    Returns cpu_us (per call), rps, mean_us, and what share of the proxy's core went to the proxy (cpu_share) and to
    others (others_share). Every call must bring one whole answer, or with `refused` no content. Raises BenchError.
    """
    meter = Meter.start(child, cores.proxy)
    summary = _h2load(port, call, shape, count, cores, directory)
    used = meter.read(count, summary.elapsed_s)
    expected = 0 if refused else count * len(framed(call.answer))
    if summary.succeeded != count or summary.lost or summary.data_bytes != expected:
        raise BenchError(f"{call.name} on port {port}: {count} calls, {expected} bytes expected under load: {summary}")
    return {
        "cpu_us": used["cpu_us"],
        "rps": count / summary.elapsed_s,
        "mean_us": summary.mean_us,
        "cpu_share": used["cpu_share"],
        "others_share": used["others_share"],
    }


def parse(text: str) -> Summary:
    """Read the summary that h2load prints. Raises BenchError if a part of it is missing."""
    finished, requests, data, mean = (pattern.search(text) for pattern in (_FINISHED, _REQUESTS, _DATA, _MEAN))
    if not (finished and requests and data and mean):
        raise BenchError(f"h2load failed: {text.strip()[-400:]}")
    total, *_, succeeded, failed, errored, late = map(int, requests.groups())
    return Summary(
        elapsed_s=float(finished[1]) * _SECONDS[finished[2]],
        succeeded=succeeded,
        lost=total - succeeded + failed + errored + late,
        data_bytes=int(data[1]),
        mean_us=float(mean[1]) * _SECONDS[mean[2]] * 1e6,
    )


def _h2load(port: int, call: Call, shape: Shape, count: int, cores: Cores, directory: Path) -> Summary:
    body = directory / f"grpc-{call.name}.body"
    if not body.exists():
        body.write_bytes(framed(call.request))
    argv = ["taskset", "-c", ",".join(map(str, sorted(cores.client))), "h2load", "-t", "1", "-n", str(count)]
    argv += ["-c", str(shape.connections), "-m", str(shape.streams), "-d", str(body)]
    for name, value in HEADERS.items():
        argv += ["-H", f"{name}: {value}"]
    argv.append(f"http://127.0.0.1:{port}{call.method}")
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_LOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{count} calls of {call.name} on port {port} do not end") from error
    return parse(done.stdout + done.stderr)
