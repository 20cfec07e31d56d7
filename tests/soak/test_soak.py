"""The soak, short: a few seconds with restarts. `python -m tests.soak` is the long one."""

import uvloop

from tests.soak.__main__ import table
from tests.soak.run import Order, soak


def test_a_short_soak_holds() -> None:
    order = Order(requests=0, seconds=12.0, seed=5, only=frozenset({"http", "grpc"}), gap_s=0.5)
    said: list[str] = []
    report = uvloop.run(soak(order, said.append))
    assert not report.problems, table(report)
    assert report.restarts >= 2
    assert said
    assert report.counts["asked at a standstill"]
    for protocol in ("http", "grpc"):
        ends = report.requests[protocol]
        assert ends["served"] > 500, table(report)
        assert {"queue_full", "upstream_closed", "left"} <= ends.keys(), table(report)
