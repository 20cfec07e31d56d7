"""The soak, short: a few seconds with restarts. `python -m tests.soak` is the long one."""

import uvloop

from tests.soak.__main__ import table
from tests.soak.plan import REFUSALS
from tests.soak.run import Order, soak


def test_a_short_soak_holds() -> None:
    order = Order(requests=0, seconds=8.0, seed=5, only=frozenset({"http", "grpc"}), gap_s=0.5)
    said: list[str] = []
    report = uvloop.run(soak(order, said.append))
    assert not report.problems, "\n".join([*report.problems, table(report)])
    assert said
    # How much happens depends on the machine; some of everything does.
    assert report.restarts >= 2
    assert report.counts["asked at a standstill"]
    for ends in report.requests.values():
        assert ends["served"] > 100, table(report)
        assert ends["left"], table(report)
    assert REFUSALS & {end for ends in report.requests.values() for end in ends}, table(report)
