"""The answers the agent gives itself, as ready bytes: a refusal under flood must cost next to nothing."""

import json
from http import HTTPStatus

from agent.errors import REPLIES, Outcome
from agent.wire.grpc import percent_encode
from agent.wire.hpack import Field, encode

# Seconds. A whole number of at least 1 is all that Retry-After can say (RFC 9110 section 10.2.3).
RETRY_AFTER = 1

# gRPC's code for 429.
_RESOURCE_EXHAUSTED = 8

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Replies:
    """Builds each reply once.

    `overload_status` replaces 503 where the queue is full: 429 for clients that prefer it.
    """

    __slots__ = ("_built", "_calls", "_codes", "_sections", "_statuses")

    def __init__(self, overload_status: int) -> None:
        self._statuses = [reply.http for reply in REPLIES]
        self._statuses[Outcome.QUEUE_FULL] = overload_status
        self._codes = [reply.grpc for reply in REPLIES]
        if overload_status == HTTPStatus.TOO_MANY_REQUESTS:
            self._codes[Outcome.QUEUE_FULL] = _RESOURCE_EXHAUSTED
        self._sections: dict[tuple[Outcome, str], tuple[bytes, bytes]] = {}
        self._calls = [b""] * len(REPLIES)
        self._built: dict[tuple[Outcome, bool, bool, str], bytes] = {}

    def status(self, outcome: Outcome) -> int:
        """The HTTP status a client is told."""
        return self._statuses[outcome]

    def grpc_status(self, outcome: Outcome) -> int:
        """The gRPC status a client is told."""
        return self._codes[outcome]

    def http2(self, outcome: Outcome, detail: str = "") -> tuple[bytes, bytes]:
        """The header block and the body of a reply over HTTP/2."""
        key = (outcome, detail)
        sections = self._sections.get(key)
        if sections is None:
            sections = self._sections[key] = self._build_http2(outcome, detail)
        return sections

    def grpc(self, outcome: Outcome, detail: str = "") -> bytes:
        """The header block that answers a gRPC call: trailers alone."""
        block = self._calls[outcome]
        if not block or detail:
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), *self._trailers(outcome, detail)]
            block = encode(fields)
            if not detail:
                self._calls[outcome] = block
        return block

    def trailers(self, outcome: Outcome) -> bytes:
        """The trailers of a gRPC answer that has begun and cannot be completed, as a header block."""
        return encode(self._trailers(outcome, ""))

    def _trailers(self, outcome: Outcome, detail: str) -> list[Field]:
        fields = [
            (b"grpc-status", b"%d" % self.grpc_status(outcome)),
            (b"grpc-message", percent_encode(_text(outcome, detail))),
            (b"x-headgate-reason", outcome.label.encode()),
        ]
        if REPLIES[outcome].retry:
            # gRPC proposal A6: when to try again, for clients that have retries configured.
            fields.append((b"grpc-retry-pushback-ms", b"%d" % (RETRY_AFTER * 1000)))
        return fields

    def _build_http2(self, outcome: Outcome, detail: str) -> tuple[bytes, bytes]:
        body = _body(outcome, detail)
        fields = [
            (b":status", b"%d" % self.status(outcome)),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-headgate-reason", outcome.label.encode()),
        ]
        if REPLIES[outcome].retry:
            fields.append((b"retry-after", b"%d" % RETRY_AFTER))
        return encode(fields), body

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
        body = _body(outcome, detail)
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


def _text(outcome: Outcome, detail: str) -> str:
    return REPLIES[outcome].text + (": " + detail if detail else "")


def _body(outcome: Outcome, detail: str) -> bytes:
    # {"error": "..."} is the error body of the Open Inference Protocol's REST binding.
    return json.dumps({"error": _text(outcome, detail)}).encode()
