"""PURE: what the agent's default policy must reach, and the table for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.bench.report import Verdict

from .figures import Figures
from .grid import CONTESTANTS, Cell, Panel

# The bounds are for these two; the others are there to compare with.
JUDGED = ("deadline", "auto")

_GOODPUT_MUST, _GOODPUT_AIM = 0.95, 0.99
_REFUSED_MUST = 0.005
_REFUSAL_MUST_MS = 20.0
# A generator later than this describes itself, or a machine with other work.
_LAG_MS = 5.0

_COLUMNS = (
    "in front",
    "load",
    "goodput",
    "refused",
    "expired",
    "late",
    "unanswered",
    "failed",
    "p50 / p99 of answers, ms",
    "p50 / p99 of refusals, ms",
    "verdict",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A bound that was checked on one cell."""

    cell: Cell
    what: str
    value: float
    verdict: Verdict


def findings(cell: Cell, figures: Figures) -> list[Finding]:
    """Every bound on a cell: goodput beyond capacity, refusals below it, and how fast they are."""
    if cell.contestant not in JUDGED:
        return []
    found = []
    if cell.load > 1:
        good = figures.goodput
        verdict = Verdict.AIM if good >= _GOODPUT_AIM else Verdict.PASS if good >= _GOODPUT_MUST else Verdict.FAIL
        found.append(Finding(cell, "goodput", good, verdict))
    else:
        turned_away = figures.refused + figures.expired
        found.append(Finding(cell, "refused", turned_away, _within(turned_away <= _REFUSED_MUST)))
    if figures.refusal_p99_ms is not None:
        found.append(
            Finding(cell, "refusal", figures.refusal_p99_ms, _within(figures.refusal_p99_ms < _REFUSAL_MUST_MS))
        )
    return found


def _within(holds: bool) -> Verdict:
    return Verdict.AIM if holds else Verdict.FAIL


def passed(found: Iterable[Finding]) -> bool:
    """Whether every bound that was checked holds."""
    return all(finding.verdict is not Verdict.FAIL for finding in found)


def late_generators(results: Mapping[Cell, Figures]) -> list[Cell]:
    """The cells in which the load generator was late itself."""
    return [cell for cell, figures in results.items() if (figures.lag_p99_ms or 0) > _LAG_MS]


def table(results: Mapping[Cell, Figures], capacities: Mapping[Panel, float]) -> str:
    """A Markdown table for each panel, one line a cell."""
    parts = []
    for panel, capacity in capacities.items():
        rows = [_row(cell, figures) for cell, figures in results.items() if cell.panel == panel]
        if rows:
            parts.append(f"**{panel.title}**: {capacity:.1f} answers/s at most\n\n{_markdown([_COLUMNS, *rows])}")
    return "\n\n".join(parts)


def _row(cell: Cell, figures: Figures) -> tuple[str, ...]:
    return (
        CONTESTANTS[cell.contestant],
        f"{cell.load:g}x",
        f"{figures.goodput:.1%}",
        f"{figures.refused:.1%}",
        f"{figures.expired:.1%}",
        str(figures.late),
        str(figures.unanswered),
        str(figures.failed),
        _pair(figures.p50_ms, figures.p99_ms),
        _pair(figures.refusal_p50_ms, figures.refusal_p99_ms),
        ", ".join(f"{finding.what} {finding.verdict.value}" for finding in findings(cell, figures)),
    )


def _pair(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.1f} / {high:.1f}"


def _markdown(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    )
