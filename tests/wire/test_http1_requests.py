"""Requests, byte for byte: what is accepted, and what goes upstream for it."""

import re

import pytest

from agent.errors import Outcome
from tests.fakes import AUTHORITY, Event
from tests.wire.feeding import requests

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n"
SOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def plain(head: bytes, body: bytes = b"") -> list[Event]:
    return [("request", head), *([("body", body)] if body else []), ("end",)]


# What is written -> what the predictor gets, and the body that the machine hands on.
ACCEPTED: dict[str, tuple[bytes, list[Event]]] = {
    "the least": (GET + b"\r\n", plain(GET + b"\r\n")),
    "order, case and duplicates of fields": (
        GET + b"x-B: 2\r\nX-a: 1\r\nX-A: 1\r\nCookie: c\r\n\r\n",
        plain(GET + b"x-B: 2\r\nX-a: 1\r\nX-A: 1\r\nCookie: c\r\n\r\n"),
    ),
    "no space and much space after the colon": (
        b"GET / HTTP/1.1\r\nHost:a\r\nX:  \t b\r\n\r\n",
        plain(GET + b"X: b\r\n\r\n"),
    ),
    "an empty value": (GET + b"X:\r\nY: \r\n\r\n", plain(GET + b"X: \r\nY: \r\n\r\n")),
    "obs-text and tab in a value": (GET + b"X: \x80b\t\xff\r\n\r\n", plain(GET + b"X: \x80b\t\xff\r\n\r\n")),
    "every token character in a name": (
        GET + b"!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n",
        plain(GET + b"!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n"),
    ),
    "Content-Length": (POST + b"Content-Length: 5\r\n\r\nhello", plain(POST + b"Content-Length: 5\r\n\r\n", b"hello")),
    "Content-Length 0": (POST + b"Content-Length: 0\r\n\r\n", plain(POST + b"Content-Length: 0\r\n\r\n")),
    "leading zeros in Content-Length": (
        POST + b"Content-Length: 005\r\n\r\nhello",
        plain(POST + b"Content-Length: 005\r\n\r\n", b"hello"),
    ),
    "Content-Length with a body on GET": (
        GET + b"Content-Length: 2\r\n\r\nhi",
        plain(GET + b"Content-Length: 2\r\n\r\n", b"hi"),
    ),
    "the largest Content-Length": (
        POST + b"Content-Length: 999999999999999999\r\n\r\nx",
        [("request", POST + b"Content-Length: 999999999999999999\r\n\r\n"), ("body", b"x")],
    ),
    "a field that only looks like framing": (
        POST + b"Transfer_Encoding: chunked\r\nContent-Lengths: 5\r\n\r\n",
        plain(POST + b"Transfer_Encoding: chunked\r\nContent-Lengths: 5\r\n\r\n"),
    ),
    "chunked": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", plain(CHUNKED, b"hello world")),
    "chunked, empty": (CHUNKED + b"0\r\n\r\n", plain(CHUNKED)),
    "Chunked in another case": (
        POST + b"transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n",
        plain(POST + b"transfer-encoding: chunked\r\n\r\n"),
    ),
    "a chunk that contains chunks": (CHUNKED + b"a\r\n5\r\nhello\r\n\r\n0\r\n\r\n", plain(CHUNKED, b"5\r\nhello\r\n")),
    "15 digits of chunk size": (
        CHUNKED + b"00000000000000A\r\n0123456789\r\n000\r\n\r\n",
        plain(CHUNKED, b"0123456789"),
    ),
    "the largest chunk size": (CHUNKED + b"fffffffffffffff\r\nx", [("request", CHUNKED), ("body", b"x")]),
    "chunk extensions are dropped": (CHUNKED + b'1;a=b;c="d e"\r\nx\r\n0;last\r\n\r\n', plain(CHUNKED, b"x")),
    "trailers": (
        CHUNKED + b"1\r\nx\r\n0\r\nX-Sum:  9 \r\nx-sum: \xff\r\nX-Empty:\r\n\r\n",
        [
            ("request", CHUNKED),
            ("body", b"x"),
            ("trailers", [(b"X-Sum", b"9"), (b"x-sum", b"\xff"), (b"X-Empty", b"")]),
        ],
    ),
    "trailers that may not come late are dropped": (
        CHUNKED + b"0\r\nContent-Length: 9\r\nTRANSFER-encoding: x\r\nHost: b\r\nAuthorization: c\r\nTrailer: d\r\n"
        b"Set-Cookie: e\r\nConnection: f\r\nX: y\r\n\r\n",
        [("request", CHUNKED), ("trailers", [(b"X", b"y")])],
    ),
    "nothing but trailers that are dropped": (CHUNKED + b"0\r\nHost: b\r\n\r\n", plain(CHUNKED)),
    "an empty line before the request line": (b"\r\n" + GET + b"\r\n", plain(GET + b"\r\n")),
    "two empty lines before the request line": (b"\r\n\r\n" + GET + b"\r\n", plain(GET + b"\r\n")),
    "eight empty lines before the request line": (b"\r\n" * 8 + GET + b"\r\n", plain(GET + b"\r\n")),
    "HTTP/1.0 goes on as HTTP/1.1": (OLD + b"\r\n", plain(b"GET / HTTP/1.1\r\nHost: " + AUTHORITY + b"\r\n\r\n")),
    "HTTP/1.0 with Host": (OLD + b"Host: a\r\n\r\n", plain(GET + b"\r\n")),
    "HTTP/1.0 with keep-alive": (OLD + b"Host: a\r\nConnection: keep-alive\r\n\r\n", plain(GET + b"\r\n")),
    "HTTP/1.0 with an absolute target": (
        b"GET http://b/x HTTP/1.0\r\nX: y\r\n\r\n",
        plain(b"GET /x HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n"),
    ),
    "an absolute target that agrees with Host": (
        b"GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n",
        plain(b"GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    "an absolute target without a path": (
        b"GET HTTPS://a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        plain(b"GET / HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    ),
    "an absolute target of a query alone": (
        b"GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n",
        plain(b"GET /?q HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", plain(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")),
    "the path is not decoded or normalised": (
        b"GET //b/../%2e%2E/%0d%0aX:%20y/./?a=/../&b='%22 HTTP/1.1\r\nHost: a\r\n\r\n",
        plain(b"GET //b/../%2e%2E/%0d%0aX:%20y/./?a=/../&b='%22 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", plain(b"GET / HTTP/1.1\r\nHost: \r\n\r\n")),
    "Host with a port": (b"GET / HTTP/1.1\r\nHost: a.b:80\r\n\r\n", plain(b"GET / HTTP/1.1\r\nHost: a.b:80\r\n\r\n")),
    "Host of IPv6": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", plain(b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n")),
    "hop-by-hop fields end here": (
        GET
        + b"Connection: close\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\nTrailer: X\r\nX: y\r\n\r\n",
        plain(GET + b"Trailer: X\r\nX: y\r\n\r\n"),
    ),
    "fields that Connection names end here": (
        GET
        + b"connection: X-One,x-two ,\tkeep-alive\r\nx-one: 1\r\nX-Two: 2\r\n"
        + b"X-Three: 3\r\nConnection: x-FOUR\r\nX-Four: 4\r\n\r\n",
        plain(GET + b"X-Three: 3\r\n\r\n"),
    ),
    "Connection cannot remove what others rely on": (
        POST + b"Content-Length: 1\r\nContent-Type: t\r\nAuthorization: z\r\n"
        b"Connection: host, content-length, content-type, authorization, transfer-encoding\r\n\r\nx",
        plain(POST + b"Content-Length: 1\r\nContent-Type: t\r\nAuthorization: z\r\n\r\n", b"x"),
    ),
    "Connection cannot remove the framing in chunks": (
        POST + b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        plain(CHUNKED),
    ),
    "Expect is answered here": (
        POST + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
        plain(POST + b"Content-Length: 1\r\n\r\n", b"x"),
    ),
    "Expect without a body": (GET + b"Expect: 100-continue\r\n\r\n", plain(GET + b"\r\n")),
    "Expect in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        plain(POST + b"Content-Length: 1\r\n\r\n", b"x"),
    ),
    "an upgrade": (GET + SOCKET, plain(GET + SOCKET)),
    "an upgrade among other options": (
        GET + b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Key: k\r\n\r\n",
        plain(GET + b"Sec-WebSocket-Key: k\r\n" + SOCKET),
    ),
    "Upgrade that Connection does not name": (GET + b"Upgrade: websocket\r\n\r\n", plain(GET + b"\r\n")),
    "an upgrade with a body is served as what it is": (
        POST + b"Content-Length: 4\r\n" + SOCKET + b"body",
        plain(POST + b"Content-Length: 4\r\n\r\n", b"body"),
    ),
    "an upgrade with a chunked body": (
        POST + b"Transfer-Encoding: chunked\r\n" + SOCKET + b"4\r\nbody\r\n0\r\n\r\n",
        plain(CHUNKED, b"body"),
    ),
    "h2c is not negotiated": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        plain(GET + b"\r\n"),
    ),
    "h2c among other protocols": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n\r\n",
        plain(GET + b"\r\n"),
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    data, expected = ACCEPTED[case]
    assert requests(data) == expected


@pytest.mark.parametrize("method", b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE QUERY PURGE M-SEARCH".split())
def test_methods_go_through(method: bytes) -> None:
    head = method + b" /x HTTP/1.1\r\nHost: a\r\n\r\n"
    assert requests(head) == plain(head)


@pytest.mark.parametrize("space", [b" ", b"   "])
def test_white_space_after_a_value_is_no_part_of_it(space: bytes) -> None:
    for data, expected in (
        ACCEPTED["Content-Length"],
        ACCEPTED["chunked"],
        ACCEPTED["Host with a port"],
        ACCEPTED["Expect is answered here"],
        ACCEPTED["an upgrade"],
        ACCEPTED["hop-by-hop fields end here"],
    ):
        head, end, body = data.partition(b"\r\n\r\n")
        start, line_end, fields = head.partition(b"\r\n")
        spaced = start + line_end + fields.replace(b"\r\n", space + b"\r\n") + space + end + body
        (kind, forwarded), *rest = requests(spaced)
        assert (kind, re.sub(rb"[ \t]+\r\n", b"\r\n", forwarded)) == expected[0]
        assert rest == expected[1:]


@pytest.mark.parametrize("count", [3, 4, 5, 20])
def test_many_empty_lines_are_skipped_or_a_mistake_of_the_client(count: int) -> None:
    request = GET + b"\r\n"
    assert requests(b"\r\n" * count + request) in (plain(request), [("fault", Outcome.BAD_REQUEST)])
