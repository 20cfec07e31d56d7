"""The answers the agent gives itself, as ready HTTP/1.1 bytes: a refusal under flood must cost next to nothing."""

import json
from http import HTTPStatus

from agent.errors import REPLIES, Outcome

# Seconds. A whole number of at least 1 is all that Retry-After can say (RFC 9110 section 10.2.3).
RETRY_AFTER = 1

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Replies:
    """Builds each reply once.

    `overload_status` replaces 503 where the queue is full: 429 for clients that prefer it.
    """

    __slots__ = ("_built", "_statuses")

    def __init__(self, overload_status: int) -> None:
        self._statuses = [reply.http for reply in REPLIES]
        self._statuses[Outcome.QUEUE_FULL] = overload_status
        self._built: dict[tuple[Outcome, bool, bool, str], bytes] = {}

    def status(self, outcome: Outcome) -> int:
        """The HTTP status a client is told."""
        return self._statuses[outcome]

    def http(self, outcome: Outcome, *, close: bool, bodyless: bool = False, detail: str = "") -> bytes:
        """The whole reply. `close` announces the end of the connection; `bodyless` answers HEAD.

        `detail` adds words about the client's mistake; they come from our own fixed texts, never from its bytes.
        """
        key = (outcome, close, bodyless, detail)
        reply = self._built.get(key)
        if reply is None:
            reply = self._built[key] = self._build(outcome, close=close, bodyless=bodyless, detail=detail)
        return reply

    def _build(self, outcome: Outcome, *, close: bool, bodyless: bool, detail: str) -> bytes:
        status = self.status(outcome)
        # {"error": "..."} is the error body of the Open Inference Protocol's REST binding.
        body = json.dumps({"error": REPLIES[outcome].text + (": " + detail if detail else "")}).encode()
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ''}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"x-headgate-reason: {outcome.label}",
        ]
        if REPLIES[outcome].retry:
            lines.append(f"Retry-After: {RETRY_AFTER}")
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if bodyless else body)
