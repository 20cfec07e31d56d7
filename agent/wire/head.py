"""Request and response heads: parsed fields, the rules about them, and the bytes rebuilt from them.

A head that goes out is always rebuilt from parsed fields and never copied, so nothing that a lenient reader behind us
might read differently survives (RFC 9112 section 11.2). Order, case and duplicates of the fields are kept; the
hop-by-hop ones are removed (RFC 9110 section 7.6.1) and nothing is added but what framing itself needs.
"""

import re
from copy import copy
from typing import Self

from agent.errors import Fault, Outcome

Fields = list[tuple[bytes, bytes]]

# Where an answer carries no gRPC status.
NO_STATUS = -1


# The fields that a proxy must understand; every other field is PLAIN and goes through untouched. Plain ints, not an
# enum: they are compared for every message. From CONNECTION on, the field ends at this hop.
PLAIN, HOST, LENGTH, PATIENCE, ATTEMPT, CODING, CONNECTION, UPGRADE, EXPECT, HOP = range(10)

# How long the caller will wait, in milliseconds, as Envoy tells what is behind it.
PATIENCE_FIELD = b"x-envoy-expected-rq-timeout-ms"
_MILLISECONDS = re.compile(rb"[0-9]{1,9}")

# Which attempt at the same thing this is: Envoy counts from 1.
ATTEMPT_FIELD = b"x-envoy-attempt-count"
_NUMBER = re.compile(rb"[0-9]{1,9}")

_KINDS = {
    b"host": HOST,
    b"content-length": LENGTH,
    PATIENCE_FIELD: PATIENCE,
    ATTEMPT_FIELD: ATTEMPT,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"te": HOP,
    b"http2-settings": HOP,
}

# A Connection field may name what to remove, but never what decides framing, routing or who asks (CVE-2022-31813).
_PROTECTED = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization"})

# Fields that must not arrive late: framing, routing, authentication, payload description (RFC 9110 section 6.5.1).
TRAILER_FORBIDDEN = frozenset(_KINDS) | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"max-forwards",
    b"set-cookie",
    b"trailer",
}

