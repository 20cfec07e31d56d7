"""Floods end in ENHANCE_YOUR_CALM within the budget; honest traffic, however much, never does."""

import random
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

import pytest

from agent.wire.stream import Bounds
from tests.wire import frames_by_hand as by_hand
from tests.wire.frames_by_hand import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    MAX_31,
    RST_STREAM,
    SETTINGS,
)
from tests.wire.recording import BOUNDS, Client, Server, answer, broken, judge, kinds

BUDGET = BOUNDS.budget
BLOCK = by_hand.request()


def forever(data: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter(lambda: data, b"")


def each_stream(*parts: Callable[[int], bytes]) -> Callable[[], Iterator[bytes]]:
    """A request each time, and what is done to it."""

    def rounds() -> Iterator[bytes]:
        for number in count(1, 2):
            yield by_hand.headers(number, BLOCK) + b"".join(part(number) for part in parts)

    return rounds


def open_then(data: bytes) -> Callable[[], Iterator[bytes]]:
    def rounds() -> Iterator[bytes]:
        yield by_hand.headers(1, BLOCK)
        while True:
            yield data

    return rounds


def ended_twice(number: int) -> bytes:
    return by_hand.data(number, end=True) + by_hand.data(number, b"x")


# Each round makes us do something. The number is how many rounds fit the budget, the last one overdrawing it.
FLOODS: dict[str, tuple[Callable[[], Iterator[bytes]], int]] = {
    "rapid reset": (each_stream(by_hand.rst_stream), BUDGET // 3 + 1),
    "resets of what is gone": (each_stream(by_hand.rst_stream, by_hand.rst_stream), BUDGET // 6 + 1),
    "settings": (forever(by_hand.settings()), BUDGET + 1),
    "settings with much to do": (forever(by_hand.settings(*[(4, 70_000)] * 10)), BUDGET // 11 + 1),
    "settings acknowledged": (forever(by_hand.SETTINGS_ACK), BUDGET + 1),
    "ping": (forever(by_hand.ping()), BUDGET + 1),
    "ping acknowledged": (forever(by_hand.ping(ack=True)), BUDGET + 1),
    "priority": (open_then(by_hand.priority(1)), BUDGET + 2),
    "priority of idle streams": (forever(by_hand.priority(99)), BUDGET + 1),
    "empty data": (open_then(by_hand.data(1)), BUDGET + 2),
    "nothing but padding": (open_then(by_hand.data(1, padding=0)), BUDGET + 2),
    "unknown frames": (forever(by_hand.frame(0xBE)), BUDGET + 1),
    "window_update": (forever(by_hand.window_update(0, 1)), BUDGET + 1),
    "window_update of a stream": (open_then(by_hand.window_update(1, 1)), BUDGET + 2),
    "goaway": (forever(by_hand.goaway(0)), BUDGET + 1),
    # MadeYouReset: six ways to have us reset a stream.
    "window_update of nothing": (each_stream(lambda number: by_hand.window_update(number, 0)), BUDGET // 4 + 1),
    "window_update beyond": (each_stream(lambda number: by_hand.window_update(number, MAX_31)), BUDGET // 4 + 1),
    "data after the end": (each_stream(ended_twice), BUDGET // 3 + 1),
    "headers after the end": (
        each_stream(
            lambda number: by_hand.data(number, end=True),
            lambda number: by_hand.headers(number, BLOCK, end=True),
        ),
        BUDGET // 3 + 1,
    ),
    "priority of a wrong length": (
        each_stream(lambda number: by_hand.frame(by_hand.PRIORITY, number, b"1234")),
        BUDGET // 4 + 1,
    ),
    "own parent": (each_stream(lambda number: by_hand.priority(number, number)), BUDGET // 4 + 1),
    # And more of them.
    "trailers without end": (each_stream(lambda number: by_hand.headers(number, b"")), BUDGET // 3 + 1),
    "more than the content-length": (
        lambda: (
            by_hand.headers(number, by_hand.request(b"/", (b"content-length", b"1"))) + by_hand.data(number, b"xy")
            for number in count(1, 2)
        ),
        BUDGET // 3 + 1,
    ),
    "headers on what we have reset": (
        lambda: chain(
            [by_hand.headers(1, by_hand.block([(b"A", b"b")]), end=True)],
            repeat(by_hand.headers(1, by_hand.literal(b"a", b"x"))),
        ),
        BUDGET,
    ),
    "malformed": (
        lambda: (by_hand.headers(number, by_hand.block([(b"A", b"b")]), end=True) for number in count(1, 2)),
        BUDGET // 3 + 1,
    ),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_ends_within_the_budget(case: str) -> None:
    flood, bound = FLOODS[case]
    owner = Server()
    before = BUDGET - owner.machine.budget
    assert before <= 2
    owner.take()
    for rounds, data in enumerate(flood(), start=1):
        owner.feed(data)
        if owner.machine.dead:
            break
        assert rounds <= bound
    assert bound - 3 <= rounds <= bound
    assert owner.events[-1] == ("broken", ENHANCE_YOUR_CALM)
    frames = owner.take()
    assert frames[-1].kind == GOAWAY
    assert frames[-1].number == ENHANCE_YOUR_CALM
    assert kinds(frames).count(GOAWAY) == 1
    # Nobody hears of a stream after the connection has ended, and the owner is told of each stream once.
    assert len(set(owner.gone)) == len(owner.gone)
    told = len(owner.events)
    owner.feed(data)
    assert len(owner.events) == told
    assert not owner.out


def test_heads_that_are_answered_for_their_size_are_charged() -> None:
    """Each answer ends its stream, and the end of a stream pays back, which must not make a bomb free."""
    owner = Server()
    for number in count(1, 2):
        owner.feed(
            by_hand.headers(number, BLOCK + by_hand.indexing(b"cookie", b"") + by_hand.reference(62) * 200, end=True)
        )
        if owner.machine.dead:
            break
        answer(owner.streams.pop(number))
    assert number <= 2 * (BUDGET // 3 + 3)
    assert owner.events[-1] == ("broken", ENHANCE_YOUR_CALM)


def test_refused_streams_are_charged() -> None:
    owner = Server(bounds=Bounds(streams=1))
    for number in count(1, 2):
        owner.feed(by_hand.headers(number, BLOCK, end=True))
        if owner.machine.dead:
            break
    assert number <= 2 * (BUDGET // 3 + 3)
    assert judge(owner) == broken(ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_continuations_end_at_their_bound(size: int) -> None:
    owner = Server()
    owner.feed(by_hand.headers(1, b"", flags=0))
    for _ in range(BOUNDS.continuations):
        assert not owner.machine.dead
        owner.feed(by_hand.continuation(1, b"x" * size, last=False))
    assert judge(owner) == broken(ENHANCE_YOUR_CALM)


def test_continuations_spend_the_budget_too() -> None:
    owner = Server()
    for number in count(1, 2):
        owner.feed(by_hand.headers(number, b"", flags=0) + by_hand.continuation(number, b"", last=False) * 6)
        owner.feed(by_hand.continuation(number, BLOCK))
        if owner.machine.dead:
            break
    assert number < 2 * BUDGET // 7 + 3
    assert owner.events[-1] == ("broken", ENHANCE_YOUR_CALM)


BOMBS = {
    "references to a large entry": by_hand.indexing(b"a", b"x" * 3900) + by_hand.reference(62) * 10_000,
    "references to a tiny entry": by_hand.indexing(b"a", b"") + by_hand.reference(62) * 15_000,
    "tiny literals": by_hand.literal(b"a", b"") * 4_000,
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_end_the_connection_before_they_are_large(case: str) -> None:
    owner = Server()
    owner.feed(by_hand.headers(1, BLOCK + BOMBS[case][:16_000]))
    assert judge(owner) == broken(COMPRESSION_ERROR)
    assert len(owner.details) == 1
    assert len(owner.details[0]) < 100


def test_crumbs_are_counted_as_fields_and_answered() -> None:
    owner = Server()
    owner.feed(by_hand.headers(1, BLOCK + by_hand.indexing(b"cookie", b"") + by_hand.reference(62) * 200))
    assert owner.events[0][4].label == "head_too_large"


# Honest traffic


def serve(owner: Server, number: int, *, answers: int = 1) -> None:
    stream = owner.streams.pop(number)
    stream.send_head(by_hand.response(), False)
    for _ in range(answers):
        stream.send_data(b"answer", False)
    stream.send_trailers(by_hand.block([(b"grpc-status", b"0")]))


def test_honest_unary_calls_never_overdraw() -> None:
    """A client that grants after each answer, twice, as grpc-core does; once with long names for the bounds."""
    owner = Server()
    least = BUDGET
    for number in range(1, 200_000, 2):
        owner.machine.feed(
            memoryview(
                by_hand.headers(number, BLOCK)
                + by_hand.data(number, b"question", end=True)
                + by_hand.window_update(0, 6)
                + by_hand.window_update(number, 6)
            )
        )
        serve(owner, number)
        owner.out.clear()
        owner.events.clear()
        owner.heads.clear()
        least = min(least, owner.machine.budget)
    assert not owner.machine.dead
    assert least > BUDGET - 20
    assert len(owner.gone) == 100_000
    assert not owner.machine.streams


def test_a_third_of_the_calls_may_be_cancelled() -> None:
    generator = random.Random(1)
    owner = Server()
    for number in range(1, 20_000, 2):
        owner.feed(by_hand.headers(number, BLOCK) + by_hand.data(number, b"question", end=True))
        if generator.random() < 0.3:
            owner.feed(by_hand.rst_stream(number))
        else:
            serve(owner, number)
        owner.out.clear()
        owner.events.clear()
    assert not owner.machine.dead
    assert owner.machine.budget > BUDGET / 2


def test_a_stream_of_answers_with_grants_and_pings_never_overdraws() -> None:
    owner = Server()
    owner.feed(by_hand.headers(1, BLOCK, end=True))
    owner.streams[1].send_head(by_hand.response(), False)
    for turn in range(20_000):
        owner.streams[1].send_data(b"answer", False)
        owner.feed(by_hand.window_update(0, 6) + by_hand.window_update(1, 6))
        if turn % 100 == 0:
            owner.feed(by_hand.ping())
            owner.machine.refill(0.5)
        owner.out.clear()
    assert not owner.machine.dead
    assert owner.machine.budget > BUDGET / 2


def test_many_uploads_at_once_with_bandwidth_probes() -> None:
    owner = Server(target=100_000)
    for number in range(1, 200, 2):
        owner.feed(by_hand.headers(number, BLOCK))
    for _ in range(20):
        for number in range(1, 200, 2):
            owner.feed(by_hand.data(number, b"x" * 5_000))
        owner.feed(by_hand.ping() + by_hand.settings((4, 1 << 20)) + by_hand.SETTINGS_ACK)
    assert not owner.machine.dead


def test_the_budget_may_be_spent_to_the_last() -> None:
    owner = Server(bounds=Bounds(budget=10))
    owner.feed(by_hand.ping() * owner.machine.budget)
    assert owner.machine.budget == 0
    assert not owner.machine.dead
    owner.feed(by_hand.ping())
    assert owner.machine.dead


def test_time_refills_the_budget_up_to_its_bound() -> None:
    owner = Server(bounds=Bounds(budget=100, refill_per_s=10))
    machine = owner.machine
    owner.feed(by_hand.ping() * 80)
    low = machine.budget
    assert 10 <= low <= 20
    machine.refill(2.0)
    assert machine.budget == low + 21
    machine.refill(0.0)
    assert machine.budget == low + 22
    machine.refill(1000.0)
    assert machine.budget == 100
    machine.budget = 10_000
    machine.refill(0.5)
    assert machine.budget == 100
    for _ in range(10):
        owner.feed(by_hand.ping() * 5)
        machine.refill(0.5)
    assert not machine.dead


def test_what_is_earned_by_work_does_not_pile_up_for_a_flood() -> None:
    owner = Server()
    for number in range(1, 4_000, 2):
        owner.feed(by_hand.headers(number, BLOCK, end=True))
        answer(owner.streams.pop(number))
    owner.machine.refill(1.0)
    owner.feed(by_hand.ping() * (BUDGET + 1))
    assert owner.machine.dead


@pytest.mark.parametrize("data", [by_hand.ping(), by_hand.settings(), by_hand.rst_stream(1)])
def test_a_server_that_floods_and_does_not_read(data: bytes) -> None:
    owner = Client()
    owner.feed(by_hand.settings())
    owner.open(end=True)
    for _ in range(12):
        owner.feed(data * 1_000)
        owner.machine.heed(congested=False)
    assert not owner.machine.dead
    owner.take()
    rounds = 0
    while not owner.machine.dead:
        owner.feed(data * 1_000)
        owner.machine.heed(congested=True)
        rounds += 1
        assert rounds <= 12
    assert rounds >= 3
    assert owner.events[-1] == ("broken", ENHANCE_YOUR_CALM)


def test_a_server_is_not_a_clients_flood() -> None:
    owner = Client()
    for _ in range(3_000):
        stream = owner.open(end=True)
        owner.feed(by_hand.rst_stream(stream.id))
    owner.feed(by_hand.ping() * 5_000)
    assert not owner.machine.dead
    assert {RST_STREAM, SETTINGS}.isdisjoint(kinds(owner.take()))
