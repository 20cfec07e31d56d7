"""HTTP/2 frames as bytes (RFC 9113 sections 4, 6 and 7): numbers, headers, and frames that hold no data."""

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct

HEADER_SIZE = 9
# What every peer accepts (RFC 9113 section 4.2), and all that we accept: larger frames would delay their neighbours.
MAX_FRAME = 16_384
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
MAX_STREAM = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Length and type as one number, flags, stream.
HEADER = Struct(">IBI")
_PAIR = Struct(">HI")
_LONG = Struct(">I")
_GOAWAY = Struct(">II")


class Setting(IntEnum):
    """RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return HEADER.pack(size << 8 | kind, flags, stream) + payload


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_PAIR.pack(number, value) for number, value in pairs))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The pairs in a SETTINGS payload, whose length is a multiple of 6."""
    return list(_PAIR.iter_unpack(payload))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def rst_stream(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, _LONG.pack(code))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return HEADER.pack(4 << 8 | WINDOW_UPDATE, 0, stream) + _LONG.pack(size)


def goaway(last: int, code: int) -> bytes:
    """A GOAWAY frame; `last` is the highest stream that was or may be acted on."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last, code))


def header_block(stream: int, block: bytes, *, end: bool, max_frame: int) -> bytes:
    """A header section as HEADERS and as many CONTINUATION frames as it takes."""
    size = len(block)
    if size <= max_frame:
        flags = END_HEADERS | END_STREAM if end else END_HEADERS
        return HEADER.pack(size << 8 | HEADERS, flags, stream) + block
    pieces = [block[at : at + max_frame] for at in range(0, size, max_frame)]
    frames = [frame(HEADERS, END_STREAM if end else 0, stream, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join([*frames, frame(CONTINUATION, END_HEADERS, stream, pieces[-1])])
