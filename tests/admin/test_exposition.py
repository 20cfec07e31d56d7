"""/metrics as Prometheus reads it: parsed by its own client, complete, monotone, documented."""

import re
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import agent
from agent.admin.exposition import Exposition
from agent.admin.merge import PageState
from agent.admin.text import wants_openmetrics
from agent.errors import Fault, Outcome
from agent.observe.counters import BOUNDS
from agent.observe.history import read
from agent.policy.classify import Kind, Route
from agent.policy.usage import UsageTable
from tests.fakes import FakeRecord, FakeServer
from tests.observe.records import some_records

PAGES = [PageState("http://127.0.0.1:8002/metrics", True, 3)]

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Scraped:
    """A server with traffic on it, and what a scrape of it says."""

    def __init__(self, **flags: list[str]) -> None:
        self.server = FakeServer({"model_limits": ["slow=1", "sought=auto"], "limit": ["4"], **flags})
        for protocol in ("http", "grpc"):
            for name in ("a", "b"):
                self.server.usages[protocol].learn(name, 0.0)
        self.exposition = Exposition(cast(Any, self.server))

    def text(self, *, openmetrics: bool = False) -> str:
        return self.exposition.text(openmetrics=openmetrics, pages=PAGES).encoded().decode()

    def families(self) -> dict[str, Metric]:
        return {family.name: family for family in parse_text(self.text())}

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


def test_windows_roll_over_the_readings_and_two_who_scrape_see_the_same(scraped: Scraped) -> None:
    server, now = scraped.server, monotonic()
    for at in (now - 40.0, now - 10.0, now):
        server.pulse.history.readings.append(read(server.admission, server.usages, server.counters, at))
        server.load.tick(at)
        server.admission.take_peak()
    for window in ("15s", "60s"):
        for _ in range(2):
            assert scraped.value("headgate_concurrency_max", window=window) == 3
            assert scraped.value("headgate_concurrency_average", window=window) == pytest.approx(3.0)
            assert scraped.value("headgate_desired_replicas_share", window=window) > 0


def test_merged_pages_say_how_it_went(scraped: Scraped) -> None:
    for name, value in (("up", 1), ("dropped_lines", 3)):
        assert scraped.value(f"headgate_merge_{name}", source=PAGES[0].source) == value


def test_demand_waste_and_missed_deadlines_are_those_of_the_counters(scraped: Scraped) -> None:
    usage = scraped.server.usages["http"].of("a")
    usage.missed, usage.late_seconds, usage.rejected_demand_seconds = 3, 1.5, 2.5
    counters = scraped.server.counters.models["a", "http"]
    of = {"model": "a", "protocol": "http"}
    assert scraped.value("headgate_rejected_demand_seconds_total", **of) == usage.rejected_demand_seconds == 2.5
    assert scraped.value("headgate_retries_admitted_total", **of) == counters.retries > 0
    assert scraped.value("headgate_wasted_seconds_total", **of, reason="late") == 1.5
    for reason, seconds in counters.wasted.items():
        assert scraped.value("headgate_wasted_seconds_total", **of, reason=reason.value) == seconds > 0
    assert scraped.value("headgate_deadline_missed_total", **of) == 3


def test_no_limit_is_infinite() -> None:
    scraped = Scraped(limit=["none"])
    assert scraped.value("headgate_concurrency_limit") == float("inf")
    assert not scraped.families()["headgate_desired_replicas_share"].samples


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
        assert family.type in {"gauge", "counter", "histogram", "summary"}


def test_open_metrics_says_the_same(scraped: Scraped) -> None:
    text = scraped.text(openmetrics=True)
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
    name = 'm"} 1\nheadgate_fake{a="\\\x1b%d%%{}\ud800'
    table = scraped.server.usages["http"] = UsageTable([name], 0.0)  # as from the settings: clients give no such names
    scraped.server.book([FakeRecord(route=Route(Kind.INFERENCE, name), usage=table.of(name))])
    shown = name.replace("\ud800", "?")
    assert scraped.value("headgate_requests_inflight", model=shown, protocol="http") == 0
    assert scraped.value("headgate_upstream_seconds_count", model=shown, protocol="http") == 1
    assert not any(family.startswith("headgate_fake") for family in scraped.families())
    list(parse_openmetrics(scraped.text(openmetrics=True)))  # type: ignore[no-untyped-call]


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


def test_a_search_tells_what_it_believes() -> None:
    scraped = Scraped(limit=["auto"])
    assert scraped.value("headgate_limit_search_limit", model="") == 8.0
    assert scraped.value("headgate_limit_search_limit", model="sought") == 8.0
    assert scraped.value("headgate_limit_search_throughput", model="") == 0.0
    assert scraped.value("headgate_limit_search_holding", model="") == 0.0
    assert scraped.value("headgate_concurrency_limit") == 8.0


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text", True),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1",
            True,
        ),
        ("text/plain, application/openmetrics-text; version=2.0.0; escaping=allow-utf-8", True),
    ],
)
def test_openmetrics_is_told_to_whoever_names_it(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
