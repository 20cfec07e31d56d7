"""A real Prometheus that scrapes what a test gives it, and its query language."""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from .processes import HOST, Child, free_port, get

SCRAPE_S = 1
_START_S = 30.0
# It writes its log before it ends, and has nothing to save here.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Job:
    """A scrape of one agent's admin port: `labels` go with every series."""

    name: str
    admin: str
    labels: Mapping[str, str]

    def config(self) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "job_name": self.name,
            "static_configs": [{"targets": [self.admin], "labels": dict(self.labels)}],
        }


class Prometheus:
    """Where it listens, and what it knows."""

    def __init__(self, address: str) -> None:
        self._address = address

    def query(self, promql: str, at: float) -> list[dict[str, Any]]:
        """The result of an instant query at a Unix time. Raises ValueError where Prometheus refuses it."""
        status, body = get(self._address, "/api/v1/query?" + urlencode({"query": promql, "time": f"{at:.3f}"}))
        answer = json.loads(body)
        if status != 200:
            raise ValueError(f"{promql}: {answer.get('error')}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, promql: str, at: float) -> float:
        """The result of a query that has one."""
        result = self.query(promql, at)
        assert len(result) == 1, f"{promql}: {len(result)} results"
        return float(result[0]["value"][1])

    def stamps(self, selector: str, at: float, window_s: int) -> list[float]:
        """When the samples of one series in a window were scraped, in Unix time."""
        result = self.query(f"{selector}[{window_s}s]", at)
        assert len(result) == 1, f"{selector}: {len(result)} series"
        return [float(stamp) for stamp, _ in result[0]["values"]]

    def rules(self) -> list[dict[str, Any]]:
        """The rules that it evaluates, each with its health."""
        _, body = get(self._address, "/api/v1/rules")
        return [rule for group in json.loads(body)["data"]["groups"] for rule in group["rules"]]

    def is_up(self, jobs: int) -> bool:
        """Whether so many targets have been scraped without a fault."""
        try:
            status, body = get(self._address, "/api/v1/targets")
        except (OSError, http.client.HTTPException):
            return False
        if status != 200:
            return False  # it is still reading what it has stored
        targets = json.loads(body)["data"]["activeTargets"]
        return sum(target["health"] == "up" for target in targets) == jobs


@contextmanager
def running_prometheus(
    program: str, directory: Path, jobs: Sequence[Job], rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Prometheus, once it has scraped every job. Raises ProcessError."""
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_S}s",
            "scrape_timeout": f"{SCRAPE_S}s",
            "evaluation_interval": f"{SCRAPE_S}s",
        },
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [job.config() for job in jobs],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{HOST}:{free_port()}"
    argv = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    child = Child("prometheus", argv, log=directory / "prometheus.log", env={})
    prometheus = Prometheus(address)
    try:
        child.await_event(lambda: prometheus.is_up(len(jobs)), "it has scraped every target", _START_S)
        yield prometheus
    finally:
        child.terminate(_STOP_S)
