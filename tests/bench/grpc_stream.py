"""Row: messages both ways on one ModelStreamInfer call, a frame each, so many on their way that every hop is busy."""

import asyncio
from contextlib import ExitStack
from functools import partial
from time import perf_counter

import uvloop

from . import grpc_load
from . import h2frames as h2
from .grpc_backend import backend
from .grpc_client import STREAM, Calling, Ending, dial, request_head
from .grpc_payload import MESSAGE, framed
from .peers import Proxy, running_h2c
from .pingpong import Pingpong
from .plan import Plan
from .process import Meter
from .report import Samples

OUTSTANDING = 256
_WARM_UP_S = 0.5
_END_S = 10.0


class Caller(Calling, Pingpong):
    """Sends a message for each that comes back, until told to stop."""

    def __init__(self, port: int) -> None:
        super().__init__(server=False, mine=framed(MESSAGE.request), theirs=framed(MESSAGE.answer))
        self.ending = Ending()
        self.answered = 0
        self._port = port
        self._left = 0
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.open(STREAM, request_head(self._port, MESSAGE.method))
        self._left = OUTSTANDING
        self.owe(STREAM, OUTSTANDING)
        super().connection_made(transport)

    def stop(self) -> None:
        """Send no more; the call ends when the last answer is there."""
        self._stopping = True

    def received(self, stream: int, count: int) -> int:
        self.answered += count
        if not self._stopping:
            return count
        self._left -= count
        if not self._left:
            self.out.append(h2.frame(h2.DATA, h2.END_STREAM, STREAM))
        return 0

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        if end and self._left:
            self.ending.fault(f"the stream ended and {self._left} messages are not answered")
        super().on_headers(stream, block, end)


def stream(plan: Plan) -> Samples:
    """CPU for each message and its answer, through every peer in turn, round after round."""
    with ExitStack() as stack:
        port = stack.enter_context(backend(MESSAGE.name, plan.cores, plan.directory))
        proxies = [stack.enter_context(running_h2c(peer, port, plan.cores, plan.directory)) for peer in plan.peers]
        for proxy in proxies:
            grpc_load.verify(proxy.ports.data, MESSAGE)
        samples: Samples = {proxy.name: [] for proxy in proxies}
        for _ in range(plan.effort.rounds):
            for proxy in proxies:
                samples[proxy.name].append(uvloop.run(_round(plan, proxy)))
        return samples


async def _round(plan: Plan, proxy: Proxy) -> dict[str, float]:
    caller = await dial(proxy.ports.data, partial(Caller, proxy.ports.data))
    await asyncio.sleep(_WARM_UP_S)
    meter, answered, begun = Meter.start(proxy.child, plan.cores.proxy), caller.answered, perf_counter()
    await asyncio.sleep(plan.effort.seconds)
    count, elapsed_s = caller.answered - answered, perf_counter() - begun
    used = meter.read(max(count, 1), elapsed_s)
    caller.stop()
    await caller.ending.wait(_END_S)
    caller.transport.close()
    return {
        "message_cpu_us": used["cpu_us"],
        "messages_rps": count / elapsed_s,
        "cpu_share": used["cpu_share"],
        "others_share": used["others_share"],
    }
