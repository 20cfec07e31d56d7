"""Clients over HTTP/1.1: framing and smuggling (RFC 9112; Linhart et al. 2005; Kettle 2019, 2022, 2025)."""

from collections.abc import Iterable

from agent.errors import Outcome
from tests.fakes import AUTHORITY, Event
from tests.hostile.case import Case, Class, Refused, Served, Undone
from tests.wire.test_http1_refusals import (
    BODIES,
    CHUNKED,
    CODINGS,
    CONTROLS,
    GET,
    HEADS,
    HOSTS,
    LENGTHS,
    NOT_TOKEN,
    POST,
)
from tests.wire.test_http1_requests import ACCEPTED

BAD, CODING = Outcome.BAD_REQUEST, Outcome.NOT_IMPLEMENTED
TOO_LARGE, TOO_LONG, VERSION = Outcome.HEAD_TOO_LARGE, Outcome.URI_TOO_LONG, Outcome.VERSION_UNSUPPORTED
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def heads(*names: str) -> list[Case]:
    """Heads out of the table of refusals."""
    return [Refused(name, HEADS[name][0], (HEADS[name][1],)) for name in names]


def bodies(*names: str) -> list[Case]:
    """Chunked bodies that break, with a request behind them."""
    return [Undone(name, CHUNKED + BODIES[name][0]) for name in names]


def values(field: bytes, those: Iterable[bytes], body: bytes, *outcomes: Outcome) -> list[Case]:
    return [
        Refused(f"{field.decode()}: {value!r}", POST + field + b": " + value + b"\r\n\r\n" + body, outcomes or (BAD,))
        for value in those
    ]


def accepted(*names: str) -> list[Case]:
    """Requests out of the table of what is served, with what goes to the predictor for them."""
    return [_accepted(name, *ACCEPTED[name]) for name in names]


def _accepted(name: str, data: bytes, events: list[Event]) -> Case:
    body = b"".join(bytes(event[1]) for event in events if event[0] == "body")
    head: bytes | None = events[0][1]
    if head is not None and AUTHORITY in head:
        head = None  # the predictor's address, which differs
    line, _, rest = data.lstrip(b"\r\n").partition(b"\r\n")
    options = rest.lower().partition(b"\r\n\r\n")[0]
    ends = (line.endswith(b"1.0") and b"keep-alive" not in options) or b"connection: close" in options
    # An HTTP/1.0 answer ends with the connection, whatever its client wishes.
    ends = ends or line.endswith(b"1.0")
    return Served(name, data, head, body, ends)


def everywhere(characters: Iterable[int]) -> list[Case]:
    """A character in the target, in a name and in a value."""
    cases: list[Case] = []
    for byte in characters:
        it = bytes([byte])
        cases += [
            Refused(f"{it!r} in the target", b"GET /" + it + b"x HTTP/1.1\r\nHost: a\r\n\r\n"),
            Refused(f"{it!r} in a name", GET + b"X" + it + b"Y: z\r\n\r\n"),
            Refused(f"{it!r} in a value", GET + b"X: y" + it + b"z\r\n\r\n"),
        ]
    return cases


