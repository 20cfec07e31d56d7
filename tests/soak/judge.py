"""Puts the clients' ledger, the predictor's log and the agent's own numbers side by side. Pure."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.soak import book
from tests.soak.ledger import OPEN, Entry, Incident, Standstill
from tests.soak.plan import (
    BREAKS,
    CUT,
    FAILURES,
    GRPC_ENDS,
    HTTP_ENDS,
    HUNG,
    LEFT,
    REFUSALS,
    SERVED,
    UNSERVED,
    WRONG,
    Deed,
)

# The most resident memory may grow along the line through its samples, over the whole run.
MAX_GROWTH_MIB = 2.0
# What a broken connection costs others is told to them this soon.
_AFTER_S = 0.5
_SHOWN = 5


@dataclass
class Verdict:
    """`problems` is empty where everything held. `counts` is what the rows of the report say."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def blame(self, kind: str, what: str) -> None:
        """A problem; only the first of a kind are told in words."""
        self.counts[kind] += 1
        if self.counts[kind] <= _SHOWN:
            self.problems.append(f"{kind}: {what}")


# A request's line in the predictor's log: arrived, executed, handed back, what was done.
Line = tuple[int, int, int, int]


def judge_requests(
    verdict: Verdict,
    requests: Iterable[tuple[Entry, Line]],
    incidents: Sequence[Incident],
    standstills: Sequence[Standstill],
    slots: int,
) -> None:
    """Each request ended once, was executed once at the most, and failed for a reason.

    `slots` bounds how many requests one HTTP/2 connection may carry.
    """
    broken: list[Entry] = []
    unexplained: list[Entry] = []
    certain: list[list[Entry]] = [[] for _ in standstills]
    begins = [each.begin for each in standstills]
    for entry, line in requests:
        if entry.protocol == "grpc" and entry.deed in BREAKS and line[0]:
            broken.append(entry)
        fault = _fault_of(entry, line)
        if fault == "unexplained":
            unexplained.append(entry)
        elif fault:
            verdict.blame(fault, f"{entry} with {line}")
        at = bisect_left(begins, entry.asked) - 1
        if at >= 0 and entry.asked <= standstills[at].end:
            verdict.counts["asked at a standstill"] += 1
            if entry.end != SERVED and entry.end not in REFUSALS and entry.end not in {LEFT, UNSERVED}:
                certain[at].append(entry)
    _judge_failures(verdict, unexplained, incidents, broken, slots)
    for standstill, lost in zip(standstills, certain, strict=True):
        for entry in lost[standstill.freed :]:
            verdict.blame("lost", f"{entry} was only queued when the predictor died: {standstill}")


def _fault_of(entry: Entry, line: Line) -> str:
    """What is wrong with it; "" for nothing, "unexplained" if it depends on what happened meanwhile."""
    arrived, executed, returned, done = line
    if executed > 1 or arrived - returned > 1:
        return "duplicated"
    end = entry.end
    if end in {OPEN, HUNG, WRONG}:
        return {WRONG: "misrouted"}.get(end, "drift")
    if end == SERVED:
        is_whole = executed == 1 or entry.deed is Deed.EARLY
        return "" if arrived - returned == 1 and is_whole and done == book.ANSWERED else "served by nobody"
    if end in REFUSALS or end == UNSERVED:
        return "refused and executed" if arrived > returned else ""
    if end == LEFT:
        return ""
    if end not in FAILURES and end != CUT:
        return f"outcome {end}"
    intended = (HTTP_ENDS if entry.protocol == "http" else GRPC_ENDS).get(entry.deed, set())
    if end in intended and done == book.FAILED:
        return ""
    return "" if done == book.COLLATERAL else "unexplained"


def _judge_failures(
    verdict: Verdict,
    unexplained: Sequence[Entry],
    incidents: Sequence[Incident],
    broken: Sequence[Entry],
    slots: int,
) -> None:
    """A failure that the predictor did not mean belongs to a moment at which it, or its connection, was lost."""
    took: dict[Incident, list[Entry]] = defaultdict(list)
    by_connection = 0
    rare_first = sorted(broken, key=lambda each: each.deed is Deed.GOAWAY)
    for entry in unexplained:
        incident = next((each for each in incidents if each.begin <= entry.ended <= each.end), None)
        breaking = next((each for each in rare_first if _takes_along(each, entry)), None)
        if incident is not None and (breaking is None or breaking.deed is Deed.GOAWAY):
            took[incident].append(entry)
        elif breaking is not None:
            by_connection += 1
        else:
            verdict.blame("lost", f"{entry} failed, and nothing had happened")
    for incident, entries in took.items():
        verdict.counts["failed with the predictor"] += len(entries)
        for entry in entries[incident.slots :]:
            verdict.blame("lost", f"{entry}: more than {incident.slots} failed at once by {incident}")
    verdict.counts["failed with a connection"] += by_connection
    if by_connection > slots * len(broken):
        verdict.blame("lost", f"{by_connection} failed with {len(broken)} connections")


def _takes_along(breaking: Entry, entry: Entry) -> bool:
    """Whether a call may have been on the connection that another one broke."""
    is_near = breaking.asked <= entry.ended <= breaking.ended + _AFTER_S
    return is_near and entry.protocol == "grpc" and entry.end in BREAKS[breaking.deed]


def judge_sums(
    verdict: Verdict, ends: Counter[tuple[str, str]], booked: dict[tuple[str, str], int], reached: dict[str, int]
) -> None:
    """The agent's counters against the clients': keys are (protocol, outcome).

    What a client that left would have been told is not known, so those may be booked as anything, but not twice.
    `reached` is how many of those the predictor saw, so that they must have been booked.
    """
    # What the client of a reply that has begun sees as a cut.
    ends_visibly = FAILURES
    for protocol in ("http", "grpc"):
        left, spare = ends[protocol, LEFT], 0
        cuts = -ends[protocol, CUT]
        for outcome in {outcome for at, outcome in booked if at == protocol}:
            surplus = booked[protocol, outcome] - ends[protocol, outcome]
            if outcome in ends_visibly:
                cuts += surplus
                continue
            if surplus < 0:
                verdict.blame("drift", f"{protocol} {outcome}: {-surplus} were told so and not counted")
            spare += surplus
        if cuts < 0:
            verdict.blame("drift", f"{protocol}: {-cuts} cuts were not counted")
        spare += cuts
        if not reached[protocol] <= spare <= left:
            verdict.blame("drift", f"{protocol}: {spare} are counted beyond what was told, and {left} clients left")
    told = {(protocol, end) for protocol, end in ends if end in FAILURES | REFUSALS | {SERVED}}
    for key in told - booked.keys():
        verdict.blame("drift", f"{key}: {ends[key]} were told so, and none counted")


def line_through(samples: Sequence[tuple[float, float]]) -> float:
    """The slope of the least squares line through (seconds, value)."""
    count = len(samples)
    if count < 2:
        return 0.0
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0
