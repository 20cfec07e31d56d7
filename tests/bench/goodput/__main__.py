"""Measure goodput under overload, print Markdown, write JSON and a chart; exit code 1 if a bound does not hold.

Open-loop Poisson load at 0.8, 1.2, 2 and 4 times what the predictor can answer; every caller grants half a second and
says so. All of it takes forty minutes.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from loadgen.run import allow_many_connections
from tests.bench.machine import describe
from tests.bench.peers import find
from tests.bench.process import Cores
from tests.contract import install

from . import chart, grid, load, verdicts
from .figures import DEADLINE_S
from .grid import Cell
from .run import Run, say

_DEFAULT = load.Effort(warm_up_s=3, measured_s=15, capacity_s=15)
_QUICK = load.Effort(warm_up_s=2, measured_s=6, capacity_s=6)
# Its draws are within 2 % of the planned number of requests in every cell, so a load is what its name says.
_SEED = 2
_RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if a bound is broken or something could not be measured."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that every child is ended
    allow_many_connections()
    cores = Cores.split()
    os.sched_setaffinity(0, cores.client)
    if not find("taskset"):
        say("taskset is needed and not installed")
        return 1
    if any(cell.panel.predictor == "triton" for cell in options.only):
        try:
            say(install.TRITON.install())
        except (install.InstallError, OSError) as error:
            say(f"Triton: {error}")  # its panels say so too
    effort = _effort(options)
    run = Run(effort, cores, options.seed)
    run.measure(options.only)
    found = [finding for cell, figures in run.results.items() for finding in verdicts.findings(cell, figures)]
    document = {
        "machine": describe(cores),
        "effort": asdict(effort),
        "deadline_s": DEADLINE_S,
        "seed": options.seed,
        "versions": run.versions,
        "capacities": {panel.title: rate for panel, rate in run.capacities.items()},
        "failures": run.failures,
        "cells": [{**_named(cell), **asdict(figures)} for cell, figures in run.results.items()],
        "verdicts": [
            {**_named(one.cell), "what": one.what, "value": one.value, "verdict": one.verdict.value} for one in found
        ],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    if run.results:
        options.output.with_suffix(".svg").write_text(chart.draw(run.results))
        print(verdicts.table(run.results, run.capacities))
    for cell in verdicts.late_generators(run.results):
        print(f"\nthe load generator was late itself, so times are too long: {cell}")
    for what, reason in run.failures.items():
        print(f"\nNOT MEASURED: {what}: {reason}")
    return 0 if verdicts.passed(found) and not run.failures else 1


def _named(cell: Cell) -> dict[str, object]:
    return {**cell.panel._asdict(), "contestant": cell.contestant, "load": cell.load}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.goodput", description=__doc__)
    parser.add_argument(
        "--only",
        type=_cells,
        default=grid.select(()),
        metavar="WORD,WORD",
        help=f"a part of it, of {', '.join(grid.known_names())}",
    )
    parser.add_argument("--quick", action="store_true", help="a third of the time, with coarser numbers")
    parser.add_argument("--warm-up", type=float, metavar="S", help=f"seconds before (default {_DEFAULT.warm_up_s:g})")
    parser.add_argument("--seconds", type=float, metavar="S", help=f"measured (default {_DEFAULT.measured_s:g})")
    parser.add_argument("--seed", type=int, default=_SEED, help="of the arrival times (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=_RESULTS / "goodput.json",
        help="JSON file; the chart lies beside (default %(default)s)",
    )
    return parser.parse_args(argv)


def _effort(options: argparse.Namespace) -> load.Effort:
    effort = _QUICK if options.quick else _DEFAULT
    given = {"warm_up_s": options.warm_up, "measured_s": options.seconds}
    return replace(effort, **{key: seconds for key, seconds in given.items() if seconds is not None})


def _cells(text: str) -> list[Cell]:
    try:
        return grid.select(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
