"""Rows measured with h2load at saturation: CPU for each gRPC call, and for each call that the agent refuses."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from . import grpc_load
from . import h2frames as h2
from .grpc_backend import backend
from .grpc_client import request_head
from .grpc_load import Shape
from .grpc_payload import DOWNLOAD, SMALL, UPLOAD, Call, framed
from .load import get_json
from .peers import Proxy, agent, running_h2c
from .plan import Plan
from .process import BenchError, poll_until
from .report import Samples

_WARM_UP_S = 0.5
_SETTLED_S = 10.0


@dataclass(frozen=True, slots=True)
class Work:
    """A call and how many of it at a time. `first` calls tell how many fit into a round."""

    call: Call
    shape: Shape
    first: int = 1000


ONE = Work(SMALL, Shape(1, 1))
MANY = Work(SMALL, Shape(8, 8))
WIDE = Work(SMALL, Shape(1, 100))
IN = Work(UPLOAD, Shape(4, 4), first=64)
OUT = Work(DOWNLOAD, Shape(4, 4), first=64)


class _Load:
    """Load on one proxy: rounds of as many calls as it can serve in the time."""

    def __init__(self, plan: Plan, proxy: Proxy, work: Work, *, refused: bool = False) -> None:
        self._plan, self._proxy, self._work, self._refused = plan, proxy, work, refused
        self._inflight = 1 if refused else 0
        self._rate = self._calls(work.first)["rps"]
        self._rate = self.round(_WARM_UP_S)["rps"]

    def round(self, seconds: float) -> dict[str, float]:
        """Calls for about so long. Raises BenchError unless each is answered, and counted once by the agent."""
        return self._calls(max(int(self._rate * seconds), self._work.first))

    def _calls(self, count: int) -> dict[str, float]:
        is_agent = self._proxy.name == "agent"
        before = settled(self._proxy, self._inflight) if is_agent else Counter()
        found = grpc_load.saturate(
            self._proxy.child,
            self._proxy.ports.data,
            self._work.call,
            self._work.shape,
            count=count,
            cores=self._plan.cores,
            directory=self._plan.directory,
            refused=self._refused,
        )
        if is_agent:
            counted = settled(self._proxy, self._inflight) - before
            if counted != Counter({"queue_full" if self._refused else "served": count}):
                raise BenchError(f"{count} calls of {self._work.call.name}, and the agent counts {dict(counted)}")
        return found


def unary(plan: Plan, work: Work) -> Samples:
    """Saturate every peer in turn, round after round, so that a slow minute of the machine meets all of them."""
    with ExitStack() as stack:
        port = stack.enter_context(backend(work.call.name, plan.cores, plan.directory))
        loads = {}
        for peer in plan.peers:
            proxy = stack.enter_context(running_h2c(peer, port, plan.cores, plan.directory))
            grpc_load.verify(proxy.ports.data, work.call)
            loads[peer.name] = _Load(plan, proxy, work)
        samples: Samples = {name: [] for name in loads}
        for _ in range(plan.effort.rounds):
            for name, load in loads.items():
                samples[name].append(load.round(plan.effort.seconds))
        return samples


def refusal(plan: Plan) -> Samples:
    """Small calls to an agent that admits them all, and to one whose only slot is taken and that queues nothing."""
    with ExitStack() as stack:
        port = stack.enter_context(backend(SMALL.name, plan.cores, plan.directory))
        free = stack.enter_context(running_h2c(agent(), port, plan.cores, plan.directory))
        grpc_load.verify(free.ports.data, SMALL)
        admitting = _Load(plan, free, MANY)
        refusing = _Load(plan, stack.enter_context(_occupied(plan)), MANY, refused=True)
        rounds = []
        for _ in range(plan.effort.rounds):
            admitted = admitting.round(plan.effort.seconds)
            refused = refusing.round(plan.effort.seconds)
            rounds.append({**refused, "admitted_cpu_us": admitted["cpu_us"]})
        return {"agent": rounds}


@contextmanager
def _occupied(plan: Plan) -> Iterator[Proxy]:
    """An agent with one slot, held by a call that its predictor never answers."""
    with ExitStack() as stack:
        port = stack.enter_context(backend("hold", plan.cores, plan.directory))
        full = agent(limit=1, queue=0)
        proxy = stack.enter_context(running_h2c(full, port, plan.cores, plan.directory))
        holder = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.ports.data)))
        holder.sendall(_one_call(proxy.ports.data))
        settled(proxy, inflight=1)
        reply = grpc_load.ask(proxy.ports.data, SMALL)
        if reply.code != "UNAVAILABLE" or reply.trailers.get("x-headgate-reason") != "queue_full":
            raise BenchError(f"a full agent answered {reply}")
        yield proxy


def _one_call(port: int) -> bytes:
    """A connection's first bytes with one whole call in them."""
    head = h2.frame(h2.HEADERS, h2.END_HEADERS, 1, request_head(port, SMALL.method))
    return h2.PREFACE + h2.settings({}) + head + h2.frame(h2.DATA, h2.END_STREAM, 1, framed(SMALL.request))


def settled(proxy: Proxy, inflight: int) -> Counter[str]:
    """The agent's outcomes so far, once so many calls are in flight and none waits. Raises BenchError, OSError."""
    deadline = time.monotonic() + _SETTLED_S
    while True:
        state = _state(proxy)
        if state and state["inflight"] == inflight and not state["queued"]:
            return Counter(state["outcomes"])
        poll_until(deadline, proxy.child)


def _state(proxy: Proxy) -> dict[str, Any] | None:
    try:
        return get_json(proxy.ports.admin, "/debug/state")
    except OSError:
        return None  # its admin port comes up after its data port
