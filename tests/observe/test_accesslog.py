"""The access log: one JSON object a line, whatever clients send, and a bound on what failures may write."""

import json
from typing import Any

import pytest

from agent.errors import Fault, Outcome
from agent.observe.accesslog import MAX_ERRORS_PER_S, AccessLog, Mode
from agent.policy.classify import Kind, Route
from tests.fakes import FakeRecord


class Log:
    """An access log whose text is kept."""

    def __init__(self, mode: Mode, wall_offset: float = 0.0) -> None:
        self.text = ""
        self.log = AccessLog(mode, self._write, wall_offset)

    def _write(self, text: str) -> None:
        self.text += text

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line, parsed as strictly as the strictest reader would."""
        assert not self.text or self.text.endswith("\n")
        return [json.loads(line) for line in self.text.split("\n")[:-1]]


def test_a_line_says_how_the_exchange_went() -> None:
    log = Log(Mode.ALL, wall_offset=1_700_000_000.0)
    log.log.ended(
        FakeRecord(
            route=Route(Kind.INFERENCE, "m"),
            outcome=Outcome.SERVED,
            status=200,
            arrived=10.0,
            dispatched=10.25,
            responded=10.5,
            ended=11.0,
            bytes_in=7,
            bytes_out=9,
        )
    )
    assert log.lines == [
        {
            "ts": 1_700_000_011.0,
            "peer": "192.0.2.1:5000",
            "method": "POST",
            "path": "/v2/models/m/infer",
            "kind": "inference",
            "model": "m",
            "protocol": "http",
            "status": 200,
            "grpc_status": None,
            "outcome": "served",
            "queue_ms": 250.0,
            "first_byte_ms": 500.0,
            "upstream_ms": 750.0,
            "total_ms": 1000.0,
            "bytes_in": 7,
            "bytes_out": 9,
        }
    ]


def test_what_never_happened_is_null_and_not_zero() -> None:
    log = Log(Mode.ALL)
    log.log.ended(
        FakeRecord(outcome=Outcome.EXPIRED, status=504, arrived=10.0, dispatched=0.0, responded=0.0, ended=12.0)
    )
    (line,) = log.lines
    assert (line["queue_ms"], line["first_byte_ms"], line["upstream_ms"]) == (2000.0, None, None)


HOSTILE = [
    b'/a"}\n{"outcome":"served"}',
    b"/\r\nHTTP/1.1 200 OK",
    b"/\x1b[2J\x1b]0;title\x07",
    b"/\0\x7f\x85\x80\xff",
    b"/\xe2\x80\xa8\xe2\x80\xa9",
    b"/\\u000a\\",
    b"/%0d%0a",
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_path_cannot_forge_a_line(path: bytes) -> None:
    log = Log(Mode.ALL)
    text = path.decode("latin-1")
    log.log.ended(FakeRecord(target=path, method=path, route=Route(Kind.INFERENCE, text), peer=text, protocol=text))
    (line,) = log.lines
    assert {line[name] for name in ("path", "method", "model", "peer", "protocol")} == {text}
    assert log.text[:-1].isascii()
    assert log.text[:-1].isprintable()


SERVED = FakeRecord(status=200)
MISSING = FakeRecord(status=404)
FAILED = FakeRecord(status=500)
REFUSED = FakeRecord(outcome=Outcome.QUEUE_FULL, status=503)
GONE = FakeRecord(outcome=Outcome.CLIENT_GONE, status=499)


@pytest.mark.parametrize(
    ("mode", "logged"), [(Mode.ALL, [SERVED, MISSING, FAILED, REFUSED, GONE]), (Mode.ERRORS, [FAILED, REFUSED, GONE])]
)
def test_the_mode_says_what_is_logged(mode: Mode, logged: list[FakeRecord]) -> None:
    log = Log(mode)
    for record in (SERVED, MISSING, FAILED, REFUSED, GONE):
        log.log.ended(record)
    assert [line["status"] for line in log.lines] == [record.status for record in logged]


def test_a_flood_of_failures_is_sampled_and_the_rest_is_counted() -> None:
    log = Log(Mode.ERRORS)
    for second in (1000, 1001, 1005):
        for number in range(400):
            log.log.ended(FakeRecord(outcome=Outcome.QUEUE_FULL, status=503, ended=second + number / 400))
    lines = log.lines
    assert len(lines) == 3 * MAX_ERRORS_PER_S
    left_out = 400 - MAX_ERRORS_PER_S
    told = [(index, line["suppressed"]) for index, line in enumerate(lines) if "suppressed" in line]
    assert told == [(MAX_ERRORS_PER_S, left_out), (2 * MAX_ERRORS_PER_S, left_out)]


def test_all_is_what_its_name_says() -> None:
    log = Log(Mode.ALL)
    for _ in range(10 * MAX_ERRORS_PER_S):
        log.log.ended(REFUSED)
    assert len(log.lines) == 10 * MAX_ERRORS_PER_S
    assert not any("suppressed" in line for line in log.lines)


@pytest.mark.parametrize("mode", [Mode.ERRORS, Mode.ALL])
def test_a_mistake_that_never_became_an_exchange_is_told_without_its_bytes(mode: Mode) -> None:
    log = Log(mode)
    log.log.faulted(Fault(Outcome.BAD_REQUEST, "malformed request line"), "192.0.2.1:5000\n", 1.0)
    (line,) = log.lines
    assert (line["peer"], line["outcome"]) == ("192.0.2.1:5000\n", "bad_request")
    assert line["detail"] == "malformed request line"


def test_a_flood_of_mistakes_is_sampled_like_other_failures() -> None:
    log = Log(Mode.ERRORS)
    log.log.ended(REFUSED)
    for _ in range(100 * MAX_ERRORS_PER_S):
        log.log.faulted(Fault(Outcome.BAD_REQUEST, "malformed request line"), "192.0.2.1:5000", 1.0)
    assert len(log.lines) <= 2 * MAX_ERRORS_PER_S
