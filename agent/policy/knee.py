"""`--limit auto`: a search for the knee of throughput, the smallest limit at which the predictor does all that it can.

    CLIMBING --(no gain any more)--> PROBING --(held)--> HOLDING --(5 to 60 s)--> PROBING
     ^   ^ \\                           |  |\\-- (lowered) --> PROBING
     |   |  \\                          |  \\--- (raised) ---> CLIMBING, by quarters
     |   \\---\\-- latency guard: cut --/
     \\- at the beginning, and where a cut has not helped: by doubling

It measures what a limit is for: work done in a second at this limit, at a quarter more and at a quarter less, twice
each in turn, while requests wait. The derivative of throughput means the same for workers, processor sharing and
dynamic batching; latency does not (a batch of 16 is slower than one of 2, and better), so latency only guards against a
limit at which answers come too late to be of use.
"""

from enum import StrEnum
from math import ceil
from typing import NamedTuple

from agent.policy.estimate import quantile

# The experiment: centre, up, centre, down, twice, so that a drift of the load hits all three alike.
_PLAN = (0, 1, 0, 2, 0, 1, 0, 2)
_STEP = 1.25
# What a step up must gain, and what a step down may lose. A limit too low costs work, one too high only latency.
_GAIN = 0.05
_LOSS = 0.03
# The same for the steps of a climb, each of which is measured once.
_DOUBLE = 2.0
_CLIMB_GAIN = {_DOUBLE: 1.15, _STEP: 1.08}
# A climb after a cut ends below the limit at which answers came too late.
_BELOW = 0.8

# Completions in a window: 64 for the noise of one, and eight for each slot to average over batches.
_WINDOW = 64
_WINDOW_SLOTS = 8

_HOLD_S = 5.0
_MAX_HOLD_S = 60.0
_MOVED_S = 0.2

_GUARD_SAMPLES = 48
_GUARD_SHARE = 0.9
# The strongest and the weakest cut. Beyond the knee the time grows with the limit, so the ratio is a fair guess.
_CUT_MIN, _CUT_MAX = 0.25, 0.7
# Beyond the knee half the limit halves the times and leaves the throughput as it is. Where more than this of the times
# is left, and less than this of the throughput, the model is slow whatever the limit: the cut is taken back, and the
# guard pauses for longer each time.
_FUTILE = 0.75
# Times that differ by less are the same instant, summed up differently.
_INSTANT_S = 1e-6
_PAUSE_S = 60.0
_MAX_PAUSE_S = 960.0


# Where a search begins that knows nothing.
START = 8
_HIGHEST = 512


class Phase(StrEnum):
    """What the search is doing."""

    CLIMBING = "climbing"
    PROBING = "probing"
    HOLDING = "holding"


class Reason(StrEnum):
    """Why the limit is what it is."""

    CLIMBED = "climbed"  # the last step up has paid
    SETTLED = "settled"  # the last step up has not, and is taken back
    PROBE = "probe"  # one step of an experiment
    RAISED = "raised"  # a quarter more does more
    LOWERED = "lowered"  # a quarter less does as much
    HELD = "held"  # neither
    GUARD = "guard"  # answers come too late
    RESTORED = "restored"  # the guard's cut did not make them faster


class Decision(NamedTuple):
    """The limit from now on, why, and the throughput at the centre of the last experiment, in requests a second."""

    limit: int
    reason: Reason
    rate: float


class _Slow(NamedTuple):
    """What was found when answers came too late: the limit that was used, their median time, and how many a second."""

    limit: int
    middle: float
    rate: float


