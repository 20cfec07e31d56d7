"""HTTP/2 field sections as heads and trailers, and the rules about them (RFC 9113 section 8).

Whatever breaks a rule is malformed and goes no further: an HTTP/1.1 server behind us might read it as something else
(Kettle 2021, CVE-2025-57804). What is well-formed is forwarded as it came, field by field and in order.
"""

import re
from typing import Self

from agent.errors import Fault, Outcome
from agent.wire import grpc
from agent.wire.head import (
    ATTEMPT_FIELD,
    HOST_FORM,
    NO_STATUS,
    PATIENCE_FIELD,
    RequestHead,
    ResponseHead,
    read_milliseconds,
    read_number,
)
from agent.wire.hpack import Field, encode, is_sensitive, literal
from agent.wire.message import Limits

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_GRPC = re.compile(rb"application/grpc(?:\+.*|;.*)?")
_STATUS = re.compile(rb"[1-9][0-9]{2}")

# RFC 9113 section 8.2.2.
_OF_THE_CONNECTION = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*")
# How many attempts gRPC made before this one; absent from the first (gRFC A6).
_PREVIOUS_ATTEMPTS = b"grpc-previous-rpc-attempts"
# Below this the time that passed is not worth a new grpc-timeout: the encoded head can be used as it is.
_SAME_TIME_S = 0.001
# What a field costs beside its bytes (RFC 9113 section 6.5.2).
_FIELD_OVERHEAD = 32

# Clients and predictors repeat most of their fields; each is checked and encoded once. Bounded to about a megabyte.
_known: dict[Field, bytes] = {}
_MAX_KNOWN = 2048
_MAX_KNOWN_BYTES = 256


class Http2Request(RequestHead):
    """A request's head. `grpc` whether it is a gRPC call, `timeout` its deadline in seconds or None.

    `model_id` is what `mm-model-id` names, the way ModelMesh is told the model.
    """

    __slots__ = ("_after", "_before", "_block", "grpc", "model_id", "scheme", "timeout")

    def __init__(self) -> None:
        super().__init__()
        self.grpc = False
        self.model_id = ""
        self.scheme = b""
        self.timeout: float | None = None
        self._before = self._after = self._block = b""

    @property
    def encoded_size(self) -> int:
        """How many bytes it takes to forward it."""
        return len(self._block)

    def block(self, elapsed: float) -> bytes:
        """The head for the predictor, sent `elapsed` seconds after it came: the deadline is what is left of it."""
        if self.timeout is None or elapsed < _SAME_TIME_S:
            return self._block
        left = grpc.write_timeout(self.timeout - elapsed)
        return self._before + literal((b"grpc-timeout", left)) + self._after


class Http2Response(ResponseHead):
    """A response's head. `block` is its encoded form, `grpc_status` is set where the answer is trailers alone."""

    __slots__ = ("block", "grpc_status")

    def __init__(self) -> None:
        super().__init__()
        self.block = b""
        self.grpc_status = NO_STATUS

    def plus(self, field: Field) -> Self:
        """The same head with one more field at its end."""
        head = super().plus(field)
        head.block = self.block + literal(field)
        return head


class Trailers:
    """A trailer section: its fields, its encoded form, and the gRPC status in it or NO_STATUS."""

    __slots__ = ("block", "fields", "grpc_status")

    def __init__(self, fields: list[Field], block: bytes, grpc_status: int) -> None:
        self.fields = fields
        self.block = block
        self.grpc_status = grpc_status

    def plus(self, field: Field) -> "Trailers":
        """The same section with one more field at its end."""
        return Trailers([*self.fields, field], self.block + literal(field), self.grpc_status)


def size_of(fields: list[Field]) -> int:
    """The size of a decoded field section (RFC 9113 section 6.5.2)."""
    return sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)


def read_request(fields: list[Field], limits: Limits) -> tuple[Http2Request, Fault | None]:
    """A request's head, and what is wrong with it.

    BAD_REQUEST means malformed, a stream error; any other fault can be answered.
    """
    head = Http2Request()
    pseudo: dict[bytes, bytes] = {}
    at = 0
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name in pseudo or name not in _REQUEST_PSEUDO:
            return head, _malformed("unknown or repeated pseudo-header")
        pseudo[name] = value
        at += 1
    fault = _read_pseudo(head, pseudo)
    if fault is None and len(fields) > limits.fields:
        # They come at a byte each (CVE-2026-49975), so they are not even looked at, but for how to answer.
        head.grpc = any(name == b"content-type" and _GRPC.fullmatch(value) is not None for name, value in fields)
        return head, Fault(Outcome.HEAD_TOO_LARGE, "too many header fields")
    fault = fault or _read_regular(head, fields, at)
    if fault is None:
        if size_of(fields) > limits.head:
            fault = Fault(Outcome.HEAD_TOO_LARGE, "too large header fields")
        elif len(head.target) > limits.target:
            fault = Fault(Outcome.URI_TOO_LONG, "request target too long")
    return head, fault


