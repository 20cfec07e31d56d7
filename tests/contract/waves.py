"""Load that defeats a sampled gauge, and what it truly was: from each request's own times, not from the plan.

The truth is told twice. The callers know when they sent and when they had the answer, which is all that matters and
includes their own delays on a busy machine; the agent's access log has the stamps of every request, of which nothing
but this file makes a sum.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadgen.payload import Tensor, encode_request, infer_bodies, model_path
from loadgen.record import Sample
from loadgen.run import OpenLoop, Target
from loadgen.schedule import Arrivals, Step, draw
from loadgen.units import NS_PER_S

from .processes import Agent, Child

MODEL = "synthetic"
SLOTS = 4
SERVICE_S = 0.2
CAPACITY = SLOTS / SERVICE_S
PATIENCE_S = 30.0

# Two seconds: six tenths at one and a half times the capacity, a pause, ten at once, a pause. 0.7 of the capacity.
WAVE = (Step(30.0, 0.6), Step(0.0, 0.6), Step(10_000.0, 0.001), Step(0.0, 0.799))
OVERLOAD = (Step(4 * CAPACITY, 2.0),)

Span = tuple[float, float]


@contextmanager
def running_predictor(directory: Path, name: str = "predictor", model: str = MODEL) -> Iterator[str]:
    """The demo's predictor; the URL at which it listens."""
    argv = [sys.executable, "-m", "agent.demo.predictor", "--slots", str(SLOTS), "--service-time", f"{SERVICE_S}s"]
    argv += ["--model", model]
    child = Child(name, argv, log=directory / f"{name}.log", env={})

    def listening() -> int:
        for line in child.log.read_text().splitlines():
            with suppress(ValueError):
                return int(json.loads(line)["port"])
        return 0

    try:
        child.await_event(lambda: bool(listening()), "it listens", 20.0)
        yield f"http://127.0.0.1:{listening()}"
    finally:
        child.terminate(5.0)


async def offer(address: str, steps: Sequence[Step], periods: int, model: str = MODEL) -> list[Sample]:
    """Send so many periods of the steps, open loop, at random times. Returns every request, ended."""
    host, _, port = address.rpartition(":")
    body = infer_bodies([Tensor("input-0", "FP32", (1, 16))], 1, 1)[0]
    request = encode_request("POST", address, model_path("", model) + "/infer", body=body)
    samples: list[Sample] = []
    target = Target((host, int(port)), [request], PATIENCE_S)
    await OpenLoop(target, draw(list(steps) * periods, Arrivals.POISSON, 1), samples.append).run()
    return samples


def offer_all(loads: Sequence[tuple[str, Sequence[Step], int]]) -> list[list[Sample]]:
    """Several loads at once: address, steps and periods of each."""

    async def run() -> list[list[Sample]]:
        return await asyncio.gather(*(offer(*load) for load in loads))

    return asyncio.run(run())


def mean_level(spans: Iterable[Span], start: float, end: float) -> float:
    """How many of the spans covered a moment between `start` and `end`, on average."""
    return sum(max(0.0, min(high, end) - max(low, start)) for low, high in spans) / (end - start)


def seen_by_callers(samples: Sequence[Sample]) -> list[Span]:
    """When answered requests were under way, in Unix time."""
    offset = time.time() - time.monotonic()
    return [
        (sample.sent_ns / NS_PER_S + offset, sample.done_ns / NS_PER_S + offset)
        for sample in samples
        if sample.status == 200
    ]


@dataclass(frozen=True, slots=True)
class Account:
    """The access log: when requests were in flight and when they waited, in Unix time; when each came."""

    inflight: list[Span]
    queued: list[Span]
    arrivals: list[float]

    def offered(self, start: float, end: float) -> float:
        """The concurrency that was asked for: arrivals a second times the mean time in flight (Little's law)."""
        times = [high - low for low, high in self.inflight if start <= high < end]
        arrived = sum(start <= at < end for at in self.arrivals)
        return arrived / (end - start) * sum(times) / len(times)


def account_of(agent: Agent) -> Account:
    """What an agent with `--access-log all` has logged."""
    account = Account([], [], [])
    for line in agent.events():
        if line.get("kind") != "inference":
            continue
        end, took, waited = line["ts"], line["total_ms"] / 1e3, line["queue_ms"] / 1e3
        account.arrivals.append(end - took)
        account.queued.append((end - took, end - took + waited))
        if line["upstream_ms"] is not None:
            account.inflight.append((end - took + waited, end))
    return account
