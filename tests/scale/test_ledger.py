"""What agents said last: sums, how long the last word counts, and pages that are none."""

import json

import pytest

from agent.scale import ledger
from agent.scale.ledger import Ledger, Said, Total
from tests.fakes import FakeServer, ManualClock

A, B = Said(4.0, 0.5), Said(28.0, 3.5)


def test_a_load_page_is_read() -> None:
    server, clock = FakeServer({"limit": ["8"]}), ManualClock(0.0)
    usage = server.usages["http"].learn("m", 0.0)
    for _ in range(8):
        server.admission.offer(server.admission.ticket(None, "m", usage), 0.0)
    page = server.load.answer(b"GET", b"/.headgate/load", b"", clock.advance(60.0))
    assert ledger.read(page.body) == Said(8.0, pytest.approx(1 / 0.7, abs=1e-5))


def test_without_a_limit_no_replicas_can_be_told() -> None:
    for page in (b'{"demand": 3, "limit": null, "replicas": null}', b'{"demand": 3}'):
        assert ledger.read(page) == Said(3.0, None)


@pytest.mark.parametrize(
    "page",
    [
        b"", b"no", b"[]", b"7", b"{}", b'{"demand": "1", "replicas": 1}', b"\xff",
        b'{"demand": true, "replicas": 1}', b'{"demand": NaN, "replicas": 1}', b'{"demand": 1, "replicas": Infinity}',
        b'{"demand": -1, "replicas": 1}', b'{"demand": null, "replicas": null}',
    ],
)  # fmt: skip
def test_what_is_no_load_page_counts_for_no_answer(page: bytes) -> None:
    with pytest.raises(ValueError):
        ledger.read(page)


def test_a_page_may_have_more_on_it() -> None:
    assert ledger.read(json.dumps({"demand": 1, "replicas": 2, "limit": 3, "new": {}}).encode()) == Said(1.0, 2.0)


def test_the_last_word_counts_for_a_time() -> None:
    book = Ledger(hold_s=30.0)
    assert book.keep("ab", [A, B], 100.0) == Total(32.0, 4.0, agents=2, held=0, missing=0)
    for now in (110.0, 130.0):
        assert book.keep("ab", [A, None], now) == Total(32.0, 4.0, agents=2, held=1, missing=0)
    assert book.keep("ab", [A, None], 130.1) == Total(4.0, 0.5, agents=1, held=0, missing=1)
    assert book.keep("ab", [A, B], 131.0) == Total(32.0, 4.0, agents=2, held=0, missing=0)


def test_who_is_gone_is_forgotten_at_once() -> None:
    book = Ledger(hold_s=30.0)
    book.keep("ab", [A, B], 100.0)
    assert book.keep("a", [A], 101.0).demand == 4.0
    assert book.keep("ab", [A, None], 102.0) == Total(4.0, 0.5, agents=1, held=0, missing=1)


def test_one_that_never_answered_is_missing() -> None:
    assert Ledger(30.0).keep("ab", [None, None], 0.0) == Total(0, 0, agents=0, held=0, missing=2)


def test_nobody_is_no_demand() -> None:
    assert Ledger(30.0).keep("", [], 0.0) == Total(0, 0, agents=0, held=0, missing=0)


def test_replicas_are_told_only_if_all_can_tell() -> None:
    assert Ledger(30.0).keep("ab", [A, Said(1.0, None)], 0.0) == Total(5.0, None, agents=2, held=0, missing=0)
