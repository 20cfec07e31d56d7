"""The tests that a request must pass at its arrival when it cannot run at once, at one limit.

The constants were chosen by simulation (tests/sim) and hold at 1.2 to 4 times the capacity for workers, processor
sharing and dynamic batching. Times are seconds, work is in mean requests.
"""

from collections.abc import Sequence

from agent.errors import Outcome
from agent.policy.estimate import Drain, quantile
from agent.policy.line import DeadlineTicket, Line

_DEADLINE, _OVERLOAD = Outcome.DEADLINE, Outcome.OVERLOAD

# The wait is predicted from a mean, so it may take this much longer; and what relaying takes, generously.
_WAIT_MARGIN = 1.3
_RELAY_S = 0.005

# A risky admission is free while slots would idle, and costs another's place when a line stands.
_SHARE, _STANDING_SHARE = 0.75, 0.9

# A line is standing when it has lasted for longer than this, than four service times, and than the slack of a deadline:
# a burst that can still be served is gone by then.
_BURST_S = 0.1
_BURST_SERVICES = 4.0

# A stream keeps its slot long after its first byte, so where there are any, a slot is not held for the service time of
# the test but for limit / rate, whatever the mixture (Little's law).
# The standing line that is enough to keep the predictor fed, in service times; one full batch is 1.0 and too little.
_CAP = 1.25
_CAP_AT_LOAD = 2.0
_MIN_CAP_S = 0.005


def judge(
    drain: Drain, limit: int, ticket: DeadlineTicket, times: Sequence[float], others: Sequence[Line], now: float
) -> Outcome | None:
    """The refusal, or None.

    `times` are the sorted service times to expect, `others` the lanes whose lines are served between the ticket's own.
    """
    cost, slo, lane = ticket.cost, ticket.patience, ticket.lane
    queue = lane.waiting
    ahead = queue.ahead(ticket)
    elsewhere = sum(other.waiting.ahead(ticket) for other in others) if others else 0.0
    pace = drain.pace or drain.hold / limit
    wait = (ahead + elsewhere + cost) * pace
    ticket.expected = now + wait
    # estimate.quantile in place, here and below: 0.2 of the 5 us of a request that waits (`tests.bench.policy`).
    count = len(times)
    typical = times[count >> 1] if count else 0.0
    service = typical * cost
    slack = slo - service
    base = pace * limit if lane.has_streams or ticket.streams else typical
    standing = stands(drain, base, slack, now)
    risk = times[int((_STANDING_SHARE if standing else _SHARE) * count)] if count else 0.0
    if wait * _WAIT_MARGIN + risk * cost + _RELAY_S > slo:
        return _DEADLINE
    if standing:
        load = drain.load
        # All that is served in its stead, whatever the deadlines: were only what is ahead to count, the tightest would
        # be admitted into a line that then makes the others late, or be starved.
        backlog = queue.backlog(ticket) + sum(other.waiting.backlog(ticket) for other in others)
        if backlog * pace > _cap(base, load) or wait > max(base / 2, slack / load):
            return _OVERLOAD
    if ahead < queue.work and queue.endangers(ticket, now + elsewhere * pace + service, pace):
        return _DEADLINE
    return None


def is_crowded(
    drain: Drain, limit: int, ticket: DeadlineTicket, times: Sequence[float], backlog: float, now: float
) -> bool:
    """Whether the line, lower bands included, is longer than the predictor needs: somebody else may be pushed out."""
    typical = quantile(times, 0.5)
    pace = drain.pace or drain.hold / limit
    base = pace * limit if ticket.lane.has_streams or ticket.streams else typical
    return stands(drain, base, ticket.patience - typical * ticket.cost, now) and backlog * pace > _cap(base, drain.load)


def stands(drain: Drain, base: float, slack: float, now: float) -> bool:
    """Whether no slot has been idle for longer than a burst that can be served would keep them busy."""
    busy = now - drain.idle_at
    return busy > _BURST_S and busy > _BURST_SERVICES * base and busy > slack


def _cap(base: float, load: float) -> float:
    return max(_MIN_CAP_S, base * max(_CAP, _CAP_AT_LOAD / load))
