"""Fuzz: `python -m tests.fuzz [TARGET...] --seconds N` (N seconds for all of them together), or `--replay FILE...`."""

import argparse
import sys
from pathlib import Path

from tests.fuzz import runner
from tests.fuzz.targets import NAMES, load


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--replay", nargs="+", type=Path, default=[], metavar="FILE", help="judge these inputs instead")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    targets = [load(name) for name in asked.targets or NAMES]
    if asked.replay:
        for target in targets:
            for path in asked.replay:
                runner.replay(target, path.read_bytes())
                print(f"{target.name} {path}: ok")
        return 0
    if not runner.is_available():
        print("atheris has no wheel for this Python: the corpus is replayed instead")
        for target in targets:
            inputs = target.inputs()
            for data in inputs:
                runner.replay(target, data)
            print(f"{target.name:<16} {len(inputs):>10} replayed  ok")
        return 0
    good = True
    for target in targets:
        verdict = runner.fuzz(target, seconds=max(1, asked.seconds // len(targets)))
        print(verdict, flush=True)
        good &= verdict.good
    return not good


if __name__ == "__main__":
    sys.exit(main())
