"""Responses, byte for byte: what reaches the client, where the body ends, and what is refused as not HTTP."""

import pytest

from agent.errors import Outcome
from agent.wire.http1 import ClientHttp1
from agent.wire.message import HeadCache, Limits, State
from tests.fakes import Event, RecordingSink
from tests.wire.feeding import LIMITS, SURPLUS, feed, responses

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

INVALID = ("fault", Outcome.UPSTREAM_INVALID)
CLOSED = ("fault", Outcome.UPSTREAM_CLOSED)


def plain(head: bytes, body: bytes = b"") -> list[Event]:
    return [("response", head), *([("body", body)] if body else []), ("end",)]


# What the predictor writes in answer to GET -> what the client gets.
ACCEPTED: dict[str, tuple[bytes, list[Event]]] = {
    "Content-Length": (OK + b"Content-Length: 2\r\n\r\nhi", plain(OK + b"Content-Length: 2\r\n\r\n", b"hi")),
    "Content-Length 0": (OK + b"Content-Length: 0\r\n\r\n", plain(OK + b"Content-Length: 0\r\n\r\n")),
    "chunked": (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", plain(CHUNKED, b"hi")),
    "chunked in another case": (
        OK + b"transfer-ENCODING: Chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        plain(OK + b"transfer-ENCODING: chunked\r\n\r\n", b"hi"),
    ),
    "chunk extensions are dropped": (CHUNKED + b"2;a=b\r\nhi\r\n0\r\n\r\n", plain(CHUNKED, b"hi")),
    "trailers": (
        CHUNKED + b"2\r\nhi\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n",
        [("response", CHUNKED), ("body", b"hi"), ("trailers", [(b"X", b"y")])],
    ),
    "an empty reason": (
        b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
        plain(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
    ),
    "no reason, as old servers write it": (
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        plain(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"),
    ),
    "a reason of its own": (
        b"HTTP/1.1 200 \tAll is w\xe9ll \r\nContent-Length: 0\r\n\r\n",
        plain(b"HTTP/1.1 200 \tAll is w\xe9ll \r\nContent-Length: 0\r\n\r\n"),
    ),
    "the largest status": (
        b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n",
        plain(b"HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n"),
    ),
    "HTTP/1.0 with a length": (
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        plain(OK + b"Content-Length: 2\r\n\r\n", b"hi"),
    ),
    "order, case and duplicates of fields": (
        OK + b"x-B: 2\r\nX-a: 1\r\nX-A: 1\r\nSet-Cookie: c\r\nSet-Cookie: d\r\nContent-Length: 0\r\n\r\n",
        plain(OK + b"x-B: 2\r\nX-a: 1\r\nX-A: 1\r\nSet-Cookie: c\r\nSet-Cookie: d\r\nContent-Length: 0\r\n\r\n"),
    ),
    "hop-by-hop fields end here": (
        OK + b"Connection: close, X\r\nX: y\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n",
        plain(OK + b"Content-Length: 0\r\n\r\n"),
    ),
    "fields that mean nothing in a response": (
        OK + b"Host: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n",
        plain(OK + b"Host: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n"),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", plain(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "204 that names a length": (
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        plain(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"),
    ),
    "304 with the length of what it stands for": (
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        plain(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ),
    "304 that names a coding": (
        b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        plain(b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ),
    "interim responses": (
        CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        [("interim", 100), ("interim", 103), *plain(OK + b"Content-Length: 0\r\n\r\n")],
    ),
    "interim responses have no body whatever they say": (
        b"HTTP/1.1 102 Processing\r\nContent-Length: 5\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
        [("interim", 102), *plain(OK + b"Content-Length: 0\r\n\r\n")],
    ),
    "as many interim responses as are allowed": (
        CONTINUE * 16 + OK + b"Content-Length: 0\r\n\r\n",
        [("interim", 100)] * 16 + plain(OK + b"Content-Length: 0\r\n\r\n"),
    ),
    "a body until the end of the connection": (OK + b"\r\nall", [("response", OK + b"\r\n"), ("body", b"all")]),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case: str) -> None:
    data, expected = ACCEPTED[case]
    assert responses(data) == expected


@pytest.mark.parametrize(
    "fields",
    [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\nContent-Length: 5\r\n"],
)
def test_an_answer_to_head_has_no_body(fields: bytes) -> None:
    (head, end) = responses(OK + fields + b"\r\n", method=b"HEAD")
    assert head[0] == "response"
    assert end == ("end",)


REFUSED: dict[str, bytes] = {
    "CL and TE": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two CL": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two equal CL": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of CL": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed CL": OK + b"Content-Length: +5\r\n\r\nhello",
    "a CL beyond 63 bits": OK + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "CL with a space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "two TE": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE gzip": OK + b"Transfer-Encoding: gzip\r\n\r\n",
    "TE gzip, chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE chunked, gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "TE identity": OK + b"Transfer-Encoding: identity\r\n\r\n",
    "TE in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE in an answer without a body": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: gzip\r\n\r\n",
    "CR in a value": OK + b"X: a\rSet-Cookie: b\r\n\r\n",
    "LF in a value": OK + b"X: a\nSet-Cookie: b\r\n\r\n",
    "NUL in a value": OK + b"X: a\0b\r\n\r\n",
    "a space in a name": OK + b"X y: b\r\n\r\n",
    "an empty name": OK + b": b\r\n\r\n",
    "130 fields and no end": OK + b"a:\r\n" * 130,
    "a folded value": OK + b"X: a\r\n b\r\n\r\n",
    "a bare LF after the status line": b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    "a bare CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/0.9 in words": b"HTTP/0.9 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "HTTP/1.10": b"HTTP/1.10 200 OK\r\n\r\n",
    "http/1.1": b"http/1.1 200 OK\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "RTSP": b"RTSP/1.0 200 OK\r\n\r\n",
    "Icecast": b"ICY 200 OK\r\n\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x46",
    "HTTP/2 frames": b"\0\0\0\4\0\0\0\0\0",
    "an empty line before the status line": b"\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "two empty lines before the status line": b"\r\n\r\n" + OK + b"Content-Length: 0\r\n\r\n",
    "status 000": b"HTTP/1.1 000 x\r\n\r\n",
    "status 099": b"HTTP/1.1 099 x\r\n\r\n",
    "status 99": b"HTTP/1.1 99 x\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 x\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 2x0 x\r\n\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\n\r\n",
    "a tab before the status": b"HTTP/1.1\t200 OK\r\n\r\n",
    "101 that nobody asked for": SWITCH,
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    assert responses(REFUSED[case]) == [INVALID]


def test_a_control_character_in_the_reason_is_refused() -> None:
    accepted = [
        byte
        for byte in (*range(9), *range(10, 32), 127)
        if responses(b"HTTP/1.1 200 O" + bytes([byte]) + b"K\r\nContent-Length: 0\r\n\r\n") != [INVALID]
    ]
    assert not accepted


@pytest.mark.parametrize(
    ("body", "delivered"),
    [(b"zz\r\nhi\r\n0\r\n\r\n", b""), (b"2\r\nhi!\r\n0\r\n\r\n", b"hi"), (b"2\r\nhi\n0\r\n\r\n", b"hi")],
)
def test_a_broken_body_never_ends_cleanly(body: bytes, delivered: bytes) -> None:
    pieces = [("body", delivered)] if delivered else []
    assert responses(CHUNKED + body) == [("response", CHUNKED), *pieces, INVALID]


def test_a_flood_of_interim_responses_ends() -> None:
    assert responses(CONTINUE * 17) == [("interim", 100)] * 16 + [INVALID]


LONG = OK + b"Content-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK + b"\r\n", [("response", OK + b"\r\n"), ("end",)]),
        (OK + b"\r\nall", [("response", OK + b"\r\n"), ("body", b"all"), ("end",)]),
        (b"HTTP/1.0 200 OK\r\n\r\nall", [("response", OK + b"\r\n"), ("body", b"all"), ("end",)]),
        (b"", [CLOSED]),
        (b"HTTP/1.1 2", [CLOSED]),
        (OK, [CLOSED]),
        (CONTINUE, [("interim", 100), CLOSED]),
        (LONG, [("response", LONG), CLOSED]),
        (LONG + b"hell", [("response", LONG), ("body", b"hell"), CLOSED]),
        (CHUNKED, [("response", CHUNKED), CLOSED]),
        (CHUNKED + b"2\r\nh", [("response", CHUNKED), ("body", b"h"), CLOSED]),
        (CHUNKED + b"2\r\nhi\r\n", [("response", CHUNKED), ("body", b"hi"), CLOSED]),
        (CHUNKED + b"2\r\nhi\r\n0\r\n", [("response", CHUNKED), ("body", b"hi"), CLOSED]),
        (LONG + b"hello", plain(LONG, b"hello")),
        (b"garbage\r\n\r\n", [INVALID]),
    ],
)
def test_the_end_of_the_connection_ends_an_answer_only_where_it_may(data: bytes, expected: list[Event]) -> None:
    assert responses(data, eof=True) == expected


def test_a_switch_of_protocols_opens_a_tunnel() -> None:
    expected = [("response", SWITCH), ("body", b"GET raw\r\n\r\n")]
    assert responses(SWITCH + b"GET raw\r\n\r\n", upgrade=True) == expected
    assert responses(SWITCH + b"GET raw\r\n\r\n", upgrade=True, eof=True) == expected


def test_a_switch_may_come_after_interim_responses() -> None:
    assert responses(CONTINUE + SWITCH, upgrade=True) == [("interim", 100), ("response", SWITCH)]


@pytest.mark.parametrize("fields", [b"", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"])
def test_a_switch_that_names_no_protocol_is_refused(fields: bytes) -> None:
    assert responses(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n", upgrade=True) == [INVALID]


def test_an_upgrade_may_be_declined() -> None:
    assert responses(LONG + b"hello", upgrade=True) == plain(LONG, b"hello")


class Conversation:
    """A client machine and what it told its owner."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.sink = RecordingSink()
        self.machine = ClientHttp1(self.sink, limits, HeadCache())

    def answer(self, data: bytes, method: bytes = b"GET") -> list[Event]:
        """The events of one exchange."""
        self.sink.events.clear()
        self.machine.expect(method)
        feed(self.machine, [data])
        return list(self.sink.events)


def test_one_connection_carries_many_answers_each_read_by_its_own_request() -> None:
    talk = Conversation()
    for _ in range(2):
        assert talk.answer(LONG + b"hello") == plain(LONG, b"hello")
        assert talk.answer(LONG, b"HEAD") == plain(LONG)
        assert talk.answer(CHUNKED, b"HEAD") == plain(CHUNKED)
        assert talk.answer(CHUNKED + b"0\r\n\r\n") == plain(CHUNKED)
        assert talk.answer(CONTINUE * 16 + LONG + b"hello") == [("interim", 100)] * 16 + plain(LONG, b"hello")
        assert talk.machine.state is State.READY


@pytest.mark.parametrize("surplus", [b"x", b"\r\n", LONG + b"stale", CONTINUE])
@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (LONG + b"hello", b"GET"),
        (LONG, b"HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
        (CHUNKED + b"0\r\n\r\n", b"GET"),
    ],
)
def test_surplus_bytes_never_meet_the_next_request(answer: bytes, method: bytes, surplus: bytes) -> None:
    at_once = Conversation()
    assert at_once.answer(answer + surplus, method)[-1] == ("end",)
    assert at_once.machine.state is State.DEAD

    later = Conversation()
    later.answer(answer, method)
    later.sink.events.clear()
    feed(later.machine, [surplus])
    assert later.sink.events == SURPLUS
    assert later.machine.state is State.DEAD

    for talk in (at_once, later):
        with pytest.raises(AssertionError):
            talk.machine.expect(b"GET")


def test_bytes_before_any_request_are_refused() -> None:
    talk = Conversation()
    feed(talk.machine, [LONG + b"hello"])
    assert talk.sink.events == SURPLUS


def test_the_end_of_an_idle_connection_is_no_fault() -> None:
    talk = Conversation()
    talk.machine.eof()
    assert talk.answer(LONG + b"hello") == plain(LONG, b"hello")
    talk.machine.eof()
    assert talk.machine.state is State.READY


def test_requests_take_turns() -> None:
    talk = Conversation()
    talk.machine.expect(b"GET")
    with pytest.raises(AssertionError, match="one request at a time"):
        talk.machine.expect(b"GET")


def test_interim_responses_are_counted_for_each_request() -> None:
    talk = Conversation()
    talk.answer(CONTINUE * 16 + LONG + b"hello")
    assert talk.answer(CONTINUE * 17)[-1] == INVALID


def test_limits_hold_for_answers_as_well() -> None:
    assert responses(OK + b"X: y\r\n" * 3 + b"\r\n", limits=Limits(fields=2)) == [INVALID]
    exact = OK + b"Content-Length: 0\r\n\r\n"
    assert responses(exact, limits=Limits(head=len(exact))) == plain(exact)
    assert responses(exact, limits=Limits(head=len(exact) - 1)) == [INVALID]


@pytest.mark.parametrize(
    ("chunked", "close", "expected"),
    [
        (True, False, CHUNKED),
        (True, True, OK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"),
        (False, False, OK + b"\r\n"),
        (False, True, OK + b"Connection: close\r\n\r\n"),
    ],
)
def test_the_framing_towards_the_client_is_the_owners_choice(chunked: bool, close: bool, expected: bytes) -> None:
    talk = Conversation()
    talk.answer(OK + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    (head,) = talk.sink.heads
    for _ in range(2):
        assert head.serialize(chunked=chunked, close=close) == expected  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (OK, True),
        (OK + b"Connection: close\r\n", False),
        (OK + b"Connection: X, Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
def test_whether_the_connection_stays_open(head: bytes, keeps: bool) -> None:
    talk = Conversation()
    talk.answer(head + b"Content-Length: 0\r\n\r\n")
    assert talk.sink.heads[0].keep_alive is keeps
