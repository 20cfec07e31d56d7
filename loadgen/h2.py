"""PURE: what a gRPC caller needs of HTTP/2: frames as bytes, header blocks, the meaning of an answer's heads.

Frames are those of RFC 9113 section 6, the fields those of gRPC's PROTOCOL-HTTP2.md.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError

from loadgen.record import GrpcStatus

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
CANCEL, REFUSED_STREAM = 8, 7
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, ENABLE_PUSH, MAX_FRAME_SIZE = 3, 4, 2, 5
MAX_FRAME = 16384  # what a receiver takes that has said nothing else (RFC 9113 section 6.5.2)
DEFAULT_WINDOW = 65535
MAX_WINDOW = (1 << 31) - 1
LAST_STREAM = (1 << 31) - 1

# Length in two parts, type, flags, stream.
FRAME_HEAD = struct.Struct(">BHBBL")
_MESSAGE_HEAD = struct.Struct(">?L")
_SETTING = struct.Struct(">HL")
# Of header blocks that are remembered; a server that puts a number of its own into each repeats none.
_MOST_KNOWN = 1000
_TIMEOUT_DIGITS = 8  # PROTOCOL-HTTP2.md


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return FRAME_HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def message(payload: bytes) -> bytes:
    """A gRPC message, uncompressed."""
    return _MESSAGE_HEAD.pack(False, len(payload)) + payload


def call_head(scheme: str, authority: str, method: str, headers: Sequence[tuple[str, str]], timeout_s: float) -> bytes:
    """The header block of a call. Nothing in it changes a table, so it is right on every connection and in any order.

    `headers` come last and replace what the call would say itself, except for its pseudo-fields.
    """
    own = [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "headgate-load"),
        ("grpc-timeout", _timeout(timeout_s)),
    ]
    given = {name.lower() for name, _ in headers}
    fields = [(":method", "POST"), (":scheme", scheme), (":authority", authority), (":path", method)]
    fields += [(name, value) for name, value in own if name not in given]
    fields += [(name.lower(), value) for name, value in headers]
    return Encoder().encode(NeverIndexedHeaderTuple(name.encode(), value.encode()) for name, value in fields)


def _timeout(seconds: float) -> str:
    for unit, size in (("m", 1e-3), ("S", 1.0)):
        count = max(1, round(seconds / size))
        if len(f"{count}") <= _TIMEOUT_DIGITS:
            return f"{count}{unit}"
    return "99999999S"


class Meaning(NamedTuple):
    """What a head or trailers say: the HTTP status (0: none), the gRPC one (None: none), when to try again (None: not
    said, negative: never), and all fields. `is_plain` tells the head of an answer that goes well so far."""

    http: int
    grpc: int | None
    pushback_s: float | None
    fields: Sequence[tuple[bytes, bytes]]
    is_plain: bool


class Usual:
    """The answer that a server gives nearly always: one head, one message in one frame, trailers that say OK.

    Found by its fixed bytes, it takes two reads instead of three frames that are each asked what they are.
    """

    __slots__ = ("_end", "_end_head", "_last", "_read_end", "_read_start", "_start", "_start_head", "_to_end", "least")

    def __init__(self, start: bytes, end: bytes) -> None:
        self._start, self._end = start, end
        self._start_head = FRAME_HEAD.pack(0, len(start), HEADERS, END_HEADERS, 0)[:5]
        self._end_head = FRAME_HEAD.pack(0, len(end), HEADERS, END_HEADERS | END_STREAM, 0)[:5]
        # Frame head without its stream, stream, block; for the message length and type in one number, flags, stream.
        self._read_start = struct.Struct(f">5sL{len(start)}sLBL").unpack_from
        self._read_end = struct.Struct(f">5sL{len(end)}s").unpack_from
        self._to_end = 18 + len(start)
        self._last = 9 + len(end)
        self.least = self._to_end + self._last

    def read(self, data: bytes, at: int) -> tuple[int, int] | None:
        """The stream that is answered by what begins at `at`, and the size of the message; None where something else
        begins. `data` must go on for `least` bytes."""
        head, stream, block, size, flags, second = self._read_start(data, at)
        if head != self._start_head or block != self._start or size & 0xFF != DATA or flags or second != stream:
            return None
        size >>= 8
        at += self._to_end + size
        if len(data) - at < self._last:
            return None
        head, third, block = self._read_end(data, at)
        return (stream, size) if head == self._end_head and block == self._end and third == stream else None


class Heads:
    """Reads the header blocks of one connection.

    A block that came before means the same as long as the table has not changed, and servers repeat themselves: this
    saves the library's 10 us for most answers. `plain` holds those that say nothing but that an answer goes well so
    far, `usual` the answer that is made of the first of these and of trailers that say OK.
    """

    __slots__ = ("_decoder", "_known", "plain", "usual")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, Meaning] = {}
        self.plain: set[bytes] = set()
        self.usual: Usual | None = None

    def read(self, block: bytes) -> Meaning | None:
        """None for what is no header block; the connection is lost then (RFC 9113 section 4.3)."""
        known = self._known.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        before = (
            len(table.dynamic_entries),
            table.maxsize,
            id(table.dynamic_entries[0]) if table.dynamic_entries else 0,
        )
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError:
            return None
        meaning = _meaning(fields)
        after = (
            len(table.dynamic_entries),
            table.maxsize,
            id(table.dynamic_entries[0]) if table.dynamic_entries else 0,
        )
        if before != after or len(self._known) > _MOST_KNOWN:
            self._known.clear()
            self.plain.clear()
            self.usual = None
        if before == after:
            self._known[block] = meaning
            if meaning.is_plain:
                self.plain.add(block)
            elif self.usual is None and self.plain and (meaning.http, meaning.grpc) == (0, GrpcStatus.OK):
                self.usual = Usual(next(iter(self.plain)), block)
        return meaning


def _meaning(fields: Sequence[tuple[bytes, bytes]]) -> Meaning:
    found = dict(fields)
    grpc = found.get(b"grpc-status")
    pushback_s = None
    if (pushback := found.get(b"grpc-retry-pushback-ms")) is not None:
        # gRPC A6: what is not a number of milliseconds means: do not retry.
        pushback_s = int(pushback) / 1000 if pushback.isdigit() else -1.0
    status = found.get(b":status", b"0")
    is_plain = status == b"200" and grpc is None
    return Meaning(
        int(status) if status.isdigit() else 0,
        None if grpc is None else int(grpc) if grpc.isdigit() else int(GrpcStatus.UNKNOWN),
        pushback_s,
        fields,
        is_plain,
    )
