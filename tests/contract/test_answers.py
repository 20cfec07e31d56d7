"""Every answer through the agent equals the direct one, byte for byte."""

from collections.abc import Iterable

import pytest

from . import cases
from .cases import Case
from .conftest import Pair
from .rawhttp import exchange

pytestmark = pytest.mark.contract


def table(rows: Iterable[Case]) -> pytest.MarkDecorator:
    """Each case with each predictor that it is about."""
    return pytest.mark.parametrize(
        ("pair", "case"),
        [pytest.param(name, case, id=f"{name}: {case.name}") for case in rows for name in case.predictors],
        indirect=["pair"],
    )


def check(pair: Pair, case: Case) -> None:
    """Ask both ways."""
    direct, through = (
        [answer.comparable() for answer in exchange(address, *case.requests)] for address in pair.addresses
    )
    assert [answer.status for answer in direct] == list(case.statuses), direct[0].body[:200]
    # One by one: pytest explains the difference of two answers better than that of two lists.
    for expected, answer in zip(direct, through, strict=True):
        assert (answer.status_line, answer.fields) == (expected.status_line, expected.fields)
        # Compared before assert, whose explanation of a difference in megabytes takes minutes.
        same = answer.body == expected.body
        assert same, f"{answer.body[:200]!r} is not {expected.body[:200]!r}"
        assert answer == expected


@table(cases.inference())
def test_inference(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(cases.compression())
def test_compression(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(cases.tensors())
def test_tensors(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(cases.metadata())
def test_metadata(pair: Pair, case: Case) -> None:
    check(pair, case)


@table(cases.sequences())
def test_one_connection(pair: Pair, case: Case) -> None:
    check(pair, case)
