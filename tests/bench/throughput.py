"""Rows measured with wrk at saturation: CPU for each request through every peer, and for each refusal of the agent."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .load import exchange, get_json, saturate, verify
from .payload import SMALL, Request
from .peers import Certificate, Proxy, agent, running, spawn
from .plan import Plan
from .process import BenchError, poll_until
from .report import Samples

_WARM_UP_S = 1
_START_S = 10.0


def compare(plan: Plan, request: Request, *, tls: bool = False) -> Samples:
    """Saturate every peer in turn, round after round, so that a slow minute of the machine meets all of them.

    With `tls`, wrk comes over TLS; it resumes no sessions.
    """
    certificate = Certificate.make(plan.directory) if tls else None
    with ExitStack() as stack:
        proxies = [
            stack.enter_context(running(peer, plan.backend, plan.cores, plan.directory, tls=certificate))
            for peer in plan.peers
            if peer.takes_tls or not tls
        ]
        for proxy in proxies:
            verify(proxy.ports.data, request, tls=tls)
            _saturate(plan, proxy, request, _WARM_UP_S)
        samples: Samples = {proxy.name: [] for proxy in proxies}
        for _ in range(plan.effort.rounds):
            for proxy in proxies:
                samples[proxy.name].append(_saturate(plan, proxy, request, plan.effort.seconds))
        return samples


def refusal(plan: Plan) -> Samples:
    """Small requests to an agent that admits them all, and to one whose only slot is taken and that queues nothing."""
    with running(agent(), plan.backend, plan.cores, plan.directory) as admitting, _occupied(plan) as refusing:
        _saturate(plan, admitting, SMALL, _WARM_UP_S)
        _saturate(plan, refusing, SMALL, _WARM_UP_S, refused=True)
        rounds = []
        for _ in range(plan.effort.rounds):
            admitted = _saturate(plan, admitting, SMALL, plan.effort.seconds)
            refused = _saturate(plan, refusing, SMALL, plan.effort.seconds, refused=True)
            rounds.append({**refused, "admitted_cpu_us": admitted["cpu_us"]})
        return {"agent": rounds}


def _saturate(plan: Plan, proxy: Proxy, request: Request, seconds: int, *, refused: bool = False) -> dict[str, float]:
    try:
        return saturate(
            proxy.child,
            proxy.ports.data,
            request,
            seconds=seconds,
            cores=plan.cores,
            directory=plan.directory,
            refused=refused,
            tls=proxy.ports.tls is not None,
        )
    except BenchError as error:
        raise BenchError(f"{proxy.name}: {error}") from error


@contextmanager
def _occupied(plan: Plan) -> Iterator[Proxy]:
    """An agent with one slot, held by a request that its predictor never answers."""
    with ExitStack() as stack:
        # Nobody accepts: the kernel completes the connection, and the request stays unread.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxy = spawn(agent(limit=1, queue=0), silent.getsockname()[1], plan.cores, plan.directory)
        stack.enter_context(proxy.child)
        deadline = time.monotonic() + _START_S
        while (state := _state(proxy)) is None:
            poll_until(deadline, proxy.child)
        holder = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.ports.data)))
        holder.sendall(SMALL.encode("127.0.0.1"))
        while state is None or state["inflight"] != 1:
            poll_until(deadline, proxy.child)
            state = _state(proxy)
        answer = exchange(proxy.ports.data, SMALL)
        if answer.status != 503 or answer.headers.get("x-headgate-reason") != "queue_full":
            raise BenchError(f"a full agent answered {answer.status} {answer.headers}")
        yield proxy


def _state(proxy: Proxy) -> dict[str, int] | None:
    try:
        return get_json(proxy.ports.admin, "/debug/state")
    except OSError:
        return None
