"""The bounds at their edges, and the table."""

from dataclasses import replace

import pytest

from tests.bench.report import Verdict

from .figures import Figures
from .grid import CONTESTANTS, Cell, Panel
from .verdicts import JUDGED, findings, late_generators, passed, table

PANEL = Panel("demo", "http")
FIGURES = Figures(
    offered=1000,
    goodput=0.99,
    refused=0.5,
    expired=0.0,
    late=7,
    unanswered=8,
    failed=9,
    p50_ms=50.0,
    p99_ms=60.04,
    refusal_p50_ms=0.3,
    refusal_p99_ms=19.9,
    lag_p99_ms=0.1,
)
BELOW = replace(FIGURES, goodput=0.8, refused=0.005, expired=0.0)


def verdicts_of(load: float, figures: Figures, contestant: str = "deadline") -> dict[str, Verdict]:
    return {found.what: found.verdict for found in findings(Cell(PANEL, contestant, load), figures)}


@pytest.mark.parametrize("contestant", JUDGED)
@pytest.mark.parametrize(
    ("goodput", "verdict"),
    [(1.01, Verdict.AIM), (0.99, Verdict.AIM), (0.9899, Verdict.PASS), (0.95, Verdict.PASS), (0.9499, Verdict.FAIL)],
)
def test_beyond_capacity_goodput_counts(contestant: str, goodput: float, verdict: Verdict) -> None:
    found = verdicts_of(1.2, replace(FIGURES, goodput=goodput), contestant)
    assert found == {"goodput": verdict, "refusal": Verdict.AIM}


@pytest.mark.parametrize(
    ("refused", "expired", "verdict"),
    [(0.005, 0.0, Verdict.AIM), (0.0051, 0.0, Verdict.FAIL), (0.0, 0.0051, Verdict.FAIL), (0.003, 0.003, Verdict.FAIL)],
)
def test_below_capacity_what_is_turned_away_counts(refused: float, expired: float, verdict: Verdict) -> None:
    assert verdicts_of(0.8, replace(BELOW, refused=refused, expired=expired))["refused"] is verdict


@pytest.mark.parametrize("load", [0.8, 4.0])
@pytest.mark.parametrize(("p99_ms", "verdict"), [(19.9, Verdict.AIM), (20.0, Verdict.FAIL)])
def test_refusals_are_fast_at_any_load(load: float, p99_ms: float, verdict: Verdict) -> None:
    assert verdicts_of(load, replace(BELOW, goodput=1, refusal_p99_ms=p99_ms))["refusal"] is verdict


def test_without_refusals_there_is_nothing_to_say_of_them() -> None:
    assert set(verdicts_of(0.8, replace(BELOW, refused=0.0, refusal_p50_ms=None, refusal_p99_ms=None))) == {"refused"}


@pytest.mark.parametrize("contestant", sorted(set(CONTESTANTS) - set(JUDGED)))
def test_the_others_are_not_judged(contestant: str) -> None:
    assert not verdicts_of(4.0, replace(FIGURES, goodput=0.0), contestant)


def test_one_broken_bound_fails_the_run() -> None:
    good = findings(Cell(PANEL, "auto", 2.0), FIGURES)
    bad = findings(Cell(PANEL, "auto", 4.0), replace(FIGURES, goodput=0.5))
    assert passed([])
    assert passed(good)
    assert not passed([*good, *bad])


def test_a_late_generator_is_named() -> None:
    results = {Cell(PANEL, "none", load): replace(FIGURES, lag_p99_ms=lag) for load, lag in ((2.0, 5.0), (4.0, 5.1))}
    assert late_generators(results) == [Cell(PANEL, "none", 4.0)]


def test_the_table_has_a_part_for_each_panel_and_a_line_for_each_cell() -> None:
    other = Panel("triton", "grpc")
    results = {
        Cell(PANEL, "deadline", 2.0): FIGURES,
        Cell(PANEL, "none", 4.0): replace(FIGURES, goodput=0.0, refusal_p50_ms=None, refusal_p99_ms=None),
        Cell(other, "auto", 0.8): BELOW,
    }
    first, second = table(results, {PANEL: 160.0, other: 155.55, Panel("demo", "grpc"): 1.0}).split("\n\n**")
    assert "**demo predictor, HTTP**: 160.0 answers/s at most" in first
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("|")]
    assert rows[2] == [
        *("Headgate, fixed limit", "2x", "99.0%", "50.0%", "0.0%", "7", "8", "9", "50.0 / 60.0", "0.3 / 19.9"),
        "goodput pass, aim met, refusal pass, aim met",
    ]
    assert rows[3][:3] == ["no gate", "4x", "0.0%"]
    assert rows[3][-2:] == ["", ""]
    assert second.startswith("Triton, gRPC**: 155.6")
    assert len({len(line) for line in first.splitlines() if line.startswith("|")}) == 1
