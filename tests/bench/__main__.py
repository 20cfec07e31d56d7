"""Measure, print a Markdown table, write results/latest.json; exit code 1 if a `must` of the budget does not hold."""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from . import grpc_rows, report
from .backend import nginx
from .grpc_slow import slow
from .grpc_stream import stream
from .latency import latency
from .machine import describe
from .memory import memory
from .payload import ALONE, DOWNLOAD, SMALL, UNIQUE, UPLOAD
from .peers import Peer, discover, find, running
from .plan import DEFAULT, QUICK, Effort, Plan
from .process import BenchError, Cores
from .report import Samples
from .startup import startup
from .throughput import compare, refusal

ROWS: Mapping[str, Callable[[Plan], Samples]] = {
    "small": partial(compare, request=SMALL),
    "unique": partial(compare, request=UNIQUE),
    "upload": partial(compare, request=UPLOAD),
    "download": partial(compare, request=DOWNLOAD),
    "tls_small": partial(compare, request=SMALL, tls=True),
    "tls_upload": partial(compare, request=UPLOAD, tls=True),
    "tls_download": partial(compare, request=DOWNLOAD, tls=True),
    "tls_alone": partial(compare, request=ALONE, tls=True),
    "refusal": refusal,
    "memory": memory,
    "startup": startup,
    "latency": latency,
    "grpc_1x1": partial(grpc_rows.unary, work=grpc_rows.ONE),
    "grpc_8x8": partial(grpc_rows.unary, work=grpc_rows.MANY),
    "grpc_1x100": partial(grpc_rows.unary, work=grpc_rows.WIDE),
    "grpc_1mb_in": partial(grpc_rows.unary, work=grpc_rows.IN),
    "grpc_1mb_out": partial(grpc_rows.unary, work=grpc_rows.OUT),
    "grpc_stream": stream,
    "grpc_refusal": grpc_rows.refusal,
    "grpc_slow": slow,
}
RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 if a bound is broken or a row could not be measured."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that every child is ended
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = Cores.split()
    os.sched_setaffinity(0, cores.client)
    if cores.proxy & cores.client:
        _say("one core only: the proxy shares it with load and backend")
    effort = _effort(options)
    begun = time.monotonic()
    try:
        results, failures, peers, left_out = _measure(options.only, effort, cores)
    except BenchError as error:
        _say(str(error))
        return 1
    found = report.medians(results)
    document = {
        "machine": describe(cores),
        "effort": asdict(effort),
        "peers": {peer.name: peer.version for peer in peers},
        "left_out": left_out,
        "failures": failures,
        "disturbed": report.disturbed(found),
        "elapsed_s": round(time.monotonic() - begun, 1),
        "verdicts": report.verdicts(found),
        "medians": found,
        "rounds": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    if found:
        print(report.table(found))
    if rows := report.disturbed(found):
        print(f"\nother programs ran on the proxy's core during {', '.join(rows)}: repeat this on a quiet machine")
    for name, reason in left_out.items():
        print(f"\nleft out: {name}: {reason}")
    for row, reason in failures.items():
        print(f"\nNOT MEASURED: {row}: {reason}")
    return 0 if report.passed(found, failures) else 1


def _measure(
    rows: Sequence[str], effort: Effort, cores: Cores
) -> tuple[dict[str, Samples], dict[str, str], list[Peer], dict[str, str]]:
    """Run rows one after the other. Returns results, failures by row, the peers that ran, and why others did not."""
    for program in ("nginx", "wrk", "h2load", "taskset"):
        if not find(program):
            raise BenchError(f"{program} is needed and not installed (.ci/tools bench)")
    results: dict[str, Samples] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as name:
        directory = Path(name)
        with nginx(str(find("nginx")), cores, directory) as backend:
            peers, left_out = discover()
            peers = _that_start(peers, left_out, backend, cores, directory)
            plan = Plan(effort, cores, directory, backend, peers)
            for row in rows:
                _say(f"measuring {row}: {report.ROWS[row]}")
                try:
                    results[row] = ROWS[row](plan)
                except (BenchError, OSError, TimeoutError) as error:
                    failures[row] = str(error) or repr(error)
    return results, failures, peers, left_out


def _that_start(
    peers: Sequence[Peer], left_out: dict[str, str], backend: int, cores: Cores, directory: Path
) -> list[Peer]:
    """The peers that answer a request here; the others join `left_out`. Raises BenchError if the agent does not."""
    starting = []
    for peer in peers:
        try:
            with running(peer, backend, cores, directory):
                starting.append(peer)
        except (BenchError, OSError) as error:
            if peer.name == "agent":
                raise BenchError(str(error)) from error
            left_out[peer.name] = str(error)
    return starting


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", type=_rows, default=list(ROWS), metavar="ROW,ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="3 minutes in all, with coarser numbers")
    parser.add_argument("--seconds", type=_positive, help=f"length of a round (default {DEFAULT.seconds})")
    parser.add_argument("--rounds", type=_positive, help=f"rounds of the CPU rows (default {DEFAULT.rounds})")
    parser.add_argument("--output", type=Path, default=RESULTS / "latest.json", help="JSON file (default %(default)s)")
    return parser.parse_args(argv)


def _effort(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else DEFAULT
    given = {key: getattr(options, key) for key in ("seconds", "rounds") if getattr(options, key) is not None}
    return replace(effort, **given)


def _rows(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := set(asked) - set(ROWS):
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return [row for row in ROWS if row in asked]


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("a whole number from 1")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
