"""The report on fixed numbers: medians, bounds at their edge, missing peers, the table."""

import pytest

from .report import CHECKS, LABELS, ROWS, Check, Verdict, disturbed, medians, passed, table, verdicts

RATIO = Check("small", "cpu_us", must=0.8, aim=0.5, versus=("envoy", "cpu_us"))
ABSOLUTE = Check("startup", "first_answer_ms", must=250, aim=120)
WISH = Check("refusal", "cpu_us", must=None, aim=10)


def small(agent: float, envoy: float) -> dict[str, dict[str, dict[str, float]]]:
    return {"small": {"agent": {"cpu_us": agent}, "envoy": {"cpu_us": envoy}}}


def test_medians_are_taken_for_each_metric_by_itself() -> None:
    rounds = [{"cpu_us": 3.0, "rps": 10.0}, {"cpu_us": 1.0, "rps": 30.0}, {"cpu_us": 2.0, "rps": 20.0}]
    assert medians({"small": {"agent": rounds}}) == {"small": {"agent": {"cpu_us": 2.0, "rps": 20.0}}}


def test_a_peer_without_rounds_is_left_out_of_the_medians() -> None:
    assert medians({"small": {"agent": []}}) == {"small": {}}


@pytest.mark.parametrize(
    ("agent", "verdict"), [(50, Verdict.AIM), (50.1, Verdict.PASS), (80, Verdict.PASS), (80.1, Verdict.FAIL)]
)
def test_a_relative_bound_counts_in_multiples_of_the_peer(agent: float, verdict: Verdict) -> None:
    assert RATIO.verdict(small(agent, 100)) is verdict


@pytest.mark.parametrize(("ms", "verdict"), [(120, Verdict.AIM), (250, Verdict.PASS), (251, Verdict.FAIL)])
def test_an_absolute_bound_needs_no_peer(ms: float, verdict: Verdict) -> None:
    assert ABSOLUTE.verdict({"startup": {"agent": {"first_answer_ms": ms}}}) is verdict


@pytest.mark.parametrize(("us", "verdict"), [(10, Verdict.AIM), (11, Verdict.MISSED)])
def test_an_aim_without_a_must_never_fails(us: float, verdict: Verdict) -> None:
    assert WISH.verdict({"refusal": {"agent": {"cpu_us": us}}}) is verdict


@pytest.mark.parametrize("found", [{}, {"small": {"agent": {"cpu_us": 1.0}}}, small(1.0, 0.0)])
def test_what_was_not_measured_has_no_verdict(found: dict[str, dict[str, dict[str, float]]]) -> None:
    assert RATIO.value(found) is None
    assert RATIO.verdict(found) is Verdict.UNKNOWN


def test_a_broken_bound_or_a_row_that_failed_fails_the_run() -> None:
    assert passed(small(79, 100), {})
    assert not passed(small(81, 100), {})
    assert not passed(small(79, 100), {"latency": "no answer"})


@pytest.mark.parametrize(("share", "rows"), [(0.05, []), (0.06, ["small"])])
def test_a_busy_machine_is_noticed_through_any_peer(share: float, rows: list[str]) -> None:
    quiet, busy = {"others_share": 0.0}, {"others_share": share}
    assert disturbed({"small": {"agent": quiet, "envoy": busy}, "latency": {"agent": {"p50_us": 1.0}}}) == rows


def test_every_check_can_be_shown() -> None:
    for check in CHECKS:
        assert check.row in ROWS
        assert check.metric in LABELS
        assert check.budget().startswith(("must <= ", "aim <= "))


@pytest.mark.parametrize(
    ("row", "agent", "broken"),
    [
        ("grpc_8x8", {"cpu_us": 12.0}, False),
        ("grpc_8x8", {"cpu_us": 12.1}, True),
        ("grpc_1mb_in", {"cpu_us": 11.1}, True),
        ("grpc_1mb_out", {"cpu_us": 11.1}, True),
        ("grpc_1x1", {"cpu_us": 99.0}, False),
        ("grpc_refusal", {"cpu_us": 6.0, "admitted_cpu_us": 10.0}, False),
        ("grpc_refusal", {"cpu_us": 6.1, "admitted_cpu_us": 10.0}, True),
        ("grpc_slow", {"up_mib": 32.0, "down_mib": 32.0}, False),
        ("grpc_slow", {"up_mib": 32.1, "down_mib": 1.0}, True),
        ("grpc_slow", {"up_mib": 1.0, "down_mib": 32.1}, True),
    ],
)
def test_the_budget_for_grpc(row: str, agent: dict[str, float], broken: bool) -> None:
    peers = {"haproxy": {"cpu_us": 4.0}, "envoy": {"cpu_us": 10.0}}
    assert passed({row: {"agent": agent, **peers}}, {}) is not broken


def test_three_times_haproxy_is_the_most_for_a_small_call() -> None:
    found = {"agent": {"cpu_us": 9.1}, "haproxy": {"cpu_us": 3.0}, "envoy": {"cpu_us": 10.0}}
    assert not passed({"grpc_8x8": found}, {})


def test_verdicts_cover_the_measured_rows_alone() -> None:
    found = [verdict for verdict in verdicts(small(90, 100)) if verdict["versus"] == ("envoy", "cpu_us")]
    assert [(verdict["value"], verdict["verdict"]) for verdict in found] == [(0.9, "FAIL")]
    assert {verdict["row"] for verdict in verdicts(small(90, 100))} == {"small"}


def test_the_table_has_a_line_for_each_bound_and_only_the_peers_that_ran() -> None:
    header, rule, first, second = table(small(40, 100)).splitlines()
    assert [cell.strip() for cell in header.split("|")[3:-1]] == ["agent", "Envoy", "budget", "result"]
    assert set(rule) <= set("|- ")
    assert "must <= 0.8, aim <= 0.5 x Envoy" in first
    assert "0.4: pass, aim met" in first
    assert "not measured" in second
