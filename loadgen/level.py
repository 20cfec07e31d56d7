"""PURE: one level of a load as it was measured, and whether its numbers can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loadgen.histogram import Histogram
from loadgen.record import Outcome, Recorder, Result, merged
from loadgen.stats import mean, relative_half_width
from loadgen.units import NS_PER_S
from loadgen.values import Slo

# The numbers are the generator's own where more than a tenth of the reported p99 is its lateness.
_LAG_SHARE = 0.1
_LAG_FLOOR_NS = 1_000_000
# Beyond this the generator has no room for bursts, and its answers wait for its own CPU.
_BUSY = 0.9
# In less time a busy core is the start of the run, not its rate.
_BUSY_S = 1.0
_LITTLE = 0.03
_LITTLE_OPEN = 0.15
_LITTLE_SAMPLES = 200
_STALL_S = 0.1


class Split(NamedTuple):
    """What the server's own metrics say of a level, in seconds for a request: waiting and computing."""

    queue_s: float
    compute_s: float
    source: str


class Window(NamedTuple):
    """What ended (open loop: was due) in a part of a level; `start_s` counts from the level's start."""

    start_s: float
    recorder: Recorder


@dataclass(frozen=True, slots=True)
class Level:
    """`callers` is 0 in open loop, `rate` 0 in closed loop. `seconds` is what rates are taken over, `inflight` the mean
    that the generator itself saw. `problem` says why the level never was stable, empty where it was or nobody asked."""

    callers: int
    rate: float
    total: Recorder
    seconds: float
    windows: Sequence[Window] = ()
    window_s: float = 0.0
    steps: Sequence[Recorder] = ()
    models: Mapping[str, Recorder] = field(default_factory=dict)
    inflight: float = 0.0
    cpu_share: float = 0.0
    stall_s: float = 0.0
    backlogged: int = 0
    connections: int = 0
    sent: int = 0
    unfinished: int = 0
    problem: str = ""
    server: Split | None = None
    kind: str = "level"

    @property
    def name(self) -> str:
        """`8 callers`, `120/s`."""
        if self.callers:
            return f"{self.callers} callers" if self.callers > 1 else "1 caller"
        return f"{self.rate:g}/s"

    @property
    def load(self) -> float:
        """Where it stands among its like: callers, or requests a second."""
        return self.callers or self.rate

    @property
    def verdict_times(self) -> dict[Outcome, Histogram]:
        """What verdicts use: from the intended time in open loop, from the send in closed loop."""
        return self.total.service if self.callers else self.total.response

    @property
    def answers(self) -> Histogram:
        """The times of what was answered."""
        return self.verdict_times[Outcome.OK]

    @property
    def throughput(self) -> float:
        """Answered requests per second."""
        return self.answers.count / self.seconds if self.seconds else 0.0

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of the throughput over the windows, relative to it."""
        return relative_half_width([window.recorder.count_of(Outcome.OK) for window in self.windows])

    def share(self, outcome: Outcome) -> float:
        """The share of requests that ended so."""
        return self.total.share_of(outcome)

    def value(self, slo: Slo) -> float | None:
        """What was measured of what `slo` bounds, in its unit; None where there were too few samples to say."""
        times = self.answers
        if (quantile := slo.quantile) is not None:
            return self._percentile(quantile, slo.bound)
        match slo.metric:
            case "mean":
                return times.mean() / NS_PER_S if times.count else None
            case "max":
                return times.max / NS_PER_S if times.count else None
            case "ttft":
                return self.total.first.percentile(0.99) / NS_PER_S if self.total.first.count else None
            case "rps":
                return self.throughput
            case "errors":
                return self.share(Outcome.ERROR) + self.share(Outcome.TIMEOUT)
            case "timeouts":
                return self.share(Outcome.TIMEOUT)
        return self.share(Outcome.SHED)

    def _percentile(self, quantile: float, bound_s: float) -> float | None:
        """Where samples are too few for a value, the largest is a bound that can keep an objective, and more misses
        than twice the allowed share break it all the same."""
        times = self.answers
        if not times.count:
            return None
        above = times.share_above(bound_s * NS_PER_S)
        if times.is_enough_for(quantile) or not above or above > 2 * (1 - quantile):
            return times.percentile(quantile) / NS_PER_S
        return None

    def keeps(self, slos: Sequence[Slo]) -> bool:
        """Whether it keeps all of them; an answer to nobody keeps none."""
        return self.answers.count > 0 and all(slo.holds(self.value(slo)) for slo in slos)


def level_of(
    result: Result, *, callers: int = 0, rate: float = 0.0, first: int = 0, last: int | None = None, problem: str = ""
) -> Level:
    """A level from a run; of its windows only those from `first` up to `last` (not included) count, where `last` is
    given. An open loop's schedule steps are all counted."""
    windows = [
        Window(number * result.window_s, recorder)
        for number, recorder in result.windows.items()
        if last is None or first <= number < last
    ]
    whole = last is None
    end_s = math.inf if last is None else last * result.window_s
    beats = [beat for beat in result.beats if whole or first * result.window_s <= beat.at_s < end_s]
    seconds = result.rated_s if last is None else (last - first) * result.window_s
    span_s = beats[-1].at_s - beats[0].at_s if len(beats) > 1 else 0.0
    return Level(
        callers=callers,
        rate=rate,
        total=result.total if whole else merged(window.recorder for window in windows),
        seconds=seconds,
        windows=windows,
        window_s=result.window_s,
        steps=result.steps,
        models=result.by_model(first=first, last=math.inf if last is None else last),
        inflight=mean([beat.inflight for beat in beats]),
        cpu_share=(beats[-1].cpu_s - beats[0].cpu_s) / span_s if span_s else result.cpu_s / max(result.elapsed_s, 1e-9),
        stall_s=result.stall_s,
        backlogged=result.backlogged,
        connections=result.connections,
        sent=result.sent,
        unfinished=result.unfinished,
        problem=problem,
    )