def _read_pseudo(head: Http2Request, pseudo: dict[bytes, bytes]) -> Fault | None:
    head.method = pseudo.get(b":method", b"")
    head.scheme = pseudo.get(b":scheme", b"")
    head.target = pseudo.get(b":path", b"")
    head.host = pseudo.get(b":authority")
    if _METHOD.fullmatch(head.method) is None:
        return _malformed("missing or malformed :method")
    if head.host is not None and HOST_FORM.fullmatch(head.host) is None:
        return _malformed("malformed :authority")
    if head.method == b"CONNECT":
        if b":protocol" in pseudo or not (head.scheme or head.target):
            # Extended CONNECT (RFC 8441), and so WebSocket over HTTP/2, is not offered in our SETTINGS.
            return Fault(Outcome.NOT_IMPLEMENTED, "CONNECT is not supported")
        return _malformed("CONNECT with :scheme or :path")
    if b":protocol" in pseudo or _SCHEME.fullmatch(head.scheme) is None:
        return _malformed("missing or malformed :scheme, or :protocol without CONNECT")
    if _PATH.fullmatch(head.target) is None and (head.target != b"*" or head.method != b"OPTIONS"):
        return _malformed("missing or malformed :path")
    return None


def _read_regular(head: Http2Request, fields: list[Field], at: int) -> Fault | None:
    """Check and encode the fields from `at` on, and take note of those that matter here."""
    blocks = [encode(fields[:at])]
    for field in fields[at:]:
        block = _encoded(field)
        if block is None:
            return _malformed("malformed or connection-specific header field")
        name, value = field
        if name == b"content-length":
            if head.length is not None or _LENGTH.fullmatch(value) is None:
                return _malformed("bad or repeated content-length")
            head.length = int(value)
        elif name == b"content-type":
            head.grpc = _GRPC.fullmatch(value) is not None
        elif name == b"grpc-timeout" and head.timeout is None:
            head.timeout = grpc.read_timeout(value)
            if head.timeout is not None:
                head._before = b"".join(blocks)
                blocks = [b""]
                head._after = block
                continue
        elif name == PATIENCE_FIELD:
            head.patience = read_milliseconds(value)
        elif name == b"mm-model-id":
            head.model_id = value.decode("latin-1")
        elif name == b"host":
            if head._names_host or head.host not in {None, value} or HOST_FORM.fullmatch(value) is None:
                return _malformed("repeated host, or host and :authority differ")
            head._names_host = True
            head.host = value
        elif name == ATTEMPT_FIELD:
            head.is_retry |= read_number(value) > 1
        elif name == _PREVIOUS_ATTEMPTS:
            head.is_retry |= read_number(value) > 0
        blocks.append(block)
    rest = b"".join(blocks)
    head._block = head._before + head._after + rest
    head._after = rest
    head.fields = fields[at:]
    if head.timeout is not None:
        head.patience = head.timeout if head.patience is None else min(head.timeout, head.patience)
    return None


def read_response(fields: list[Field], limits: Limits) -> Http2Response | Fault:
    """A response's head."""
    head = Http2Response()
    if not fields or fields[0][0] != b":status" or _STATUS.fullmatch(fields[0][1]) is None:
        return Fault(Outcome.UPSTREAM_INVALID, "missing or malformed :status")
    head.status = int(fields[0][1])
    if head.status == 101 or len(fields) > limits.fields or size_of(fields) > limits.head:
        return Fault(Outcome.UPSTREAM_INVALID, "101 in HTTP/2, or too many or too large header fields")
    blocks = [literal(fields[0])]
    for field in fields[1:]:
        block = _encoded_answer(field)
        if block is None:
            return Fault(Outcome.UPSTREAM_INVALID, "malformed or connection-specific header field")
        name, value = field
        if name == b"content-length":
            if head.length is not None or _LENGTH.fullmatch(value) is None:
                return Fault(Outcome.UPSTREAM_INVALID, "bad or repeated content-length")
            head.length = int(value)
        elif name == b"grpc-status":
            head.grpc_status = _status(value)
        blocks.append(block)
    head.fields = fields[1:]
    head.block = b"".join(blocks)
    return head


def read_trailers(fields: list[Field], limits: Limits) -> Trailers | None:
    """A trailer section, or None if it is malformed or too large."""
    if len(fields) > limits.fields or size_of(fields) > limits.head:
        return None
    blocks = []
    status = NO_STATUS
    for field in fields:
        block = _encoded_answer(field)  # a pseudo-header's name is no token
        if block is None:
            return None
        if field[0] == b"grpc-status":
            status = _status(field[1])
        blocks.append(block)
    return Trailers(fields, b"".join(blocks), status)


def _status(value: bytes) -> int:
    return int(value) if len(value) <= 2 and value.isdigit() else NO_STATUS


def _malformed(detail: str) -> Fault:
    return Fault(Outcome.BAD_REQUEST, detail)


def _encoded(field: Field) -> bytes | None:
    """A regular field as it is sent on, or None if it is malformed."""
    # A sensitive field equals one that is not, so it must neither be looked up nor kept.
    sensitive = is_sensitive(field)
    block = None if sensitive else _known.get(field)
    if block is None:
        name, value = field
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None or name in _OF_THE_CONNECTION:
            return None
        if name == b"te" and value.lower() != b"trailers":
            return None
        block = literal(field)
        if len(block) <= _MAX_KNOWN_BYTES and not sensitive:
            if len(_known) >= _MAX_KNOWN:
                _known.clear()
            _known[field] = block
    return block


def _encoded_answer(field: Field) -> bytes | None:
    """The same for what comes after a request's head. Triton ends grpc-message with a space, which clients accept."""
    block = _encoded(field)
    if block is None:
        name, value = field
        stripped = value.strip(b" \t")
        if stripped != value and _encoded((name, stripped)) is not None:
            return literal(field)
    return block
