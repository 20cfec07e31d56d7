"""`make bench-load`: what a request costs each generator, whether a stall of the server is told as it was, and whether
`tune` finds the limits of predictors whose limits are known.

Every generator is pinned to one core and the stub to another. Requests are counted by the stub, CPU seconds by /proc,
over the same seconds in the middle of a run. The stall: constant arrivals, one pause of 300 ms; the ground truth
follows from the schedule alone. The exit code is 1 where a limit is not the right one.
"""

import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.generators.clients import CALLERS, MODEL, body, message
from tests.bench.peers import find
from tests.bench.process import Child, Command, Cores
from tests.loadgen.known import KNOWN

ROOT = Path(__file__).parents[3]
LEAD_S, WINDOW_S, TAIL_S = 2.0, 3.0, 2.0
ROUNDS = 2
STALL_MS, RATE, SECONDS = 300, 1000, 8
QUANTILE = 0.99
PACKAGES = ("uvloop", "httptools", "hpack", "aiohttp", "grpcio", "tritonclient")
PATH = "/inference.GRPCInferenceService/ModelInfer"
Rows = list[tuple[str, str, list[float]]]


@contextmanager
def server(module: Sequence[str], core: int) -> Iterator[int]:
    """The port of a Python server that is pinned to a core."""
    command = ["taskset", "-c", f"{core}", sys.executable, "-m", *module]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield int(json.loads(process.stdout.readline())["port"])
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def answered(port: int) -> int:
    """How many inferences the stub has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count") as answer:
        return int(answer.read())


def generators(port: int, folder: Path) -> dict[tuple[str, str], list[str]]:
    """By protocol and name, the command of each."""
    seconds = LEAD_S + WINDOW_S + TAIL_S
    script, sent, call = folder / "post.lua", folder / "body.json", folder / "message"
    sent.write_bytes(body())
    call.write_bytes(b"\0" + struct.pack(">I", len(message())) + message())
    script.write_text(
        f"wrk.method='POST'\nwrk.body='{body().decode()}'\nwrk.headers['Content-Type']='application/json'\n"
    )
    http, infer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v2/models/{MODEL}/infer"
    ours = [sys.executable, "-m", "loadgen", "run", "-m", MODEL, "-z", f"{seconds:g}s", "--history", "off"]
    python = [sys.executable, "-m", "tests.bench.generators.clients"]
    h2load = [find("h2load") or "h2load", "-t1", "-D", f"{seconds:g}"]
    grpc = ["-H", "content-type: application/grpc", "-H", "te: trailers", "-d", f"{call}"]
    return {
        ("HTTP", "headgate-load"): [*ours, "-c", f"{CALLERS}", http],
        ("HTTP", "wrk"): ["wrk", "-t1", f"-c{CALLERS}", f"-d{seconds:g}s", "-s", f"{script}", infer],
        ("HTTP", "h2load --h1"): [*h2load, "--h1", f"-c{CALLERS}", "-d", f"{sent}", infer],
        ("HTTP", "aiohttp"): [*python, "aiohttp", f"{port}", f"{seconds}"],
        ("HTTP", "tritonclient.http.aio"): [*python, "tritonhttp", f"{port}", f"{seconds}"],
        ("gRPC", "headgate-load"): [*ours, "-c", f"{CALLERS}", "--streams", "16", f"grpc://127.0.0.1:{port}"],
        ("gRPC", "h2load"): [*h2load, "-c2", "-m16", *grpc, f"{http}{PATH}"],
        ("gRPC", "grpc.aio"): [*python, "grpcaio", f"{port}", f"{seconds}"],
        ("gRPC", "tritonclient.grpc.aio"): [*python, "tritongrpc", f"{port}", f"{seconds}"],
    }


def per_cpu_second(port: int, argv: Sequence[str], core: int, log: Path) -> float:
    """Requests that a generator had answered for each CPU second of its own, in the middle of its run."""
    with Child(Command([*argv], {}), frozenset({core}), log) as child:
        time.sleep(LEAD_S)
        before, cpu_before = answered(port), child.cpu_s()
        time.sleep(WINDOW_S)
        child.require_alive()
        count, cpu_s = answered(port) - before, child.cpu_s() - cpu_before
    return count / cpu_s


def costs(cores: Cores) -> Rows:
    """Requests per CPU second of every generator, in every round."""
    (theirs,), mine = cores.proxy, min(cores.client)
    found: dict[tuple[str, str], list[float]] = {}
    with TemporaryDirectory() as name, server(["loadgen.stub"], mine) as port:
        for number in range(ROUNDS):
            for key, argv in generators(port, Path(name)).items():
                found.setdefault(key, []).append(per_cpu_second(port, argv, theirs, Path(name) / "log"))
                print(f"round {number + 1}: {key[0]} {key[1]} {found[key][-1]:,.0f}", file=sys.stderr, flush=True)
    return [(*key, values) for key, values in found.items()]


def true_percentile() -> float:
    """The response time in ms that a share of QUANTILE does not exceed: all answers are immediate but those of requests
    that fall due in the pause, which wait for its end."""
    waits = sorted([max(0.0, STALL_MS - number * 1e3 / RATE) for number in range(RATE * SECONDS)])
    return waits[int(QUANTILE * len(waits))]


def stalled(cores: Cores) -> dict[str, float]:
    """The p99 that is reported, by the intended time and by the send, and the truth."""
    with server(["tests.loadgen.models", "stall", f"{RATE * SECONDS // 2}", f"{STALL_MS}"], min(cores.client)) as port:
        argv = [sys.executable, "-m", "loadgen", "run", f"http://127.0.0.1:{port}", "-m", "m", "-q", f"{RATE}"]
        argv += ["-z", f"{SECONDS}s", "--arrivals", "constant", "--format", "json", "--history", "off"]
        ended = subprocess.run([*argv, "--fail-on", "none"], capture_output=True, check=True, cwd=ROOT)
    level = json.loads(ended.stdout)["levels"][0]["outcomes"]["ok"]
    return {
        "truth_ms": true_percentile(),
        "response_p99_ms": level["response"]["p99_ms"],
        "error": level["response"]["p99_ms"] / true_percentile() - 1,
    }


def limits(cores: Cores) -> dict[str, tuple[int, bool]]:
    """What `tune` recommends for each predictor that is known, and whether that is right."""
    found = {}
    for name, known in KNOWN.items():
        with TemporaryDirectory() as folder, server(known.module, min(cores.client)) as port:
            argv = [sys.executable, "-m", "loadgen", "tune", f"http://127.0.0.1:{port}", "-m", "m", "-c", known.levels]
            argv += ["--slo", "p90<400ms", "--proof", "none", "--history", "off", "--fail-on", "none", "-o", folder]
            subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
            limit = json.loads((Path(folder) / "result.json").read_text())["advice"]["limit"]
        found[name] = limit, limit in known.right
        print(f"tune {name}: {limit}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    cores = Cores.split()
    rows, stall, tuned = costs(cores), stalled(cores), limits(cores)
    best = {protocol: statistics.median(values) for protocol, name, values in rows if name == "headgate-load"}
    print(f"{'':6}{'generator':24}{'req per CPU-second':>20}{'us each':>10}{'of ours':>9}")
    for protocol, name, values in rows:
        middle = statistics.median(values)
        print(f"{protocol:6}{name:24}{middle:>20,.0f}{1e6 / middle:>10.1f}{middle / best[protocol]:>8.2f}x")
    told = f"p99 {stall['response_p99_ms']:.1f} ms, truth {stall['truth_ms']:.1f} ms ({stall['error']:+.1%})"
    print(f"\none stall of {STALL_MS} ms at {RATE}/s: {told}")
    for name, (limit, is_right) in tuned.items():
        right = KNOWN[name].right
        print(f"tune {name}: limit {limit}, right is {right[0]} to {right[-1]}" + ("" if is_right else "  WRONG"))
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_average": os.getloadavg()},
        "versions": {
            name: version(name) for name in ("uvloop", "httptools", "hpack", "aiohttp", "grpcio", "tritonclient")
        },
        "rows": [{"protocol": protocol, "generator": name, "per_cpu_s": values} for protocol, name, values in rows],
        "stall": stall,
        "limits": {name: limit for name, (limit, _) in tuned.items()},
    }
    folder = ROOT / "tests" / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / "load.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(is_right for _, is_right in tuned.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
