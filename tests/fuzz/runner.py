"""Runs targets under atheris and says what came of it; replays inputs without it."""

import re
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from tests.fuzz import bounds
from tests.fuzz.targets import Target

ROOT = Path(__file__).parent.parent.parent
# Corpora grow from run to run; nothing in the repository depends on them.
WORK = ROOT / "build" / "fuzz"

_STATUS = re.compile(r"^#(\d+)\s+\w+\s+(?:cov: (\d+) ft: (\d+) )?corp: (\d+)/", re.MULTILINE)
_NOTHING_INSTRUMENTED = "Is the code instrumented for coverage?"


class Verdict(NamedTuple):
    """`findings` are the files that hold inputs which failed; `slow` those that only failed under instrumentation."""

    name: str
    executions: int
    coverage: int
    features: int
    corpus: int
    seconds: float
    findings: list[Path]
    slow: list[Path]
    log: str

    @property
    def good(self) -> bool:
        return not self.findings and not self.log

    def __str__(self) -> str:
        verdict = "ok" if self.good else f"FAILED {' '.join(str(path) for path in self.findings) or self.log}"
        if self.slow:
            verdict += f" (slow while instrumented, not otherwise: {len(self.slow)})"
        return (
            f"{self.name:<16} {self.executions:>10} runs {self.executions / max(self.seconds, 1e-3):>7.0f}/s"
            f" {self.coverage:>6} edges {self.features:>6} features {self.corpus:>6} inputs  {verdict}"
        )


def is_available() -> bool:
    """Whether there is an atheris for this Python."""
    return find_spec("atheris") is not None


def replay(target: Target, data: bytes) -> None:
    """Judge an input, then its memory and its CPU. Raises whatever `check` does."""
    tracemalloc.start()
    try:
        target.check(data)
    finally:
        tracemalloc.stop()
    for attempts_left in (2, 1, 0):
        try:
            target.check(data)
        except bounds.ExcessError:
            if not attempts_left:
                raise
        else:
            return


def fuzz(
    target: Target, *, seconds: int, runs: int = -1, seed: int = 0, largest: int = 1 << 16, work: Path = WORK
) -> Verdict:
    """Run one target for so many seconds or so many runs, whichever ends first. `seed` 0 is another one each time.

    The inputs to begin with, of which none is above `largest` bytes, are tried in any case.
    """
    corpus, begin, found = (work / kind / target.name for kind in ("corpus", "seeds", "findings"))
    for folder in (corpus, begin, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.inputs()):
        if len(data) <= largest:
            (begin / f"{number:04}").write_bytes(data)
    before = set(found.iterdir())
    flags = {
        "max_total_time": seconds,
        "runs": runs,
        "seed": seed,
        "max_len": largest,
        "timeout": 20,
        "rss_limit_mb": 1024,
        "artifact_prefix": f"{found}/",
    }
    argv = [
        sys.executable,
        "-m",
        "tests.fuzz.child",
        target.name,
        *(f"-{name}={value}" for name, value in flags.items()),
    ]
    start = monotonic()
    ended = subprocess.run(
        [*argv, str(corpus), str(begin)], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    return _verdict(target, ended, sorted(set(found.iterdir()) - before), monotonic() - start)


def _verdict(target: Target, ended: "subprocess.CompletedProcess[str]", files: list[Path], seconds: float) -> Verdict:
    statuses = _STATUS.findall(ended.stderr)
    executions, coverage, features, corpus = (int(number or 0) for number in (statuses or [("0", "", "", "0")])[-1])
    findings, slow = [], []
    for path in files:
        try:
            replay(target, path.read_bytes())
        except Exception:
            findings.append(path)
        else:
            slow.append(path)
    log = ""
    if (ended.returncode and not files) or _NOTHING_INSTRUMENTED in ended.stderr or not executions:
        log = f"exit code {ended.returncode}: {ended.stderr[-2000:]}"
    return Verdict(target.name, executions, coverage, features, corpus, seconds, findings, slow, log)
