"""The monitoring files by themselves; tests/contract/test_prometheus.py asks a real Prometheus what is in them."""

import json
import os
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.admin.test_exposition import DOCUMENTED
from tests.contract.h2server import program

HERE = Path(__file__).parent
MONITORING = HERE.parents[1] / "k8s/monitoring"
FILES = sorted(path.name for path in MONITORING.iterdir())
PARTS = ("_bucket", "_sum", "_count")


def load(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def promtool() -> str:
    path = program("promtool")
    if path is None:
        reason = "promtool is not installed (apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def test_the_operators_rules_are_the_plain_ones() -> None:
    assert load("prometheusrule.yaml")["spec"] == load("rules.yaml")


@pytest.mark.parametrize(
    "arguments", [("check", "rules", str(MONITORING / "rules.yaml")), ("test", "rules", "rules_test.yaml")]
)
def test_promtool_accepts_the_rules_and_they_do_what_they_should(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([promtool(), *arguments], cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tested = (HERE / "rules_test.yaml").read_text()
    alerts = [rule for group in load("rules.yaml")["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) >= 8
    for alert in alerts:
        assert f"alertname: {alert['alert']}\n" in tested
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
        assert set(alert["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("name", [name for name in FILES if name != "kustomization.yaml"])
def test_only_metrics_that_exist_are_named(name: str) -> None:
    known = {metric + part for metric in DOCUMENTED for part in ("", *PARTS)}
    made = {"headgate_demand", "headgate_demand_fast", "headgate_demand_per_pod", "headgate_desired_replicas"}
    recorded = {rule["record"] for group in load("rules.yaml")["groups"] for rule in group["rules"] if "record" in rule}
    text = (MONITORING / name).read_text()
    for record in re.findall(r"\bworkload:\w+:\w+", text):
        assert record in recorded
    assert set(re.findall(r"(?<![:\w])headgate_[a-z_]+\b", text)) <= known | made


def test_kustomize_is_given_files_that_exist() -> None:
    kustomization = load("kustomization.yaml")
    generated = [entry.rpartition("=")[2] for each in kustomization["configMapGenerator"] for entry in each["files"]]
    assert set(kustomization["resources"] + generated) <= set(FILES)
    assert {load(name)["kind"] for name in kustomization["resources"]} == {"PodMonitor", "PrometheusRule"}


def test_the_page_names_every_file() -> None:
    page = (MONITORING / "README.md").read_text()
    assert not [name for name in FILES if f"]({name})" not in page and name not in {"README.md", "kustomization.yaml"}]


DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    assert len(PANELS) == len(DASHBOARD["panels"]) == len({panel["id"] for panel in DASHBOARD["panels"]})
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_explains_itself_and_goes_by_the_choices_above(title: str) -> None:
    panel = PANELS[title]
    assert panel["description"].endswith(".")
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
        assert 'namespace="$namespace",workload=~"$workload"' in target["expr"]
        assert "[$__rate_interval]" in target["expr"] or "rate(" not in target["expr"]
