"""Row: time from exec to the first answered request."""

import socket
import time

from .payload import SMALL
from .peers import Peer, spawn
from .plan import Plan
from .process import BenchError
from .report import Samples

_REQUEST = SMALL.encode("127.0.0.1")
_GIVE_UP_S = 10.0


def startup(plan: Plan) -> Samples:
    """Start every peer in turn. One more start than is counted comes first: it brings the files into the page cache."""
    samples: Samples = {peer.name: [] for peer in plan.peers}
    for turn in range(plan.effort.starts + 1):
        for peer in plan.peers:
            elapsed = _first_answer_s(plan, peer)
            if turn:
                samples[peer.name].append({"first_answer_ms": elapsed * 1e3})
    return samples


def _first_answer_s(plan: Plan, peer: Peer) -> float:
    begun = time.perf_counter()
    proxy = spawn(peer, plan.backend, plan.cores, plan.directory)
    with proxy.child:
        # A tight loop on another core: a refused dial on loopback takes some 20 us, which is the error of the result.
        while not _answered(proxy.ports.data):
            if time.perf_counter() - begun > _GIVE_UP_S:
                proxy.child.require_alive()
                raise BenchError(f"{peer.name} does not answer")
        return time.perf_counter() - begun


def _answered(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(_GIVE_UP_S)
        try:
            sock.connect(("127.0.0.1", port))
            sock.sendall(_REQUEST)
            return sock.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
