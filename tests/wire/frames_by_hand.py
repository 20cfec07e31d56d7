"""HTTP/2 frames and header blocks made and read by the tests' own code: a mistake of the agent's cannot hide here."""

from collections.abc import Iterable
from typing import NamedTuple

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT = range(5)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 11

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = range(1, 5)
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

MAX_31 = 0x7FFFFFFF

Pair = tuple[bytes, bytes]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The payload, or its last four bytes, as a number: an error code or an increment."""
        return int.from_bytes(self.payload[-4:], "big")


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def parse(data: bytes) -> list[Frame]:
    """All frames of `data`, which must end with one."""
    frames = []
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "a frame is cut off"
        frames.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return frames


def data(stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if padding is None:
        return frame(DATA, stream, payload, flags)
    return frame(DATA, stream, bytes([padding]) + payload + bytes(padding), flags | PADDED)


def headers(stream: int, block: bytes, *, end: bool = False, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, stream, block, flags | (END_STREAM if end else 0))


def continuation(stream: int, block: bytes, *, last: bool = True) -> bytes:
    return frame(CONTINUATION, stream, block, END_HEADERS if last else 0)


def long(number: int) -> bytes:
    return number.to_bytes(4, "big")


def priority(stream: int, parent: int = 0, weight: int = 15) -> bytes:
    return frame(PRIORITY, stream, long(parent) + bytes([weight]))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, stream, long(code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, b"".join(number.to_bytes(2, "big") + long(value) for number, value in pairs))


SETTINGS_ACK = frame(SETTINGS, 0, b"", ACK)


def ping(payload: bytes = b"pingpong", *, ack: bool = False) -> bytes:
    return frame(PING, 0, payload, ACK if ack else 0)


def goaway(last: int, code: int = NO_ERROR, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, long(last) + long(code) + text)


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, stream, long(size))


# HPACK (RFC 7541 sections 5 and 6), never with Huffman coding


def integer(number: int, bits: int, first: int = 0) -> bytes:
    top = (1 << bits) - 1
    if number < top:
        return bytes([first | number])
    out = bytearray([first | top])
    number -= top
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def literal(name: bytes, value: bytes, *, first: int = 0) -> bytes:
    return bytes([first]) + text(name) + text(value)


def indexing(name: bytes, value: bytes) -> bytes:
    """A literal that enters the dynamic table, as index 62."""
    return literal(name, value, first=0x40)


def never(name: bytes, value: bytes) -> bytes:
    return literal(name, value, first=0x10)


def reference(index: int) -> bytes:
    return integer(index, 7, 0x80)


def table_size(size: int) -> bytes:
    return integer(size, 5, 0x20)


def block(fields: Iterable[Pair]) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


def pseudo(method: bytes = b"POST", path: bytes = b"/") -> list[Pair]:
    return [(b":method", method), (b":scheme", b"http"), (b":authority", b"a"), (b":path", path)]


def request(path: bytes = b"/", *more: Pair) -> bytes:
    return block([*pseudo(path=path), *more])


def response(status: int = 200, *more: Pair) -> bytes:
    return block([(b":status", b"%d" % status), *more])


def join(frames: Iterable[Frame]) -> bytes:
    """The bytes of parsed frames."""
    return b"".join(frame(kind, stream, payload, flags) for kind, flags, stream, payload in frames)
