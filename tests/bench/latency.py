"""Row: latency at a constant rate far below saturation, measured from the moment each request was due.

The client is one thread that sleeps in select(2), which wakes within microseconds where epoll counts milliseconds, and
polls during the last moment before a request is due. A late send counts like any other: no sample is left out.
"""

import gc
import select
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter

from .payload import SMALL
from .peers import running
from .plan import Plan
from .process import BenchError, Child, busy_s
from .report import Samples

RATE_PER_S = 500
CONNECTIONS = 32
# A round is cut into slices that alternate between the targets: what disturbs the machine for a second then meets all
# of them alike, and a tail is where disturbance shows.
SLICES_PER_S = 4

_REQUEST = SMALL.encode("127.0.0.1")
_SPIN_S = 100e-6
_STUCK_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go; `direct` is the backend itself."""

    name: str
    connections: Sequence[socket.socket]


def latency(plan: Plan) -> Samples:
    """Percentiles straight to the backend and through every peer; `added_` is the difference within one round."""
    with ExitStack() as stack:
        children: list[Child] = []
        targets = [stack.enter_context(_connected("direct", plan.backend))]
        for peer in plan.peers:
            proxy = stack.enter_context(running(peer, plan.backend, plan.cores, plan.directory))
            children.append(proxy.child)
            targets.append(stack.enter_context(_connected(proxy.name, proxy.ports.data)))
        _round(plan, targets, children, seconds=1)  # warms up
        samples: Samples = {target.name: [] for target in targets}
        for _ in range(plan.effort.latency_rounds):
            for name, found in _round(plan, targets, children, plan.effort.seconds).items():
                samples[name].append(found)
        return samples


@contextmanager
def _connected(name: str, port: int) -> Iterator[Target]:
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CONNECTIONS)]
        for sock in connections:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Target(name, connections)


def _round(
    plan: Plan, targets: Sequence[Target], children: Sequence[Child], seconds: int
) -> dict[str, dict[str, float]]:
    taken: dict[str, list[float]] = {target.name: [] for target in targets}
    others_s = dict.fromkeys(taken, 0.0)
    for _ in range(seconds * SLICES_PER_S):
        for target in targets:
            before = _others_s(plan, children)
            taken[target.name] += constant_rate(target.connections, RATE_PER_S, RATE_PER_S // SLICES_PER_S)
            others_s[target.name] += _others_s(plan, children) - before
    found = {name: _percentiles(durations) for name, durations in taken.items()}
    return {
        name: {
            **percentiles,
            **{f"added_{key}": value - found["direct"][key] for key, value in percentiles.items()},
            "others_share": max(0.0, others_s[name]) / seconds,
        }
        for name, percentiles in found.items()
    }


def _others_s(plan: Plan, children: Sequence[Child]) -> float:
    """Seconds that the proxies' core has spent on anything but them."""
    return busy_s(plan.cores.proxy) - sum(child.cpu_s() for child in children)


def _percentiles(durations_s: Sequence[float]) -> dict[str, float]:
    ordered = sorted(durations_s)
    return {f"p{rank}_us": ordered[len(ordered) * rank // 100] * 1e6 for rank in (50, 99)}


def constant_rate(connections: Sequence[socket.socket], rate_per_s: float, count: int) -> list[float]:
    """Send `count` requests at fixed intervals. Returns seconds from due to answered, one for each request.

    Raises BenchError if an answer is not a 200 or does not come.
    """
    idle = deque(connections)
    due_of: dict[socket.socket, float] = {}
    taken: list[float] = []
    sent = 0
    gc.collect()
    gc.disable()
    begun = perf_counter()
    while len(taken) < count:
        due = begun + sent / rate_per_s
        now = perf_counter()
        if sent < count and idle and now >= due:
            sock = idle.popleft()
            sock.sendall(_REQUEST)
            due_of[sock] = due
            sent += 1
            continue
        wait = max(0.0, due - now - _SPIN_S) if sent < count and idle else _STUCK_S
        readable, _, _ = select.select(due_of, (), (), wait)
        for sock in readable:
            _read_answer(sock)
            taken.append(perf_counter() - due_of.pop(sock))
            idle.append(sock)
        if not readable and wait >= _STUCK_S:
            raise BenchError(f"{len(due_of)} requests were left without an answer")
    gc.enable()
    return taken


def _read_answer(sock: socket.socket) -> None:
    """Read one whole answer, of which something has arrived."""
    data = sock.recv(65536)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += _more(sock)
    head = data[:end].lower()
    _, _, length = head.partition(b"content-length:")
    if not head.startswith(b"http/1.1 200") or not length:
        raise BenchError(f"unexpected answer at a low rate: {data[:200]!r}")
    missing = end + 4 + int(length.split(b"\r\n", 1)[0]) - len(data)
    while missing > 0:
        missing -= len(_more(sock))


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise BenchError("the connection ended within an answer")
    return data
