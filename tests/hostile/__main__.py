"""Prints every class of attacks with its cases and how many of them the agent withstands.

python -m tests.hostile [--only WORDS] [--asyncio]
"""

import argparse
import asyncio
import sys
import time

import uvloop

from tests.hostile.catalogue import CATALOGUE, run
from tests.hostile.cost import costs
from tests.hostile.differential import compare


async def catalogue(only: str) -> int:
    """The table, and the failures under their class. Returns how many there are."""
    total = failed = 0
    width = max(len(attacks.name) for attacks in CATALOGUE)
    print(f"{'class':{width}}  cases  held  seconds  source")
    for attacks in CATALOGUE:
        if only not in attacks.name:
            continue
        begun = time.monotonic()
        failures = await run(attacks)
        total += len(attacks.cases)
        failed += len(failures)
        held = len(attacks.cases) - len(failures)
        took = time.monotonic() - begun
        print(f"{attacks.name:{width}}  {len(attacks.cases):5}  {held:4}  {took:7.2f}  {attacks.source}", flush=True)
        for case, error in failures:
            print(f"    {case.name}: {error!r} {'; '.join(getattr(error, '__notes__', ()))}"[:2000])
    print(f"{len(CATALOGUE)} classes, {total} cases, {total - failed} held")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="classes whose name contains this")
    parser.add_argument("--asyncio", action="store_true", help="on asyncio's loop; uvloop's otherwise")
    parser.add_argument("--peers", action="store_true", help="compare with HAProxy and Envoy")
    parser.add_argument("--cost", action="store_true", help="measure what attacks cost the agent")
    parser.add_argument("--all", action="store_true", help="with --peers: cases that all treat alike too")
    options = parser.parse_args()
    if options.cost:
        work = costs(options.only)
    else:
        work = compare(options.only, every=options.all) if options.peers else catalogue(options.only)
    with asyncio.Runner(loop_factory=None if options.asyncio else uvloop.new_event_loop) as runner:
        sys.exit(min(1, runner.run(work)))


if __name__ == "__main__":
    main()
