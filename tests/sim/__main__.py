"""`python -m tests.sim` prints every scenario for every queue; numbers are answers in time, in % of the capacity."""

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import fmean

from tests.sim import gates, scenarios
from tests.sim.load import CAPACITY
from tests.sim.run import Result
from tests.sim.scenarios import LOADS, QUEUES, STARTS, UNKNOWN


def _mean(run: Callable[[int], float], seeds: int) -> str:
    return f"{fmean(run(seed) for seed in range(seeds)):.1f}"


def _head(title: str, *columns: str) -> None:
    print(f"\n**{title}**\n\n| queue | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|", flush=True)


def _row(name: str, *cells: str) -> None:
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _overload(seconds: float, seeds: int) -> None:
    kinds = (
        ("one deadline, 500 ms", scenarios.HALF, False),
        ("one deadline, clients leave at it", scenarios.HALF, True),
        ("deadlines of 120, 500 and 2000 ms", scenarios.MIXED, False),
        ("one deadline of 150 ms", scenarios.TIGHT, False),
    )
    for title, deadlines, cancel in kinds:
        _head(
            title,
            *[f"{load}x" for load in LOADS],
            "p50 / p99 ms 2x",
            "refused p99 ms 2x",
            "wasted 2x %",
            "by class 2x %",
        )
        for name, make in QUEUES:
            runs = {
                load: [
                    scenarios.overload(make, load, seconds, seed, deadlines=deadlines, cancel=cancel)
                    for seed in range(seeds)
                ]
                for load in LOADS
            }
            goodput = [f"{fmean(run.goodput(CAPACITY) for run in runs[load]):.1f}" for load in LOADS]
            _row(name, *goodput, *_details(runs[2.0][0], deadlines))


def _details(run: Result, deadlines: scenarios.Shares) -> Sequence[str]:
    classes = [run.in_time(lambda one, of=patience: one.patience == of) for _, patience in deadlines]
    return (
        f"{run.latency_ms(0.5):.0f} / {run.latency_ms(0.99):.0f}",
        f"{run.latency_ms(0.99, 'refused'):.0f}",
        f"{run.wasted:.0f}",
        " / ".join(f"{share:.0f}" for share in classes),
    )


def _others(seconds: float, seeds: int) -> None:
    _head("bursts, spikes, service time x 4 halfway", "bursts: in time %", "spikes", "before", "after")
    for name, make in QUEUES:
        before, after = scenarios.drift(make, 4 * seconds)
        _row(
            name,
            _mean(lambda seed, make=make: scenarios.micro(make, seconds, seed).in_time(), seeds),
            _mean(lambda seed, make=make: scenarios.spike(make, seconds, seed).goodput(CAPACITY), seeds),
            f"{before:.1f}",
            f"{after:.1f}",
        )
    _head("stalls of 1.5 s in 40, 2x", "goodput")
    for name, make in (*QUEUES, ("headgate, auto", gates.auto)):
        _row(
            name, _mean(lambda seed, make=make: scenarios.stalls(make, 2.0, 2 * seconds, seed).goodput(CAPACITY), seeds)
        )
    _head("tenants at 4x: in time %", "polite", "polite", "hog", "goodput")
    for name, make in (*QUEUES, ("headgate, tenants take turns", gates.fair)):
        run = scenarios.tenants(make, seconds)
        shares = [f"{scenarios.of_tenant(run, tenant):.0f}" for tenant in (*scenarios.POLITE, scenarios.HOG)]
        _row(name, *shares, f"{run.goodput(CAPACITY):.1f}")


def _unknown(seconds: float, seeds: int) -> None:
    for predictor, (_, capacity, right) in UNKNOWN.items():
        _head(
            f"unknown limit, {predictor}, {right} is right",
            *[f"{load}x" for load in LOADS],
            "limit 2x",
            "p50 / p99 ms 2x",
        )
        for start in STARTS:
            for name, make in (
                ("Knative's breaker", gates.knative),
                ("headgate", gates.deadline),
                ("headgate, auto", gates.auto),
            ):
                runs = {
                    load: [scenarios.unknown(make, predictor, start, load, seconds, seed) for seed in range(seeds)]
                    for load in LOADS
                }
                first = runs[2.0][0]
                _row(
                    f"{name} from {int(start * right)}",
                    *[f"{fmean(run.goodput(capacity) for run in runs[load]):.1f}" for load in LOADS],
                    f"{first.limit:.0f}",
                    f"{first.latency_ms(0.5):.0f} / {first.latency_ms(0.99):.0f}",
                )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual seconds that are measured")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    _overload(options.seconds, options.seeds)
    _others(options.seconds, options.seeds)
    _unknown(1.5 * options.seconds, options.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
