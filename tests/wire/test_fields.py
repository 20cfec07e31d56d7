"""Header sections: what is malformed, what can be answered, what is understood, and what is sent on."""

from typing import Any

import hpack
import pytest

from agent.errors import Fault, Outcome
from agent.wire.fields import Http2Request, read_request, read_response, read_trailers, size_of
from agent.wire.fields import _known as known_fields
from agent.wire.head import NO_STATUS, RequestHead, ResponseHead
from agent.wire.message import Limits
from tests.wire.frames_by_hand import Pair, never, pseudo

LIMITS = Limits()


def outcome(fields: list[Any], limits: Limits = LIMITS) -> Outcome | None:
    fault = read_request(fields, limits)[1]
    return fault and fault.outcome


def forwarded(head: Http2Request, elapsed: float = 0.0) -> list[Pair]:
    return [tuple(field) for field in hpack.Decoder().decode(head.block(elapsed), raw=True)]


METHOD, SCHEME, AUTHORITY, PATH = pseudo()
BASE = [METHOD, SCHEME, AUTHORITY, PATH]

PSEUDO: dict[str, tuple[list[Pair], Outcome | None]] = {
    "all": (BASE, None),
    "another order": ([PATH, AUTHORITY, SCHEME, METHOD], None),
    "no authority": ([METHOD, SCHEME, PATH], None),
    "empty authority": ([METHOD, SCHEME, (b":authority", b""), PATH], None),
    "https": ([METHOD, (b":scheme", b"https"), AUTHORITY, PATH], None),
    "no method": ([SCHEME, AUTHORITY, PATH], Outcome.BAD_REQUEST),
    "no scheme": ([METHOD, AUTHORITY, PATH], Outcome.BAD_REQUEST),
    "no path": ([METHOD, SCHEME, AUTHORITY], Outcome.BAD_REQUEST),
    "nothing": ([], Outcome.BAD_REQUEST),
    "empty method": ([(b":method", b""), SCHEME, PATH], Outcome.BAD_REQUEST),
    "method of two words": ([(b":method", b"GE T"), SCHEME, PATH], Outcome.BAD_REQUEST),
    "empty scheme": ([METHOD, (b":scheme", b""), PATH], Outcome.BAD_REQUEST),
    "scheme with a space": ([METHOD, (b":scheme", b"ht tp"), PATH], Outcome.BAD_REQUEST),
    "empty path": ([METHOD, SCHEME, (b":path", b"")], Outcome.BAD_REQUEST),
    "relative path": ([METHOD, SCHEME, (b":path", b"x")], Outcome.BAD_REQUEST),
    "absolute path": ([METHOD, SCHEME, (b":path", b"http://a/")], Outcome.BAD_REQUEST),
    "path with a space": ([METHOD, SCHEME, (b":path", b"/a b")], Outcome.BAD_REQUEST),
    "path with a line end": ([METHOD, SCHEME, (b":path", b"/ HTTP/1.1\r\nx: y")], Outcome.BAD_REQUEST),
    "path with a fragment": ([METHOD, SCHEME, (b":path", b"/a#b")], Outcome.BAD_REQUEST),
    "path beyond ASCII": ([METHOD, SCHEME, (b":path", b"/\xff")], Outcome.BAD_REQUEST),
    "path with a NUL": ([METHOD, SCHEME, (b":path", b"/\0")], Outcome.BAD_REQUEST),
    "path with everything": ([METHOD, SCHEME, (b":path", b"/a?b=c&d;e/%00'()[]{}|^`\"<>\\~")], None),
    "star": ([METHOD, SCHEME, (b":path", b"*")], Outcome.BAD_REQUEST),
    "star of options": ([(b":method", b"OPTIONS"), SCHEME, (b":path", b"*")], None),
    "userinfo": ([METHOD, SCHEME, (b":authority", b"a@b"), PATH], Outcome.BAD_REQUEST),
    "authority with a line end": ([METHOD, SCHEME, (b":authority", b"a\r\n"), PATH], Outcome.BAD_REQUEST),
    "authority with a path": ([METHOD, SCHEME, (b":authority", b"a/b"), PATH], Outcome.BAD_REQUEST),
    "two methods": ([METHOD, METHOD, SCHEME, PATH], Outcome.BAD_REQUEST),
    "two paths": ([METHOD, SCHEME, PATH, PATH], Outcome.BAD_REQUEST),
    "two authorities": ([*BASE, AUTHORITY], Outcome.BAD_REQUEST),
    "status": ([*BASE, (b":status", b"200")], Outcome.BAD_REQUEST),
    "unknown": ([*BASE, (b":foo", b"x")], Outcome.BAD_REQUEST),
    "upper case": ([(b":Method", b"GET"), SCHEME, PATH], Outcome.BAD_REQUEST),
    "colon alone": ([*BASE, (b":", b"x")], Outcome.BAD_REQUEST),
    "after a field": ([METHOD, SCHEME, (b"a", b"b"), PATH], Outcome.BAD_REQUEST),
    "unknown after a field": ([*BASE, (b"a", b"b"), (b":foo", b"x")], Outcome.BAD_REQUEST),
    "connect": ([(b":method", b"CONNECT"), AUTHORITY], Outcome.NOT_IMPLEMENTED),
    "connect with a path": ([(b":method", b"CONNECT"), AUTHORITY, PATH], Outcome.BAD_REQUEST),
    "connect with a scheme": ([(b":method", b"CONNECT"), SCHEME, AUTHORITY], Outcome.BAD_REQUEST),
    "connect with both": ([(b":method", b"CONNECT"), SCHEME, AUTHORITY, PATH], Outcome.BAD_REQUEST),
    "websocket": ([(b":method", b"CONNECT"), (b":protocol", b"websocket"), *BASE[1:]], Outcome.NOT_IMPLEMENTED),
    "protocol without connect": ([*BASE, (b":protocol", b"websocket")], Outcome.BAD_REQUEST),
}