UNKNOWN = (b"identity", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, identity")
BEYOND = [value for value in LENGTHS if len(value) > 12]
LISTS = (b"5,5", b"5, 5", b"5;5", b"5 5")

FRAMING = [
    Class("CL.TE and TE.CL", "Linhart 2005, CVE-2019-20445", heads("CL.TE", "TE.CL")),
    Class(
        "Transfer-Encoding in disguise",
        "Kettle 2019, CVE-2019-18277, CVE-2022-32213, CVE-2024-1135",
        [
            *heads("two TE", "TE then identity", "identity then TE", "TE folded"),
            *heads("TE with a space before the colon", "TE with a tab before the colon"),
            *values(b"Transfer-Encoding", [each for each in CODINGS if each not in UNKNOWN], b"0\r\n\r\n", BAD, CODING),
            *accepted("Chunked in another case", "a field that only looks like framing"),
        ],
    ),
    Class(
        "codings that are not chunked",
        "RFC 9112 6.1",
        values(b"Transfer-Encoding", UNKNOWN, b"0\r\n\r\n", BAD, CODING),
    ),
    Class("Transfer-Encoding in HTTP/1.0", "CVE-2026-42581", heads("TE in HTTP/1.0", "TE and CL in HTTP/1.0")),
    Class(
        "several Content-Lengths",
        "RFC 9112 6.3",
        [*heads("CL.CL", "CL.CL equal", "CL.CL in two cases"), *values(b"Content-Length", LISTS, b"hello")],
    ),
    Class(
        "Content-Length that is no number",
        "CVE-2023-40225, CVE-2022-24801, CVE-2023-38697",
        [
            *values(b"Content-Length", [v for v in LENGTHS if v not in BEYOND and v not in LISTS], b"hello"),
            *accepted("leading zeros in Content-Length", "Content-Length", "Content-Length 0"),
        ],
    ),
    Class("Content-Length beyond every counter", "CVE-2021-40346", values(b"Content-Length", BEYOND, b"hello")),
    Class(
        "space before the colon",
        "RFC 9112 5.1, CVE-2019-16276, CVE-2021-22959",
        heads("CL with a space before the colon"),
    ),
    Class(
        "bare LF and bare CR",
        "CVE-2023-30589",
        heads(
            "a bare LF after the request line",
            "a bare LF after the target",
            "a bare LF after a field",
            "a bare LF ends the head",
            "two bare LF end the head",
            "a bare CR after the request line",
            "a bare CR in a value",
            "a bare CR at the end of a value",
        ),
    ),
    Class(
        "folded fields",
        "RFC 9112 5.2, CVE-2024-27982, CVE-2025-32094",
        heads("CL folded", "a folded value", "a value folded with a tab"),
    ),
    Class("NUL and control characters", "RFC 9110 5.5", everywhere(CONTROLS)),
    Class(
        "names that are none",
        "CVE-2023-25725",
        [
            *heads("a field name that is empty", "a field without a colon"),
            *[
                Refused(f"{bytes([byte])!r} in a name", GET + b"X" + bytes([byte]) + b"Y: z\r\n\r\n")
                for byte in sorted(set(NOT_TOKEN) - set(b":"))
            ],
        ],
    ),
    Class(
        "white space before the first field",
        "RFC 9112 2.2",
        heads("a space before the first field", "a tab before the first field"),
    ),
    Class(
        "bytes before the request line",
        "CVE-2026-50020",
        [
            *heads(
                "a space before the request line",
                "a control character before the request line",
                "NUL before the request line",
                "a bare LF before the request line",
                "a bare CR before the request line",
                "CR CR LF before the request line",
                "LF CR before the request line",
                "nine empty lines before the request line",
                "a flood of empty lines",
                "a byte order mark",
            ),
            *accepted("an empty line before the request line", "eight empty lines before the request line"),
        ],
    ),
]

CHUNKS = [
    Class(
        "chunk sizes that are none",
        "CVE-2021-22960, CVE-2022-24801",
        [
            *bodies(*list(BODIES)[:14]),
            *accepted("15 digits of chunk size", "a chunk that contains chunks"),
        ],
    ),
    Class(
        "chunk lines that end otherwise",
        "CVE-2025-22871, CVE-2025-55315, CVE-2024-52304 (TERM.EXT, EXT.TERM, spill)",
        [
            *bodies(*list(BODIES)[14:20]),
            *bodies("a bare LF after the last size", "a bare LF ends the trailers", "a bare LF after the data"),
            *bodies("a bare CR after the data"),
            Undone("a request in an extension", CHUNKED + b"5;\n" + NEXT + b"\r\nhello\r\n0\r\n\r\n"),
            Undone("a request after a bare CR", CHUNKED + b"0\r\r\n\r\n" + NEXT),
        ],
    ),
    Class(
        "chunk data longer or shorter than its size",
        "CVE-2025-43859",
        bodies(
            "nothing after the data",
            "two other bytes after the data",
            "more data than its size",
            "less data than its size",
        ),
    ),
    Class(
        "huge chunk extensions",
        "CVE-2023-39326",
        [
            Undone("one of 9 KiB", CHUNKED + b"1;" + b"x" * 9 * 1024 + b"\r\nx\r\n0\r\n\r\n"),
            Undone("one that never ends", CHUNKED + b"1;" + b"x" * 70_000),
            Undone("many", CHUNKED + (b"1;" + b"x" * 100 + b"\r\nx\r\n") * 100 + b"0\r\n\r\n"),
            *accepted("chunk extensions are dropped"),
        ],
    ),
    Class(
        "trailers of a request",
        "RFC 9110 6.5, RFC 9112 7.1.2",
        [
            *bodies(*[name for name in BODIES if "trailer" in name and "ends the" not in name]),
            Undone("too many bytes", CHUNKED + b"0\r\n" + b"X: y\r\n" * 2000 + b"\r\n"),
            *accepted("trailers", "trailers that may not come late are dropped"),
            *accepted("nothing but trailers that are dropped"),
        ],
    ),
]

TARGETS = [
    Class(
        "authorities that disagree",
        "Klein 2004, RFC 9112 3.2",
        [
            *heads(
                "no Host",
                "two Hosts",
                "two equal Hosts",
                "Host with another authority in the target",
                "Host with another port in the target",
                "an absolute target without Host",
                "an absolute target without an authority",
                "user information in the target",
                "another scheme",
            ),
            *[Refused(f"Host: {value!r}", b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n") for value in HOSTS],
            *accepted(
                "an absolute target that agrees with Host",
                "an absolute target without a path",
                "an absolute target of a query alone",
                "HTTP/1.0 with an absolute target",
            ),
        ],
    ),
    Class(
        "request lines that others read differently",
        "RFC 9112 3",
        [
            *heads(
                "a target without a slash",
                "a fragment",
                "* without OPTIONS",
                "a space in the target",
                "a tab in the target",
                "a tab after the method",
                "a tab before the version",
                "two spaces after the method",
                "two spaces before the version",
                "a space after the version",
                "no target",
                "a method alone",
                "a method in lower case",
                "an unknown method",
                "a bad character in the method",
                "NUL after the method",
                "a method of RTSP",
                "HTTP/1.10",
                "HTTP/9.9",
                "http/1.1",
                "HTTP/2.0",
                "HTTP/0.9 in words",
                "HTTP/0.9",
                "HTTP/0.9 with fields",
                "RTSP",
            ),
            *[
                Refused(f"{bytes([byte])!r} in the target", b"GET /" + bytes([byte]) + b" HTTP/1.1\r\nHost: a\r\n\r\n")
                for byte in range(128, 256, 9)
            ],
            *accepted("OPTIONS *", "HTTP/1.0 with Host", "HTTP/1.0 with keep-alive", "HTTP/1.0 goes on as HTTP/1.1"),
        ],
    ),
    Class(
        "encoded line ends and dot segments",
        "CVE-2021-29492",
        accepted("the path is not decoded or normalised"),
    ),
    Class(
        "Expect",
        "CVE-2024-24791, Kettle 2025 (0.CL)",
        [
            *heads(
                "an unknown expectation",
                "an expectation too many",
                "an empty expectation",
                "an unknown expectation without a body",
            ),
            *accepted("Expect is answered here", "Expect without a body", "Expect in HTTP/1.0"),
        ],
    ),
    Class(
        "upgrades and the body behind them",
        "0ang3el 2019, CVE-2026-58055",
        accepted(
            "an upgrade with a body is served as what it is",
            "an upgrade with a chunked body",
            "Upgrade that Connection does not name",
            "an upgrade",
            "an upgrade among other options",
        ),
    ),
    Class("h2c by upgrade", "Bishop Fox 2020", accepted("h2c is not negotiated", "h2c among other protocols")),
    Class(
        "CONNECT and early data",
        "CVE-2025-64763",
        [
            *heads("CONNECT", "CONNECT to a path"),
            Refused("CONNECT with a request behind", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" + NEXT, (CODING,)),
            Refused("CONNECT with a length", HEADS["CONNECT"][0][:-2] + b"Content-Length: 5\r\n\r\nhello", (CODING,)),
        ],
    ),
    Class(
        "hop-by-hop abuse",
        "Davison 2019, CVE-2021-33197, CVE-2022-31813",
        accepted(
            "hop-by-hop fields end here",
            "fields that Connection names end here",
            "Connection cannot remove what others rely on",
            "Connection cannot remove the framing in chunks",
        ),
    ),
    Class(
        "other protocols on this port",
        "RFC 9112 2.2",
        [
            *heads("TLS on this port"),
            Refused("a broken preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", (BAD, VERSION)),
            Refused("PRI as a request", b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Refused("SSH", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
            Refused("the PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + GET + b"\r\n"),
            Refused("the PROXY protocol, version 2", b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c" + b"x" * 12 + b"\r\n\r\n"),
        ],
    ),
    Class(
        "header bombs",
        "Envoy, HAProxy and nginx bounds",
        [
            Refused("a line that does not end", GET + b"X: " + b"y" * 4_000_000, (TOO_LARGE,)),
            Refused("a name that does not end", GET + b"y" * 4_000_000, (TOO_LARGE, BAD)),
            Refused("20,000 fields", GET + b"a: b\r\n" * 20_000 + b"\r\n", (TOO_LARGE,)),
            Refused("130 fields", GET + b"a: b\r\n" * 130 + b"\r\n", (TOO_LARGE,)),
            Refused("a target of 1 MB", b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (TOO_LONG,)),
            Refused("a target of 17 KB", b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (TOO_LONG,)),
            Served(
                "as much as is allowed",
                GET + b"X: " + b"y" * 60_000 + b"\r\n\r\n",
                GET + b"X: " + b"y" * 60_000 + b"\r\n\r\n",
            ),
        ],
    ),
]

CLASSES = [*FRAMING, *CHUNKS, *TARGETS]
