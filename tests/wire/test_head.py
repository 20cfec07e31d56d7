"""The rules about heads by themselves, for they must not depend on what the parser in front of them refuses."""

import subprocess
import sys

import pytest

from agent.errors import Fault, Outcome
from agent.wire import head
from agent.wire.head import RequestHead, ResponseHead
from tests.wire.oracle import Pairs


def request(*fields: tuple[bytes, bytes], method: bytes = b"POST", target: bytes = b"/", minor: int = 1) -> RequestHead:
    built = RequestHead()
    for part in (target[:3], target[3:]):
        built.on_url(part)
    for name, value in fields:
        built.on_header(name, value)
    built.method, built.minor = method, minor
    return built


def response(*fields: tuple[bytes, bytes], status: int = 200, minor: int = 1) -> ResponseHead:
    built = ResponseHead()
    built.on_status(b"O")
    built.on_status(b"K")
    for name, value in fields:
        built.on_header(name, value)
    built.status, built.minor = status, minor
    return built


HOST = (b"Host", b"a")
LENGTH = (b"Content-Length", b"5")
CODING = (b"Transfer-Encoding", b"chunked")

AMBIGUOUS: list[Pairs] = [
    [LENGTH, CODING],
    [CODING, LENGTH],
    [LENGTH, LENGTH],
    [CODING, CODING],
    [CODING, (b"transfer-encoding", b"identity")],
    *([(b"Content-Length", value)] for value in (b"", b"+5", b"-5", b"5 5", b"5,5", b"0x5", b"\xb2", b"1" * 19)),
    *([(b"Transfer-Encoding", value)] for value in (b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"xchunked")),
]


@pytest.mark.parametrize("fields", AMBIGUOUS)
def test_ambiguous_framing_is_refused_without_the_parsers_help(fields: Pairs) -> None:
    fault = request(HOST, *fields).complete()
    assert fault is not None
    assert fault.outcome in {Outcome.BAD_REQUEST, Outcome.NOT_IMPLEMENTED}
    answer = response(*fields).complete()
    assert answer is not None
    assert answer.outcome is Outcome.UPSTREAM_INVALID


@pytest.mark.parametrize("built", [request(HOST, CODING, minor=0), response(CODING, minor=0)])
def test_a_coding_needs_http_1_1(built: RequestHead | ResponseHead) -> None:
    assert isinstance(built.complete(), Fault)


@pytest.mark.parametrize("target", [b"x", b"", b"*", b"/#", b"/\xff", b"a:1", b"http://", b"http:///", b"http://u@a/"])
def test_a_bad_target_is_refused_without_the_parsers_help(target: bytes) -> None:
    fault = request(HOST, target=target).complete()
    assert fault is not None
    assert fault.outcome is Outcome.BAD_REQUEST


@pytest.mark.parametrize("status", [0, 99, 1000])
def test_a_status_has_three_digits(status: int) -> None:
    assert isinstance(response(status=status).complete(), Fault)


@pytest.mark.parametrize(
    ("built", "has_body", "length", "chunked"),
    [
        (request(HOST), False, None, False),
        (request(HOST, (b"Content-Length", b"0")), False, 0, False),
        (request(HOST, LENGTH), True, 5, False),
        (request(HOST, CODING), True, None, True),
    ],
)
def test_what_frames_the_body(built: RequestHead, has_body: bool, length: int | None, chunked: bool) -> None:
    assert built.complete() is None
    assert (built.has_body, built.length, built.chunked) == (has_body, length, chunked)


@pytest.mark.parametrize(
    ("value", "minor", "keeps"),
    [
        (b"", 1, True),
        (b"close", 1, False),
        (b"CLOSE", 1, False),
        (b"x, close", 1, False),
        (b"keep-alive", 1, True),
        (b"keep-alive, close", 1, False),
        (b"", 0, False),
        (b"keep-alive", 0, True),
        (b"Keep-Alive", 0, True),
        (b"close", 0, False),
    ],
)
def test_whether_the_client_keeps_the_connection(value: bytes, minor: int, keeps: bool) -> None:
    built = request(HOST, *([(b"Connection", value)] if value else []), minor=minor)
    assert built.complete() is None
    assert built.keep_alive is keeps


@pytest.mark.parametrize(
    ("fields", "minor", "expects"),
    [
        ([LENGTH, (b"Expect", b"100-continue")], 1, True),
        ([(b"expect", b"100-CONTINUE"), CODING], 1, True),
        ([(b"Expect", b"100-continue")], 1, False),
        ([(b"Content-Length", b"0"), (b"Expect", b"100-continue")], 1, False),
        ([LENGTH, (b"Expect", b"100-continue")], 0, False),
        ([LENGTH], 1, False),
    ],
)
def test_who_waits_for_100_continue(fields: Pairs, minor: int, expects: bool) -> None:
    built = request(HOST, *fields, minor=minor)
    assert built.complete() is None
    assert built.expects_continue is expects


def test_the_host_is_that_of_the_field_or_of_the_target() -> None:
    for built, host in [
        (request(HOST), b"a"),
        (request(HOST, target=b"http://a/x"), b"a"),
        (request(target=b"http://b/x", minor=0), b"b"),
        (request(minor=0), None),
    ]:
        assert built.complete() is None
        assert built.host == host


def test_a_head_without_a_name_gets_each_predictors_own() -> None:
    built = request((b"X", b"y"), minor=0)
    assert built.complete() is None
    for authority in (b"one:1", b"two:2", b"one:1"):
        assert built.serialize(authority) == b"POST / HTTP/1.1\r\nHost: " + authority + b"\r\nX: y\r\n\r\n"


HOSTILE_NAMES = """
import tracemalloc
from agent.wire import head
tracemalloc.start()
for number in range(3000):
    assert head.kind_of(b"x" * 10_000 + b"%d" % number) == head.PLAIN
print(tracemalloc.get_traced_memory()[0])
"""


def test_strange_names_pin_no_memory() -> None:
    ended = subprocess.run([sys.executable, "-c", HOSTILE_NAMES], capture_output=True, timeout=20, check=True)
    assert int(ended.stdout) < 1 << 20


def test_names_are_known_in_any_case_however_many_came_before() -> None:
    for number in range(3000):
        assert head.kind_of(b"x-%d" % number) == head.PLAIN
    for name, kind in [
        (b"hOsT", head.HOST),
        (b"content-LENGTH", head.LENGTH),
        (b"TRANSFER-encoding", head.CODING),
        (b"cOnNeCtIoN", head.CONNECTION),
        (b"uPGRADE", head.UPGRADE),
        (b"eXPECT", head.EXPECT),
        (b"kEEP-aLIVE", head.HOP),
        (b"tE", head.HOP),
        (b"content_length", head.PLAIN),
    ]:
        assert head.kind_of(name) == kind


@pytest.mark.parametrize(
    ("value", "is_retry"),
    [(b"1", False), (b"2", True), (b"10 ", True), (b"", False), (b"two", False), (b"2" * 10, False)],
)
def test_envoys_count_of_attempts_tells_a_retry(value: bytes, is_retry: bool) -> None:
    head = request(HOST, (b"X-Envoy-Attempt-Count", value))
    assert head.complete() is None
    assert head.is_retry is is_retry
    assert b"X-Envoy-Attempt-Count: " + value.strip() in head.serialize(b"")
