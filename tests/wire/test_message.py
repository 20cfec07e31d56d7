"""What both sides of a connection share: bounds, pipelining, giving up, the ends of connections, known heads."""

import copy
from typing import Any

import pytest

from agent.errors import Outcome
from agent.wire.head import Head
from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, Limits, State
from tests.fakes import Event, RecordingSink
from tests.wire.feeding import LIMITS, feed, is_complete, requests, splits
from tests.wire.test_http1_refusals import HEADS as REFUSED
from tests.wire.test_http1_requests import ACCEPTED

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Served:
    """A server machine and what it told its owner, who answers each request at once if `answers`."""

    def __init__(self, *, answers: bool = False, limits: Limits = LIMITS, heads: HeadCache | None = None) -> None:
        self.sink = RecordingSink()
        self.machine = ServerHttp1(self.sink, limits, HeadCache() if heads is None else heads)
        if answers:
            self.sink.on_end = self.machine.next_message

    def feed(self, *pieces: bytes) -> list[Event]:
        """All events so far."""
        feed(self.machine, list(pieces))
        return self.sink.events


def refused(outcome: Outcome) -> list[Event]:
    return [("fault", outcome)]


# Bounds


def test_the_head_may_be_as_large_as_its_bound_and_not_larger() -> None:
    head = GET + b"X: " + b"x" * 1000 + b"\r\n\r\n"
    assert is_complete(requests(head, limits=Limits(head=len(head))))
    assert requests(head, limits=Limits(head=len(head) - 1)) == refused(Outcome.HEAD_TOO_LARGE)


def test_a_head_without_end_is_cut_at_the_bound() -> None:
    endless = GET + b"X: " + b"x" * 5000
    assert requests(endless, limits=Limits(head=5000)) == refused(Outcome.HEAD_TOO_LARGE)


def test_the_number_of_fields_has_a_bound() -> None:
    head = GET + b"X: y\r\n" * 9 + b"\r\n"
    assert is_complete(requests(head, limits=Limits(fields=10)))
    assert requests(head, limits=Limits(fields=9)) == refused(Outcome.HEAD_TOO_LARGE)


def test_the_target_has_a_bound_of_its_own() -> None:
    head = b"GET /" + b"x" * 999 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert is_complete(requests(head, limits=Limits(target=1000)))
    assert requests(head, limits=Limits(target=999)) == refused(Outcome.URI_TOO_LONG)


def test_a_target_longer_than_the_whole_head_may_be_is_called_that_however_it_arrives() -> None:
    head = b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert requests(head, limits=Limits(head=1500, target=1000)) == refused(Outcome.URI_TOO_LONG)


def test_chunk_extensions_share_one_budget() -> None:
    chunk = b"1;" + b"x" * 9 + b"\r\na\r\n"
    end = b"0;" + b"x" * 9 + b"\r\n\r\n"
    assert is_complete(requests(CHUNKED + chunk * 9 + end, limits=Limits(extensions=100)))
    assert requests(CHUNKED + chunk * 11 + end, limits=Limits(extensions=100))[-1] == ("fault", Outcome.BAD_REQUEST)
    assert requests(CHUNKED + b"1;" + b"x" * 115, limits=Limits(extensions=100))[-1] == ("fault", Outcome.BAD_REQUEST)


def test_trailers_share_one_budget() -> None:
    field = b"X: yyyyy\r\n"
    assert is_complete(requests(CHUNKED + b"0\r\n" + field * 10 + b"\r\n", limits=Limits(trailers=100)))
    for trailers in (field * 11 + b"\r\n", b"X: " + b"y" * 100, b"Host: b\r\n" * 20):
        events = requests(CHUNKED + b"0\r\n" + trailers, limits=Limits(trailers=100))
        assert events == [("request", CHUNKED), ("fault", Outcome.BAD_REQUEST)]


# Pipelining


