"""Predictors whose right limit is known, for tests and for `make bench-load`."""

from collections.abc import Sequence
from typing import NamedTuple

SLOTS = ["agent.demo.predictor", "--slots", "4", "--service-time", "20ms", "--model", "m"]


class Known(NamedTuple):
    """`right` are the limits that are right on a quiet machine, `near` those within a step of the levels.

    A slot that is freed waits for its next request to cross the loopback, so one more caller than there are slots can
    be right.
    """

    module: Sequence[str]
    levels: str
    right: range
    near: range


KNOWN = {
    "slots": Known(SLOTS, "2,3,4,6,8,12", range(4, 6), range(3, 9)),
    "sharing": Known(["tests.loadgen.models", "sharing", "4", "20"], "2,3,4,6,8,12", range(4, 6), range(3, 9)),
    # 8 in 40 + 8 ms and 2 to gather: 160 of at most 167/s; 7 make 143/s, below 95 %.
    "batch": Known(["tests.loadgen.models", "batch", "8", "40", "1"], "4,6,8,12,16", range(8, 13), range(7, 15)),
}