@pytest.mark.parametrize("case", PSEUDO)
def test_pseudo_headers(case: str) -> None:
    fields, expected = PSEUDO[case]
    assert outcome(fields) == expected
    if expected is None:
        assert forwarded(read_request(fields, LIMITS)[0]) == fields


RETRIES = [
    ((b"x-envoy-attempt-count", b"1"), False),
    ((b"x-envoy-attempt-count", b"2"), True),
    ((b"x-envoy-attempt-count", b"-2"), False),
    ((b"grpc-previous-rpc-attempts", b"1"), True),
    ((b"grpc-previous-rpc-attempts", b"0"), False),
    ((b"grpc-previous-rpc-attempts", b"1x"), False),
    ((b"x-retry", b"2"), False),
]


@pytest.mark.parametrize(("field", "is_retry"), RETRIES)
def test_a_retry_says_so_and_is_forwarded_as_it_came(field: Pair, is_retry: bool) -> None:
    fields = [*BASE, field]
    head, fault = read_request(fields, LIMITS)
    assert (fault, head.is_retry) == (None, is_retry)
    assert forwarded(head) == fields


def test_one_field_that_says_retry_is_enough() -> None:
    says, denies = (b"grpc-previous-rpc-attempts", b"1"), (b"x-envoy-attempt-count", b"1")
    for fields in ([says, denies], [denies, says]):
        assert read_request([*BASE, *fields], LIMITS)[0].is_retry


