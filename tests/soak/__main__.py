"""A million mixed requests through an agent whose predictor is killed all the time, with a ledger of each.

    python -m tests.soak [--seconds 600] [--requests 1000000] [--seed N] [--only http|grpc] [--json FILE]

Prints how it goes, then what came of it. Exits with 1 if anything was lost, misrouted, executed twice, left over, or
counted differently by the agent.
"""

import argparse
import json
import random
import sys
from dataclasses import asdict
from functools import partial

import uvloop

from tests.soak.run import Order, Report, soak

_VERDICTS = {
    "misrouted": "answers that belong to another request",
    "lost": "requests that failed without a reason, or had only been queued",
    "duplicated": "requests that were executed twice",
    "served by nobody": "answers that the predictor did not give",
    "refused and executed": "refused requests that the predictor got",
    "drift": "numbers that disagree with the ledger",
    "internal": "defects of the agent",
    "left over": "slots, places and bytes that were not given back",
    "descriptors": "descriptors that were not given back",
    "log": "lines of trouble in its log",
}


def table(report: Report) -> str:
    """The report, for people."""
    lines = []
    for protocol, ends in report.requests.items():
        lines.append(f"{protocol:>6} {sum(ends.values()):>10,} requests")
        lines += [f"       {count:>10,} {end}" for end, count in ends.items()]
    for title, counts in (("clients", report.conducts), ("predictor", report.deeds), ("chaos", report.chaos)):
        lines.append(f"{title}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
    total = sum(count for ends in report.requests.values() for count in ends.values())
    lines.append(f"{total:,} requests in {report.seconds:.0f} s, {report.restarts} restarts of the predictor")
    lines.append(f"agent: {report.agent_cpu_s:.0f} CPU s, {report.agent_cpu_s / max(1, total) * 1e6:.0f} us a request")
    lines.append(
        f"memory: {min(report.rss_mib, default=0):.1f} to {max(report.rss_mib, default=0):.1f} MiB after the warm-up,"
        f" {report.rss_slope_mib_h:+.2f} MiB/h, {report.rss_growth_mib:+.2f} MiB over the run"
    )
    lines.append("descriptors: {} before, {} at most, {} after".format(*report.descriptors))
    counts = report.counts
    for name in ("failed with the predictor", "failed with a connection", "asked at a standstill"):
        lines.append(f"{counts.get(name, 0):>10,} {name}")
    lines += [f"{counts.get(name, 0):>10,} {name}: {meaning}" for name, meaning in _VERDICTS.items()]
    lines += report.problems
    lines.append("FAILED" if report.problems else "all held")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="go on for so long, and up to 1.4 times for the rest"
    )
    parser.add_argument("--requests", type=int, default=1_000_000, help="of these requests")
    parser.add_argument("--seed", type=int, default=None, help="default: another each time")
    parser.add_argument("--only", choices=["http", "grpc"], action="append", help="leave the other protocol out")
    parser.add_argument("--gap", type=float, default=4.0, metavar="SECONDS", help="mean time between two disturbances")
    parser.add_argument("--json", metavar="FILE", help="write the report there, too")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    only = frozenset(arguments.only or ("http", "grpc"))
    order = Order(arguments.requests, arguments.seconds, seed, only, arguments.gap)
    report = uvloop.run(soak(order, partial(print, flush=True)))
    print(table(report))
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump(asdict(report), file, indent=1)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
