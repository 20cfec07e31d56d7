"""The counters as a prometheus_client Collector. Every series and its labels is written down here, once."""

from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agent import __version__
from agent.observe.counters import BOUNDS, Histogram
from agent.policy.deadline import DeadlineAdmission

if TYPE_CHECKING:
    from agent.net.server import Server

_BASE = ["model", "protocol"]


class Exposition(Collector):
    """Reads the server's plain numbers when Prometheus asks."""

    def __init__(self, server: "Server") -> None:
        self._server = server

    def describe(self) -> Iterable[Metric]:
        """Nothing: registration must not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        yield from self._levels()
        yield from self._limits()
        yield from self._beliefs()
        yield from self._endings()
        yield from self._times()
        yield from self._connections()

    def _levels(self) -> Iterator[Metric]:
        now = monotonic()
        inflight = GaugeMetricFamily(
            "headgate_requests_inflight", "Requests dispatched to the predictor and not yet ended.", labels=_BASE
        )
        queued = GaugeMetricFamily("headgate_requests_queued", "Requests waiting in the agent.", labels=_BASE)
        inflight_s = CounterMetricFamily(
            "headgate_inflight_seconds",
            "Integral of headgate_requests_inflight over time; its rate is the exact mean.",
            labels=_BASE,
        )
        queued_s = CounterMetricFamily(
            "headgate_queued_seconds",
            "Integral of headgate_requests_queued over time; its rate is the exact mean.",
            labels=_BASE,
        )
        outstanding = GaugeMetricFamily(
            "headgate_stream_messages_outstanding",
            "Requests sent on open inference streams and not yet answered.",
            labels=["model"],
        )
        for usage in (row for table in self._server.usages.values() for row in table.rows(now)):
            labels = [usage.name, usage.protocol]
            if usage.protocol == "grpc":
                outstanding.add_metric([usage.name], usage.outstanding)
            inflight.add_metric(labels, usage.inflight)
            queued.add_metric(labels, usage.queued)
            inflight_s.add_metric(labels, usage.inflight_seconds)
            queued_s.add_metric(labels, usage.queued_seconds)
        yield from (inflight, queued, inflight_s, queued_s, outstanding)
        yield CounterMetricFamily(
            "headgate_busy_seconds",
            "Seconds in which every slot was taken.",
            value=self._server.admission.busy_seconds(now),
        )

    def _limits(self) -> Iterator[Metric]:
        admission = self._server.admission
        limit = admission.limit
        yield GaugeMetricFamily(
            "headgate_concurrency_limit",
            "Requests that may be in flight; +Inf without a limit.",
            value=float("inf") if limit is None else limit,
        )
        models = GaugeMetricFamily(
            "headgate_model_concurrency_limit",
            "Requests that may be in flight for a model with a limit of its own.",
            labels=["model"],
        )
        for name, bound in self._server.settings.model_limits:
            models.add_metric([name], bound)
        yield models
        yield GaugeMetricFamily("headgate_queue_limit", "Requests that may wait.", value=admission.queue_limit)
        yield GaugeMetricFamily(
            "headgate_queued_bytes", "Bytes of waiting requests held in memory.", value=admission.queued_bytes
        )

    def _beliefs(self) -> Iterator[Metric]:
        """What the deadline policy predicts from; nothing with first in, first out."""
        admission = self._server.admission
        if not isinstance(admission, DeadlineAdmission):
            return
        now = monotonic()
        names = sorted({row.name for table in self._server.usages.values() for row in table.rows(now)})
        yield GaugeMetricFamily(
            "headgate_drain_rate", "Requests a second that leave while others wait.", value=admission.total.rate
        )
        yield GaugeMetricFamily(
            "headgate_offered_load_ratio",
            "Offered requests, refused ones included, over those that can be served; at least 1.",
            value=admission.total.load,
        )
        wait = GaugeMetricFamily(
            "headgate_predicted_wait_seconds",
            "What the model's next request would wait for its slot.",
            labels=["model"],
        )
        overloaded = GaugeMetricFamily(
            "headgate_overloaded", "Whether requests stand in a line that no burst explains.", labels=["model"]
        )
        service = GaugeMetricFamily(
            "headgate_service_time_seconds", "Recent times from dispatch to answer.", labels=["model", "quantile"]
        )
        for name in names:
            wait.add_metric([name], admission.predicted_wait(name))
            overloaded.add_metric([name], admission.is_overloaded(name, now))
            for share in (0.5, 0.9):
                service.add_metric([name, str(share)], admission.service_time(name, share, now))
        yield from (wait, overloaded, service)

    def _endings(self) -> Iterator[Metric]:
        counters = self._server.counters
        requests = CounterMetricFamily(
            "headgate_requests",
            "Inference requests that have ended, by the status the client got (HTTP's, or gRPC's) and how they ended.",
            labels=[*_BASE, "code", "outcome"],
        )
        for (model, protocol), of_model in counters.models.items():
            for (status, outcome), count in of_model.ended.items():
                requests.add_metric([model, protocol, str(status), outcome.label], count)
        yield requests
        rejected = CounterMetricFamily(
            "headgate_rejected", "Inference requests refused by the agent itself.", labels=["reason"]
        )
        for outcome, count in counters.rejected.items():
            rejected.add_metric([outcome.label], count)
        yield rejected
        cancelled = CounterMetricFamily(
            "headgate_cancelled", "Inference requests whose client left before the answer.", labels=["stage"]
        )
        cancelled.add_metric(["queued"], counters.cancelled_queued)
        cancelled.add_metric(["inflight"], counters.cancelled_inflight)
        yield cancelled
        bypassed = CounterMetricFamily(
            "headgate_bypassed", "Requests that are not inference and went through uncounted.", labels=["kind"]
        )
        for kind, count in counters.bypassed.items():
            bypassed.add_metric([kind.value], count)
        yield bypassed
        faults = CounterMetricFamily(
            "headgate_client_faults", "Client mistakes that never became a request.", labels=["reason"]
        )
        for outcome, count in counters.faults.items():
            faults.add_metric([outcome.label], count)
        yield faults

    def _times(self) -> Iterator[Metric]:
        wait = HistogramMetricFamily(
            "headgate_queue_wait_seconds", "From arrival to dispatch, of dispatched requests.", labels=_BASE
        )
        upstream = HistogramMetricFamily(
            "headgate_upstream_seconds", "From dispatch to the end of the answer, of served requests.", labels=_BASE
        )
        request = HistogramMetricFamily(
            "headgate_request_seconds", "From arrival to the end of the answer, of served requests.", labels=_BASE
        )
        for labels, counters in self._server.counters.models.items():
            _add(wait, labels, counters.queue_wait)
            _add(upstream, labels, counters.upstream)
            _add(request, labels, counters.request)
        yield from (wait, upstream, request)

    def _connections(self) -> Iterator[Metric]:
        server = self._server
        yield GaugeMetricFamily(
            "headgate_client_connections", "Open client connections.", value=len(server.connections)
        )
        upstream = GaugeMetricFamily(
            "headgate_upstream_connections", "Open connections to the predictor.", labels=["state"]
        )
        counts = [pool.counts() for pool in server.pools]
        upstream.add_metric(["idle"], sum(idle for _, idle in counts))
        upstream.add_metric(["busy"], sum(busy for busy, _ in counts))
        yield upstream
        build = GaugeMetricFamily("headgate_build_info", "Always 1; the version is the label.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


def _add(family: HistogramMetricFamily, labels: tuple[str, str], histogram: Histogram) -> None:
    buckets: list[tuple[str, float]] = []
    running = 0
    for bound, count in zip([*map(str, BOUNDS), "+Inf"], histogram.counts, strict=True):
        running += count
        buckets.append((bound, running))
    family.add_metric(list(labels), buckets, histogram.total)
