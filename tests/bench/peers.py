"""The proxies that are compared. Each forwards one port to the backend with one worker thread and does the same work.

HTTP/1.1 and keep-alive on both sides, its client's side also over TLS, or HTTP/2 without TLS on both; upstream
connections shared by all clients, bodies streamed, counters on, tracing and access log off (the agent logs failures),
at most LIMIT requests at the backend and QUEUE more that wait up to 10 s.
"""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from agent import __version__

from . import install
from .load import exchange
from .payload import SMALL
from .process import BenchError, Child, Command, Cores, accepts, free_ports, output, poll_until

LIMIT = 256
QUEUE = 1000

_START_S = 10.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the certificate with its chain, its key, and both in one, as HAProxy wants them."""

    chain: Path
    key: Path
    both: Path

    @classmethod
    def make(cls, directory: Path) -> "Certificate":
        """One for loopback, of ECDSA P-256."""
        leaf = trustme.CA().issue_cert("127.0.0.1")
        made = cls(directory / "tls.crt", directory / "tls.key", directory / "tls.pem")
        made.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(made.key)
        leaf.private_key_and_cert_chain_pem.write_to_path(made.both)
        return made


@dataclass(frozen=True, slots=True)
class Ports:
    """What a proxy is told: where to listen, where to show its counters, where its backend is, and what all speak.

    `h2c` is HTTP/2 without TLS and with prior knowledge (RFC 9113 section 3.3); otherwise it is HTTP/1.1. With `tls`,
    clients come over TLS.
    """

    data: int
    admin: int
    backend: int
    h2c: bool = False
    tls: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A program under test. `command` writes what configuration it needs into the directory it is given.

    `takes_tls` is whether it can be told a certificate.
    """

    name: str
    version: str
    command: Callable[[Ports, Path], Command]
    takes_tls: bool = True


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running peer."""

    name: str
    child: Child
    ports: Ports


def agent(limit: int = LIMIT, queue: int = QUEUE, deadline: str = "10s") -> Peer:
    """This project's agent with everything on that it does by default."""
    program = Path(sys.executable).with_name("headgate")

    def command(ports: Ports, directory: Path) -> Command:
        upstream = f"{'h2c' if ports.h2c else 'http'}://127.0.0.1:{ports.backend}"
        argv = [str(program), "serve", "--route", f"127.0.0.1:{ports.data}={upstream}"]
        argv += ["--admin", f"127.0.0.1:{ports.admin}", "--limit", str(limit), "--queue", str(queue)]
        argv += ["--deadline", deadline, "--access-log", "errors", "--drain-delay", "0s", "--drain-timeout", "1s"]
        if ports.tls:
            argv += ["--tls-cert", str(ports.tls.chain), "--tls-key", str(ports.tls.key)]
        return Command(argv, {})

    return Peer("agent", __version__, command)


def haproxy(program: str) -> Peer:
    """HAProxy, its server limit and queue in the role of admission."""

    def command(ports: Ports, directory: Path) -> Command:
        config = directory / "haproxy.cfg"
        proto = "proto h2" if ports.h2c else ""
        tls = f"ssl crt {ports.tls.both}" if ports.tls else ""
        config.write_text(f"""
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout queue 10s
frontend data
  bind 127.0.0.1:{ports.data} backlog 4096 {proto} {tls}
  default_backend predictor
frontend counters
  bind 127.0.0.1:{ports.admin}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend predictor
  server predictor 127.0.0.1:{ports.backend} maxconn {LIMIT} maxqueue {QUEUE} {proto}
""")
        return Command([program, "-db", "-f", str(config)], {})

    version = re.search(r"version (\S+)", output([program, "-v"]))
    return Peer("haproxy", version[1] if version else "unknown", command)


def envoy(program: str) -> Peer:
    """Envoy, its circuit breaker as admission; request ids and x-envoy headers are off, for nobody else adds any."""

    def command(ports: Ports, directory: Path) -> Command:
        config = directory / "envoy.json"
        config.write_text(json.dumps(_envoy_config(ports)))
        argv = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
        return Command(argv, {})

    version = re.search(r"/(\d+\.\d+\.\d+)/", output([program, "--version"]))
    return Peer("envoy", version[1] if version else "unknown", command)


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_tls(certificate: Certificate) -> dict[str, Any]:
    files = {
        "certificate_chain": {"filename": str(certificate.chain)},
        "private_key": {"filename": str(certificate.key)},
    }
    return {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [files]},
    }


