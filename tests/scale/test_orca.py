"""The report beside answers: its forms against the protobuf library and a reading as Envoy's, and its numbers."""

import json
from base64 import b64decode

import pytest
from google.protobuf import json_format

from agent.scale.orca import BIN, JSON, TEXT, TRAILER, Reporter
from protos.orca_load_report_pb2 import OrcaLoadReport
from tests.fakes import FakeRecord, FakeServer, ManualClock


class Server:
    """A server with a limit of 4, 6 requests on it, and a report."""

    def __init__(self, limit: str = "4") -> None:
        self.clock = ManualClock()
        self.fake = FakeServer({"limit": [limit], "policy": ["fifo"]}, self.clock.now)
        self.usage = self.fake.usages["http"].learn("m", self.clock.now)
        self.reporter = Reporter(self.fake.load)
        for _ in range(6):
            self.fake.admission.offer(self.fake.admission.ticket(None, "m", self.usage), self.clock.now)

    def pass_a_second(self) -> float:
        now = self.clock.advance(1.0)
        self.fake.load.tick(now)
        return now


def read_text(value: bytes) -> OrcaLoadReport:
    """As Envoy reads the text form (source/common/orca/orca_parser.cc): pairs between commas, spaces around skipped."""
    report = OrcaLoadReport()
    for pair in value.removeprefix(b"TEXT ").decode().split(","):
        name, number = pair.strip().split("=")
        if name.startswith("named_metrics."):
            report.named_metrics[name.removeprefix("named_metrics.")] = float(number)
        else:
            setattr(report, name, float(number))
    return report


def test_all_forms_say_the_same() -> None:
    server = Server()
    server.usage.rejected_demand_seconds += 12.0
    server.fake.book(FakeRecord(usage=server.usage) for _ in range(80))
    now = server.pass_a_second()
    expected = OrcaLoadReport.FromString(b64decode(server.reporter.values(now)[TRAILER], validate=True))
    assert expected.application_utilization == pytest.approx(4.0)
    assert (expected.rps_fractional, expected.eps) == (80.0, 0.0)
    assert dict(expected.named_metrics) == {"inflight": 4.0, "queued": 2.0}
    text, form, coded = (server.reporter.values(now)[form] for form in (TEXT, JSON, BIN))
    assert read_text(text) == expected
    assert form.startswith(b"JSON ")
    assert json_format.Parse(form[5:], OrcaLoadReport()) == expected
    assert coded.startswith(b"BIN ")
    assert OrcaLoadReport.FromString(b64decode(coded[4:], validate=True)) == expected
    assert all(0x20 <= byte < 0x7F for byte in text + form + coded)


def test_without_a_limit_there_is_no_utilization() -> None:
    server = Server(limit="none")
    now = server.pass_a_second()
    assert "application_utilization" not in json.loads(server.reporter.values(now)[JSON][5:])
    assert dict(read_text(server.reporter.values(now)[TEXT]).named_metrics) == {"inflight": 6.0, "queued": 0.0}


def test_it_looks_at_the_last_second_or_two() -> None:
    server = Server()
    for _ in range(30):
        server.pass_a_second()
    server.usage.rejected_demand_seconds += 4.0
    assert server.reporter.report(server.pass_a_second()).numbers["application_utilization"] == pytest.approx(2.0)
    server.pass_a_second()
    server.pass_a_second()
    assert server.reporter.report(server.clock.now).numbers["application_utilization"] == pytest.approx(1.0)


def test_it_is_worked_out_ten_times_a_second_at_most() -> None:
    server = Server()
    now = server.pass_a_second()
    first = server.reporter.values(now)[TEXT]
    server.usage.rejected_demand_seconds += 4.0
    assert server.reporter.values(now + 0.09)[TEXT] is first
    assert server.reporter.values(now + 0.11)[TEXT] != first
