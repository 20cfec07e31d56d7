"""What a real Prometheus makes of our metrics, against what the load truly was.

One run for all tests: an agent under a square wave with bursts, another at four times its capacity, two scrapers on
each.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import unavailable
from .h2server import program
from .processes import Agent, eventually, get, running_agent
from .prometheus import Job, Prometheus, running_prometheus
from .waves import (
    CAPACITY,
    OVERLOAD,
    SLOTS,
    WAVE,
    account_of,
    mean_level,
    offer_all,
    running_predictor,
    seen_by_callers,
)

pytestmark = pytest.mark.contract

PERIODS = 6
WINDOW_S = 9
# Which agent is which workload, as the PodMonitor would label it; the second look is another's, or sums would double.
WORKLOADS = {"wave": "bursts", "overload": "iris"}
MONITORING = Path(__file__).parents[2] / "k8s/monitoring"


def tool(name: str) -> str:
    """The path of a program of Prometheus."""
    path = program(name)
    if path is None:
        unavailable(f"{name} is not installed (apt-get install prometheus)")
    return str(path)


def labels(workload: str) -> dict[str, str]:
    """What the PodMonitor adds."""
    return {"namespace": "models", "workload": workload, "pod": f"{workload}-predictor-0"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What ran, the end of the shorter load, and a moment for which Prometheus has all of both."""

    prometheus: Prometheus
    agents: dict[str, Agent]
    callers: dict[str, list[tuple[float, float]]]
    end: float
    after: float

    def window(self, job: str) -> tuple[float, float]:
        """The first and the last sample in the window before `end`: what a rate over it is the mean of."""
        stamps = self.prometheus.stamps(f'headgate_busy_seconds_total{{job="{job}"}}', self.end, WINDOW_S)
        assert len(stamps) > WINDOW_S / 2
        return stamps[0], stamps[-1]

    def bounds(self, job: str, mean: Callable[[float, float], float], rel: float) -> tuple[float, float]:
        """The least and the most that a rate over the window can be of what has this mean between two moments.

        A sample is of some moment between its stamp, when its scrape began, and the end of that, which a busy machine
        puts off. `rel` is allowed besides.
        """
        start, end = self.window(job)
        took = f'scrape_duration_seconds{{job="{job}"}}'
        first, last = (self.prometheus.value(took, at) for at in (start, end))
        least = mean(start + first, end) * (end - start - first) / (end - start)
        most = mean(start, end + last) * (end + last - start) / (end - start)
        return least * (1 - rel), most * (1 + rel)

    def rate(self, job: str, *names: str) -> float:
        """The sum of the rates of integrals."""
        terms = " + ".join(f'sum(rate({name}{{job="{job}"}}[{WINDOW_S}s]))' for name in names)
        return self.prometheus.value(terms, self.end)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Fourteen seconds of load, and what is left of it."""
    prometheus = tool("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    flags = ("--limit", str(SLOTS), "--policy", "deadline", "--access-log", "all", "--deadline")
    with ExitStack() as stack:
        agents = {}
        for name, deadline in (("wave", "20s"), ("overload", "1s")):
            url = stack.enter_context(running_predictor(directory, f"{name}-predictor"))
            agents[name] = stack.enter_context(running_agent(directory, [url], *flags, deadline))
        jobs = [
            Job(name + look, agent.admin, labels(WORKLOADS[name] + look))
            for name, agent in agents.items()
            for look in ("", "-2")
        ]
        rules = [MONITORING / "rules.yaml"]
        running = stack.enter_context(running_prometheus(prometheus, directory, jobs, rules))
        wave, overload = agents.values()
        loads = offer_all([(wave.address, WAVE, PERIODS), (overload.address, OVERLOAD, PERIODS)])
        callers = {name: seen_by_callers(samples) for name, samples in zip(agents, loads, strict=True)}
        ends = [max(high for _, high in spans) for spans in callers.values()]
        scraped = f"count(timestamp(headgate_busy_seconds_total) > {max(ends)}) == {len(jobs)}"
        eventually(lambda: bool(running.query(scraped, time.time())), "all is scraped once more")
        yield Scene(running, agents, callers, min(ends), time.time())


@pytest.mark.parametrize("job", ["wave", "wave-2", "overload", "overload-2"])
@pytest.mark.parametrize("level", ["inflight", "queued"])
def test_the_rate_of_an_integral_is_the_true_mean(scene: Scene, job: str, level: str) -> None:
    spans = getattr(account_of(scene.agents[job.removesuffix("-2")]), level)
    least, most = scene.bounds(job, partial(mean_level, spans), rel=0.02)
    assert least > 0.5
    assert least <= scene.rate(job, f"headgate_{level}_seconds_total") <= most


@pytest.mark.parametrize("job", ["wave", "overload"])
def test_it_is_what_the_callers_have_seen_too(scene: Scene, job: str) -> None:
    """Their own delays included, so no closer than a tenth; and never twice, however many scrape."""
    least, most = scene.bounds(job, partial(mean_level, scene.callers[job]), rel=0.1)
    assert least <= scene.rate(job, "headgate_inflight_seconds_total", "headgate_queued_seconds_total") <= most


def test_at_four_times_the_capacity_the_signal_is_the_load_that_was_offered(scene: Scene) -> None:
    least, most = scene.bounds("overload", account_of(scene.agents["overload"]).offered, rel=0.05)
    assert least > 3 * SLOTS
    told = scene.rate("overload", "headgate_inflight_seconds_total", "headgate_rejected_demand_seconds_total")
    assert least <= told <= most
    shown = scene.rate("overload", "headgate_inflight_seconds_total", "headgate_queued_seconds_total")
    assert shown < 0.7 * least, "what is in flight and queued hides it"


def test_the_share_asks_for_as_many_replicas_as_the_load_needs(scene: Scene) -> None:
    series = 'headgate_desired_replicas_share{job="overload",window="15s"}'
    share, at = scene.prometheus.value(series, scene.end), scene.prometheus.stamps(series, scene.end, WINDOW_S)[-1]
    offered = account_of(scene.agents["overload"]).offered(at - 15.0, at)
    assert share == pytest.approx(offered / (SLOTS * 0.7), rel=0.15)


def test_arrivals_answers_and_refusals_add_up(scene: Scene) -> None:
    arrived = len(account_of(scene.agents["overload"]).arrivals)
    assert scene.prometheus.value('sum(headgate_requests_total{job="overload"})', scene.after) == arrived
    assert arrived > 3 * CAPACITY * 2 * PERIODS


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text;version=1.0.0"])
def test_promtool_finds_nothing_to_complain_about(scene: Scene, accept: str) -> None:
    """Its linter reads the text format; that Prometheus takes the other is seen in every other test."""
    status, body = get(scene.agents["wave"].admin, "/metrics")
    assert status == 200
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=body, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


RECIPES = re.findall(r"^```promql\n(.*?)^```", (MONITORING / "README.md").read_text(), re.MULTILINE | re.DOTALL)
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
ADAPTER = yaml.safe_load((MONITORING / "prometheus-adapter.yaml").read_text())["rules"]


@pytest.mark.parametrize("recipe", range(4))
def test_the_recipes_of_the_page_answer(scene: Scene, recipe: int) -> None:
    assert len(RECIPES) == 4
    assert scene.prometheus.value(RECIPES[recipe], scene.end) > 0
    # For what they say of ten seconds of load their windows have to be as short.
    value = scene.prometheus.value(re.sub(r"\[\w+\]", f"[{WINDOW_S}s]", RECIPES[recipe]), scene.end)
    least, most = scene.bounds("overload", account_of(scene.agents["overload"]).offered, rel=0.1)
    if "share" not in RECIPES[recipe]:  # which is in replicas, and has a test of its own
        assert least <= value <= most


def test_every_rule_is_evaluated_and_has_the_demand(scene: Scene) -> None:
    rules = scene.prometheus.rules()
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}, rules
    query = 'workload:headgate_demand:rate1m{workload="iris"}'
    eventually(lambda: bool(scene.prometheus.query(query, time.time())), "the rules are evaluated", timeout_s=30.0)
    assert scene.prometheus.value(query, time.time()) > 0


@pytest.mark.parametrize("rule", [*ADAPTER["external"], *ADAPTER["custom"]], ids=lambda rule: rule["name"]["as"])
def test_the_adapters_queries_answer(scene: Scene, rule: dict[str, Any]) -> None:
    """As the adapter fills them in; its templates are Go's, with << and >>."""
    assert scene.prometheus.query(rule["seriesQuery"], scene.end)
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "namespace,pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="models",workload="iris"')
    assert "<<" not in query
    assert scene.prometheus.value(query, scene.end) > 0


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_every_panel_has_something_to_show(scene: Scene, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        query = target["expr"].replace("$namespace", "models").replace("$workload", "iris|bursts")
        query = query.replace("$model", ".*").replace("$__rate_interval", f"{WINDOW_S}s")
        assert "$" not in query
        assert scene.prometheus.query(query, scene.end), query