ROUND = POST + b"Content-Length: 2\r\n\r\nhi" + CHUNKED + b"2\r\nho\r\n0\r\nX: y\r\n\r\n" + GET + b"\r\n"
ROUND_EVENTS: list[Event] = [
    ("request", POST + b"Content-Length: 2\r\n\r\n"),
    ("body", b"hi"),
    ("end",),
    ("request", CHUNKED),
    ("body", b"ho"),
    ("trailers", [(b"X", b"y")]),
    ("request", GET + b"\r\n"),
    ("end",),
]


def test_pipelined_requests_come_one_after_the_other() -> None:
    for pieces in splits(ROUND * 2):
        assert Served(answers=True).feed(*pieces) == ROUND_EVENTS * 2


def test_what_follows_a_request_waits_until_it_is_answered() -> None:
    for pieces in splits(ROUND * 2):
        served = Served()
        served.feed(*pieces)
        for count, event in enumerate(ROUND_EVENTS * 2, start=1):
            if event == ("end",) or event[0] == "trailers":
                assert served.sink.events == (ROUND_EVENTS * 2)[:count]
                assert served.machine.state is State.READY
                served.machine.next_message()
        assert served.machine.state is State.HEAD
        assert not served.machine.held


def test_answering_before_the_request_is_complete_changes_nothing() -> None:
    served = Served()
    served.feed(POST + b"Content-Length: 5\r\n\r\nhe")
    served.machine.next_message()
    assert served.feed(b"llo")[-2:] == [("body", b"hello"), ("end",)]


def test_nothing_after_a_fault_is_looked_at() -> None:
    served = Served(answers=True)
    expected = [*ROUND_EVENTS, ("fault", Outcome.BAD_REQUEST)]
    assert served.feed(ROUND + b"GET  / HTTP/1.1\r\n\r\n" + ROUND) == expected
    served.machine.next_message()
    assert served.feed(ROUND) == expected


def test_a_request_that_was_answered_early_is_still_read_to_its_end() -> None:
    served = Served()
    served.feed(POST + b"Content-Length: 5\r\n\r\nhe")
    served.feed(b"llo" + GET + b"\r\n")
    assert served.machine.held == GET + b"\r\n"


# Giving up and reentrancy


