"""The predictors behind every contestant; a fresh one for each cell, for what one leaves queued would burden the next.

Both have a model `small`, so that they answer the benchmark's SMALL requests, about 160 of them a second at most.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.payload import SMALL
from tests.bench.process import BenchError, Child, Command, Cores, accepts, free_ports, poll_until
from tests.contract import install, launchers
from tests.contract.processes import ProcessError, Server

# Requests that each executes at once at its best throughput. Triton needs the next batch at hand when one ends: with
# batch size times instances, which is 8, it does three quarters of what it does with twice as many.
LIMITS = {"demo": 8, "triton": 16}
# What the slots of the demo predictor can do by arithmetic; a closed loop of some seconds is 2 % off, either way.
NOMINAL = {"demo": LIMITS["demo"] / 0.05}

_START_S = 15.0
_HERE = Path(__file__).parent / "triton"
_CONTRACT = Path(launchers.__file__).parent / "predictors" / "triton"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a predictor listens."""

    http: int
    grpc: int

    def of(self, protocol: str) -> int:
        """The port that speaks a protocol of the grid."""
        return self.grpc if protocol == "grpc" else self.http


@contextmanager
def _demo(cores: Cores, directory: Path) -> Iterator[Ports]:
    ports = Ports(*free_ports(2))
    argv = [sys.executable, "-m", "agent.demo.predictor", "--port", str(ports.http), "--grpc-port", str(ports.grpc)]
    argv += ["--model", "small", "--slots", str(LIMITS["demo"]), "--service-time", "50ms", "--cv", "0.5"]
    with Child(Command(argv, {}), cores.client, directory / f"demo-{ports.http}.log") as child:
        deadline = time.monotonic() + _START_S
        while not (accepts(ports.http) and accepts(ports.grpc)):
            poll_until(deadline, child)
        yield ports
        child.require_alive()


@contextmanager
def _triton(cores: Cores, directory: Path) -> Iterator[Ports]:
    """It runs where this process does, which is where the cores for clients are."""

    def launch(port: int, grpc_port: int, _: int) -> tuple[list[str], Mapping[str, str]]:
        env = {
            "HTTP_PORT": str(port),
            "GRPC_PORT": str(grpc_port),
            "SCRATCH": str(directory),
            "SEGMENTS": f"headgate-test-{port}-",
            "PYTHONPATH": str(_CONTRACT),
        }
        return [python, str(_HERE / "start.py")], env

    try:
        python = str(install.TRITON.python())
        server: Server = launchers.TritonServer("triton", launch, ("/v2/health/ready",), directory)
        server.start()
    except (install.InstallError, ProcessError) as error:
        raise BenchError(str(error)) from error
    try:
        yield Ports(server.port, server.grpc_port)
    finally:
        server.kill()


RUNNING: Mapping[str, Callable[[Cores, Path], AbstractContextManager[Ports]]] = {"demo": _demo, "triton": _triton}


def request(port: int, patience_ms: int) -> bytes:
    """SMALL over HTTP/1.1, from a caller that says how long it waits."""
    head, _, body = SMALL.encode(f"127.0.0.1:{port}").partition(b"\r\n\r\n")
    return b"%b\r\nx-envoy-expected-rq-timeout-ms: %d\r\n\r\n%b" % (head, patience_ms, body)
