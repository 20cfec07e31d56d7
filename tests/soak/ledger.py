"""Every request and how it ended, as its client saw it; and what happened to the predictor meanwhile."""

from array import array
from collections import Counter
from time import monotonic
from typing import NamedTuple

from tests.soak.plan import Conduct, Deed, Plan

_DEEDS = list(Deed)
_CONDUCTS = list(Conduct)
OPEN = "open"


class Entry(NamedTuple):
    """One request. `asked` and `ended` are monotonic seconds."""

    number: int
    protocol: str
    deed: Deed
    conduct: Conduct
    end: str
    asked: float
    ended: float


class Incident(NamedTuple):
    """The predictor was lost between two moments. `slots` requests may have been in its hands, and no more."""

    kind: str
    begin: float
    end: float
    slots: int


class Standstill(NamedTuple):
    """All slots were taken by a predictor that stood still, and then died.

    Who asked between the two moments had only been queued, but for `freed` who may have got a slot after all. `facts`
    is what the agent showed, in words.
    """

    begin: float
    end: float
    freed: int
    facts: str


class Ledger:
    """Numbers requests from 1 and keeps what became of each: 22 bytes a request."""

    def __init__(self) -> None:
        self.ends: Counter[tuple[str, str]] = Counter()
        self.conducts: Counter[str] = Counter()
        self.deeds: Counter[str] = Counter()
        self.probes: Counter[bool] = Counter()  # whether they were answered
        self.calm = False  # nobody leaves, and every request is simply answered
        self.stopped = False  # no more requests
        # What the clients themselves found wrong, in words.
        self.problems: list[str] = []
        self._names = [OPEN]
        self._codes = {OPEN: 0}
        self._plans = array("H", [0])
        self._protocols = array("B", [0])
        self._ends = array("B", [0])
        self._asked = array("d", [0.0])
        self._ended = array("d", [0.0])

    def __len__(self) -> int:
        return len(self._plans) - 1

    def begin(self, plan: Plan, protocol: str) -> int:
        """A request; returns its number."""
        self._plans.append(_DEEDS.index(plan.deed) << 8 | _CONDUCTS.index(plan.conduct))
        self._protocols.append(protocol == "grpc")
        self._ends.append(0)
        self._asked.append(monotonic())
        self._ended.append(0.0)
        return len(self._plans) - 1

    def end(self, number: int, end: str) -> None:
        """Its end, of which there is one."""
        if self._ends[number]:
            self.problems.append(f"request {number} ended twice: {self._names[self._ends[number]]}, {end}")
            return
        code = self._codes.get(end)
        if code is None:
            code = self._codes[end] = len(self._names)
            self._names.append(end)
        self._ends[number] = code
        self._ended[number] = monotonic()
        self.ends["grpc" if self._protocols[number] else "http", end] += 1

    def entry(self, number: int) -> Entry:
        """One of them."""
        plan = self._plans[number]
        return Entry(
            number,
            "grpc" if self._protocols[number] else "http",
            _DEEDS[plan >> 8],
            _CONDUCTS[plan & 255],
            self._names[self._ends[number]],
            self._asked[number],
            self._ended[number],
        )
