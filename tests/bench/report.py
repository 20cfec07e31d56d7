"""PURE: medians, the budget and its verdicts, and the Markdown table."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import median

# Peer -> one mapping of metric to value for each round. Metrics carry their unit in the name.
Samples = dict[str, list[dict[str, float]]]
# Row -> peer -> metric -> median over the rounds.
Medians = Mapping[str, Mapping[str, Mapping[str, float]]]


class Verdict(Enum):
    """How a check came out; only FAIL fails the run."""

    AIM = "pass, aim met"
    PASS = "pass"
    MISSED = "aim missed"
    FAIL = "FAIL"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Check:
    """An upper bound on a metric of the agent; relative to `versus` = (peer, metric) if given, else absolute."""

    row: str
    metric: str
    must: float | None
    aim: float | None
    versus: tuple[str, str] | None = None

    def value(self, medians: Medians) -> float | None:
        """The number that the bounds are for; None if a part of it was not measured."""
        row = medians.get(self.row, {})
        own = row.get("agent", {}).get(self.metric)
        if own is None or self.versus is None:
            return own
        peer, metric = self.versus
        other = row.get(peer, {}).get(metric)
        return own / other if other and other > 0 else None

    def verdict(self, medians: Medians) -> Verdict:
        """Compare the value with `must`, then with `aim`."""
        value = self.value(medians)
        if value is None:
            return Verdict.UNKNOWN
        if self.must is not None and value > self.must:
            return Verdict.FAIL
        if self.aim is not None and value <= self.aim:
            return Verdict.AIM
        return Verdict.MISSED if self.must is None else Verdict.PASS

    @property
    def subject(self) -> str:
        """What the bounds are multiples of, for people."""
        if self.versus is None:
            return _UNITS[self.metric.rpartition("_")[2]]
        peer, metric = self.versus
        return f"x {LABELS[metric] if peer == 'agent' else TITLES[peer]}"

    def budget(self) -> str:
        """The bounds, for people."""
        bounds = [("must", self.must), ("aim", self.aim)]
        return ", ".join(f"{name} <= {bound:g}" for name, bound in bounds if bound is not None) + f" {self.subject}"


CHECKS = (
    Check("small", "cpu_us", 0.8, 0.5, ("envoy", "cpu_us")),
    Check("small", "cpu_us", 2.6, 1.5, ("haproxy", "cpu_us")),
    Check("unique", "cpu_us", 1, 0.8, ("envoy", "cpu_us")),
    Check("unique", "cpu_us", 2.6, None, ("haproxy", "cpu_us")),
    Check("upload", "cpu_us", 1.1, 0.85, ("envoy", "cpu_us")),
    Check("download", "cpu_us", 1.1, 0.85, ("envoy", "cpu_us")),
    Check("refusal", "cpu_us", 0.5, None, ("agent", "admitted_cpu_us")),
    Check("refusal", "cpu_us", None, 10),
    Check("memory", "idle_mib", 45, 35),
    Check("memory", "peak_mib", 100, 64),
    Check("startup", "first_answer_ms", 250, 120),
    Check("latency", "added_p99_us", 1, None, ("envoy", "added_p99_us")),
    Check("grpc_8x8", "cpu_us", 1.2, 0.8, ("envoy", "cpu_us")),
    Check("grpc_8x8", "cpu_us", 3, 1.5, ("haproxy", "cpu_us")),
    Check("grpc_1mb_in", "cpu_us", 1.1, 0.85, ("envoy", "cpu_us")),
    Check("grpc_1mb_out", "cpu_us", 1.1, 0.85, ("envoy", "cpu_us")),
    Check("grpc_refusal", "cpu_us", 0.6, 0.5, ("agent", "admitted_cpu_us")),
    Check("grpc_slow", "up_mib", 32, None),
    Check("grpc_slow", "down_mib", 32, None),
)

# Beyond, caches are shared with strangers and the numbers describe them as well.
DISTURBED_SHARE = 0.05

TITLES = {"agent": "agent", "haproxy": "HAProxy", "envoy": "Envoy", "queue-proxy": "queue-proxy", "direct": "direct"}
ROWS = {
    "small": "small V2 JSON infer",
    "unique": "same, each head unique",
    "upload": "1 MiB tensor in",
    "download": "1 MiB tensor out",
    "tls_small": "small V2 JSON infer over TLS",
    "tls_upload": "1 MiB tensor in over TLS",
    "tls_download": "1 MiB tensor out over TLS",
    "tls_alone": "small infer, a TLS handshake for each",
    "refusal": "refusal (503) under flood",
    "memory": "memory",
    "startup": "start",
    "latency": "500 requests/s",
    "grpc_1x1": "small ModelInfer, 1 x 1 streams",
    "grpc_8x8": "same, 8 x 8 streams",
    "grpc_1x100": "same, 1 x 100 streams",
    "grpc_1mb_in": "1 MiB tensor in over gRPC",
    "grpc_1mb_out": "1 MiB tensor out over gRPC",
    "grpc_stream": "messages of one ModelStreamInfer",
    "grpc_refusal": "refusal (UNAVAILABLE) under flood",
    "grpc_slow": "one long stream, slow receiver",
}
LABELS = {
    "cpu_us": "CPU per request",
    "rps": "requests/s",
    "p50_us": "p50",
    "p99_us": "p99",
    "cpu_share": "share of the core",
    "others_share": "share of other programs",
    "admitted_cpu_us": "CPU of an admitted request",
    "idle_mib": "RSS idle",
    "queued_mib": "growth with the uploads queued",
    "peak_mib": "peak growth until all are answered",
    "drain_mb_s": "uploads drained",
    "first_answer_ms": "exec to first answer",
    "added_p50_us": "added p50",
    "added_p99_us": "added p99",
    "mean_us": "mean latency",
    "message_cpu_us": "CPU per message and its answer",
    "messages_rps": "messages/s",
    "up_mib": "peak growth, the predictor being slow",
    "down_mib": "peak growth, the client being slow",
    "up_mb_s": "to the slow predictor",
    "down_mb_s": "to the slow client",
}
_UNITS = {"us": "us", "ms": "ms", "mib": "MiB", "rps": "", "share": "", "s": "MB/s"}


def medians(results: Mapping[str, Samples]) -> dict[str, dict[str, dict[str, float]]]:
    """Reduce every metric of every peer to its median over the rounds."""
    return {
        row: {
            peer: {metric: median(sample[metric] for sample in rounds) for metric in rounds[0]}
            for peer, rounds in samples.items()
            if rounds
        }
        for row, samples in results.items()
    }


def passed(found: Medians, failures: Mapping[str, str]) -> bool:
    """Whether every row that was asked for could be measured, and every bound that could be checked holds."""
    return not failures and all(check.verdict(found) is not Verdict.FAIL for check in CHECKS)


def verdicts(found: Medians) -> list[dict[str, object]]:
    """The checks of the rows that were measured, for the JSON file."""
    return [
        {
            "row": check.row,
            "metric": check.metric,
            "versus": check.versus,
            "value": check.value(found),
            "must": check.must,
            "aim": check.aim,
            "verdict": check.verdict(found).value,
        }
        for check in CHECKS
        if check.row in found
    ]


def disturbed(found: Medians) -> list[str]:
    """The rows during which other programs took more of the proxy's core than a measurement bears."""
    return [
        row
        for row, by_peer in found.items()
        if any(metrics.get("others_share", 0) > DISTURBED_SHARE for metrics in by_peer.values())
    ]


def table(found: Medians) -> str:
    """One line a metric, one column a peer, and the budget where there is one."""
    seen = {peer for row in found.values() for peer in row}
    peers = [peer for peer in TITLES if peer in seen]
    lines = [["work", "", *(TITLES[peer] for peer in peers), "budget", "result"]]
    for row, by_peer in found.items():
        for number, metric in enumerate(by_peer["agent"]):
            cells = [_cell(by_peer.get(peer, {}).get(metric)) for peer in peers]
            checks = [check for check in CHECKS if (check.row, check.metric) == (row, metric)]
            budgets = [[check.budget(), _result(check, found)] for check in checks] or [["", ""]]
            lines.append([ROWS[row] if number == 0 else "", _label(metric), *cells, *budgets[0]])
            lines += [[""] * (2 + len(peers)) + budget for budget in budgets[1:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _result(check: Check, found: Medians) -> str:
    value, verdict = check.value(found), check.verdict(found)
    return verdict.value if value is None else f"{value:.3g}: {verdict.value}"


def _label(metric: str) -> str:
    unit = _UNITS[metric.rpartition("_")[2]]
    return f"{LABELS[metric]}, {unit}" if unit else LABELS[metric]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
