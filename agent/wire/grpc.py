"""What a proxy must know of gRPC over HTTP/2: timeouts, status messages, and the first bytes of messages.

Sources: the gRPC project's PROTOCOL-HTTP2.md, the Protocol Buffers encoding guide, and the Open Inference Protocol's
gRPC definition, in which `model_name` is field 1 of ModelInferRequest.
"""

import re
import zlib

# The compressed flag and the length.
PREFIX = 5
# How far into the first message the model's name is looked for; it is the first field, unless somebody hides it.
MAX_NAME_SEARCH = 1024
MAX_NAME = 256

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NAME_TAG = 0x0A  # field 1, length-delimited
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_timeout(value: bytes) -> float | None:
    """Seconds of a `grpc-timeout`, or None where it is malformed, which means that there is none."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNIT_S[match[2]] if match else None


def write_timeout(seconds: float) -> bytes:
    """A `grpc-timeout` of at most eight digits, rounded down, never below one nanosecond."""
    for unit, size in ((b"n", 1e-9), (b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0), (b"H", 3600.0)):
        count = int(seconds / size)
        if count < 100_000_000:
            return b"%d%b" % (max(count, 1), unit)
    return b"99999999H"


def percent_encode(message: str) -> bytes:
    """A `grpc-message`: printable ASCII but for the percent sign, everything else as %XX of its UTF-8 bytes."""
    return b"".join(
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in message.encode()
    )


def model_name(data: bytes, *, whole: bool) -> str | None:
    """The model that the first message of a call asks for, from the message's first bytes, its prefix included.

    Returns "" where it names none, or none that can be found, and None while more bytes are needed. `whole` says that
    no more will come. Tensors are never looked at.
    """
    size = data[6] if len(data) > 6 else 0
    if (
        0 < size < 128
        and data[0] == 0
        and data[5] == _NAME_TAG
        and len(data) >= 7 + size
        and int.from_bytes(data[1:PREFIX], "big") >= 2 + size
    ):
        return data[7 : 7 + size].decode("latin-1")
    return _search(data, whole=whole)


def _search(data: bytes, *, whole: bool) -> str | None:
    if len(data) < PREFIX:
        return "" if whole else None
    length = int.from_bytes(data[1:PREFIX], "big")
    message = data[PREFIX : PREFIX + length]
    complete = whole or len(message) == length or len(message) >= MAX_NAME_SEARCH
    if data[0]:
        try:
            # gzip and deflate alike; more than the first bytes is never inflated.
            message = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(message, MAX_NAME_SEARCH)
        except zlib.error:
            return ""
        complete = complete or len(message) >= MAX_NAME_SEARCH
    return _first_field(message[:MAX_NAME_SEARCH], complete=complete)


def _first_field(message: bytes, *, complete: bool) -> str | None:
    """The value of the first field 1 that is there, None if it may still come."""
    missing = "" if complete else None
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == _LENGTH:
            size, at = varint(message, at)
            if at < 0:
                return missing
            if tag == _NAME_TAG:
                if size > MAX_NAME:
                    return ""
                return message[at : at + size].decode("latin-1") if at + size <= len(message) else missing
            at += size
        elif kind == _VARINT and at >= 0:
            _, at = varint(message, at)
        elif kind in {_FIXED32, _FIXED64} and at >= 0:
            at += 4 if kind == _FIXED32 else 8
        else:
            return missing if at < 0 else ""
        if at < 0:
            return missing
    return missing


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends; the end is -1 where it is cut off or too long."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < len(data):
            return 0, -1
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 128:
            return value, at
    return 0, -1


class MessageCounter:
    """Counts the messages that end in the body of one direction of a call (a prefix and its payload each)."""

    __slots__ = ("_partial", "_skip", "count")

    def __init__(self) -> None:
        self.count = 0
        self._partial = b""
        self._skip = 0

    def feed(self, data: bytes | memoryview) -> int:
        """Take a piece of the body. Returns how many messages ended in it."""
        before = self.count
        at, size = 0, len(data)
        if size >= PREFIX and not (self._skip or self._partial):
            length = int.from_bytes(data[1:PREFIX], "big")
            if size == PREFIX + length:  # one message a frame, as most senders have it
                self.count = before + 1
                return 1
        while True:
            if self._skip:
                step = min(self._skip, size - at)
                self._skip -= step
                at += step
                if self._skip:
                    break
                self.count += 1
            if at >= size:
                break
            prefix = self._partial + bytes(data[at : at + PREFIX - len(self._partial)])
            at += len(prefix) - len(self._partial)
            if len(prefix) < PREFIX:
                self._partial = prefix
                break
            self._partial = b""
            self._skip = int.from_bytes(prefix[1:], "big")
            if not self._skip:
                self.count += 1
        return self.count - before
