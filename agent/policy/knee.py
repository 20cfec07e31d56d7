"""`--limit auto`: a search for the knee of throughput, the smallest limit at which the predictor does all that it can.

    DOUBLING --(no gain any more)--> PROBING --(decided)--> HOLDING --(5 to 60 s)--> PROBING
        \\------------------------------\\-- latency guard --> GUARDED --> PROBING

It measures what a limit is for: work done in a second at this limit, at a quarter more and at a quarter less, twice
each in turn, while requests wait. The derivative of throughput means the same for workers, processor sharing and
dynamic batching; latency does not (a batch of 16 is slower than one of 2, and better), so latency only guards against a
limit at which answers come too late to be of use.
"""

from enum import StrEnum
from math import ceil
from typing import NamedTuple

from agent.policy.estimate import Window, quantile

# The experiment: centre, up, centre, down, twice, so that a drift of the load hits all three alike.
_PLAN = (0, 1, 0, 2, 0, 1, 0, 2)
_STEP = 1.25
# What a step up must gain, and what a step down may lose. A limit too low costs work, one too high only latency.
_GAIN = 0.08
_LOSS = 0.05
_DOUBLING_GAIN = 1.3

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
# Half the limit that leaves more than this of the median has not helped: beyond the knee it would halve, so the model
# is slow, whatever the limit. The cut is taken back, and the guard pauses for longer each time.
_FUTILE = 0.75
# Times that differ by less are the same instant, summed up differently.
_INSTANT_S = 1e-6
_PAUSE_S = 60.0
_MAX_PAUSE_S = 960.0


class Phase(StrEnum):
    """What the search is doing."""

    DOUBLING = "doubling"
    PROBING = "probing"
    HOLDING = "holding"
    GUARDED = "guarded"


class Reason(StrEnum):
    """Why the limit is what it is."""

    DOUBLED = "doubled"  # the last doubling has paid
    SETTLED = "settled"  # the last doubling has not, and is taken back
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


class Knee:
    """The search for one lane's limit. `limit` is the one in force, `centre` what is believed, `rate` what it does.

    It never leaves [`lowest`, `highest`]; `lowest` is at least 1.
    """

    __slots__ = (
        "_begun",
        "_count",
        "_cut_at",
        "_guarded_from",
        "_hold",
        "_last",
        "_pause",
        "_paused_until",
        "_peak",
        "_skip",
        "_step",
        "_sums",
        "_times",
        "_until",
        "centre",
        "highest",
        "limit",
        "lowest",
        "phase",
        "rate",
    )

    def __init__(self, start: int, *, lowest: int = 1, highest: int = 512) -> None:
        assert 1 <= lowest <= start <= highest
        self.limit = start
        self.centre = float(start)
        self.lowest = lowest
        self.highest = highest
        self.phase = Phase.DOUBLING
        self.rate = 0.0
        self._last: float | None = None
        self._hold = _HOLD_S
        self._until = 0.0
        self._times = Window()
        self._cut_at = 0.0
        self._guarded_from: tuple[float, float] | None = None
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
        if self.phase is Phase.DOUBLING:
            return self._double(self._count / elapsed if elapsed > 0.0 else 0.0)
        return self._probe(now, elapsed)

    def _double(self, rate: float) -> Decision:
        """As long as twice the limit does a third more, it is doubled again."""
        self.rate = rate
        if self._last is None or rate > _DOUBLING_GAIN * self._last:
            self._last = rate
            if self.centre < self.highest:
                self.centre *= 2
                return self._apply(Reason.DOUBLED)
        else:
            self.centre /= 2
        self.phase = Phase.PROBING
        return self._apply(Reason.SETTLED)

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
        if up > here * (1 + _GAIN) and self.centre < self.highest:
            self.centre *= _STEP
            reason = Reason.RAISED
        elif down > here * (1 - _LOSS) and self.centre > self.lowest:
            self.centre /= _STEP
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
        self._restart()
        return self._apply(reason)

    def _guard(self, now: float, inflight: int, seconds: float, guard: float) -> Decision | None:
        """Lower the limit at once when most answers take too long, unless lowering it has not helped."""
        if now - seconds < self._cut_at + _INSTANT_S or now < self._paused_until:
            return None  # a time under an earlier limit says nothing of this one
        times = self._times
        times.add(now, seconds)
        self._peak = max(self._peak, inflight)
        if len(times.values) < _GUARD_SAMPLES:
            return None
        slow = quantile(times.trim(now), _GUARD_SHARE)
        if slow <= guard:
            self._guarded_from = None
            return None
        self._times = Window()
        self._hold = _HOLD_S
        self._restart()
        self._cut_at = now
        middle = quantile(times.values, 0.5)
        used, self._peak = float(min(self.limit, self._peak)), 1
        before, first = self._guarded_from or (used, middle)
        if used <= before / 2 or used <= self.lowest:
            if middle > first * _FUTILE:
                self.centre = before
                self._guarded_from = None
                self._paused_until = now + self._pause
                self._pause = min(_MAX_PAUSE_S, 2 * self._pause)
                # Earlier cuts may have been mistakes too; doubling is the quick way back.
                self._search_again()
                return self._apply(Reason.RESTORED)
            before, first = used, middle
        # At the first cut a line may only have been building up, and the times with it.
        self._guarded_from = (before, max(first, middle))
        self._until = now + 2 * guard
        self.centre = used * min(_CUT_MAX, max(_CUT_MIN, guard / slow))
        self.phase = Phase.GUARDED
        return self._apply(Reason.GUARD)

    def _search_again(self) -> None:
        self.phase = Phase.DOUBLING
        self._last = None
        self._restart()

    def _restart(self) -> None:
        """Begin a new experiment."""
        self._step = self._skip = self._count = 0
        self._begun = None
        self._sums = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]

    def _apply(self, reason: Reason, probe: int = 0) -> Decision:
        self.centre = min(float(self.highest), max(float(self.lowest), self.centre))
        centre = round(self.centre)
        if probe == 1:
            centre = max(centre + 1, ceil(self.centre * _STEP))
        elif probe == 2:
            centre = min(centre - 1, int(self.centre / _STEP))
        self.limit = min(self.highest, max(self.lowest, centre))
        return Decision(self.limit, reason, self.rate)
