"""PURE: two results side by side, with a verdict for each figure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loadgen.document import read_levels
from loadgen.level import Level, generator_problem
from loadgen.report import table
from loadgen.units import format_latency, format_rate

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
_Z = 2.58  # 99 %: a comparison asks many questions at once


class Verdict(NamedTuple):
    """One line: `change` is relative, `noise` half its interval; `word` is what they come to."""

    name: str
    base: str
    new: str
    change: float | None
    noise: float
    word: str

    @property
    def is_regression(self) -> bool:
        """Whether it got worse by more than the tolerance and the noise."""
        return self.word == "REGRESSION"


def compare(base: Mapping[str, Any], new: Mapping[str, Any], tolerance: float) -> list[Verdict]:
    """Level by level where both have the same load, and the recommendations where both have one. Raises
    DocumentError."""
    verdicts = []
    news = {(level.kind, level.name): level for level in read_levels(new)}
    for level in read_levels(base):
        other = news.get((level.kind, level.name))
        # A proof's rate follows from each sweep; only equal rates can be compared.
        if other is not None:
            verdicts += _levels(level, other, tolerance)
    before, after = ((document.get("advice") or {}).get("limit") for document in (base, new))
    if before is not None and after is not None:
        word = "same" if before == after else "changed"
        verdicts.append(Verdict("recommended limit", f"{before}", f"{after}", None, 0.0, word))
    return verdicts


def _levels(base: Level, new: Level, tolerance: float) -> list[Verdict]:
    trusted = not any(generator_problem(level) for level in (base, new))
    name = f"at {base.name}"
    noise = math.hypot(base.half_width, new.half_width)
    rates = base.throughput, new.throughput
    found = [_verdict(f"throughput {name}", rates, noise, tolerance, format_rate, more_is_better=True)]
    for label, quantile in _QUANTILES:
        if base.answers.is_enough_for(quantile) and new.answers.is_enough_for(quantile):
            values = base.answers.percentile(quantile), new.answers.percentile(quantile)
            noise = math.hypot(*(_width(level, quantile) for level in (base, new)))
            found.append(_verdict(f"{label} {name}", values, noise, tolerance, format_latency, more_is_better=False))
    bad = [1 - level.answers.count / level.total.count if level.total.count else 0.0 for level in (base, new)]
    errors = math.hypot(_share_width(bad[0], base.total.count), _share_width(bad[1], new.total.count))
    worse = bad[1] - bad[0] > tolerance and bad[1] - bad[0] > errors
    found.append(
        Verdict(f"not answered {name}", f"{bad[0]:.1%}", f"{bad[1]:.1%}", None, 0.0, "REGRESSION" if worse else "ok")
    )
    return [verdict if trusted else verdict._replace(word="not trusted") for verdict in found]


def _verdict(
    name: str, values: tuple[float, float], noise: float, tolerance: float, show: Any, *, more_is_better: bool
) -> Verdict:
    base, new = values
    if not base:
        return Verdict(name, show(base), show(new), None, 0.0, "no base")
    change = new / base - 1
    worse = -change if more_is_better else change
    if abs(change) <= max(noise, 0.0):
        word = "within noise"
    elif worse > tolerance:
        word = "REGRESSION"
    else:
        word = "better" if worse < -tolerance else "within tolerance"
    return Verdict(name, show(base), show(new), change, noise, word)


def _width(level: Level, quantile: float) -> float:
    """Half the 99 % interval of a percentile, relative: the order statistics on both sides of it (binomial)."""
    answers = level.answers
    spread = _Z * math.sqrt(quantile * (1 - quantile) / answers.count)
    low, high = (answers.percentile(min(1.0, max(0.0, quantile + sign * spread))) for sign in (-1, 1))
    middle = answers.percentile(quantile)
    # A bucket is up to 0.8 % wide, so nothing below that can be told apart.
    return max((high - low) / 2 / middle if middle else 0.0, 1 / 128)


def _share_width(share: float, count: int) -> float:
    return _Z * math.sqrt(max(share * (1 - share), 1 / max(count, 1)) / max(count, 1))


def render(verdicts: Sequence[Verdict], base: str, new: str, tolerance: float) -> str:
    """The table for a terminal."""
    rows: list[tuple[str, ...]] = [("", base, new, "change", "verdict")]
    for verdict in verdicts:
        change = "" if verdict.change is None else f"{verdict.change:+.1%} +-{verdict.noise:.1%}"
        word = f"REGRESSION (tolerance {tolerance:.0%})" if verdict.is_regression else verdict.word
        rows.append((verdict.name, verdict.base, verdict.new, change, word))
    return "\n".join(table(rows))