class Knee:
    """The search for one lane's limit. `limit` is the one in force, `centre` what is believed, `rate` what it does.

    It never leaves [`lowest`, `highest`]; `lowest` is at least 1.
    """

    __slots__ = (
        "_begun",
        "_ceiling",
        "_count",
        "_cut_at",
        "_factor",
        "_foothold",
        "_hold",
        "_last",
        "_pause",
        "_paused_until",
        "_peak",
        "_skip",
        "_slow",
        "_step",
        "_sums",
        "_times",
        "_times_since",
        "_until",
        "centre",
        "highest",
        "limit",
        "lowest",
        "phase",
        "rate",
    )

    def __init__(self, start: int, *, lowest: int = 1, highest: int = _HIGHEST) -> None:
        assert 1 <= lowest <= start <= highest
        self.limit = start
        self.centre = float(start)
        self.lowest = lowest
        self.highest = highest
        self.rate = 0.0
        self.phase = Phase.CLIMBING
        self._factor, self._ceiling, self._foothold = _DOUBLE, float(highest), float(start)
        self._last: float | None = None
        self._hold = _HOLD_S
        self._until = 0.0
        self._times: list[float] = []
        self._times_since = 0.0
        self._cut_at = 0.0
        self._slow: _Slow | None = None
        self._pause = _PAUSE_S
        self._peak = 1
        self._paused_until = 0.0
        self._step = self._skip = self._count = 0
        self._begun: float | None = None
        self._sums: list[list[float]] = []
        self._restart()

    def sample(
        self, now: float, inflight: int, *, saturated: bool, seconds: float | None = None, guard: float = 0.0
    ) -> Decision | None:
        """A request has ended. Returns the new limit, or None where it stays.

        `inflight` counts the ended one. `saturated` is whether there is more to do than is done: every slot was taken,
        or somebody was refused just before. `seconds` is how long it took, if that says something of the predictor, and
        `guard` how long 90 % of them may take; 0.0 is no bound.
        """
        if seconds is not None and guard:
            decision = self._guard(now, inflight, seconds, guard)
            if decision is not None:
                return decision
        if not saturated or now < self._until:
            self._begun = None
            return None
        if self._skip:
            self._skip -= 1  # dispatched under the last limit
            return None
        if self._begun is None:
            self._begun, self._count = now, 0
            return None
        self._count += 1
        if self._count < max(_WINDOW, _WINDOW_SLOTS * self.limit):
            return None
        elapsed, self._begun, self._skip = now - self._begun, None, self.limit
        if self.phase is Phase.CLIMBING:
            return self._climb(now, self._count / elapsed if elapsed > 0.0 else 0.0)
        return self._probe(now, elapsed)

    def _climb(self, now: float, rate: float) -> Decision:
        """As long as a step up pays, another follows."""
        if self._last is None or rate > _CLIMB_GAIN[self._factor] * self._last:
            self.rate = self._last = rate
            self._foothold = self.centre
            step = min(self.centre * self._factor, self._ceiling)
            if round(step) > round(self.centre):
                self.centre = step
                return self._apply(Reason.CLIMBED)
        else:
            self.centre = self._foothold
            # The knee is near: an experiment, which costs some throughput where the limit is right, can wait a little.
            self._until = now + _HOLD_S
        self.phase = Phase.PROBING
        return self._apply(Reason.SETTLED)

    def _climb_from(self, factor: float, ceiling: float, last: float | None = None) -> None:
        """Climb from the centre on, up to `ceiling`; `last` is the throughput before the step that is made now."""
        self.phase = Phase.CLIMBING
        self._factor, self._ceiling, self._last = factor, ceiling, last
        self._foothold = self.centre
        self._restart()

    def _probe(self, now: float, elapsed: float) -> Decision | None:
        self.phase = Phase.PROBING
        total = self._sums[_PLAN[self._step]]
        total[0] += self._count
        total[1] += elapsed
        self._step += 1
        if self._step < len(_PLAN):
            return self._apply(Reason.PROBE, _PLAN[self._step])
        here, up, down = (count / seconds if seconds > 0.0 else 0.0 for count, seconds in self._sums)
        self.rate = here
        self._restart()
        if up > here * (1 + _GAIN) and self.centre < self.highest:
            self._hold = _HOLD_S
            self.centre = float(self._neighbour(1))
            self._climb_from(_STEP, float(self.highest))
            return self._apply(Reason.RAISED)
        if down > here * (1 - _LOSS) and self.centre > self.lowest:
            # The very limit that was measured: with batches of four, 12 does more than 13.
            self.centre = float(self._neighbour(2))
            reason = Reason.LOWERED
        else:
            reason = Reason.HELD
        if reason is Reason.HELD:
            self._hold = min(_MAX_HOLD_S, 2 * self._hold)
            self._until = now + self._hold
            self.phase = Phase.HOLDING
        else:
            self._hold = _HOLD_S
            self._until = now + _MOVED_S
        return self._apply(reason)

    def _guard(self, now: float, inflight: int, seconds: float, guard: float) -> Decision | None:
        """Lower the limit at once when most answers take too long, unless lowering it has not helped."""
        if now - seconds < self._cut_at + _INSTANT_S or now < self._paused_until:
            return None  # a time under an earlier limit says nothing of this one
        times = self._times
        if not times:
            self._times_since, self._peak = now, 1
        times.append(seconds)
        self._peak = max(self._peak, inflight)
        if len(times) < _GUARD_SAMPLES:
            return None
        self._times = []
        times.sort()
        slow, middle = quantile(times, _GUARD_SHARE), quantile(times, 0.5)
        if slow <= guard:
            self._slow = None
            return None
        elapsed = now - self._times_since
        found = _Slow(min(self.limit, self._peak), middle, len(times) / elapsed if elapsed > 0.0 else 0.0)
        self._until = now + 2 * guard
        return self._cut(now, found, guard / slow)

    def _cut(self, now: float, found: _Slow, ratio: float) -> Decision:
        """Lower the limit, or take earlier cuts back if they have changed nothing for the better."""
        self._hold = _HOLD_S
        self._cut_at = now
        first = self._slow or found
        if found.limit <= first.limit / 2 or found.limit <= self.lowest:
            if found.middle > first.middle * _FUTILE and found.rate < first.rate * _FUTILE:
                self.centre = float(first.limit)
                self._slow = None
                self._paused_until = now + self._pause
                self._pause = min(_MAX_PAUSE_S, 2 * self._pause)
                # Earlier cuts may have been mistakes too; doubling is the quick way back.
                self._climb_from(_DOUBLE, float(self.highest))
                return self._apply(Reason.RESTORED)
            first = found
        # At the first cut a line may only have been building up, and the times with it.
        self._slow = _Slow(first.limit, max(first.middle, found.middle), max(first.rate, found.rate))
        self.centre = max(float(self.lowest), found.limit * min(_CUT_MAX, max(_CUT_MIN, ratio)))
        # Whatever was slow may have passed, or the cut was too deep.
        self._climb_from(_DOUBLE, max(self.centre, self._slow.limit * _BELOW))
        return self._apply(Reason.GUARD)

    def _restart(self) -> None:
        """Begin a new experiment."""
        self._step = self._skip = self._count = 0
        self._begun = None
        self._sums = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]

    def _apply(self, reason: Reason, probe: int = 0) -> Decision:
        self.centre = min(float(self.highest), max(float(self.lowest), self.centre))
        self.limit = self._neighbour(probe)
        return Decision(self.limit, reason, self.rate)

    def _neighbour(self, probe: int) -> int:
        """The limit at the centre (0), a quarter above (1) or a quarter below it (2)."""
        limit = round(self.centre)
        if probe == 1:
            limit = max(limit + 1, ceil(self.centre * _STEP))
        elif probe == 2:
            limit = min(limit - 1, int(self.centre / _STEP))
        return min(self.highest, max(self.lowest, limit))


def resumed(search: Knee | None, limit: int | None, *, wanted: bool) -> Knee | None:
    """The search to go on with: the one there is, a new one from the limit in force, or none."""
    if not wanted or search is not None:
        return search if wanted else None
    return Knee(min(limit or START, _HIGHEST))