def generator_problem(level: Level) -> str:
    """Why the numbers tell of the generator rather than of the target; empty when they do not."""
    if level.backlogged:
        return f"{level.backlogged} requests waited in the generator because all its connections were in use"
    if level.cpu_share > _BUSY and level.seconds >= _BUSY_S:
        return f"the generator used {level.cpu_share:.0%} of a core; use fewer requests a second, or more --workers"
    felt = Histogram()
    for histogram in level.verdict_times.values():
        felt.merge(histogram)
    if not felt.count:
        return ""
    felt_ns = felt.percentile(0.99)
    if not level.callers:
        lag_ns = level.total.lag.percentile(0.99)
        if lag_ns > max(_LAG_FLOOR_NS, _LAG_SHARE * felt_ns):
            return f"sends were late by {lag_ns / 1e6:.1f} ms at p99, more than a tenth of the response time"
    elif level.stall_s > max(_STALL_S, felt_ns / NS_PER_S):
        return f"the generator stood still for {level.stall_s * 1e3:.0f} ms, longer than 99 % of the answers took"
    return little_problem(level)


def little(level: Level) -> tuple[float, float]:
    """Requests in flight, as they were and as Little's law has them: rate times mean time, over all outcomes."""
    count = level.total.count
    spent_ns = sum(histogram.total for histogram in level.total.service.values())
    had = float(level.callers) if level.callers else level.inflight
    return had, spent_ns / NS_PER_S / level.seconds if level.seconds and count else 0.0


def little_problem(level: Level) -> str:
    """Why Little's law does not hold for what was measured; empty where it does, or where too little was."""
    count = level.total.count
    if count < _LITTLE_SAMPLES or level.total.retried or level.unfinished:
        return ""
    had, law = little(level)
    # In flight at both ends of the measured time: as much may be missing, or be there twice.
    allowed = max(_LITTLE, 2 * had / count) if level.callers else max(_LITTLE_OPEN, 3 / math.sqrt(count))
    if had < 1 or abs(had - law) <= allowed * had:
        return ""
    return f"{had:.1f} requests were in flight, but rate times mean time is {law:.1f} (Little's law)"
