"""The access log: one JSON line for an exchange, with a bound on how many lines failures may cause.

JSON escapes every control character, so a hostile path cannot forge a line. A flood of refusals is told as samples and
a count of the lines left out, since 6 us of logging would otherwise double what a refusal costs.
"""

import json
from collections.abc import Callable
from enum import StrEnum

from agent.errors import Fault, Outcome
from agent.observe.hooks import Record


class Mode(StrEnum):
    """Which exchanges are logged."""

    OFF = "off"
    ERRORS = "errors"
    ALL = "all"


SERVED = Outcome.SERVED
ALL = Mode.ALL

# gRPC's ways of saying 5xx: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
_FAILURES = frozenset({2, 4, 13, 14, 15})

# Lines a second in `errors` mode; `all` is what its name says.
MAX_ERRORS_PER_S = 50


class AccessLog:
    """Observer that writes lines through `write`; `wall_offset` turns monotonic stamps into Unix time."""

    __slots__ = ("_budget", "_mode", "_second", "_suppressed", "_wall_offset", "_write")

    def __init__(self, mode: Mode, write: Callable[[str], object], wall_offset: float) -> None:
        self._mode = mode
        self._write = write
        self._wall_offset = wall_offset
        self._second = 0
        self._budget = MAX_ERRORS_PER_S
        self._suppressed = 0

    def ended(self, record: Record) -> None:
        """Log one exchange if the mode asks for it."""
        grpc_status = record.grpc_status
        failed = record.outcome is not SERVED or record.status >= 500 or (grpc_status > 1 and grpc_status in _FAILURES)
        if self._mode is ALL or (failed and self._may_log(record.ended)):
            self._log(self._line(record))

    def faulted(self, fault: Fault, peer: str, now: float) -> None:
        """Log a client's mistake that never became an exchange, without any of its bytes."""
        if self._mode is Mode.ALL or self._may_log(now):
            ts = round(now + self._wall_offset, 3)
            self._log({"ts": ts, "peer": peer, "outcome": fault.outcome.label, "detail": fault.detail})

    def _may_log(self, now: float) -> bool:
        second = int(now)
        if second != self._second:
            self._second = second
            self._budget = MAX_ERRORS_PER_S
        if not self._budget:
            self._suppressed += 1
            return False
        self._budget -= 1
        return True

    def _log(self, line: dict[str, object]) -> None:
        if self._suppressed:
            line["suppressed"] = self._suppressed
            self._suppressed = 0
        self._write(json.dumps(line, separators=(",", ":")) + "\n")

    def _line(self, record: Record) -> dict[str, object]:
        dispatched, responded = record.dispatched, record.responded
        return {
            "ts": round(record.ended + self._wall_offset, 3),
            "peer": record.peer,
            "method": record.method.decode("latin-1"),
            "path": record.target.decode("latin-1"),
            "kind": record.route.kind.value,
            "model": record.route.model,
            "protocol": record.protocol,
            "status": record.status,
            "grpc_status": record.grpc_status if record.grpc_status >= 0 else None,
            "outcome": record.outcome.label,
            "queue_ms": _ms(record.arrived, dispatched or record.ended),
            "first_byte_ms": _ms(record.arrived, responded) if responded else None,
            "upstream_ms": _ms(dispatched, record.ended) if dispatched else None,
            "total_ms": _ms(record.arrived, record.ended),
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
        }


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1e3, 3)