NAMES = {
    "token": (b"x-a_b.c!#$%&'*+^`|~09", True),
    "empty": (b"", False),
    "upper case": (b"X-a", False),
    "space": (b"x a", False),
    "space behind": (b"x ", False),
    "colon": (b"x:", False),
    "line feed": (b"x\n", False),
    "carriage return": (b"x\r", False),
    "nul": (b"x\0", False),
    "delete": (b"x\x7f", False),
    "beyond ASCII": (b"x\xe4", False),
    "brackets": (b"x(y)", False),
    "connection": (b"connection", False),
    "keep-alive": (b"keep-alive", False),
    "proxy-connection": (b"proxy-connection", False),
    "transfer-encoding": (b"transfer-encoding", False),
    "upgrade": (b"upgrade", False),
    "expect": (b"expect", True),
}
VALUES = {
    "empty": (b"", True),
    "one": (b"x", True),
    "words": (b"x y\tz", True),
    "beyond ASCII": (b"\x80\xff", True),
    "space before": (b" x", False),
    "tab before": (b"\tx", False),
    "space behind": (b"x ", False),
    "tab behind": (b"x\t", False),
    "space alone": (b" ", False),
    "nul": (b"x\0y", False),
    "carriage return": (b"x\ry", False),
    "line feed": (b"x\ny", False),
    "a line end and more": (b"x\r\ny: z", False),
    "line feed behind": (b"x\n", False),
    "delete": (b"x\x7fy", False),
    "bell": (b"x\x07y", False),
}
FIELDS = {f"name, {case}": ((name, b"v"), good) for case, (name, good) in NAMES.items()}
FIELDS |= {f"value, {case}": ((b"x-a", value), good) for case, (value, good) in VALUES.items()}
SPACES = {f"value, {where}" for where in ("space before", "tab before", "space behind", "tab behind", "space alone")}
FIELDS |= {
    "te, trailers": ((b"te", b"trailers"), True),
    "te, upper case": ((b"te", b"Trailers"), True),
    "te, gzip": ((b"te", b"gzip"), False),
    "te, more": ((b"te", b"trailers, gzip"), False),
    "te, nothing": ((b"te", b""), False),
}


