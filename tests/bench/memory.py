"""Row: resident memory, idle and with a thousand large uploads in the agent's queue, which must all arrive intact."""

import asyncio
import time
from functools import partial
from typing import Any

import uvloop

from .load import get_json
from .peers import QUEUE, Proxy, agent, running, spawn
from .plan import Plan
from .process import BenchError
from .report import Samples
from .uploads import BLOCK_BYTES, Predictor, Uploader

_MIB = 1 << 20
_START_S = 10.0
_QUEUED_S = 60.0
_DRAINED_S = 150.0
# No byte moved for this long: the sockets are full, and what the agent holds is what it is going to hold.
_STILL_S = 1.0


def memory(plan: Plan) -> Samples:
    """Idle memory of every peer after one request, and the agent's growth while uploads queue up and drain again."""
    samples: Samples = {}
    for peer in plan.peers:
        with running(peer, plan.backend, plan.cores, plan.directory) as proxy:
            if peer.name == "agent":
                _state(proxy, time.monotonic() + _START_S)  # its admin port is up, and with it most imports
            samples[peer.name] = [{"idle_mib": proxy.child.rss_bytes() / _MIB}]
    samples["agent"][0] |= uvloop.run(_queue_uploads(plan))
    return samples


async def _queue_uploads(plan: Plan) -> dict[str, float]:
    predictor = Predictor()
    server = await asyncio.start_server(predictor.serve, "127.0.0.1", 0, limit=1 << 20)
    port = server.sockets[0].getsockname()[1]
    full = agent(limit=1, queue=max(QUEUE, plan.effort.uploads), deadline="10m")
    proxy = spawn(full, port, plan.cores, plan.directory)
    try:
        with proxy.child:
            return await _fill_and_drain(plan, proxy, predictor)
    finally:
        predictor.release.set()
        server.close()


async def _fill_and_drain(plan: Plan, proxy: Proxy, predictor: Predictor) -> dict[str, float]:
    await _state_async(proxy)
    idle = proxy.child.rss_bytes()
    uploaders = [await _upload(proxy, 0, 1)]
    await asyncio.wait_for(predictor.holding.wait(), _START_S)
    blocks = plan.effort.upload_bytes // BLOCK_BYTES
    uploaders += [await _upload(proxy, number, blocks) for number in range(1, plan.effort.uploads + 1)]
    await _until_still(proxy, uploaders)
    queued = proxy.child.rss_bytes()
    begun = time.perf_counter()
    predictor.release.set()
    async with asyncio.timeout(_DRAINED_S):
        answers = await asyncio.gather(*(uploader.answered for uploader in uploaders))
    elapsed = time.perf_counter() - begun
    state = await _state_async(proxy)
    if predictor.faults or len(predictor.intact) != len(uploaders) or set(answers) != {"HTTP/1.1 200 OK"}:
        raise BenchError(
            f"{len(predictor.intact)} of {len(uploaders)} uploads intact; {predictor.faults[:3]} {set(answers)}"
        )
    if state["inflight"] or state["queued"]:
        raise BenchError(f"the agent still counts {state['inflight']} in flight and {state['queued']} queued")
    return {
        "queued_mib": (queued - idle) / _MIB,
        "peak_mib": (proxy.child.peak_rss_bytes() - idle) / _MIB,
        "drain_mb_s": plan.effort.uploads * plan.effort.upload_bytes / elapsed / 1e6,
    }


async def _upload(proxy: Proxy, number: int, blocks: int) -> Uploader:
    make = partial(Uploader, number, blocks)
    _, uploader = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", proxy.ports.data)
    return uploader


async def _until_still(proxy: Proxy, uploaders: list[Uploader]) -> None:
    """Wait until all uploads but the first, which runs, are queued and no socket takes another byte."""
    deadline = time.monotonic() + _QUEUED_S
    expected = len(uploaders) - 1
    before = -1
    while True:
        state = await _state_async(proxy)
        moved = sum(uploader.handed_over for uploader in uploaders)
        if state["queued"] == expected and moved == before:
            return
        if time.monotonic() > deadline:
            early = {uploader.answered.result() for uploader in uploaders if uploader.answered.done()}
            raise BenchError(f"{state['queued']} of {expected} uploads queued; early answers: {early}")
        before = moved
        await asyncio.sleep(_STILL_S)


async def _state_async(proxy: Proxy) -> dict[str, Any]:
    return await asyncio.to_thread(_state, proxy, time.monotonic() + _START_S)


def _state(proxy: Proxy, deadline: float) -> dict[str, Any]:
    """The agent's view of itself, as soon as its admin port answers."""
    while True:
        proxy.child.require_alive()
        try:
            return get_json(proxy.ports.admin, "/debug/state")
        except OSError:
            if time.monotonic() > deadline:
                raise
