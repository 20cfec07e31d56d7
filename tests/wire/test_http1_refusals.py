"""Requests, byte for byte: what is refused, and with which outcome. Nothing of a refused head becomes a request."""

import pytest

from agent.errors import Outcome
from agent.wire.http1 import ServerHttp1
from agent.wire.message import HeadCache
from tests.fakes import RecordingSink
from tests.wire.feeding import LIMITS, feed, is_complete, requests

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BAD, UNIMPLEMENTED, VERSION = Outcome.BAD_REQUEST, Outcome.NOT_IMPLEMENTED, Outcome.VERSION_UNSUPPORTED
EXPECTATION = Outcome.EXPECTATION_FAILED

# Names follow the families of request-smuggling attacks; each is refused before a request exists.
HEADS: dict[str, tuple[bytes, Outcome]] = {
    "CL.TE": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE.CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", BAD),
    "CL.CL": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", BAD),
    "CL.CL equal": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", BAD),
    "CL.CL in two cases": (POST + b"Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", BAD),
    "two TE": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE then identity": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", BAD),
    "identity then TE": (
        POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        UNIMPLEMENTED,
    ),
    "TE folded": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE with a space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE with a tab before the colon": (POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    "TE and CL in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        BAD,
    ),
    "CL with a space before the colon": (POST + b"Content-Length : 5\r\n\r\nhello", BAD),
    "CL folded": (POST + b"Content-Length:\r\n 5\r\n\r\nhello", BAD),
    "a folded value": (GET + b"X: b\r\n c\r\n\r\n", BAD),
    "a value folded with a tab": (GET + b"X: b\r\n\tc\r\n\r\n", BAD),
    "a field name that is empty": (GET + b": x\r\n\r\n", BAD),
    "a field without a colon": (GET + b"X\r\n\r\n", BAD),
    "a space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", BAD),
    "a tab before the first field": (b"GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", BAD),
    "a bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", BAD),
    "a bare LF after the target": (b"GET /\nX:y HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a bare LF after a field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", BAD),
    "a bare LF ends the head": (GET + b"X: y\r\n\n", BAD),
    "two bare LF end the head": (GET + b"X: y\n\n", BAD),
    "a bare CR after the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", BAD),
    "a bare CR in a value": (GET + b"X: y\rZ: w\r\n\r\n", BAD),
    "a bare CR at the end of a value": (GET + b"X: y\r\r\n\r\n", BAD),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", BAD),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", BAD),
    "two equal Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", BAD),
    "Host with another authority in the target": (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "Host with another port in the target": (b"GET http://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "an absolute target without Host": (b"GET http://a/ HTTP/1.1\r\n\r\n", BAD),
    "an absolute target without an authority": (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "user information in the target": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a target without a slash": (b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a fragment": (b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "* without OPTIONS": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a tab in the target": (b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a tab after the method": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a tab before the version": (b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "two spaces after the method": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BAD),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a method alone": (b"GET\r\n\r\n", BAD),
    "a method in lower case": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "an unknown method": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a bad character in the method": (b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "NUL after the method": (b"GET\0 / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a method of RTSP": (b"DESCRIBE / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a space before the request line": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a control character before the request line": (b"\x0cGET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "NUL before the request line": (b"\0GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "a bare LF before the request line": (b"\n" + GET + b"\r\n", BAD),
    "a bare CR before the request line": (b"\r" + GET + b"\r\n", BAD),
    "CR CR LF before the request line": (b"\r\r\n" + GET + b"\r\n", BAD),
    "LF CR before the request line": (b"\n\r" + GET + b"\r\n", BAD),
    "nine empty lines before the request line": (b"\r\n" * 9 + GET + b"\r\n", BAD),
    "a flood of empty lines": (b"\r\n" * 5000, BAD),
    "a byte order mark": (b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", BAD),
    "HTTP/9.9": (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", BAD),
    "http/1.1": (b"GET / http/1.1\r\nHost: a\r\n\r\n", BAD),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", VERSION),
    "HTTP/0.9 in words": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", VERSION),
    "HTTP/0.9": (b"GET /\r\n\r\n", VERSION),
    "HTTP/0.9 with fields": (b"GET /\r\nHost: a\r\n\r\n", VERSION),
    "RTSP": (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", VERSION),
    "TLS on this port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", BAD),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", UNIMPLEMENTED),
    "CONNECT to a path": (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", UNIMPLEMENTED),
    "an unknown expectation": (POST + b"Expect: a-pony\r\nContent-Length: 1\r\n\r\n", EXPECTATION),
    "an expectation too many": (POST + b"Expect: 100-continue, a-pony\r\nContent-Length: 1\r\n\r\n", EXPECTATION),
    "an empty expectation": (POST + b"Expect:\r\nContent-Length: 1\r\n\r\n", EXPECTATION),
    "an unknown expectation without a body": (GET + b"Expect: a-pony\r\n\r\n", EXPECTATION),
}


@pytest.mark.parametrize("case", HEADS)
def test_refused_before_it_is_a_request(case: str) -> None:
    data, outcome = HEADS[case]
    assert requests(data) == [("fault", outcome)]


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_the_end_of_a_head_with_too_many_fields_is_not_waited_for(size: int) -> None:
    """Parsed, each takes thirty times its bytes."""
    sink = RecordingSink()
    machine = ServerHttp1(sink, LIMITS, HeadCache())
    data = GET + b"a:\r\n" * (LIMITS.fields + 10)
    feed(machine, [data[at : at + size] for at in range(0, len(data), size)])
    assert sink.events == [("fault", Outcome.HEAD_TOO_LARGE)]


# Values that some readers take for a number. int() accepts several of them, so the machine must not use it on them.
LENGTHS = (
    b"+5",
    b"-5",
    b"0x5",
    b"5 5",
    b"5,5",
    b"5, 5",
    b"5;5",
    b"0_5",
    b"5.0",
    b"5e0",
    b"5a",
    b"five",
    b"",
    b"\xd9\xa5",
    b"\xb2",
    b"5\x0b",
    b"1000000000000000000",
    b"0000000000000000005",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551621",
)

# Values that some readers take for `chunked` and others do not.
CODINGS = (
    b"",
    b"xchunked",
    b"chunkedx",
    b"identity",
    b"gzip",
    b"gzip, chunked",
    b"chunked, chunked",
    b"chunked, identity",
    b"chunked, gzip",
    b"chunked,",
    b",chunked",
    b"chunked;q=1",
    b'"chunked"',
    b"'chunked'",
    b"chunked\x0b",
    b"\x0bchunked",
    b"chunked\x0c",
    b"\0chunked",
    b"chunked\0",
    b"chunked\xa0",
    b"\xa0chunked",
    b"chu\tnked",
    b"c\xc2\xa0hunked",
)

HOSTS = (
    b"a/b@c",
    b"a b",
    b"u@a",
    b"a:x",
    b"a:999999",
    b"a:1:2",
    b"a#b",
    b"a?b",
    b"a\\b",
    b"\xc3\xa4",
    b"[::1",
    b"[x]",
    b"a\tb",
)

CONTROLS = [*range(9), *range(10, 32), 127]
NOT_TOKEN = b'\t "(),/:;<=>?@[\\]{}\x7f\x80\xff'


@pytest.mark.parametrize("value", LENGTHS)
def test_a_length_is_ascii_digits_that_fit_in_63_bits(value: bytes) -> None:
    assert requests(POST + b"Content-Length: " + value + b"\r\n\r\nhello") == [("fault", BAD)]


@pytest.mark.parametrize("value", CODINGS)
def test_a_coding_is_chunked_and_nothing_else(value: bytes) -> None:
    events = requests(POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n")
    assert events in ([("fault", BAD)], [("fault", UNIMPLEMENTED)])


@pytest.mark.parametrize("value", HOSTS)
def test_a_host_has_no_second_reading(value: bytes) -> None:
    assert requests(b"GET / HTTP/1.1\r\nHost: " + value + b"\r\n\r\n") == [("fault", BAD)]


@pytest.mark.parametrize("byte", CONTROLS)
def test_a_control_character_is_refused_everywhere(byte: int) -> None:
    character = bytes([byte])
    for head in (
        b"GET /" + character + b"x HTTP/1.1\r\nHost: a\r\n\r\n",
        GET + b"X" + character + b"Y: z\r\n\r\n",
        GET + b"X: y" + character + b"z\r\n\r\n",
    ):
        assert requests(head) == [("fault", BAD)], head


@pytest.mark.parametrize("byte", sorted(set(NOT_TOKEN) - set(b":")))
def test_a_field_name_is_a_token(byte: int) -> None:
    assert requests(GET + b"X" + bytes([byte]) + b"Y: z\r\n\r\n") == [("fault", BAD)]


@pytest.mark.parametrize("byte", range(128, 256))
def test_a_target_is_ascii(byte: int) -> None:
    assert requests(b"GET /" + bytes([byte]) + b" HTTP/1.1\r\nHost: a\r\n\r\n") == [("fault", BAD)]


# The body after CHUNKED -> what of it is delivered before the fault.
BODIES: dict[str, tuple[bytes, bytes]] = {
    "0x before the size": (b"0x5\r\nhello\r\n0\r\n\r\n", b""),
    "a plus before the size": (b"+5\r\nhello\r\n0\r\n\r\n", b""),
    "a minus before the size": (b"-5\r\nhello\r\n0\r\n\r\n", b""),
    "an underscore in the size": (b"0_5\r\nhello\r\n0\r\n\r\n", b""),
    "a space before the size": (b" 5\r\nhello\r\n0\r\n\r\n", b""),
    "a space after the size": (b"5 \r\nhello\r\n0\r\n\r\n", b""),
    "a tab after the size": (b"5\t\r\nhello\r\n0\r\n\r\n", b""),
    "a space before an extension": (b"5 ;a\r\nhello\r\n0\r\n\r\n", b""),
    "no size": (b"\r\nhello\r\n0\r\n\r\n", b""),
    "an extension and no size": (b";a\r\nhello\r\n0\r\n\r\n", b""),
    "not a digit": (b"g\r\nhello\r\n0\r\n\r\n", b""),
    "a digit that is not ASCII": (b"\xd9\xa5\r\nhello\r\n0\r\n\r\n", b""),
    "16 digits": (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b""),
    "17 digits": (b"10000000000000005\r\nhello\r\n0\r\n\r\n", b""),
    "a bare LF after the size": (b"5\nhello\r\n0\r\n\r\n", b""),
    "a bare CR after the size": (b"5\rhello\r\n0\r\n\r\n", b""),
    "CR CR LF after the size": (b"5\r\r\nhello\r\n0\r\n\r\n", b""),
    "a bare LF in an extension": (b"5;a\nb\r\nhello\r\n0\r\n\r\n", b""),
    "a bare CR in an extension": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", b""),
    "NUL in an extension": (b"5;a\0b\r\nhello\r\n0\r\n\r\n", b""),
    "a bare LF after the data": (b"5\r\nhello\n0\r\n\r\n", b"hello"),
    "a bare CR after the data": (b"5\r\nhello\r0\r\n\r\n", b"hello"),
    "nothing after the data": (b"5\r\nhello0\r\n\r\n", b"hello"),
    "two other bytes after the data": (b"5\r\nhelloXX0\r\n\r\n", b"hello"),
    "more data than its size": (b"5\r\nhello!\r\n0\r\n\r\n", b"hello"),
    "less data than its size": (b"5\r\nhell\r\n0\r\n\r\n", b"hell\r"),
    "a bare LF after the last size": (b"5\r\nhello\r\n0\n\r\n", b"hello"),
    "a bare LF ends the trailers": (b"5\r\nhello\r\n0\r\n\n", b"hello"),
    "a bare LF after a trailer": (b"0\r\nX: y\n\r\n", b""),
    "a bare CR in a trailer": (b"0\r\nX: y\rz\r\n\r\n", b""),
    "NUL in a trailer": (b"0\r\nX: y\0z\r\n\r\n", b""),
    "a trailer without a colon": (b"0\r\nX\r\n\r\n", b""),
    "a trailer without a name": (b"0\r\n: y\r\n\r\n", b""),
    "a space before a trailer's colon": (b"0\r\nX : y\r\n\r\n", b""),
    "a folded trailer": (b"0\r\nX: y\r\n z\r\n\r\n", b""),
    "a request where the trailers are": (b"0\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n", b""),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_broken_body_never_ends_cleanly(case: str) -> None:
    body, delivered = BODIES[case]
    events = requests(CHUNKED + body)
    assert not is_complete(events)
    assert events == [("request", CHUNKED), *([("body", delivered)] if delivered else []), ("fault", BAD)]
