"""The judge of the soak finds what it is there to find."""

from collections import Counter

import pytest

from tests.soak import book
from tests.soak.judge import Line, Verdict, judge_requests, judge_sums, line_through
from tests.soak.ledger import OPEN, Entry, Incident, Standstill
from tests.soak.plan import CUT, HUNG, LEFT, SERVED, UNSERVED, WRONG, Conduct, Deed

NEVER_CAME: Line = (0, 0, 0, book.NOTHING)
ANSWERED: Line = (1, 1, 0, book.ANSWERED)
FAILED: Line = (1, 1, 0, book.FAILED)
COLLATERAL: Line = (1, 1, 0, book.COLLATERAL)
KILL = Incident("kill", 100.0, 102.0, slots=2)


def entry(
    end: str, deed: Deed = Deed.ANSWER, protocol: str = "http", asked: float = 10.0, ended: float = 11.0
) -> Entry:
    return Entry(1, protocol, deed, Conduct.PLAIN, end, asked, ended)


def verdict_on(*requests: tuple[Entry, Line], standstills: list[Standstill] | None = None) -> dict[str, int]:
    verdict = Verdict()
    judge_requests(verdict, requests, [KILL], standstills or [], slots=4)
    harmless = {"asked at a standstill", "failed with the predictor", "failed with a connection"}
    faults = {kind: count for kind, count in verdict.counts.items() if kind not in harmless}
    assert bool(verdict.problems) == bool(faults)
    return faults


@pytest.mark.parametrize(
    ("end", "line", "deed"),
    [
        (SERVED, ANSWERED, Deed.ANSWER),
        (SERVED, (1, 0, 0, book.ANSWERED), Deed.EARLY),
        (SERVED, (3, 1, 2, book.ANSWERED), Deed.HANDED_BACK),
        ("queue_full", NEVER_CAME, Deed.ANSWER),
        ("expired", (1, 0, 1, book.NOTHING), Deed.HANDED_BACK),
        (UNSERVED, NEVER_CAME, Deed.ANSWER),
        (LEFT, NEVER_CAME, Deed.ANSWER),
        (LEFT, ANSWERED, Deed.ANSWER),
        ("timeout", FAILED, Deed.NEVER),
        ("upstream_closed", FAILED, Deed.RESET),
        (CUT, FAILED, Deed.TRUNCATED),
        ("upstream_closed", COLLATERAL, Deed.ANSWER),
    ],
)
def test_what_may_happen(end: str, line: Line, deed: Deed) -> None:
    assert verdict_on((entry(end, deed), line)) == {}


@pytest.mark.parametrize(
    ("end", "line", "deed", "fault"),
    [
        (OPEN, ANSWERED, Deed.ANSWER, "drift"),
        (HUNG, ANSWERED, Deed.ANSWER, "drift"),
        (WRONG, ANSWERED, Deed.ANSWER, "misrouted"),
        (SERVED, (2, 2, 0, book.ANSWERED), Deed.ANSWER, "duplicated"),
        (LEFT, (2, 0, 0, book.NOTHING), Deed.ANSWER, "duplicated"),
        (SERVED, NEVER_CAME, Deed.ANSWER, "served by nobody"),
        (SERVED, FAILED, Deed.RESET, "served by nobody"),
        (SERVED, (1, 0, 0, book.ANSWERED), Deed.ANSWER, "served by nobody"),
        ("queue_full", (1, 0, 0, book.NOTHING), Deed.ANSWER, "refused and executed"),
        (UNSERVED, ANSWERED, Deed.ANSWER, "refused and executed"),
        ("internal", NEVER_CAME, Deed.ANSWER, "outcome internal"),
        ("bad_request", NEVER_CAME, Deed.ANSWER, "outcome bad_request"),
        ("upstream_closed", NEVER_CAME, Deed.ANSWER, "lost"),
        ("upstream_closed", NEVER_CAME, Deed.RESET, "lost"),
        ("upstream_invalid", FAILED, Deed.RESET, "lost"),
        (CUT, ANSWERED, Deed.ANSWER, "lost"),
    ],
)
def test_what_may_not(end: str, line: Line, deed: Deed, fault: str) -> None:
    assert verdict_on((entry(end, deed), line)) == {fault: 1}


