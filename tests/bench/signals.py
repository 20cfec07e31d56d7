"""What a scaler would read, by gauge and by integral, against the truth: `python -m tests.bench.signals`.

A real Prometheus scrapes each agent by eight jobs, which differ in nothing but when in a second they look. `--scrape`
measures what a scrape costs instead.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, cast

from agent.admin.exposition import Exposition
from agent.policy.classify import Kind, Route
from loadgen.schedule import Step
from tests.contract.h2server import program
from tests.contract.processes import Agent, eventually, running_agent
from tests.contract.prometheus import Job, Prometheus, running_prometheus
from tests.contract.waves import CAPACITY, OVERLOAD, SLOTS, account_of, mean_level, offer_all, running_predictor
from tests.fakes import FakeRecord, FakeServer

SECONDS = 40
WINDOW_S = 30
JOBS = 8
# Name -> steps that repeat, the deadline of every request.
LOADS: dict[str, tuple[Sequence[Step], str]] = {
    "square wave, 0.3 s on in each second": ((Step(60.0, 0.3), Step(0.0, 0.7)), "20s"),
    "12 at once, each second": ((Step(12_000.0, 0.001), Step(0.0, 0.999)), "20s"),
    "steady, 0.8 times the capacity": ((Step(0.8 * CAPACITY, 1.0),), "20s"),
    "steady, 4 times the capacity": (OVERLOAD, "1s"),
}
SCRAPED_MODELS = (1, 10, 100)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.signals", description=__doc__)
    parser.add_argument("--scrape", action="store_true", help="what a scrape costs, by the number of models")
    return print_scrapes() if parser.parse_args().scrape else print_signals()


def print_scrapes() -> int:
    """The time that the loop is held for one answer."""
    print("| models, over both protocols | lines | KiB | ms |\n|---|---|---|---|")
    for count in SCRAPED_MODELS:
        server = FakeServer({"limit": ["8"]})
        for protocol, table in server.usages.items():
            for number in range(count):
                usage = table.learn(f"model-{number}", 0.0)
                route = Route(Kind.INFERENCE, usage.name)
                server.book([FakeRecord(route=route, usage=usage, protocol=protocol, ended=1000.123)] * 100)
        exposition = Exposition(cast(Any, server))
        best, text = float("inf"), b""
        for _ in range(20):
            begun = perf_counter()
            text = exposition.text().encoded()
            best = min(best, perf_counter() - begun)
        lines = text.count(b"\n")
        print(f"| {count} | {lines} | {len(text) / 1024:.0f} | {best * 1e3:.2f} |")
    return 0


def print_signals() -> int:
    """Run all loads side by side and tell what Prometheus makes of them."""
    prometheus = program("prometheus")
    if prometheus is None:
        print("prometheus is not installed (apt-get install prometheus)", file=sys.stderr)
        return 1
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headgate-signals-")))
        agents = {}
        for name, (_, deadline) in LOADS.items():
            url = stack.enter_context(running_predictor(directory, f"predictor-{len(agents)}"))
            flags = ("--limit", str(SLOTS), "--policy", "deadline", "--deadline", deadline, "--access-log", "all")
            agents[name] = stack.enter_context(running_agent(directory, [url], *flags))
        jobs = [Job(f"{name} {n}", agent.admin, {"load": name}) for name, agent in agents.items() for n in range(JOBS)]
        running = stack.enter_context(running_prometheus(prometheus, directory, jobs))
        print(f"{SECONDS} s of load ...", file=sys.stderr)
        loads = [(agent.address, LOADS[name][0], _periods(LOADS[name][0])) for name, agent in agents.items()]
        offer_all(loads)
        end = time.time() - 2.0
        eventually(lambda: time.time() > end + 3.0, "everything is scraped")
        print("| load | offered | in flight and queued | integrals, 8 scrapers | gauges, 8 scrapers | demand signal |")
        print("|---|---|---|---|---|---|")
        for name, agent in agents.items():
            print(_row(name, agent, running, end))
    return 0


def _periods(steps: Sequence[Step]) -> int:
    return round(SECONDS / sum(step.duration_s for step in steps))


def _row(name: str, agent: Agent, prometheus: Prometheus, end: float) -> str:
    account = account_of(agent)
    spans = [*account.inflight, *account.queued]
    jobs = [f'{{job="{name} {number}"}}' for number in range(JOBS)]
    integrals, gauges, demands = [], [], []
    for job in jobs:
        stamps = prometheus.stamps(f"headgate_busy_seconds_total{job}", end, WINDOW_S)
        truth = mean_level(spans, stamps[0], stamps[-1])
        offered = account.offered(stamps[0], stamps[-1])
        inflight, queued, refused = (
            prometheus.value(f"sum(rate(headgate_{what}_seconds_total{job}[{WINDOW_S}s]))", end)
            for what in ("inflight", "queued", "rejected_demand")
        )
        gauge = " + ".join(
            f"sum(avg_over_time(headgate_requests_{what}{job}[{WINDOW_S}s]))" for what in ("inflight", "queued")
        )
        integrals.append((inflight + queued) / truth)
        gauges.append(prometheus.value(gauge, end) / truth)
        demands.append((inflight + refused) / offered)
    cells = [name, f"{offered:.1f}", f"{truth:.1f}", _range(integrals), _range(gauges), _range(demands)]
    return f"| {' | '.join(cells)} |"


def _range(factors: Sequence[float]) -> str:
    return f"{min(factors):.2f}x to {max(factors):.2f}x"


if __name__ == "__main__":
    sys.exit(main())
