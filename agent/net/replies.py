"""The answers the agent gives itself, as ready bytes: a refusal under flood must cost next to nothing."""

import json
from http import HTTPStatus
from math import ceil

from agent.errors import REPLIES, Outcome
from agent.scale.page import Page
from agent.wire.grpc import percent_encode
from agent.wire.hpack import Field, encode

# What is told where nothing is known; a caller that has a whole second can wait it.
RETRY_AFTER_S = 1.0
# Retry-After counts seconds, and pushback is rounded to steps, so that few different replies are built.
_MAX_RETRY_S = 60.0
_STEP_S = 0.05

# gRPC's code for 429.
_RESOURCE_EXHAUSTED = 8

_FOR_LACK_OF_ROOM = (Outcome.QUEUE_FULL, Outcome.DEADLINE, Outcome.OVERLOAD)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Replies:
    """Builds each reply once.

    `overload_status` replaces 503 where there is no room: 429 for clients that prefer it.
    """

    __slots__ = ("_built", "_calls", "_codes", "_sections", "_statuses")

    def __init__(self, overload_status: int) -> None:
        self._statuses = [reply.http for reply in REPLIES]
        for outcome in _FOR_LACK_OF_ROOM:
            self._statuses[outcome] = overload_status
        self._codes = [reply.grpc for reply in REPLIES]
        if overload_status == HTTPStatus.TOO_MANY_REQUESTS:
            for outcome in _FOR_LACK_OF_ROOM:
                self._codes[outcome] = _RESOURCE_EXHAUSTED
        self._sections: dict[tuple[Outcome, str, int], tuple[bytes, bytes]] = {}
        self._calls: dict[tuple[Outcome, str, int], bytes] = {}
        self._built: dict[tuple[Outcome, bool, bool, str, int], bytes] = {}

    def status(self, outcome: Outcome) -> int:
        """The HTTP status a client is told."""
        return self._statuses[outcome]

    def grpc_status(self, outcome: Outcome) -> int:
        """The gRPC status a client is told."""
        return self._codes[outcome]

    def http2(self, outcome: Outcome, detail: str, retry_s: float | None) -> tuple[bytes, bytes]:
        """The header block and the body of a reply over HTTP/2; see `http`."""
        key = (outcome, detail, _steps(retry_s))
        sections = self._sections.get(key)
        if sections is None:
            sections = self._sections[key] = self._build_http2(*key)
        return sections

    def grpc(self, outcome: Outcome, detail: str, retry_s: float | None) -> bytes:
        """The header block that answers a gRPC call: trailers alone; see `http`."""
        key = (outcome, detail, _steps(retry_s))
        block = self._calls.get(key)
        if block is None:
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), *self._trailers(*key)]
            block = self._calls[key] = encode(fields)
        return block

    def trailers(self, outcome: Outcome) -> bytes:
        """The trailers of a gRPC answer that has begun and cannot be completed, as a header block."""
        return encode(self._trailers(outcome, "", 0))

    def _trailers(self, outcome: Outcome, detail: str, steps: int) -> list[Field]:
        fields = [
            (b"grpc-status", b"%d" % self.grpc_status(outcome)),
            (b"grpc-message", percent_encode(_text(outcome, detail))),
            (b"x-headgate-reason", outcome.label.encode()),
        ]
        if REPLIES[outcome].retry:
            # gRPC proposal A6: when to try again, for clients that have retries configured; negative is never.
            fields.append((b"grpc-retry-pushback-ms", b"-1" if steps < 0 else b"%d" % (_retry_s(steps) * 1000)))
        return fields

    def _build_http2(self, outcome: Outcome, detail: str, steps: int) -> tuple[bytes, bytes]:
        body = _body(outcome, detail)
        fields = [
            (b":status", b"%d" % self.status(outcome)),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-headgate-reason", outcome.label.encode()),
        ]
        if REPLIES[outcome].retry and steps >= 0:
            fields.append((b"retry-after", b"%d" % ceil(_retry_s(steps))))
        return encode(fields), body

    def http(
        self, outcome: Outcome, *, close: bool, bodyless: bool = False, detail: str = "", retry_s: float | None = 0.0
    ) -> bytes:
        """The whole reply. `close` announces the end of the connection; `bodyless` answers HEAD.

        `detail` adds words about the client's mistake; they come from our own fixed texts, never from its bytes.
        `retry_s` is when another try may succeed, 0.0 where that is not known, and None for never.
        """
        key = (outcome, close, bodyless, detail, _steps(retry_s))
        reply = self._built.get(key)
        if reply is None:
            reply = self._built[key] = self._build(*key)
        return reply

    def _build(self, outcome: Outcome, close: bool, bodyless: bool, detail: str, steps: int) -> bytes:
        status = self.status(outcome)
        body = _body(outcome, detail)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ''}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"x-headgate-reason: {outcome.label}",
        ]
        if REPLIES[outcome].retry and steps >= 0:
            # A whole number of at least 1 is all that it can say (RFC 9110 section 10.2.3).
            lines.append(f"Retry-After: {ceil(_retry_s(steps))}")
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if bodyless else body)


def _page_fields(page: Page) -> list[Field]:
    fields = [
        (b"content-type", page.content_type.encode()),
        (b"content-length", b"%d" % len(page.body)),
        (b"cache-control", b"no-store"),
    ]
    return [*fields, (b"allow", page.allow.encode())] if page.allow else fields


def page_http(page: Page, *, close: bool, bodyless: bool) -> bytes:
    """A page over HTTP/1.1; `close` announces the end of the connection, `bodyless` answers HEAD."""
    fields = [*_page_fields(page), (b"connection", b"close")] if close else _page_fields(page)
    lines = [f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}".encode(), *map(b": ".join, fields)]
    return b"\r\n".join([*lines, b"", b"" if bodyless else page.body])


def page_http2(page: Page) -> bytes:
    """The header block of a page over HTTP/2."""
    return encode([(b":status", b"%d" % page.status), *_page_fields(page)])


def _steps(retry_s: float | None) -> int:
    """The time in steps of `_STEP_S`, 0 for unknown, negative for never."""
    if not retry_s:
        return -1 if retry_s is None else 0
    return int(min(retry_s, _MAX_RETRY_S) / _STEP_S) + 1


def _retry_s(steps: int) -> float:
    return steps * _STEP_S if steps else RETRY_AFTER_S


def _text(outcome: Outcome, detail: str) -> str:
    return REPLIES[outcome].text + (": " + detail if detail else "")


def _body(outcome: Outcome, detail: str) -> bytes:
    # {"error": "..."} is the error body of the Open Inference Protocol's REST binding.
    return json.dumps({"error": _text(outcome, detail)}).encode()
