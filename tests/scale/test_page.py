"""The load page: what it says, in which form, over which window, and what it costs to ask again."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.scale.demand import LONGEST_S
from agent.scale.page import PATH, LoadPage
from tests.fakes import FakeServer, ManualClock

FIELDS = {
    "inflight", "queued", "limit", "demand", "rejected", "replicas", "requests_per_second", "service_time_seconds",
    "demand_15s", "replicas_15s", "window_seconds", "uptime_seconds",
    "inflight_seconds", "queued_seconds", "rejected_demand_seconds",
}  # fmt: skip


class Asked:
    """A server with a page, on a clock of the test's."""

    def __init__(self, **flags: str) -> None:
        self.clock = ManualClock()
        self.server = FakeServer({"limit": ["4"], **{name: [text] for name, text in flags.items()}}, self.clock.now)
        self.page: LoadPage = self.server.load

    def pass_seconds(self, count: int) -> None:
        for _ in range(count):
            self.page.tick(self.clock.advance(1.0))

    def occupy(self, count: int) -> None:
        usage = self.server.usages["http"].learn("m", self.clock.now)
        for _ in range(count):
            self.server.admission.offer(self.server.admission.ticket(None, "m", usage), self.clock.now)

    def json(self, query: bytes = b"") -> dict[str, float]:
        page = self.page.answer(b"GET", PATH + query, b"*/*", self.clock.now)
        assert (page.status, page.content_type) == (200, "application/json")
        numbers = json.loads(page.body)
        assert set(numbers) == FIELDS
        return dict(numbers)


def test_it_tells_the_levels_and_the_mean_over_the_last_minute() -> None:
    asked = Asked(policy="fifo")
    asked.pass_seconds(30)
    asked.occupy(6)
    asked.server.usages["http"].of("m").rejected_demand_seconds += 90.0
    asked.pass_seconds(30)
    numbers = asked.json()
    assert (numbers["inflight"], numbers["queued"], numbers["limit"]) == (4, 2, 4)
    assert (numbers["window_seconds"], numbers["uptime_seconds"]) == (60.0, 60.0)
    assert numbers["demand"] == pytest.approx(2.0 + 1.5)
    assert numbers["rejected"] == pytest.approx(1.5)
    assert numbers["replicas"] == pytest.approx(3.5 / (4 * 0.7), abs=1e-5)
    assert numbers["inflight_seconds"] == pytest.approx(120.0)
    assert numbers["queued_seconds"] == pytest.approx(60.0)


@pytest.mark.parametrize("query", [b"?window=15s", b"?window=15", b"?a=b&window=15s", b"?window=15s&a=b"])
def test_the_window_can_be_chosen(query: bytes) -> None:
    asked = Asked()
    asked.pass_seconds(100)
    asked.occupy(4)
    asked.pass_seconds(3)
    numbers = asked.json(query)
    assert numbers["window_seconds"] == 15.0
    assert numbers["demand"] == numbers["demand_15s"] == pytest.approx(4 * 3 / 15)
    assert numbers["replicas"] == numbers["replicas_15s"]
    assert asked.json()["demand_15s"] == numbers["demand_15s"]


@pytest.mark.parametrize(
    "query", [b"window=0", b"window=301s", b"window=1m", b"window=", b"window=-5s", b"window=9999"]
)
def test_a_window_that_cannot_be_is_refused_with_the_range(query: bytes) -> None:
    asked = Asked()
    page = asked.page.answer(b"GET", PATH + b"?" + query, b"", asked.clock.now)
    assert page.status == 400
    assert f"from 1 to {LONGEST_S}" in json.loads(page.body)["error"]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS"])
def test_it_can_only_be_read(method: bytes) -> None:
    asked = Asked()
    page = asked.page.answer(method, PATH, b"", asked.clock.now)
    assert (page.status, page.allow) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("accept", "is_text"),
    [
        (b"", False),
        (b"*/*", False),
        (b"text/html,application/xhtml+xml,*/*;q=0.8", False),
        (b"application/json, text/plain, */*", False),
        (b"text/plain;version=0.0.4", True),
        (b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5", True),
    ],
)
def test_text_is_for_those_who_ask_for_it(accept: bytes, *, is_text: bool) -> None:
    asked = Asked()
    page = asked.page.answer(b"GET", PATH, accept, asked.clock.now)
    assert page.content_type.startswith("text/plain; version=0.0.4" if is_text else "application/json")


def test_the_text_has_the_numbers_of_the_json_with_their_meaning() -> None:
    asked = Asked()
    asked.occupy(3)
    asked.pass_seconds(10)
    numbers = asked.json()
    page = asked.page.answer(b"GET", PATH, b"text/plain", asked.clock.now)
    families = {family.name: family for family in parse_text(page.body.decode())}
    assert {name: family.samples[0].value for name, family in families.items()} == {
        f"headgate_load_{name}": value for name, value in numbers.items()
    }
    assert all(family.type == "gauge" and family.documentation for family in families.values())


def test_without_a_limit_there_is_no_number_for_it() -> None:
    asked = Asked(limit="none", policy="fifo")
    asked.occupy(20)
    asked.pass_seconds(1)
    numbers = asked.json()
    assert numbers["limit"] is None
    assert (numbers["inflight"], numbers["demand"], numbers["replicas"]) == (20, 20.0, None)
    text = asked.page.answer(b"GET", PATH, b"text/plain", asked.clock.now).body
    assert b"headgate_load_demand 20.0\n" in text
    assert b"headgate_load_limit" not in text
    assert b"headgate_load_replicas" not in text


def test_a_flood_of_questions_gets_what_has_been_worked_out() -> None:
    asked = Asked()
    first = asked.page.answer(b"GET", PATH, b"", asked.clock.now)
    asked.clock.advance(0.05)
    assert asked.page.answer(b"GET", PATH, b"", asked.clock.now) is first
    assert asked.page.answer(b"GET", PATH + b"?window=5s", b"", asked.clock.now) is not first
    asked.clock.advance(0.06)
    assert asked.page.answer(b"GET", PATH, b"", asked.clock.now) is not first


def test_it_names_nobody() -> None:
    asked = Asked(model_limits="secret-model=1")
    asked.occupy(1)
    for accept in (b"", b"text/plain"):
        assert b"secret" not in asked.page.answer(b"GET", PATH, accept, asked.clock.now).body