HOST_FORM = re.compile(rb"(?:[A-Za-z0-9\-._~%!$&'()*+,;=]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
# llhttp lets every control character but CR and LF through here.
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_MAX_LENGTH_DIGITS = 18  # below 2^63 whatever the digits


def read_milliseconds(value: bytes) -> float | None:
    """Seconds; None for what is malformed, which means nothing."""
    return int(value) / 1000 if _MILLISECONDS.fullmatch(value) else None


def read_number(value: bytes) -> int:
    """A count; 0 for what is malformed."""
    return int(value) if _NUMBER.fullmatch(value) else 0


# Clients repeat a few dozen spellings of field names, so the lower-casing is paid once for each spelling.
_spellings: dict[bytes, int] = {}
_MAX_SPELLINGS = 1024
_MAX_SPELLING_BYTES = 64


def kind_of(name: bytes) -> int:
    """Classify a field name, whatever its case."""
    kind = _spellings.get(name)
    if kind is None:
        kind = _KINDS.get(name.lower(), PLAIN)
        if len(_spellings) < _MAX_SPELLINGS and len(name) <= _MAX_SPELLING_BYTES:
            _spellings[name] = kind
    return kind


# Connection carries one of these two in nearly every message that has the field at all.
_OPTIONS = {b"keep-alive": frozenset({b"keep-alive"}), b"close": frozenset({b"close"})}
_NO_OPTIONS: frozenset[bytes] = frozenset()


class Head:
    """What requests and responses share. Built by `wire.http1`, whose parser calls `on_header`; immutable from then on.

    `length` is the body's length in bytes, or None where Content-Length is absent; `chunked` whether the body is
    chunked. `options` holds the lower-case connection options. `upgrade` is the protocol asked for or switched to, as
    spelled.
    """

    __slots__ = ("_filtered", "_special", "chunked", "fields", "length", "minor", "options", "upgrade")

    def __init__(self) -> None:
        self.fields: Fields = []
        self.minor = 1
        self.length: int | None = None
        self.chunked = False
        self.options = _NO_OPTIONS
        self.upgrade = b""
        self._special: list[tuple[int, bytes]] = []
        self._filtered = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field from the parser."""
        # Inlined kind_of: this line runs for every field of every message.
        kind = _spellings.get(name)
        if kind is None:
            kind = kind_of(name)
        if kind:
            value = value.rstrip(b" \t")  # llhttp strips the front only
            self._special.append((kind, value))
        self.fields.append((name, value))

    @property
    def keep_alive(self) -> bool:
        """Whether the sender leaves the connection open after this message (RFC 9112 section 9.3)."""
        return b"close" not in self.options if self.minor else b"keep-alive" in self.options

    def _read(self, kind: int, value: bytes) -> Fault | None:
        """Interpret one of the fields that both roles share."""
        if kind == LENGTH:
            if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS or self.length is not None:
                return Fault(Outcome.BAD_REQUEST, "bad or repeated Content-Length")
            self.length = int(value)
            return None
        # The fields from here on may not leave as they came.
        self._filtered = True
        if kind == CODING:
            return self._read_coding(value)
        if kind == CONNECTION:
            options = _OPTIONS.get(value)
            if options is None:
                options = frozenset(option.strip().lower() for option in value.split(b","))
            self.options = self.options | options if self.options else options
        elif kind == UPGRADE:
            self.upgrade = value
        return None

    def _read_coding(self, value: bytes) -> Fault | None:
        if self.minor == 0:
            return Fault(Outcome.BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 message")
        if self.chunked:
            return Fault(Outcome.BAD_REQUEST, "repeated Transfer-Encoding")
        if value.lower() != b"chunked":
            return Fault(Outcome.NOT_IMPLEMENTED, "transfer coding other than chunked")
        self.chunked = True
        if value != b"chunked":
            # Codings have no case (RFC 9112 section 7), but Triton's server knows this one in lower case alone, and
            # takes the body of any other spelling for the next request.
            self.fields = [(name, value if kind_of(name) != CODING else b"chunked") for name, value in self.fields]
        return None

    def _check_framing(self) -> Fault | None:
        """What can be judged only once every field has been read."""
        if self.chunked and self.length is not None:
            return Fault(Outcome.BAD_REQUEST, "both Content-Length and Transfer-Encoding")
        if self.upgrade and b"upgrade" not in self.options:
            self.upgrade = b""
        return None

    def _lines(self, first: bytes, *, chunked: bool) -> list[bytes]:
        """The start line and the fields to forward. `chunked` says whether this hop frames the body in chunks."""
        fields = self.fields
        if self._filtered:
            fields = [field for field in fields if not self._ends_here(field[0], chunked=chunked)]
        return [first, *map(b": ".join, fields)]

    def _ends_here(self, name: bytes, *, chunked: bool) -> bool:
        kind = kind_of(name)
        if kind >= CODING:
            return kind != CODING or not chunked
        if not self.options or self.options is _OPTIONS[b"keep-alive"]:
            return False
        name = name.lower()
        return name in self.options and name not in _PROTECTED


class RequestHead(Head):
    """A request's head.

    `target` is in origin form (or `*`). An absolute-form target has been split: its authority is `host` and its Host
    field must agree. `patience` is how many seconds the caller will wait, None where it does not say, and
    `expects_continue` is set where the client waits for 100 before it sends the body, and `is_retry` where somebody on
    the way has tried before.
    """

    __slots__ = ("_forwarded", "_names_host", "expects_continue", "host", "is_retry", "method", "patience", "target")

    # HTTP/2 alone carries gRPC calls; see `wire.fields`.
    grpc: bool = False
    model_id: str = ""
    timeout: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.method = b""
        self.target = b""
        self.host: bytes | None = None
        self.patience: float | None = None
        self.expects_continue = self.is_retry = False
        self._names_host = False
        self._forwarded = b""

    def on_url(self, part: bytes) -> None:
        """Take the target from the parser; a target split across reads arrives in parts."""
        self.target += part

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)

    def complete(self) -> Fault | None:
        """Interpret the fields once all are there. Returns what is wrong with the request, or None."""
        fault = None
        for kind, value in self._special:
            if kind == HOST:
                fault = self._read_host(value)
            elif kind == EXPECT:
                fault = self._read_expectation(value)
            elif kind == PATIENCE:
                self.patience = read_milliseconds(value)
            elif kind == ATTEMPT:
                self.is_retry = read_number(value) > 1
            else:
                fault = self._read(kind, value)
            if fault is not None:
                return fault
        if self._filtered:
            fault = self._check_framing()
        fault = fault or self._check_target()
        if fault is not None:
            return fault
        if not self._names_host and self.minor:
            return Fault(Outcome.BAD_REQUEST, "HTTP/1.1 request without Host")
        if self.upgrade and (not self.minor or self.has_body or b"h2c" in self.upgrade.lower()):
            # h2c by upgrade is deprecated (RFC 9113 section 3.1) and a smuggling vector; a request with a body that
            # asks for an upgrade is served as what it is, for a server may ignore Upgrade, and must ignore it in
            # HTTP/1.0 (RFC 9110 section 7.8).
            self.upgrade = b""
        # RFC 9110 section 10.1.1: ignored in HTTP/1.0, and pointless where no body follows.
        self.expects_continue = self.expects_continue and bool(self.minor) and self.has_body
        return None

    def _read_host(self, value: bytes) -> Fault | None:
        if self._names_host or HOST_FORM.fullmatch(value) is None:
            return Fault(Outcome.BAD_REQUEST, "repeated or malformed Host")
        self._names_host = True
        self.host = value
        return None

    def _read_expectation(self, value: bytes) -> Fault | None:
        if value.lower() != b"100-continue":
            return Fault(Outcome.EXPECTATION_FAILED, "unknown expectation")
        self._filtered = self.expects_continue = True
        return None

    def _check_target(self) -> Fault | None:
        target = self.target
        if self.method == b"CONNECT":
            return Fault(Outcome.NOT_IMPLEMENTED, "CONNECT is not supported")
        if b"#" in target or not target.isascii():
            return Fault(Outcome.BAD_REQUEST, "character outside the grammar in the request target")
        if target.startswith(b"/") or (target == b"*" and self.method == b"OPTIONS"):
            return None
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return Fault(Outcome.BAD_REQUEST, "bad request target")
        authority, rest = absolute.groups()
        if not authority or HOST_FORM.fullmatch(authority) is None or self.host not in {None, authority}:
            return Fault(Outcome.BAD_REQUEST, "the authority of the target and Host differ")
        self.host = authority
        if not rest and self.method == b"OPTIONS":
            self.target = b"*"  # RFC 9112 section 3.2.4
        else:
            self.target = rest if rest.startswith(b"/") else b"/" + rest
        return None

    def serialize(self, authority: bytes) -> bytes:
        """The head for the predictor: origin form, HTTP/1.1, hop-by-hop fields removed.

        `authority` is for an HTTP/1.0 client that named no host; HTTP/1.1 must. The expectation goes too: the agent
        answers 100 itself when the request is dispatched.
        """
        if self._forwarded:
            return self._forwarded
        lines = self._lines(b"%b %b HTTP/1.1" % (self.method, self.target), chunked=self.chunked)
        if not self._names_host:
            lines.insert(1, b"Host: " + (authority if self.host is None else self.host))
        if self.upgrade:
            lines += [b"Connection: Upgrade", b"Upgrade: " + self.upgrade]
        lines.append(b"\r\n")
        forwarded = b"\r\n".join(lines)
        if self._names_host:
            self._forwarded = forwarded
        return forwarded


class ResponseHead(Head):
    """A response's head. `reason` is the reason phrase as it came, perhaps empty."""

    __slots__ = ("_forwarded", "reason", "status")

    grpc_status: int = NO_STATUS

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.reason = b""
        self._forwarded: dict[tuple[bool, bool], bytes] = {}

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events."""
        return any(
            name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in self.fields
        )

    def on_status(self, part: bytes) -> None:
        """Take the reason phrase from the parser, perhaps in parts."""
        self.reason += part

    def complete(self) -> Fault | None:
        """Interpret the fields once all are there. Returns what is wrong with the response, or None."""
        fault = None
        for kind, value in self._special:
            fault = fault or self._read(kind, value)
        fault = fault or self._check_framing()
        if fault is not None:
            return Fault(Outcome.UPSTREAM_INVALID, fault.detail)
        if not 100 <= self.status <= 999:
            return Fault(Outcome.UPSTREAM_INVALID, "status code outside 100..999")
        if _REASON.fullmatch(self.reason) is None:
            return Fault(Outcome.UPSTREAM_INVALID, "control character in the reason phrase")
        return None

    def plus(self, field: tuple[bytes, bytes]) -> Self:
        """The same head with one more field at its end; heads are shared, so it is another object."""
        head = copy(self)
        head.fields = [*self.fields, field]
        head._forwarded = {}
        return head

    def serialize(self, *, chunked: bool, close: bool) -> bytes:
        """The head for the client. `chunked` frames the body in chunks, `close` announces that the connection ends."""
        forwarded = self._forwarded.get((chunked, close))
        if forwarded is None:
            lines = self._lines(b"HTTP/1.1 %d %b" % (self.status, self.reason), chunked=chunked)
            if self.status == 101:
                lines += [b"Connection: Upgrade", b"Upgrade: " + self.upgrade]
            elif close:
                lines.append(b"Connection: close")
            lines.append(b"\r\n")
            forwarded = self._forwarded[chunked, close] = b"\r\n".join(lines)
        return forwarded
