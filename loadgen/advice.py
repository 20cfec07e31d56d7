"""PURE: from a curve of levels to settings: limit, queue, deadline, autoscaling targets, and the files that apply
them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from loadgen.knee import Knee, Point, find_knee
from loadgen.level import Level, generator_problem, little_problem
from loadgen.stats import mean
from loadgen.units import NS_PER_S, format_duration
from loadgen.values import Slo

# The share of the objective that is kept for waiting: without a queue every burst is refused.
_RESERVE = 0.1
_KPA_PERCENT = (1, 100)


class Limit(NamedTuple):
    """The limit that a sweep recommends: `knee` is where throughput stops paying, `slo` the most callers whose tail
    keeps the objective (None: even one does not)."""

    limit: int
    knee: Knee
    slo: int | None


class Queue(NamedTuple):
    """How many may wait, and for how long in seconds: both say the same, and both are enforced, since rates drift."""

    slots: int
    wait_s: float


class Scaling(NamedTuple):
    """`busy` is the mean number in flight at `rate`, the highest that keeps the objective; `target` is what of it a
    replica should have, so that a new one serves in time."""

    rate: float
    busy: float
    headroom: float
    target: float

    @property
    def concurrency(self) -> int:
        """The target in whole requests, at least one."""
        return max(1, math.floor(self.target))


def latency_slo(slos: Sequence[Slo]) -> Slo | None:
    """The objective that bounds the tail: the strictest percentile, or a bound on the mean or the largest."""
    tails = [slo for slo in slos if slo.quantile is not None or slo.metric in {"mean", "max"}]
    return min(tails, key=lambda slo: slo.bound) if tails else None


def points_of(levels: Sequence[Level]) -> list[Point]:
    """The closed-loop curve, ascending; of a level that was measured several times the mean, without those that nobody
    can trust as long as there are others."""
    by_callers: dict[int, list[Level]] = {}
    for level in levels:
        if level.callers and level.answers.count:
            by_callers.setdefault(level.callers, []).append(level)
    return [_point(callers, same) for callers, same in sorted(by_callers.items())]


def _point(callers: int, same: Sequence[Level]) -> Point:
    same = [level for level in same if not (level.problem or generator_problem(level))] or same
    rates, times = [_rate(level) for level in same], [level.answers.mean() / NS_PER_S for level in same]
    return Point(callers, mean(rates), mean(times))


def _rate(level: Level) -> float:
    """Where all is answered, X = N / R, which does not depend on where the measured time cuts a batch."""
    if level.answers.count == level.total.count and not little_problem(level):
        return level.callers / (level.answers.mean() / NS_PER_S)
    return level.throughput


def limit_of(levels: Sequence[Level], slos: Sequence[Slo], batch: int = 1) -> Limit | None:
    """None where nothing was answered. A batching predictor's limit is rounded up to whole batches, as far as the
    objective allows."""
    points = points_of(levels)
    if not points:
        return None
    knee = find_knee(points)
    kept = [level.callers for level in levels if level.callers and keeps_with_room(level, slos)]
    slo = max(kept, default=None)
    if slo is None:
        return Limit(0, knee, None)
    limit = min(knee.throughput, slo)
    whole = math.ceil(limit / batch) * batch
    return Limit(whole if whole <= slo else max(batch * (limit // batch), 1), knee, slo)


def keeps_with_room(level: Level, slos: Sequence[Slo]) -> bool:
    """Whether it keeps its latency objectives with something left for a queue, and the others as they are."""
    return bool(level.answers.count) and all(
        slo.holds(level.value(slo))
        if slo.metric in {"rps", "errors", "shed", "timeouts"}
        else slo._replace(bound=slo.bound * (1 - _RESERVE)).holds(level.value(slo))
        for slo in slos
    )


def queue_of(level: Level, slo: Slo) -> Queue:
    """What may wait before a predictor at its limit, as `level` measured it: the request in slot q waits q / X."""
    tail_s = level.value(slo) or level.answers.max / NS_PER_S
    wait_s = max(0.0, slo.bound - tail_s)
    return Queue(math.floor(level.throughput * wait_s), wait_s)


def scaling_of(rate: float, busy: float, growth: float, startup_s: float) -> Scaling:
    """Headroom h = 1 / (1 + g T): load that grows by g a second, relative, has grown by g T when a replica that was
    asked for now serves."""
    headroom = 1 / (1 + growth * startup_s)
    return Scaling(rate, busy, headroom, busy * headroom)


def kpa_percent(limit: int, scaling: Scaling) -> int:
    """Knative multiplies the smaller of scaleTarget and containerConcurrency by this utilisation, 70 % by default, so
    scaleTarget itself stays at the limit (serving, pkg/reconciler/autoscaling/resources/target.go)."""
    low, high = _KPA_PERCENT
    return min(high, max(low, round(100 * scaling.target / limit)))


def headgate_flags(limit: int, queue: Queue, slo: Slo) -> str:
    """For `headgate serve`."""
    return f"--limit {limit} --queue {max(1, queue.slots)} --deadline {format_duration(round(slo.bound, 6))}"


def isvc_patch(limit: int, queue: Queue, scaling: Scaling, slo: Slo) -> str:
    """For an InferenceService: `kubectl patch isvc NAME --type merge --patch-file patch.yaml`."""
    return f"""# kubectl patch isvc NAME --type merge --patch-file patch.yaml
# Measured: limit {limit}, queue {queue.slots}, {scaling.busy:.1f} in flight at {scaling.rate:.0f}/s within {slo.text}.
metadata:
  annotations:
    autoscaling.knative.dev/metric: concurrency
    autoscaling.knative.dev/target-utilization-percentage: "{kpa_percent(limit, scaling)}"
spec:
  predictor:
    containerConcurrency: {limit}
    scaleMetric: concurrency
    scaleTarget: {limit}
"""


def gated_patch(limit: int, queue: Queue, scaling: Scaling, slo: Slo) -> str:
    """For an InferenceService whose pods get Headgate by injection: the gate limits, Knative only scales."""
    return f"""# kubectl patch isvc NAME --type merge --patch-file patch-headgate.yaml
# For pods with Headgate (label headgate.dev/inject: "true"), which limits in place of containerConcurrency.
metadata:
  annotations:
    headgate.dev/limit: "{limit}"
    headgate.dev/queue: "{max(1, queue.slots)}"
    headgate.dev/deadline: {format_duration(round(slo.bound, 6))}
    autoscaling.knative.dev/metric: concurrency
    autoscaling.knative.dev/target-utilization-percentage: "100"
spec:
  predictor:
    containerConcurrency: 0
    scaleMetric: concurrency
    scaleTarget: {scaling.concurrency}
"""


def keda_scaledobject(scaling: Scaling) -> str:
    """For a Deployment behind Headgate: replicas are executing plus waiting over the threshold (AverageValue)."""
    return f"""# Set the names, then: kubectl apply -f keda.yaml
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: NAME
spec:
  scaleTargetRef:
    name: DEPLOYMENT
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: http://prometheus.monitoring:9090
        query: >-
          sum(rate(headgate_inflight_seconds_total{{namespace="NAMESPACE",pod=~"DEPLOYMENT-.*"}}[1m])
          + rate(headgate_queued_seconds_total{{namespace="NAMESPACE",pod=~"DEPLOYMENT-.*"}}[1m]))
        threshold: "{scaling.concurrency}"
"""
