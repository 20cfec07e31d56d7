"""The metrics of real predictors behind the agent's own: nothing lost, nothing that a scraper refuses."""

import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import StartAgent, unavailable
from .h2server import program
from .payloads import INFER, JSON, v2
from .processes import HOST, Metrics, Server, eventually, get
from .rawhttp import exchange, request

pytestmark = pytest.mark.contract

# A metric that each shows without having served anything.
SHOWS = {
    "kserve": "python_info",
    "mlserver": "python_info",
    "triton": "nv_cpu_memory_total_bytes",
}


def page(address: str) -> str:
    """What /metrics says there; empty as long as nobody listens."""
    try:
        status, body = get(address, "/metrics")
    except OSError:
        return ""
    assert status == 200
    return body.decode()


def test_a_predictors_metrics_are_all_there(server: Server, start_agent: StartAgent) -> None:
    # Triton is ready a moment before its port for metrics is.
    address = f"{HOST}:{server.metrics_port}"
    eventually(lambda: bool(page(address)), "the predictor shows its metrics")
    # Once it has served something, KServe's page has series that it had not before.
    if server.name == "kserve":
        assert exchange(server.address, request("POST", INFER, v2(), JSON))[0].status == 200
    direct = page(address)
    expected = {sample.name for family in text_string_to_metric_families(direct) for sample in family.samples}
    assert SHOWS[server.name] in expected
    agent = start_agent(server.upstream, "--merge-metrics", server.metrics_url)
    text = page(agent.admin)
    merged = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert expected <= merged
    metrics = Metrics(text)
    assert metrics.value("headgate_merge_up", source=server.metrics_url) == 1
    assert metrics.value("headgate_merge_dropped_lines") == 0
    promtool = program("promtool")
    if promtool is None:
        unavailable("promtool is not installed (apt-get install prometheus)")
    # It also has opinions on how predictors name things; what it must not have is trouble with reading them.
    checked = subprocess.run(
        [str(promtool), "check", "metrics"], input=text.encode(), capture_output=True, timeout=30, check=False
    )
    assert b"error while linting" not in checked.stderr, checked.stderr.decode()
    assert not [line for line in checked.stderr.splitlines() if line.startswith(b"headgate_")]
