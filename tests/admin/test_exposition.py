"""/metrics as Prometheus reads it: parsed by its own client, complete, monotone, documented."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import agent
from agent.admin.exposition import Exposition
from agent.errors import Fault, Outcome
from agent.observe.counters import BOUNDS
from agent.policy.classify import Kind, Route
from tests.fakes import FakeRecord, FakeServer
from tests.observe.records import some_records

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scraped:
    """A server with traffic on it, and what a scrape of it says."""

    def __init__(self, **flags: list[str]) -> None:
        self.server = FakeServer({"model_limits": ["slow=1"], "limit": ["4"], **flags})
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(Exposition(cast(Any, self.server)))

    def families(self) -> dict[str, Metric]:
        return {family.name: family for family in parse_text(generate_latest(self.registry).decode())}

    def series(self) -> Series:
        samples = [sample for family in self.families().values() for sample in family.samples]
        found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
        assert len(found) == len(samples), "two samples of one series"
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.series()[name, tuple(sorted(labels.items()))]


@pytest.fixture
def scraped() -> Scraped:
    scraped = Scraped()
    server = scraped.server
    for model in ("slow", "slow", "m"):
        ticket = server.admission.ticket(None, model, server.usages["http"].learn(model, 0.0))
        server.admission.offer(ticket, 0.0)
    server.book(some_records(1, 300))
    server.counters.faulted(Fault(Outcome.BAD_REQUEST, "why"), "peer", 1.0)
    server.connections.update(range(5))
    server.pools[0].busy = 2
    server.pools[0].idle = 1
    return scraped


def test_levels_and_limits_are_those_of_the_server(scraped: Scraped) -> None:
    for model, inflight, queued in [("slow", 1, 1), ("m", 1, 0), ("_other", 0, 0)]:
        assert scraped.value("headgate_requests_inflight", model=model, protocol="http") == inflight
        assert scraped.value("headgate_requests_queued", model=model, protocol="http") == queued
    assert scraped.value("headgate_concurrency_limit") == 4
    assert scraped.value("headgate_model_concurrency_limit", model="slow") == 1
    assert scraped.value("headgate_queue_limit") == 1000
    assert scraped.value("headgate_queued_bytes") == 0
    assert scraped.value("headgate_client_connections") == 5
    assert scraped.value("headgate_upstream_connections", state="idle") == 1
    assert scraped.value("headgate_upstream_connections", state="busy") == 2
    assert scraped.value("headgate_build_info", version=agent.__version__) == 1


def test_no_limit_is_infinite() -> None:
    assert Scraped(limit=["none"]).value("headgate_concurrency_limit") == float("inf")


def test_integrals_go_on_while_a_level_is_held(scraped: Scraped) -> None:
    labels = {"model": "slow", "protocol": "http"}
    for name in ("headgate_inflight_seconds_total", "headgate_queued_seconds_total"):
        assert 0 < scraped.value(name, **labels) < scraped.value(name, **labels)
    assert scraped.value("headgate_busy_seconds_total") == 0


def test_endings_are_those_of_the_counters(scraped: Scraped) -> None:
    counters, series = scraped.server.counters, scraped.series()
    for (model, protocol), of_model in counters.models.items():
        for (status, outcome), count in of_model.ended.items():
            labels = {"model": model, "protocol": protocol, "code": str(status), "outcome": outcome.label}
            assert series["headgate_requests_total", tuple(sorted(labels.items()))] == count
    for outcome, count in counters.rejected.items():
        assert scraped.value("headgate_rejected_total", reason=outcome.label) == count > 0
    assert scraped.value("headgate_cancelled_total", stage="queued") == counters.cancelled_queued
    assert scraped.value("headgate_cancelled_total", stage="inflight") == counters.cancelled_inflight
    for kind in (Kind.HEALTH, Kind.CONTROL):
        assert scraped.value("headgate_bypassed_total", kind=kind.value) == counters.bypassed[kind] > 0
    assert scraped.value("headgate_client_faults_total", reason="bad_request") == 1


@pytest.mark.parametrize("name", ["queue_wait", "upstream", "request"])
def test_histograms_are_cumulative_and_complete(scraped: Scraped, name: str) -> None:
    family = scraped.families()[f"headgate_{name}_seconds"]
    assert family.type == "histogram"
    for (model, protocol), of_model in scraped.server.counters.models.items():
        histogram = getattr(of_model, name)
        samples = [s for s in family.samples if (s.labels["model"], s.labels["protocol"]) == (model, protocol)]
        buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
        assert [bound for bound, _ in buckets] == [*BOUNDS, float("inf")]
        assert [count for _, count in buckets] == [sum(histogram.counts[: at + 1]) for at in range(len(buckets))]
        values = {s.name.rpartition("_")[2]: s.value for s in samples if not s.name.endswith("_bucket")}
        assert values == {"count": sum(histogram.counts), "sum": pytest.approx(histogram.total)}


def test_counters_never_go_back_and_never_vanish(scraped: Scraped) -> None:
    counting = ("_total", "_bucket", "_count", "_sum")
    before = scraped.series()
    for seed in range(3):
        scraped.server.book(some_records(seed, 50))
        after = scraped.series()
        for key, value in before.items():
            if key[0].endswith(counting):
                assert after[key] >= value, key
        before = after


def test_every_family_says_what_it_is(scraped: Scraped) -> None:
    families = scraped.families()
    assert len(families) >= 20
    for name, family in families.items():
        assert name.startswith("headgate_")
        assert family.documentation.endswith((".", "label."))
        assert family.type in {"gauge", "counter", "histogram"}


def test_open_metrics_says_the_same(scraped: Scraped) -> None:
    text = generate_openmetrics(scraped.registry).decode()  # type: ignore[no-untyped-call]
    assert text.endswith("# EOF\n")
    names = {family.name.removesuffix("_total") for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert names == {name.removesuffix("_total") for name in scraped.families()}


def test_a_fresh_server_already_has_every_family() -> None:
    fresh = Scraped()
    assert set(fresh.families()) == set(Scraped(limit=["none"]).families())
    assert fresh.value("headgate_rejected_total", reason="queue_full") == 0
    assert fresh.value("headgate_cancelled_total", stage="queued") == 0


def test_a_hostile_model_name_stays_inside_its_label() -> None:
    scraped = Scraped()
    name = 'm"} 1\nheadgate_fake{a="\\\x1b'
    usage = scraped.server.usages["http"].learn(name, 0.0)
    scraped.server.book([FakeRecord(route=Route(Kind.INFERENCE, name), usage=usage)])
    assert scraped.value("headgate_requests_inflight", model=name, protocol="http") == 0
    assert not any(family.startswith("headgate_fake") for family in scraped.families())


README = (Path(agent.__file__).parent / "README.md").read_text()
ROW = re.compile(r"^\| `(headgate_\w+)` \| (\w+) \| ([\w, ]*?) *\|", re.MULTILINE)
DOCUMENTED = {name: (kind, set(labels.replace(",", " ").split())) for name, kind, labels in ROW.findall(README)}


def test_every_metric_has_a_row_in_the_documents_with_its_type_and_labels(scraped: Scraped) -> None:
    shown = {}
    for family in scraped.families().values():
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown[name] = (family.type, labels)
    assert shown == DOCUMENTED