def test_a_predictor_that_dies_takes_no_more_along_than_it_had() -> None:
    failed = (entry("upstream_closed", asked=99.0, ended=100.5), NEVER_CAME)
    assert verdict_on(failed, failed) == {}
    assert verdict_on(failed, failed, failed) == {"lost": 1}
    late = (entry("upstream_closed", asked=99.0, ended=102.5), NEVER_CAME)
    assert verdict_on(late) == {"lost": 1}


@pytest.mark.parametrize(
    ("protocol", "end", "lost"),
    [
        ("grpc", "upstream_closed", {}),
        ("grpc", "upstream_invalid", {"lost": 1}),  # which takes garbage
        ("http", "upstream_closed", {"lost": 1}),
    ],
)
def test_a_connection_that_breaks_takes_calls_along(protocol: str, end: str, lost: dict[str, int]) -> None:
    breaking = (entry("upstream_closed", Deed.ABORT, "grpc", 20.0, 20.1), FAILED)
    assert verdict_on(breaking, (entry(end, Deed.ANSWER, protocol, 20.0, 20.2), NEVER_CAME)) == lost


@pytest.mark.parametrize(
    ("end", "asked", "freed", "lost"),
    [
        ("upstream_closed", 99.5, 0, {"lost": 1}),
        ("upstream_closed", 99.5, 1, {}),
        ("upstream_closed", 98.5, 0, {}),  # it may have had a slot
        (SERVED, 99.5, 0, {}),
        ("queue_full", 99.5, 0, {}),
    ],
)
def test_who_had_only_been_queued_is_not_lost(end: str, asked: float, freed: int, lost: dict[str, int]) -> None:
    line = ANSWERED if end == SERVED else NEVER_CAME
    standstills = [Standstill(99.0, 100.0, freed, "")]
    assert verdict_on((entry(end, asked=asked, ended=101.0), line), standstills=standstills) == lost


@pytest.mark.parametrize(
    ("ends", "booked", "reached", "agrees"),
    [
        ({SERVED: 5}, {"served": 5}, 0, True),
        ({SERVED: 5}, {"served": 4}, 0, False),
        ({SERVED: 5}, {"served": 6}, 0, False),
        ({SERVED: 5, LEFT: 2}, {"served": 6, "client_gone": 1}, 1, True),
        ({SERVED: 5, LEFT: 2}, {"served": 6}, 0, True),  # the other was never a request
        ({SERVED: 5, LEFT: 2}, {"served": 6}, 2, False),  # but it was
        ({SERVED: 5, LEFT: 2}, {"served": 6, "client_gone": 2}, 0, False),
        ({SERVED: 5, CUT: 2}, {"served": 5, "upstream_truncated": 1, "timeout": 1}, 0, True),
        ({SERVED: 5, CUT: 2}, {"served": 5, "upstream_truncated": 1}, 0, False),
        ({"queue_full": 1}, {}, 0, False),
        ({}, {"internal": 1}, 0, False),
    ],
)
def test_the_sums(ends: dict[str, int], booked: dict[str, int], reached: int, *, agrees: bool) -> None:
    verdict = Verdict()
    judge_sums(
        verdict,
        Counter({("http", end): count for end, count in ends.items()}),
        {("http", outcome): count for outcome, count in booked.items()},
        {"http": reached, "grpc": 0},
    )
    assert (not verdict.problems) == agrees


def test_the_line_through_samples() -> None:
    assert line_through([]) == line_through([(1.0, 5.0)]) == 0.0
    assert line_through([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert line_through([(0.0, 1.0), (1.0, 2.0), (2.0, 1.0)]) == pytest.approx(0.0)