TOKEN = set(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
TEXT = {*range(0x21, 0x7F), *range(0x80, 0x100)}


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_at_every_place(byte: int) -> None:
    """RFC 9113 section 8.2.1, and RFC 9110 sections 5.1 and 5.5 for what it leaves open."""
    one = bytes([byte])
    names = [one, b"x" + one, one + b"x", b"x" + one + b"y"]
    good = {(name, b"v"): byte in TOKEN for name in names}
    good |= {(b"x", b"a" + one + b"b"): byte in TEXT | {0x09, 0x20}}
    for field, accepted in good.items():
        expected = (None if accepted else Outcome.BAD_REQUEST, not accepted, not accepted)
        answer = read_response([(b":status", b"200"), field], LIMITS)
        assert (outcome([*BASE, field]), isinstance(answer, Fault), read_trailers([field], LIMITS) is None) == expected
    for value in (one, one + b"b", b"a" + one):
        assert (outcome([*BASE, (b"x", value)]) is None) == (byte in TEXT)
    in_path = (0x21 <= byte < 0x7F) and one != b"#"
    assert (outcome([METHOD, SCHEME, AUTHORITY, (b":path", b"/" + one)]) is None) == in_path
    assert (outcome([(b":method", b"A" + one), SCHEME, PATH]) is None) == (byte in TOKEN | set(range(0x41, 0x5B)))


@pytest.mark.parametrize("case", FIELDS)
@pytest.mark.parametrize("sensitive", [False, True])
def test_fields_in_requests_answers_and_trailers(case: str, sensitive: bool) -> None:
    pair, good = FIELDS[case]
    field: Pair = hpack.NeverIndexedHeaderTuple(*pair) if sensitive else pair
    # Twice: the second time a good field is known already.
    for _ in range(2):
        assert (outcome([*BASE, field]) is None) == good
        # Spaces around a value are tolerated, and passed on, in what follows a request's head.
        tolerated = good or case in SPACES
        assert isinstance(read_response([(b":status", b"200"), field], LIMITS), Fault) != tolerated
        assert (read_trailers([field], LIMITS) is not None) == tolerated


REQUESTS: dict[str, tuple[list[Pair], Outcome | None]] = {
    "length": ([(b"content-length", b"12")], None),
    "length of many zeros": ([(b"content-length", b"0" * 18)], None),
    "length twice": ([(b"content-length", b"12"), (b"content-length", b"12")], Outcome.BAD_REQUEST),
    "lengths that differ": ([(b"content-length", b"12"), (b"content-length", b"13")], Outcome.BAD_REQUEST),
    **{
        f"length {value!r}": ([(b"content-length", value)], Outcome.BAD_REQUEST)
        for value in (b"", b"+5", b"-5", b"5,5", b"0x5", b"5.0", b"5 5", b"0_5", b"\xb2", b"9" * 19)
    },
    "host like the authority": ([(b"host", b"a")], None),
    "another host": ([(b"host", b"b")], Outcome.BAD_REQUEST),
    "two hosts": ([(b"host", b"a"), (b"host", b"a")], Outcome.BAD_REQUEST),
    "cookies": ([(b"cookie", b"a=b"), (b"cookie", b"c=d")], None),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_lengths_and_hosts(case: str) -> None:
    fields, expected = REQUESTS[case]
    assert outcome([*BASE, *fields]) == expected


def test_a_host_stands_for_the_authority() -> None:
    fields = [METHOD, SCHEME, PATH]
    head, fault = read_request([*fields, (b"host", b"b:80")], LIMITS)
    assert (head.host, fault) == (b"b:80", None)
    for bad in ([(b"host", b"b"), (b"host", b"b")], [(b"host", b"b"), (b"host", b"c")], [(b"host", b"a@b")]):
        assert outcome([*fields, *bad]) is Outcome.BAD_REQUEST


def test_what_is_understood_of_a_request() -> None:
    head, fault = read_request(
        [*BASE, (b"content-length", b"007"), (b"grpc-timeout", b"2S"), (b"mm-model-id", b"m\xe4")], LIMITS
    )
    assert fault is None
    assert (head.method, head.scheme, head.host, head.target) == (b"POST", b"http", b"a", b"/")
    assert (head.length, head.timeout, head.model_id, head.grpc) == (7, 2.0, "m\xe4", False)
    head, fault = read_request(BASE, LIMITS)
    assert (head.length, head.timeout, head.model_id, head.grpc) == (None, None, "", False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/grpcx", False),
        (b"application/json", False),
        (b"xapplication/grpc", False),
        (b"", False),
    ],
)
def test_grpc_is_known_by_its_content_type(value: bytes, expected: bool) -> None:
    assert read_request([*BASE, (b"content-type", value)], LIMITS)[0].grpc == expected


def test_other_heads_are_no_calls() -> None:
    assert (RequestHead().grpc, RequestHead().model_id, RequestHead().timeout) == (False, "", None)
    assert ResponseHead().grpc_status == NO_STATUS


def test_bounds() -> None:
    fields = [*BASE, (b"a", b"x" * 50)]
    size = sum(len(name) + len(value) + 32 for name, value in fields)
    assert size_of(fields) == size
    assert outcome(fields, Limits(head=size, fields=5)) is None
    assert outcome(fields, Limits(head=size - 1)) is Outcome.HEAD_TOO_LARGE
    assert outcome(fields, Limits(fields=4)) is Outcome.HEAD_TOO_LARGE
    # Crumbs of cookies are fields like any other (CVE-2026-49975).
    assert outcome([*BASE, *[(b"cookie", b"")] * 125], LIMITS) is Outcome.HEAD_TOO_LARGE
    path = [METHOD, SCHEME, (b":path", b"/" + b"x" * 99)]
    assert outcome(path, Limits(target=100)) is None
    assert outcome(path, Limits(target=99)) is Outcome.URI_TOO_LONG
    trailers = [(b"a", b"x" * 50)] * 2
    assert read_trailers(trailers, Limits(head=166, fields=2)) is not None
    assert read_trailers(trailers, Limits(head=165)) is None
    assert read_trailers(trailers, Limits(fields=1)) is None
    answer = [(b":status", b"200"), *trailers]
    assert not isinstance(read_response(answer, Limits(head=208, fields=3)), Fault)
    assert isinstance(read_response(answer, Limits(head=207)), Fault)
    assert isinstance(read_response(answer, Limits(fields=2)), Fault)


def test_a_malformed_request_is_malformed_however_large() -> None:
    assert outcome([*BASE, (b"X", b"y" * 50)], Limits(head=100)) is Outcome.BAD_REQUEST
    assert outcome([*BASE[:2], (b":x", b"y")], Limits(fields=1)) is Outcome.BAD_REQUEST


def test_fields_beyond_the_bound_are_not_looked_at() -> None:
    """They come at a byte each, so looking would cost far more than sending."""
    head, fault = read_request([*BASE, (b"X", b"y"), (b"content-type", b"application/grpc")], Limits(fields=1))
    assert fault is not None
    assert (fault.outcome, head.grpc, head.method) == (Outcome.HEAD_TOO_LARGE, True, b"POST")


# What is sent on


FIELDS_ON: list[Pair] = [
    (b"user-agent", b"x"),
    (b"b-bin", b"AAEC"),
    (b"grpc-timeout", b"10S"),
    (b"a", b"1"),
    (b"a", b"2"),
    (b"te", b"trailers"),
    (b"cookie", b"c"),
]


def test_everything_is_sent_on_in_its_order_but_the_time_that_has_passed() -> None:
    head, fault = read_request([*BASE, *FIELDS_ON], LIMITS)
    assert fault is None
    assert forwarded(head) == forwarded(head, 0.0009) == [*BASE, *FIELDS_ON]
    later = [(name, b"8750000u" if name == b"grpc-timeout" else value) for name, value in FIELDS_ON]
    assert forwarded(head, 1.25) == [*BASE, *later]
    over = [(name, b"1n" if name == b"grpc-timeout" else value) for name, value in FIELDS_ON]
    assert forwarded(head, 11.0) == [*BASE, *over]
    assert forwarded(head) == [*BASE, *FIELDS_ON]


@pytest.mark.parametrize("value", [b"5", b"", b"99999999h", b"1" * 25 + b"S", b"-1S", b"1 S"])
def test_a_timeout_that_is_none_is_sent_on_as_it_came(value: bytes) -> None:
    fields = [*BASE, (b"grpc-timeout", value), (b"a", b"b")]
    head, fault = read_request(fields, LIMITS)
    assert (head.timeout, fault) == (None, None)
    assert forwarded(head, 5.0) == fields


@pytest.mark.parametrize("case", ["request", "response", "trailers"])
def test_sensitive_fields_stay_sensitive_also_when_others_like_them_are_not(case: str) -> None:
    pair = (b"x-secret", case.encode())

    def block(field: Pair) -> bytes:
        if case == "request":
            return read_request([*BASE, field], LIMITS)[0].block(0.0)
        if case == "response":
            answer = read_response([(b":status", b"200"), field], LIMITS)
            return b"" if isinstance(answer, Fault) else answer.block
        trailers = read_trailers([field], LIMITS)
        return trailers.block if trailers else b""

    # The plain one is known after the first time, and must not stand for the other, nor the other for it.
    for _ in range(2):
        assert b"\0\x08x-secret" in block(pair)
        assert never(*pair) in block(hpack.NeverIndexedHeaderTuple(*pair))
        assert never(*pair) not in block(pair)


def test_fields_that_are_known_stay_bounded() -> None:
    for count in range(5000):
        trailers = [(b"x-id", b"%d" % count)]
        assert read_trailers(trailers, LIMITS) is not None
        assert len(known_fields) <= 2048
    assert read_trailers([(b"x-id", b"x" * 300)], LIMITS) is not None
    assert (b"x-id", b"x" * 300) not in known_fields


# Answers and trailers


@pytest.mark.parametrize(
    ("value", "status"),
    [(b"0", 0), (b"14", 14), (b"99", 99), (b"", NO_STATUS), (b"100", NO_STATUS), (b"x", NO_STATUS), (b"-1", NO_STATUS)],
)
def test_the_status_of_a_call(value: bytes, status: int) -> None:
    fields = [(b"grpc-message", b"m"), (b"grpc-status", value)]
    trailers = read_trailers(fields, LIMITS)
    assert trailers is not None
    assert (trailers.grpc_status, trailers.fields) == (status, fields)
    answer = read_response([(b":status", b"200"), *fields], LIMITS)
    assert not isinstance(answer, Fault)
    assert (answer.grpc_status, answer.status, answer.fields) == (status, 200, fields)
    for block in (trailers.block, answer.block):
        assert [tuple(field) for field in hpack.Decoder().decode(block, raw=True)][-2:] == fields


def test_no_status_of_a_call() -> None:
    trailers = read_trailers([], LIMITS)
    answer = read_response([(b":status", b"404")], LIMITS)
    assert trailers is not None
    assert not isinstance(answer, Fault)
    assert (trailers.grpc_status, answer.grpc_status, answer.status) == (NO_STATUS, NO_STATUS, 404)


def test_trailers_have_no_pseudo_headers() -> None:
    for name in (b":status", b":path", b":x"):
        assert read_trailers([(b"a", b"b"), (name, b"200")], LIMITS) is None
