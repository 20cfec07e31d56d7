"""Clients over HTTP/2 (RFC 9113; Imperva 2016; Netflix 2019-002; VU#421644; CVE-2023-44487; CVE-2025-8671)."""

from tests.hostile.case import Case, Class
from tests.hostile.http2_case import Answered, Broken, Flood, Reset, Served
from tests.net.http2_peers import INFER, Field, grpc_head, infer, plain_head
from tests.wire import frames_by_hand as raw
from tests.wire.test_http2_floods import BOMBS, FLOODS

GRPC = raw.block(grpc_head())
PLAIN = raw.block(plain_head())


def without(name: bytes, *more: Field) -> bytes:
    return raw.block([*(each for each in grpc_head() if each[0] != name), *more])


def upload(block: bytes) -> bytes:
    return raw.headers(1, block) + raw.data(1, infer(), end=True)


PSEUDO = {
    "no :method": upload(without(b":method")),
    "no :scheme": upload(without(b":scheme")),
    "no :path": upload(without(b":path")),
    "an empty :path": upload(without(b":path", (b":path", b""))),
    "a :path without a slash": upload(without(b":path", (b":path", b"v2"))),
    "a :path with a space": upload(raw.block(grpc_head(b"/a b"))),
    "a :path with a line break": upload(raw.block(grpc_head(b"/a\r\nHost: x"))),
    "a :path with a request in it": upload(raw.block(grpc_head(b"/a HTTP/1.1\r\nHost: x\r\n\r\nGET /b"))),
    "a :path with a fragment": upload(raw.block(grpc_head(b"/a#b"))),
    ":path twice": upload(raw.block([(b":path", b"/x"), *grpc_head()])),
    ":method twice": upload(raw.block([(b":method", b"GET"), *grpc_head()])),
    "a :method with a space": upload(without(b":method", (b":method", b"GET /x HTTP/1.1\r\nA:"))),
    "a late pseudo-header": upload(without(b":path", (b":path", b"/x"))),
    "an unknown pseudo-header": upload(raw.block([(b":x", b"y"), *grpc_head()])),
    ":status": upload(raw.block([(b":status", b"200"), *grpc_head()])),
    "a bad :authority": upload(raw.block([(b":authority", b"a b"), *grpc_head()[:3]])),
    "an :authority with a path": upload(raw.block([*grpc_head()[:3], (b":authority", b"a/b@c")])),
    "host and :authority differ": upload(raw.block(grpc_head(INFER, (b"host", b"evil")))),
    ":protocol without CONNECT": upload(raw.block([(b":protocol", b"websocket"), *grpc_head()])),
}
FIELDS: dict[str, Field] = {
    "an upper-case name": (b"X-A", b"1"),
    "an empty name": (b"", b"1"),
    "a name with a colon": (b"x:", b"1"),
    "a name with a space": (b"x y", b"1"),
    "a name with a line break": (b"x: 1\r\ny", b"1"),
    "a value with a line break": (b"x", b"1\r\ny: 2"),
    "a value with LF": (b"x", b"1\ny: 2"),
    "a value with CR": (b"x", b"1\ry: 2"),
    "a value with NUL": (b"x", b"\0"),
    "a value with a space before": (b"x", b" 1"),
    "a value with a tab behind": (b"x", b"1\t"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "connection": (b"connection", b"keep-alive"),
    "keep-alive": (b"keep-alive", b"5"),
    "proxy-connection": (b"proxy-connection", b"x"),
    "upgrade": (b"upgrade", b"h2c"),
    "te: gzip": (b"te", b"gzip"),
}


def long_body(length: bytes, *frames: bytes) -> bytes:
    return raw.headers(1, raw.block([*plain_head(), (b"content-length", length)])) + b"".join(frames)


LENGTHS = {
    "twice": raw.headers(1, raw.block(plain_head() + [(b"content-length", b"1")] * 2)) + raw.data(1, b"x", end=True),
    "+1": long_body(b"+1", raw.data(1, b"x", end=True)),
    "1, 1": long_body(b"1, 1", raw.data(1, b"x", end=True)),
    "empty": long_body(b"", raw.data(1, b"x", end=True)),
    "2^64": long_body(b"18446744073709551616", raw.data(1, b"x", end=True)),
    "and no body": raw.headers(1, raw.block([*plain_head(), (b"content-length", b"1")]), end=True),
    "less than comes": long_body(b"3", raw.data(1, b"xxxx")),
    "more than comes": long_body(b"3", raw.data(1, b"xx", end=True)),
    "more than comes before trailers": long_body(
        b"3", raw.data(1, b"xx"), raw.headers(1, raw.block([(b"x", b"1")]), end=True)
    ),
}
OPEN = raw.headers(1, PLAIN)
TRAILERS = {
    "that end nothing": OPEN + raw.headers(1, raw.block([(b"x", b"1")])),
    "with :path": OPEN + raw.headers(1, raw.block([(b":path", b"/")]), end=True),
    "with an upper-case name": OPEN + raw.headers(1, raw.block([(b"X", b"1")]), end=True),
    "with a line break": OPEN + raw.headers(1, raw.block([(b"x", b"1\r\ny: 2")]), end=True),
    "with transfer-encoding": OPEN + raw.headers(1, raw.block([(b"transfer-encoding", b"chunked")]), end=True),
}


def answered(name: str, fields: list[Field], status: int, *, call: int | None = 200) -> list[Case]:
    """Over HTTP, and as a gRPC call, whose status is in its trailers."""
    cases: list[Case] = [Answered(name, raw.headers(1, raw.block(fields)), status)]
    if call is not None:
        block = raw.block([*fields, (b"content-type", b"application/grpc")])
        cases.append(Answered(f"{name}, gRPC", raw.headers(1, block), call))
    return cases


CRUMBS = raw.headers(1, PLAIN + raw.indexing(b"cookie", b"") + raw.reference(62) * 1_800, end=True)
BOMB = raw.headers(1, PLAIN + raw.indexing(b"c", b"x" * 450) + raw.reference(62) * 100, end=True)


def bombs() -> list[Case]:
    cases: list[Case] = [
        Broken(name, raw.headers(1, PLAIN + block[:16_000]), raw.COMPRESSION_ERROR) for name, block in BOMBS.items()
    ]
    return [
        *cases,
        Answered("cookie crumbs", CRUMBS, 431),
        Answered("one entry over and over", BOMB, 431),
    ]


def section(fields: list[Field]) -> bytes:
    """A header section in as many frames as it takes."""
    block = raw.block(fields)
    pieces = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
    if len(pieces) == 1:
        return raw.headers(1, block)
    middle = b"".join(raw.continuation(1, piece, last=False) for piece in pieces[1:-1])
    return raw.headers(1, pieces[0], flags=0) + middle + raw.continuation(1, pieces[-1])


RUNNING = raw.headers(1, GRPC) + raw.data(1, infer())
CONNECTION: dict[str, dict[str, tuple[bytes, int]]] = {
    "frames and their sizes": {
        "garbage": (b"\xff" * 40, raw.FRAME_SIZE_ERROR),
        "a large frame": (raw.frame(raw.DATA, 1, b"x" * 16_385), raw.FRAME_SIZE_ERROR),
        "a long PING": (raw.frame(raw.PING, 0, b"123456789"), raw.FRAME_SIZE_ERROR),
        "a short RST_STREAM": (raw.frame(raw.RST_STREAM, 1, b"x"), raw.FRAME_SIZE_ERROR),
        "a short WINDOW_UPDATE": (raw.frame(raw.WINDOW_UPDATE, 0, b"x"), raw.FRAME_SIZE_ERROR),
        "SETTINGS that are cut": (raw.frame(raw.SETTINGS, 0, b"12345"), raw.FRAME_SIZE_ERROR),
        "an acknowledgement with settings": (raw.frame(raw.SETTINGS, 0, b"123456", raw.ACK), raw.FRAME_SIZE_ERROR),
        "a short GOAWAY": (raw.frame(raw.GOAWAY, 0, b"x"), raw.FRAME_SIZE_ERROR),
        "padding beyond the frame": (raw.frame(raw.DATA, 1, b"\xffx", raw.PADDED), raw.PROTOCOL_ERROR),
        "padding of HEADERS beyond the frame": (
            raw.frame(raw.HEADERS, 3, b"\xffx", raw.PADDED | raw.END_HEADERS),
            raw.PROTOCOL_ERROR,
        ),
    },
    "stream numbers and states": {
        "DATA on stream 0": (raw.data(0, b"x"), raw.PROTOCOL_ERROR),
        "DATA on an idle stream": (raw.data(7, b"x"), raw.PROTOCOL_ERROR),
        "HEADERS on stream 0": (raw.headers(0, GRPC), raw.PROTOCOL_ERROR),
        "RST_STREAM on stream 0": (raw.rst_stream(0), raw.PROTOCOL_ERROR),
        "RST_STREAM on an idle stream": (raw.rst_stream(9), raw.PROTOCOL_ERROR),
        "WINDOW_UPDATE on an idle stream": (raw.window_update(9, 1), raw.PROTOCOL_ERROR),
        "PRIORITY on stream 0": (raw.priority(0), raw.PROTOCOL_ERROR),
        "an even stream": (raw.headers(4, GRPC), raw.PROTOCOL_ERROR),
        "a lower stream": (raw.headers(5, GRPC) + raw.headers(3, GRPC), raw.STREAM_CLOSED),
        "a stream that was reset": (
            raw.headers(3, GRPC) + raw.rst_stream(3) + raw.headers(3, GRPC),
            raw.STREAM_CLOSED,
        ),
        "a frame inside a block": (raw.headers(3, GRPC, flags=0) + raw.ping(), raw.PROTOCOL_ERROR),
        "another stream's CONTINUATION": (
            raw.headers(3, GRPC, flags=0) + raw.continuation(5, GRPC),
            raw.PROTOCOL_ERROR,
        ),
        "CONTINUATION of nothing": (raw.continuation(1, GRPC), raw.PROTOCOL_ERROR),
        "PUSH_PROMISE": (raw.frame(raw.PUSH_PROMISE, 1, raw.long(2)), raw.PROTOCOL_ERROR),
        "SETTINGS on a stream": (raw.frame(raw.SETTINGS, 1), raw.PROTOCOL_ERROR),
        "a stream that depends on itself": (
            raw.frame(raw.HEADERS, 3, raw.long(3) + b"\0" + GRPC, raw.END_HEADERS | raw.WITH_PRIORITY),
            raw.PROTOCOL_ERROR,
        ),
    },
    "HPACK that means nothing": {
        "index 0": (raw.headers(3, b"\x80"), raw.COMPRESSION_ERROR),
        "an index beyond the table": (raw.headers(3, raw.reference(200)), raw.COMPRESSION_ERROR),
        "a table beyond what is allowed": (raw.headers(3, raw.table_size(1 << 20)), raw.COMPRESSION_ERROR),
        "a number that does not end": (raw.headers(3, b"\xff" * 20), raw.COMPRESSION_ERROR),
        "a number beyond every counter": (raw.headers(3, b"\x7f" + b"\xff" * 40 + b"\x0f"), raw.COMPRESSION_ERROR),
        "a text that is cut": (raw.headers(3, b"\0\x7fabc"), raw.COMPRESSION_ERROR),
        "broken Huffman": (raw.headers(3, b"\0\x84\xff\xff\xff\xff\0"), raw.COMPRESSION_ERROR),
        "a table size behind a field": (raw.headers(3, GRPC + raw.table_size(0)), raw.COMPRESSION_ERROR),
    },
    "windows of the connection": {
        "no increment": (raw.window_update(0, 0), raw.PROTOCOL_ERROR),
        "too large a window": (raw.window_update(0, 2**31 - 1), raw.FLOW_CONTROL_ERROR),
        "an initial window of 2^31": (raw.settings((raw.INITIAL_WINDOW_SIZE, 2**31)), raw.FLOW_CONTROL_ERROR),
        "an initial window that overflows": (
            raw.window_update(1, 2**31 - 100_000) + raw.settings((raw.INITIAL_WINDOW_SIZE, 2**31 - 1)),
            raw.FLOW_CONTROL_ERROR,
        ),
        "a frame size of 0": (raw.settings((raw.MAX_FRAME_SIZE, 0)), raw.PROTOCOL_ERROR),
        "a frame size of 2^24": (raw.settings((raw.MAX_FRAME_SIZE, 1 << 24)), raw.PROTOCOL_ERROR),
        "push of 2": (raw.settings((raw.ENABLE_PUSH, 2)), raw.PROTOCOL_ERROR),
    },
    "CONTINUATION flood": {
        "empty frames": (
            raw.headers(3, b"", flags=0) + raw.continuation(3, b"", last=False) * 20,
            raw.ENHANCE_YOUR_CALM,
        ),
        "full frames": (
            raw.headers(3, b"x" * 16_000, flags=0) + raw.continuation(3, b"x" * 16_000, last=False) * 5,
            raw.ENHANCE_YOUR_CALM,
        ),
        "one that never ends": (
            raw.headers(3, b"", flags=0) + raw.continuation(3, raw.literal(b"a", b"b"), last=False) * 100_000,
            raw.ENHANCE_YOUR_CALM,
        ),
    },
}


def breaking(group: str) -> list[Case]:
    """Behind a call that has begun, and is undone with the connection."""
    return [Broken(name, RUNNING + data, code) for name, (data, code) in CONNECTION[group].items()]


def timeouts() -> list[Case]:
    values = (b"5", b"99999999H", b"\xd9\xa5S", b"1" * 25 + b"S", b"", b"-1S", b"1 S", b"0x1S", b"1.5S", b"S", b"1Z")
    return [
        Served(
            repr(value),
            raw.headers(1, raw.block(grpc_head(INFER, (b"grpc-timeout", value)))) + raw.data(1, infer(), end=True),
            infer(),
        )
        for value in values
    ]


def tiny(padding: int | None) -> bytes:
    body = infer(b"x" * 40)
    return raw.headers(1, GRPC) + b"".join(
        raw.data(1, body[at : at + 1], end=at == len(body) - 1, padding=padding) for at in range(len(body))
    )


GENTLE: list[Case] = [
    Served("1-byte DATA", tiny(None), infer(b"x" * 40)),
    Served("1-byte DATA with 255 bytes of padding", tiny(255), infer(b"x" * 40)),
    Served(
        "a block of 8 frames",
        raw.frame(raw.HEADERS, 1, PLAIN[:4], raw.END_STREAM)
        + b"".join(raw.continuation(1, PLAIN[at : at + 1], last=False) for at in range(4, 9))
        + raw.continuation(1, PLAIN[9:]),
    ),
    Served(
        "padded HEADERS with a priority",
        raw.frame(
            raw.HEADERS,
            1,
            b"\x05" + raw.long(0) + b"\xff" + PLAIN + bytes(5),
            raw.END_HEADERS | raw.END_STREAM | raw.PADDED | raw.WITH_PRIORITY,
        ),
    ),
    *[
        Served(f"a frame of type {kind:#x}", raw.frame(kind, stream, b"x" * 20, 0xFF) + raw.headers(1, PLAIN, end=True))
        for kind, stream in [(0x0A, 0), (0x0B, 1), (0x0C, 0), (0x0D, 99), (0x0E, 0), (0x0F, 2), (0xFF, 1)]
    ],
    Served("unknown settings", raw.settings((0, 1), (0x1234, 2**32 - 1)) + raw.headers(1, PLAIN, end=True)),
    Served("GOAWAY, and a request all the same", raw.goaway(0) + raw.headers(1, PLAIN, end=True)),
    Served("PRIORITY of streams to come", raw.priority(77, 5) + raw.headers(1, PLAIN, end=True)),
]

STREAM_WINDOWS: list[Case] = [
    Reset("no increment", OPEN + raw.window_update(1, 0)),
    Reset("too large a window", OPEN + raw.window_update(1, 2**31 - 1), raw.FLOW_CONTROL_ERROR),
    Reset("a malformed PRIORITY", OPEN + raw.priority(1, 1)),
    Reset("a PRIORITY of a wrong length", OPEN + raw.frame(raw.PRIORITY, 1, b"1234"), raw.FRAME_SIZE_ERROR),
]


def flood(*names: str) -> list[Case]:
    return [Flood(name, FLOODS[name][0]) for name in names]


CLASSES = [
    Class("pseudo-headers", "RFC 9113 8.3", [Reset(name, data) for name, data in PSEUDO.items()]),
    Class(
        "fields that HTTP/1.1 would read otherwise",
        "RFC 9113 8.2, Kettle 2021 (H2.TE), CVE-2025-57804, CVE-2021-39240",
        [Reset(name, upload(raw.block(grpc_head(INFER, field)))) for name, field in FIELDS.items()],
    ),
    Class(
        "content-length over HTTP/2",
        "RFC 9113 8.1.1, Kettle 2021 (H2.CL), CVE-2026-33555",
        [Reset(name, data) for name, data in LENGTHS.items()],
    ),
    Class("trailers over HTTP/2", "RFC 9113 8.1", [Reset(name, data) for name, data in TRAILERS.items()]),
    Class(
        "CONNECT and WebSocket over HTTP/2",
        "RFC 8441",
        [
            *answered("CONNECT", [(b":method", b"CONNECT"), (b":authority", b"a:1")], 501, call=501),
            *answered("a WebSocket", [(b":protocol", b"websocket"), *plain_head(b"CONNECT", b"/ws")], 501, call=501),
        ],
    ),
    Class(
        "header bombs over HTTP/2",
        "CVE-2016-6581, CVE-2026-49975, CVE-2026-47774",
        [
            *bombs(),
            *answered("too many fields", plain_head() + [(b"x", b"")] * 128, 431),
            Answered("a large section", section(plain_head() + [(b"x-%d" % n, b"y" * 900) for n in range(70)]), 431),
        ],
    ),
    *[
        Class(group, "RFC 9113 4 to 6" if "HPACK" not in group else "RFC 7541", breaking(group))
        for group in CONNECTION
        if "CONTINUATION" not in group
    ],
    Class("CONTINUATION flood", "VU#421644, CVE-2024-27316", breaking("CONTINUATION flood")),
    Class("windows of a stream", "RFC 9113 6.9", STREAM_WINDOWS),
    Class("rapid reset", "CVE-2023-44487", flood("rapid reset", "resets of what is gone")),
    Class(
        "made you reset",
        "CVE-2025-8671",
        flood(
            "window_update of nothing",
            "window_update beyond",
            "data after the end",
            "headers after the end",
            "priority of a wrong length",
            "own parent",
            "trailers without end",
            "more than the content-length",
            "malformed",
        ),
    ),
    Class(
        "floods of control frames from a client that does not read",
        "CVE-2019-9512, CVE-2019-9515, CVE-2019-9513",
        flood(
            "settings",
            "settings with much to do",
            "settings acknowledged",
            "ping",
            "ping acknowledged",
            "priority",
            "priority of idle streams",
            "unknown frames",
            "window_update",
            "window_update of a stream",
            "goaway",
        ),
    ),
    Class(
        "floods of empty frames",
        "CVE-2019-9518, CVE-2019-9516",
        flood("empty data", "nothing but padding", "headers on what we have reset"),
    ),
    Class("odd deadlines of gRPC", "gRPC over HTTP/2", timeouts()),
    Class("tiny frames, padding, frames to come", "RFC 9113 5.5, 6.1, CVE-2019-9511, CVE-2026-27141", GENTLE),
]
