"""Every target for some hundred inputs under atheris; `make fuzz` is the long version."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.bounds import SMALL
from tests.fuzz.targets import NAMES, load

RUNS = 800
# Far more than it takes; a machine that is slower finds less.
SECONDS = 3

pytestmark = pytest.mark.skipif(not runner.is_available(), reason="atheris has no wheel for this Python")


def test_targets_find_nothing(tmp_path: Path) -> None:
    fuzz = partial(runner.fuzz, seconds=SECONDS, runs=RUNS, seed=1, largest=SMALL, work=tmp_path)
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(fuzz, map(load, NAMES)))
    print(*verdicts, sep="\n")
    for verdict in verdicts:
        assert verdict.good, verdict
        assert verdict.features > 10, f"{verdict.name} is not instrumented"
