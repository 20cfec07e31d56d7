"""The load beside an answer, as ORCA has it (PURE): for load balancers that choose by what servers say of themselves.

Fields are those of xds.data.orca.v3.OrcaLoadReport; the forms are those that Envoy reads (source/common/orca): TEXT,
JSON and BIN in `endpoint-load-metrics`, and the bare protobuf in gRPC's trailer `endpoint-load-metrics-bin` (gRFC A51).
"""

import json
from base64 import b64encode
from struct import pack
from typing import NamedTuple

from agent.scale.page import LoadPage

# What a client is answered with. It asks with `endpoint-load-metrics-format` (policy.stated), as for vLLM and Triton.
HEADER = b"endpoint-load-metrics"
TRAILER = b"endpoint-load-metrics-bin"
TEXT, JSON, BIN = b"text", b"json", b"bin"
FORMS = frozenset({TEXT, JSON, BIN})

# Balancers look every second or so; a report is told again for a tenth of that.
_FRESH_S = 0.1
_WINDOW_S = 1.0

# OrcaLoadReport's fields: the wire's tags of its doubles, and of the entries of named_metrics.
_TAGS = {"rps_fractional": 0x31, "eps": 0x39, "application_utilization": 0x49}
_NAMED_METRICS = 0x42
_KEY, _VALUE = 0x0A, 0x11


class Report(NamedTuple):
    """`numbers` are fields of the report, `named` its named metrics."""

    numbers: dict[str, float]
    named: dict[str, float]

    def text(self) -> bytes:
        """Pairs, as in the text form."""
        pairs = {**self.numbers, **{f"named_metrics.{name}": value for name, value in self.named.items()}}
        return ", ".join(f"{name}={value!r}" for name, value in pairs.items()).encode()

    def json(self) -> bytes:
        """Protobuf's JSON."""
        return json.dumps({**self.numbers, "named_metrics": self.named}).encode()

    def protobuf(self) -> bytes:
        """The message."""
        parts = [pack("<Bd", _TAGS[name], value) for name, value in self.numbers.items()]
        for name, value in self.named.items():
            entry = pack("<BB", _KEY, len(name)) + name.encode() + pack("<Bd", _VALUE, value)
            parts.append(pack("<BB", _NAMED_METRICS, len(entry)) + entry)
        return b"".join(parts)


class Reporter:
    """The report of one server, worked out at most ten times a second."""

    __slots__ = ("_built", "_built_at", "_page")

    def __init__(self, page: LoadPage) -> None:
        self._page = page
        self._built: dict[bytes, bytes] = {}
        self._built_at = float("-inf")

    def report(self, now: float) -> Report:
        """The load in the last second or two. The utilization is above 1 while more is offered than the limit allows.

        Without a limit there is none, and a balancer falls back on what it else knows.
        """
        load = self._page.load(_WINDOW_S, now)
        numbers = {"rps_fractional": round(load.demand.served, 3), "eps": round(load.demand.failed, 3)}
        if load.limit:
            numbers["application_utilization"] = round(load.demand.total / load.limit, 4)
        return Report(numbers, {"inflight": float(load.inflight), "queued": float(load.queued)})

    def values(self, now: float) -> dict[bytes, bytes]:
        """The value of `endpoint-load-metrics` in each of the `FORMS`, and that of `TRAILER`.

        The same object as long as nothing new has been worked out.
        """
        if now - self._built_at > _FRESH_S:
            report = self.report(now)
            coded = b64encode(report.protobuf())
            self._built = {
                TEXT: b"TEXT " + report.text(),
                JSON: b"JSON " + report.json(),
                BIN: b"BIN " + coded,
                TRAILER: coded,
            }
            self._built_at = now
        return self._built
