"""HTTP/2 frames and header blocks as bytes (RFC 9113 section 4.1, RFC 7541 section 6), without any state."""

import struct
from collections.abc import Iterable, Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4

MAX_FRAME = 16384  # what a receiver takes that has said nothing else (RFC 9113 section 6.5.2)
DEFAULT_WINDOW = 65535
MAX_WINDOW = (1 << 31) - 1

# Length in two parts, type, flags, stream.
FRAME_HEAD = struct.Struct(">BHBBL")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """A frame's first nine bytes."""
    return FRAME_HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HL", key, value) for key, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block of literals that change no table: equal fields are equal bytes on every connection.

    Raises ValueError for a name or value over 126 bytes, whose length would need more than one byte.
    """
    coded = bytearray()
    for field in fields:
        coded.append(0)
        for text in field:
            if len(text) > 126:
                raise ValueError(f"too long for a one-byte length: {text!r}")
            coded.append(len(text))
            coded += text.encode("ascii")
    return bytes(coded)