class Quitter(RecordingSink):
    """Gives up inside the call that makes it `patience` events."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience
        self.machine = ServerHttp1(self, LIMITS, HeadCache())

    def __getattribute__(self, name: str) -> Any:
        told = super().__getattribute__(name)
        if not name.startswith("on_") or name == "on_end":
            return told

        def tell(*args: Any) -> None:
            told(*args)
            if len(self.events) >= self.patience:
                self.machine.stop()

        return tell


def test_an_owner_may_give_up_inside_any_call() -> None:
    data = CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\nX: y\r\n\r\n" + GET
    expected = [("request", CHUNKED), ("body", b"a"), ("trailers", [(b"X", b"y")])]
    for patience in (1, 2):
        quitter = Quitter(patience)
        feed(quitter.machine, [data, GET + b"\r\n"])
        assert quitter.events == expected[:patience]
        assert quitter.machine.state is State.DEAD
        assert not quitter.machine.held


@pytest.mark.parametrize("start", [GET + b"\r\n", POST + b"Content-Length: 1\r\n\r\n"])
def test_giving_up_at_the_head_skips_the_body(start: bytes) -> None:
    quitter = Quitter(1)
    feed(quitter.machine, [start + b"x" + GET + b"\r\n"])
    assert [event[0] for event in quitter.events if event != ("end",)] == ["request"]
    assert quitter.machine.state is State.DEAD
    assert not quitter.machine.held


def test_stopping_forgets_what_was_held() -> None:
    served = Served()
    served.feed(ROUND)
    assert served.machine.held
    served.machine.stop()
    assert not served.machine.held
    assert served.machine.state is State.DEAD


def test_stopping_forgets_half_a_head() -> None:
    served = Served()
    served.feed(GET)
    assert served.machine.in_head
    served.machine.stop()
    assert not served.machine.in_head


def test_feeding_from_inside_a_call_is_a_defect_of_the_owner() -> None:
    served = Served()
    served.sink.on_end = lambda: served.machine.feed(memoryview(GET))
    with pytest.raises(AssertionError, match="reentrant"):
        served.feed(GET + b"\r\n")


# Tunnels and ends


def test_a_tunnel_hands_on_what_was_held_and_what_comes() -> None:
    for pieces in splits(UPGRADE + b"early"):
        served = Served()
        assert served.feed(*pieces) == [("request", UPGRADE), ("end",)]
        served.machine.start_tunnel()
        assert served.feed(b" and late", b"GET / HTTP/1.1\r\n\r\n")[2:] == [
            ("body", b"early and lateGET / HTTP/1.1\r\n\r\n")
        ]
        served.machine.eof()
        assert len(served.sink.events) == 3


def test_a_tunnel_may_start_with_nothing_held() -> None:
    served = Served()
    served.feed(UPGRADE)
    served.machine.start_tunnel()
    assert served.machine.state is State.TUNNEL
    assert served.feed(b"raw")[2:] == [("body", b"raw")]


@pytest.mark.parametrize(
    ("data", "is_cut"),
    [
        (b"", False),
        (GET + b"\r\n", False),
        (GET + b"\r\n" + GET, False),
        (b"G", True),
        (GET, True),
        (POST + b"Content-Length: 5\r\n\r\n", True),
        (POST + b"Content-Length: 5\r\n\r\nhell", True),
        (CHUNKED, True),
        (CHUNKED + b"1\r\na", True),
        (CHUNKED + b"1\r\na\r\n0\r\n", True),
        (CHUNKED + b"1\r\na\r\n0\r\n\r\n", False),
    ],
)
def test_a_connection_that_ends_inside_a_request_is_a_fault(data: bytes, is_cut: bool) -> None:
    events = requests(data, eof=True)
    assert (("fault", Outcome.BAD_REQUEST) in events) is is_cut
    assert is_complete(events) is bool(data and not is_cut)


def test_a_head_is_under_way_from_its_first_byte_to_its_last() -> None:
    served = Served()
    assert not served.machine.in_head
    for byte in GET + b"\r":
        served.feed(bytes([byte]))
        assert served.machine.in_head
    served.feed(b"\n")
    assert not served.machine.in_head


def test_every_fault_is_told_in_words_of_our_own() -> None:
    for data, outcome in REFUSED.values():
        served = Served()
        served.feed(data)
        (fault,) = served.sink.faults
        assert fault.outcome is outcome
        assert fault.detail.isascii()
        assert fault.detail.isprintable()
        assert 5 < len(fault.detail) < 80


# Known heads


def seen(head: Head) -> dict[str, Any]:
    """All that a head says about itself."""
    names = [name for kind in type(head).__mro__ for name in getattr(kind, "__slots__", ()) if name[0] != "_"]
    return {name: copy.copy(getattr(head, name)) for name in [*names, "keep_alive"]}


HEADS = [data for data, _ in ACCEPTED.values()] + [data for data, _ in REFUSED.values()]


def test_a_warm_cache_tells_the_same_as_a_cold_one() -> None:
    warm = HeadCache()
    for _ in range(3):
        for data in HEADS:
            cold, known = Served(answers=True), Served(answers=True, heads=warm)
            assert known.feed(data) == cold.feed(data)
            assert [seen(head) for head in known.sink.heads] == [seen(head) for head in cold.sink.heads]
            assert known.sink.faults == cold.sink.faults
            assert known.machine.state is cold.machine.state


def test_a_head_that_is_known_is_not_parsed_again() -> None:
    warm = HeadCache()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    asked, answered_with = [], []
    for _ in range(3):
        served = Served(heads=warm)
        served.feed(GET + b"\r\n")
        asked += served.sink.heads
        sink = RecordingSink()
        machine = ClientHttp1(sink, LIMITS, warm)
        machine.expect(b"GET")
        feed(machine, [answer])
        answered_with += sink.heads
    # The second time it is kept, so that heads which never come again are not.
    assert asked[0] is not asked[1]
    assert asked[1] is asked[2]
    assert answered_with[1] is answered_with[2]


def test_known_heads_never_change() -> None:
    warm = HeadCache()
    for data in [*HEADS, *HEADS]:
        Served(heads=warm).feed(data)
    before = {raw: seen(head) for raw, head in warm.requests.items()}
    assert len(before) > 30
    for authority in (b"one:1", b"two:2"):
        for data in HEADS:
            served = Served(heads=warm)
            served.feed(data)
            for head in served.sink.heads:
                fresh = Served().feed(data)[0][1].replace(b"predictor:1", authority)
                assert head.serialize(authority) == fresh  # type: ignore[call-arg, arg-type]
    assert {raw: seen(head) for raw, head in warm.requests.items()} == before


def test_a_faulty_head_is_not_kept() -> None:
    warm = HeadCache()
    for data, _ in REFUSED.values():
        Served(heads=warm).feed(data)
    for data in (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"junk\r\n\r\n"):
        answered(data, warm)
    assert not warm.requests
    assert not warm.responses


def test_the_cache_stays_small() -> None:
    warm = HeadCache()
    for number in range(3 * HeadCache.MAX_HEADS):
        for _ in range(2):
            Served(heads=warm).feed(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %d\r\n\r\n" % number, warm)
        assert 0 < len(warm.requests) <= HeadCache.MAX_HEADS
        assert 0 < len(warm.responses) <= HeadCache.MAX_HEADS


@pytest.mark.parametrize(("surplus", "kept"), [(0, 1), (1, 0)])
def test_a_large_head_is_not_kept(surplus: int, kept: int) -> None:
    warm = HeadCache()
    for start in (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"):
        filler = HeadCache.MAX_HEAD_BYTES - len(start) - len(b"X: \r\n\r\n") + surplus
        head = start + b"X: " + b"y" * filler + b"\r\n\r\n"
        for _ in range(2):
            (Served(heads=warm).feed if start is GET else lambda data: answered(data, warm))(head)
    assert (len(warm.requests), len(warm.responses)) == (kept, kept)


def answered(data: bytes, heads: HeadCache, method: bytes = b"GET", *, upgrade: bool = False) -> list[Event]:
    sink = RecordingSink()
    machine = ClientHttp1(sink, LIMITS, heads)
    machine.expect(method, upgrade=upgrade)
    feed(machine, [data])
    return sink.events


def test_the_same_answer_is_framed_by_each_request_of_its_own() -> None:
    warm = HeadCache()
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    refusal = [("fault", Outcome.UPSTREAM_INVALID)]
    for _ in range(3):
        assert answered(long + b"hello", warm)[1:] == [("body", b"hello"), ("end",)]
        assert answered(long, warm, b"HEAD")[1:] == [("end",)]
        assert answered(switch, warm) == refusal
        assert answered(switch + b"raw", warm, upgrade=True)[1:] == [("body", b"raw")]
        assert answered(b"HTTP/1.1 100 Continue\r\n\r\n" * 17, warm)[-1:] == refusal
    assert len(warm.responses) == 3


def test_the_framing_towards_clients_does_not_leak_between_them() -> None:
    warm = HeadCache()
    heads = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X, close\r\nX: y\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ]
    kinds = [(chunked, close) for chunked in (True, False) for close in (True, False)]
    for order in (kinds, kinds[::-1], kinds):
        for raw in heads:
            known, cold = RecordingSink(), RecordingSink()
            for sink, cache in ((known, warm), (cold, HeadCache())):
                machine = ClientHttp1(sink, LIMITS, cache)
                machine.expect(b"HEAD")
                machine.feed(memoryview(raw))
            for chunked, close in order:
                (one,), (other,) = known.heads, cold.heads
                assert one.serialize(chunked=chunked, close=close) == other.serialize(chunked=chunked, close=close)  # type: ignore[call-arg]
