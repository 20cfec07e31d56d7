"""What stands in front of the predictor: the agent three ways, HAProxy and Envoy, and nothing.

Each lets as many requests through at once as the predictor executes. HAProxy queues without bound for as long as
callers wait, Envoy as many as its circuit breaker says; over HTTP/2 Envoy does not queue at all.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent import __version__
from tests.bench import grpc_load, grpc_payload, install, peers
from tests.bench.process import BenchError, Command, Cores, poll_until

from .figures import DEADLINE_S

_DEADLINE = f"{DEADLINE_S * 1000:.0f}ms"
# Knative's queue-proxy lets ten times the container's concurrency wait.
_KNATIVE_FACTOR = 10
_ENVOY_PENDING = 1024
_START_S = 10.0


def _agent(*flags: str) -> peers.Peer:
    def command(ports: peers.Ports, directory: Path) -> Command:
        upstream = f"{'h2c' if ports.h2c else 'http'}://127.0.0.1:{ports.backend}"
        program = str(Path(sys.executable).with_name("headgate"))
        argv = [program, "serve", "--route", f"127.0.0.1:{ports.data}={upstream}", *flags]
        return Command([*argv, "--admin", f"127.0.0.1:{ports.admin}", "--access-log", "off"], {})

    return peers.Peer("agent", __version__, command)


def _by_deadline(limit: int) -> peers.Peer:
    return _agent("--policy", "deadline", "--limit", str(limit), "--deadline", _DEADLINE)


def _by_search(_: int) -> peers.Peer:
    return _agent("--policy", "deadline", "--limit", "auto", "--deadline", _DEADLINE)


def _first_in_first_out(limit: int) -> peers.Peer:
    return _agent("--policy", "fifo", "--limit", str(limit), "--queue", str(_KNATIVE_FACTOR * limit))


def _haproxy(limit: int) -> peers.Peer:
    program = os.environ.get("BENCH_HAPROXY") or peers.find("haproxy")
    if not program:
        raise BenchError("not installed (apt-get install haproxy, or BENCH_HAPROXY=/path)")
    usual = peers.haproxy(program)

    def command(ports: peers.Ports, directory: Path) -> Command:
        told = usual.command(ports, directory)
        path = directory / "haproxy.cfg"
        text = replaced(path.read_text(), "timeout queue 10s", f"timeout queue {_DEADLINE}")
        path.write_text(replaced(text, f"maxconn {peers.LIMIT} maxqueue {peers.QUEUE}", f"maxconn {limit}"))
        return told

    return peers.Peer(usual.name, usual.version, command)


def _envoy(limit: int) -> peers.Peer:
    usual = peers.envoy(os.environ.get("BENCH_ENVOY") or str(install.envoy()))

    def command(ports: peers.Ports, directory: Path) -> Command:
        told = usual.command(ports, directory)
        path = directory / "envoy.json"
        config = json.loads(path.read_text())
        (cluster,) = config["static_resources"]["clusters"]
        # Over HTTP/2 a request is never pending once there is a connection, and `max_requests` alone is the gate.
        requests = limit if ports.h2c else limit + _ENVOY_PENDING
        breaker = {"max_connections": limit, "max_pending_requests": _ENVOY_PENDING, "max_requests": requests}
        cluster["circuit_breakers"] = {"thresholds": [breaker]}
        path.write_text(json.dumps(config))
        return told

    return peers.Peer(usual.name, usual.version, command)


_PEERS: Mapping[str, Callable[[int], peers.Peer]] = {
    "deadline": _by_deadline,
    "auto": _by_search,
    "fifo": _first_in_first_out,
    "haproxy": _haproxy,
    "envoy": _envoy,
}


def replaced(text: str, old: str, new: str) -> str:
    """`text` with its only `old` replaced. Raises BenchError unless it is there once."""
    if text.count(old) != 1:
        raise BenchError(f"a configuration was expected to have {old!r} once")
    return text.replace(old, new)


def find(name: str, limit: int) -> peers.Peer | None:
    """The program of a contestant of the grid; None for no gate. Raises BenchError if it cannot be had."""
    return _PEERS[name](limit) if name in _PEERS else None


@contextmanager
def running(peer: peers.Peer | None, backend: int, protocol: str, cores: Cores, directory: Path) -> Iterator[int]:
    """A contestant through which the predictor has answered; yields its port. Raises BenchError."""
    if protocol == "http" and peer is not None:
        with peers.running(peer, backend, cores, directory) as proxy:
            yield proxy.ports.data
            proxy.child.require_alive()
    elif peer is not None:
        with peers.running_h2c(peer, backend, cores, directory) as proxy:
            deadline = time.monotonic() + _START_S
            while grpc_load.ask(proxy.ports.data, grpc_payload.SMALL).code != "OK":
                poll_until(deadline, proxy.child)
            yield proxy.ports.data
            proxy.child.require_alive()
    else:
        yield backend
