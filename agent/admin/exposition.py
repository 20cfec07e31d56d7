"""Everything that /metrics says. Every series and its labels is written down here, once."""

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING

from agent import __version__
from agent.admin.merge import PageState
from agent.admin.text import Text, labels
from agent.net.handshakes import Result
from agent.observe.counters import ModelCounters
from agent.observe.history import read
from agent.policy.deadline import DeadlineAdmission
from agent.policy.knee import Knee, Phase
from agent.policy.usage import Usage
from agent.scale.page import FAST_S, SLOW_S

if TYPE_CHECKING:
    from agent.net.clear import Clear
    from agent.net.server import Server


WINDOWS = (FAST_S, SLOW_S)
_NOTHING = ModelCounters()


class Exposition:
    """Reads the server's plain numbers when somebody asks."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._templates: dict[tuple[str, str], str] = {}

    def text(self, *, openmetrics: bool = False, pages: Sequence[PageState] = ()) -> Text:
        """All families, as of now. `pages` are those whose metrics come behind."""
        text = Text(self._templates, openmetrics=openmetrics)
        now = monotonic()
        usages = [(row, _base(row)) for table in self._server.usages.values() for row in table.rows(now)]
        counters = self._server.counters.models
        models = [(counters.get((usage.name, usage.protocol)), of) for usage, of in usages]
        active = [(counted, of) for counted, of in models if counted is not None]
        self._levels(text, usages)
        self._limits(text, now)
        self._windows(text, now)
        # A counter must be there before its first increase, or `rate` would not see that one.
        self._demand(text, usages, [(counted or _NOTHING, of) for counted, of in models])
        self._beliefs(text, usages, now)
        self._endings(text, active)
        self._times(text, active)
        self._connections(text)
        text.family("headgate_merge_up", "gauge", "Whether a page of --merge-metrics could be read for this scrape.")
        for page in pages:
            text.add(int(page.is_up), labels(source=page.source))
        text.family("headgate_merge_dropped_lines", "gauge", "Lines of a page of --merge-metrics that made no sense.")
        for page in pages:
            text.add(page.dropped, labels(source=page.source))
        return text

    def _levels(self, text: Text, usages: list[tuple[Usage, str]]) -> None:
        text.family(
            "headgate_requests_inflight", "gauge", "Requests dispatched to the predictor and not yet ended, now."
        )
        for usage, of in usages:
            text.add(usage.inflight, of)
        text.family("headgate_requests_queued", "gauge", "Requests waiting in the agent, now.")
        for usage, of in usages:
            text.add(usage.queued, of)
        text.family(
            "headgate_stream_messages_outstanding",
            "gauge",
            "Requests sent on open inference streams and not yet answered.",
        )
        for usage, _ in usages:
            if usage.protocol == "grpc":
                text.add(usage.outstanding, labels(model=usage.name))
        text.family(
            "headgate_inflight_seconds_total",
            "counter",
            "Integral of headgate_requests_inflight over time, in request-seconds; its rate is the exact mean.",
        )
        for usage, of in usages:
            text.add(usage.inflight_seconds, of)
        text.family(
            "headgate_queued_seconds_total",
            "counter",
            "Integral of headgate_requests_queued over time, in request-seconds; its rate is the exact mean.",
        )
        for usage, of in usages:
            text.add(usage.queued_seconds, of)

    def _limits(self, text: Text, now: float) -> None:
        admission = self._server.admission
        limit = admission.limit
        text.one(
            "headgate_busy_seconds_total",
            "counter",
            "Seconds in which every slot was taken.",
            admission.busy_seconds(now),
        )
        text.one(
            "headgate_concurrency_limit",
            "gauge",
            "Requests that may be in flight; +Inf without a limit.",
            float("inf") if limit is None else limit,
        )
        text.family(
            "headgate_model_concurrency_limit",
            "gauge",
            "Requests that may be in flight for a model with a limit of its own.",
        )
        for name, _ in self._server.settings.model_limits:
            bound = admission.model_limit(name)
            assert bound is not None
            text.add(bound, labels(model=name))
        text.one("headgate_queue_limit", "gauge", "Requests that may wait.", admission.queue_limit)
        text.one("headgate_queued_bytes", "gauge", "Bytes of waiting requests held in memory.", admission.queued_bytes)

    def _windows(self, text: Text, now: float) -> None:
        server = self._server
        reading = read(server.admission, server.usages, server.counters, now)
        windows = [(window, labels(window=f"{window}s"), server.load.load(window, now)) for window in WINDOWS]
        text.family(
            "headgate_concurrency_max", "gauge", "The most requests that were in flight and queued at once, by window."
        )
        for window, of, _ in windows:
            text.add(server.pulse.history.peak(reading, window), of)
        text.family("headgate_concurrency_average", "gauge", "Mean of the requests in flight and queued, by window.")
        for _, of, load in windows:
            text.add(load.demand.inflight + load.demand.queued, of)
        text.family(
            "headgate_desired_replicas_share",
            "gauge",
            "Replicas that the load of this one is worth; their sum, rounded up, is what a workload needs.",
        )
        for _, of, load in windows:
            share = load.demand.share(load.limit)
            if share is not None:
                text.add(share, of)

    def _demand(self, text: Text, usages: list[tuple[Usage, str]], models: list[tuple[ModelCounters, str]]) -> None:
        text.family(
            "headgate_rejected_demand_seconds_total",
            "counter",
            "Seconds for which refused first attempts would have been in flight; its rate is the refused concurrency.",
        )
        for usage, of in usages:
            text.add(usage.rejected_demand_seconds, of)
        text.family(
            "headgate_retries_admitted_total", "counter", "Dispatched requests that were not the first attempt."
        )
        for counters, of in models:
            text.add(counters.retries, of)
        text.family(
            "headgate_wasted_seconds_total",
            "counter",
            "Seconds in flight that were of use to nobody: the answer failed, was late, or its client had left.",
        )
        for counters, of in models:
            for reason, seconds in counters.wasted.items():
                text.add(seconds, f'{of[:-1]},reason="{reason}"}}')
        for usage, of in usages:
            text.add(usage.late_seconds, of[:-1] + ',reason="late"}')
        text.family("headgate_deadline_missed_total", "counter", "Answers that came after their deadline.")
        for usage, of in usages:
            text.add(usage.missed, of)

    def _beliefs(self, text: Text, usages: list[tuple[Usage, str]], now: float) -> None:
        """What the deadline policy predicts from; nothing with first in, first out."""
        admission = self._server.admission
        if not isinstance(admission, DeadlineAdmission):
            return
        names = [(name, labels(model=name)) for name in sorted({usage.name for usage, _ in usages})]
        text.one(
            "headgate_drain_rate", "gauge", "Requests a second that leave while others wait.", admission.total.rate
        )
        text.one(
            "headgate_offered_load_ratio",
            "gauge",
            "Offered requests, refused ones included, over those that can be served; at least 1.",
            admission.total.load,
        )
        text.family(
            "headgate_predicted_wait_seconds", "gauge", "Seconds that the model's next request would wait for its slot."
        )
        for name, of in names:
            text.add(admission.predicted_wait(name), of)
        text.family("headgate_overloaded", "gauge", "Whether requests stand in a line that no burst explains, 0 or 1.")
        for name, of in names:
            text.add(int(admission.is_overloaded(name, now)), of)
        text.family("headgate_service_time_seconds", "summary", "Recent seconds from dispatch to answer, by quantile.")
        for name, of in names:
            for share in (0.5, 0.9):
                text.add(admission.service_time(name, share, now), f'{of[:-1]},quantile="{share}"}}')
        text.family(
            "headgate_prediction_error_seconds",
            "histogram",
            "Seconds between the predicted and the actual dispatch of requests that waited, whatever the sign.",
        )
        text.histogram(self._server.counters.wait_error)
        text.family(
            "headgate_request_cost",
            "histogram",
            "Sizes of requests whose rows were read (--v2-hints), in mean requests.",
        )
        text.histogram(self._server.counters.cost)

        _add_searches(text, [(labels(model=name), search) for name, search in admission.searches()])

    def _endings(self, text: Text, models: list[tuple[ModelCounters, str]]) -> None:
        counters = self._server.counters
        text.family(
            "headgate_requests_total",
            "counter",
            "Inference requests that have ended, by the status the client got (HTTP's, or gRPC's) and how they ended.",
        )
        for counted, of in models:
            model, _, protocol = of[1:-1].rpartition(",")
            for (status, outcome), count in counted.ended.items():
                text.add(count, f'{{code="{status}",{model},outcome="{outcome.label}",{protocol}}}')
        text.family("headgate_rejected_total", "counter", "Inference requests refused by the agent itself.")
        for outcome, count in counters.rejected.items():
            text.add(count, labels(reason=outcome.label))
        text.family("headgate_cancelled_total", "counter", "Inference requests whose client left before the answer.")
        text.add(counters.cancelled_queued, labels(stage="queued"))
        text.add(counters.cancelled_inflight, labels(stage="inflight"))
        text.family("headgate_bypassed_total", "counter", "Requests that are not inference and went through uncounted.")
        for kind, count in counters.bypassed.items():
            text.add(count, labels(kind=kind.value))
        text.family("headgate_client_faults_total", "counter", "Client mistakes that never became a request.")
        for outcome, count in counters.faults.items():
            text.add(count, labels(reason=outcome.label))

    def _times(self, text: Text, models: list[tuple[ModelCounters, str]]) -> None:
        text.family(
            "headgate_queue_wait_seconds", "histogram", "Seconds from arrival to dispatch, of dispatched requests."
        )
        for counters, of in models:
            text.histogram(counters.queue_wait, of)
        text.family(
            "headgate_upstream_seconds",
            "histogram",
            "Seconds from dispatch to the end of the answer, of served requests.",
        )
        for counters, of in models:
            text.histogram(counters.upstream, of)
        text.family(
            "headgate_request_seconds",
            "histogram",
            "Seconds from arrival to the end of the answer, of served requests.",
        )
        for counters, of in models:
            text.histogram(counters.request, of)

    def _connections(self, text: Text) -> None:
        server = self._server
        text.one("headgate_client_connections", "gauge", "Open client connections.", len(server.connections))
        counts = [pool.counts() for pool in server.pools]
        text.family("headgate_upstream_connections", "gauge", "Open connections to the predictor.")
        text.add(sum(idle for _, idle in counts), labels(state="idle"))
        text.add(sum(busy for busy, _ in counts), labels(state="busy"))
        _add_tls(text, server.secure)
        text.family("headgate_build_info", "gauge", "Always 1; the version is the label.")
        text.add(1, labels(version=__version__))


def _add_tls(text: Text, secure: "Clear") -> None:
    text.family("headgate_tls_handshakes_total", "counter", "Handshakes that clients began, by how they ended.")
    for port, handshakes in secure.ports.items():
        for result in Result if handshakes else ():
            text.add(sum(each.counts[result] for each in handshakes), labels(port=port, result=result.value))
    text.family(
        "headgate_certificate_not_after_seconds",
        "gauge",
        "When the certificate that is shown ends, in seconds since 1970.",
    )
    for use, end in secure.ends():
        text.add(end, labels(use=use))


def _base(usage: Usage) -> str:
    return labels(model=usage.name, protocol=usage.protocol)


def _add_searches(text: Text, searches: list[tuple[str, Knee]]) -> None:
    """What `--limit auto` believes."""
    text.family(
        "headgate_limit_search_limit",
        "gauge",
        "The limit that --limit auto believes in; model is empty for the total.",
    )
    for of, search in searches:
        text.add(search.centre, of)
    text.family("headgate_limit_search_throughput", "gauge", "Requests a second that were measured at that limit.")
    for of, search in searches:
        text.add(search.rate, of)
    text.family("headgate_limit_search_holding", "gauge", "Whether the search rests, content with that limit, 0 or 1.")
    for of, search in searches:
        text.add(int(search.phase is Phase.HOLDING), of)