def _envoy_config(ports: Ports) -> dict[str, Any]:
    extension = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "predictor", "timeout": "0s"}}
    manager = {
        "@type": f"{extension}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "data",
        "codec_type": "HTTP2" if ports.h2c else "HTTP1",
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{extension}.http.router.v3.Router", "suppress_envoy_headers": True},
            }
        ],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if ports.tls:
        chain["transport_socket"] = {"name": "tls", "typed_config": _envoy_tls(ports.tls)}
    listener = {
        "name": "data",
        "address": _address(ports.data),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }
    breaker = {"max_connections": LIMIT, "max_pending_requests": QUEUE, "max_requests": LIMIT + QUEUE}
    endpoint = {"endpoint": {"address": _address(ports.backend)}}
    cluster = {
        "name": "predictor",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [breaker]},
        "load_assignment": {"cluster_name": "predictor", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if ports.h2c:
        protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {"@type": f"type.googleapis.com/{protocol}", "explicit_http_config": {"http2_protocol_options": {}}}
        cluster["typed_extension_protocol_options"] = {protocol: options}
    return {
        "admin": {"address": _address(ports.admin)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }


def queue_proxy(program: str) -> Peer:
    """Knative's queue-proxy. It also takes ports 8008, 8022 and 9090, which no setting moves."""

    def command(ports: Ports, directory: Path) -> Command:
        env = {
            "CONTAINER_CONCURRENCY": str(LIMIT),
            "QUEUE_SERVING_PORT": str(ports.data),
            "QUEUE_SERVING_TLS_PORT": str(ports.admin),
            "USER_PORT": str(ports.backend),
            "REVISION_TIMEOUT_SECONDS": "300",
            "SERVING_LOGGING_CONFIG": "",
            "SERVING_LOGGING_LEVEL": "error",
            "SERVING_NAMESPACE": "bench",
            "SERVING_CONFIGURATION": "bench",
            "SERVING_REVISION": "bench",
            "SERVING_POD": "bench",
            "SERVING_POD_IP": "127.0.0.1",
            "GOMAXPROCS": "1",
        }
        return Command([program], env)

    return Peer("queue-proxy", "unknown", command, takes_tls=False)


def find(program: str) -> str | None:
    """A program by name; Debian keeps servers outside a user's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def discover() -> tuple[list[Peer], dict[str, str]]:
    """The peers that can be had, the agent first, and why the others cannot."""
    peers, left_out = [agent()], {}
    if program := os.environ.get("BENCH_HAPROXY") or find("haproxy"):
        peers.append(haproxy(program))
    else:
        left_out["haproxy"] = "not installed (apt-get install haproxy, or BENCH_HAPROXY=/path)"
    try:
        peers.append(envoy(os.environ.get("BENCH_ENVOY") or str(install.envoy())))
    except BenchError as error:
        left_out["envoy"] = f"{error} (or BENCH_ENVOY=/path)"
    if program := os.environ.get("BENCH_QUEUE_PROXY"):
        peers.append(queue_proxy(program))
    else:
        left_out["queue-proxy"] = "BENCH_QUEUE_PROXY=/path is not set"
    return peers, left_out


def spawn(
    peer: Peer, backend: int, cores: Cores, directory: Path, *, h2c: bool = False, tls: Certificate | None = None
) -> Proxy:
    """Execute a peer on ports of its own; it is not up yet when this returns."""
    data, admin = free_ports(2)
    ports = Ports(data, admin, backend, h2c, tls)
    child = Child(peer.command(ports, directory), cores.proxy, directory / f"{peer.name}-{data}.log")
    return Proxy(peer.name, child, ports)


@contextmanager
def running(
    peer: Peer, backend: int, cores: Cores, directory: Path, *, tls: Certificate | None = None
) -> Iterator[Proxy]:
    """A peer that has answered a first request. Raises BenchError if it does not come up."""
    proxy = spawn(peer, backend, cores, directory, tls=tls)
    with proxy.child:
        deadline = time.monotonic() + _START_S
        while not _answers(proxy):
            poll_until(deadline, proxy.child)
        yield proxy


@contextmanager
def running_h2c(peer: Peer, backend: int, cores: Cores, directory: Path) -> Iterator[Proxy]:
    """A peer that accepts HTTP/2 connections; whether it answers is for the row to see, which knows what it asks.

    Raises BenchError if it does not come up.
    """
    proxy = spawn(peer, backend, cores, directory, h2c=True)
    with proxy.child:
        deadline = time.monotonic() + _START_S
        while not accepts(proxy.ports.data):
            poll_until(deadline, proxy.child)
        yield proxy


def _answers(proxy: Proxy) -> bool:
    try:
        return exchange(proxy.ports.data, SMALL, tls=proxy.ports.tls is not None).status == 200
    except (OSError, BenchError):
        return False
