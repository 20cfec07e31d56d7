"""Both sides of a connection, ours and the h2 library's, joined without a socket and driven at random."""

import random
from collections import Counter
from typing import ClassVar

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.examples import examples
from tests.wire import frames_by_hand as by_hand
from tests.wire.peers import OurClient, OurServer, Peer, TheirClient, TheirServer

indexes = st.integers(0, 30)
sizes = st.sampled_from([0, 1, 100, 16_384, 16_385, 40_000, 90_000])
OF_A_SERVER = h2.config.H2Configuration(client_side=False, header_encoding=None)
RUNS = settings(max_examples=examples(100), stateful_step_count=40)


class Joined(RuleBasedStateMachine):
    """Bytes lie in `pipes` until they are delivered, in pieces of any size."""

    CLIENT: ClassVar[type[Peer]] = OurClient
    SERVER: ClassVar[type[Peer]] = OurServer

    def __init__(self) -> None:
        super().__init__()
        self.client, self.server = self.CLIENT(), self.SERVER()
        self.random = random.Random(7)
        self.opened: list[int] = []
        self.asked: dict[int, bytearray] = {}
        self.answered: dict[int, bytearray] = {}
        self.asked_all: set[int] = set()
        self.answered_all: set[int] = set()
        # Streams that somebody reset, and those that were answered before all of the request had come.
        self.cut: set[int] = set()
        self.early: set[int] = set()
        self.hints: Counter[int] = Counter()
        self.pipes = {self.client: bytearray(), self.server: bytearray()}
        self.pipes[self.server] += self.client.out()
        if isinstance(self.server, OurServer):
            del self.pipes[self.server][:24]  # the preface is taken off before
        self.settle()

    def collect(self) -> None:
        self.pipes[self.server] += self.client.out()
        self.pipes[self.client] += self.server.out()

    def deliver(self, peer: Peer, size: int) -> None:
        self.collect()
        pipe = self.pipes[peer]
        data = bytes(pipe[:size])
        del pipe[:size]
        peer.feed(data)

    def settle(self) -> None:
        self.collect()
        while any(self.pipes.values()):
            for peer in self.pipes:
                self.deliver(peer, 1 << 30)
            self.collect()

    def pick(self, index: int) -> int:
        return self.opened[index % len(self.opened)]

    # The client

    @rule(end=st.booleans())
    def open(self, end: bool) -> None:
        if self.client.room():
            number = self.client.open(end=end)
            assert number not in self.opened
            self.opened.append(number)
            self.asked[number], self.answered[number] = bytearray(), bytearray()
            if end:
                self.asked_all.add(number)

    @precondition(lambda self: self.opened)
    @rule(index=indexes, size=sizes)
    def ask(self, index: int, size: int) -> None:
        number = self.pick(index)
        if number not in self.asked_all:
            piece = self.random.randbytes(size)
            self.asked[number] += piece
            self.client.send(number, piece)

    @precondition(lambda self: self.opened)
    @rule(index=indexes, trailers=st.booleans())
    def ask_no_more(self, index: int, trailers: bool) -> None:
        number = self.pick(index)
        if number not in self.asked_all:
            self.asked_all.add(number)
            self.client.finish(number, trailers=trailers)

    # The server

    @precondition(lambda self: self.opened)
    @rule(index=indexes, size=sizes)
    def answer(self, index: int, size: int) -> None:
        number = self.pick(index)
        if number in self.server.heads and number not in self.answered_all:
            if not self.answered[number]:
                self.server.respond(number)
            piece = self.random.randbytes(size) + b"."
            self.answered[number] += piece
            self.server.send(number, piece)

    # The h2 library ends the connection when a 103 crosses its RST_STREAM.
    @precondition(lambda self: self.opened and isinstance(self.client, OurClient))
    @rule(index=indexes)
    def hint(self, index: int) -> None:
        number = self.pick(index)
        # More than 16 would be refused.
        has_begun = self.answered[number] or number in self.answered_all
        if number in self.server.heads and not has_begun and self.hints[number] < 16:
            self.hints[number] += 1
            self.server.hint(number)

    @precondition(lambda self: self.opened)
    @rule(index=indexes, trailers=st.booleans())
    def answer_no_more(self, index: int, trailers: bool) -> None:
        number = self.pick(index)
        if self.answered[number] and number not in self.answered_all:
            self.answered_all.add(number)
            if number not in self.server.ended:
                self.early.add(number)
            self.server.finish(number, trailers=trailers)

    # Both

    @precondition(lambda self: self.opened)
    @rule(index=indexes, by_client=st.booleans())
    def reset(self, index: int, by_client: bool) -> None:
        number = self.pick(index)
        if by_client or number in self.server.heads:
            self.cut.add(number)
            self.asked_all.add(number)
            self.answered_all.add(number)
            (self.client if by_client else self.server).reset(number)

    @precondition(lambda self: self.opened)
    @rule(index=indexes, at_client=st.booleans(), on=st.booleans())
    def withhold(self, index: int, at_client: bool, on: bool) -> None:
        peer = self.client if at_client else self.server
        if isinstance(peer, OurClient | OurServer):
            peer.withhold(self.pick(index), on=on)

    @rule(by_client=st.booleans(), window=st.sampled_from([0, 1, 9_000, 200_000]), larger=st.booleans())
    def change_settings(self, by_client: bool, window: int, larger: bool) -> None:
        """A window that shrinks may become negative (RFC 9113 section 6.9.2)."""
        (self.client if by_client else self.server).change(window, 40_000 if larger else 16_384)

    @rule(to_client=st.booleans(), size=st.sampled_from([1, 9, 100, 5_000, 1 << 20]))
    def move(self, to_client: bool, size: int) -> None:
        self.deliver(self.client if to_client else self.server, size)

    @invariant()
    def what_has_come_is_the_beginning_of_what_was_sent(self) -> None:
        for peer, sent in ((self.server, self.asked), (self.client, self.answered)):
            for number, body in peer.got.items():
                assert sent[number].startswith(body)

    @invariant()
    def our_budget_is_sane(self) -> None:
        if isinstance(self.server, OurServer):
            assert self.server.owner.machine.budget > 2000

    def teardown(self) -> None:
        for peer in (self.client, self.server):
            peer.change(65_535, 16_384)
        for number in self.opened:
            for peer in (self.client, self.server):
                if isinstance(peer, OurClient | OurServer):
                    peer.withhold(number, on=False)
            if number not in self.asked_all:
                self.client.finish(number, trailers=True)
        self.settle()
        for number in self.opened:
            if number not in self.answered_all and number in self.server.heads:
                if not self.answered[number]:
                    self.server.respond(number)
                self.server.finish(number, trailers=bool(number & 2))
        self.settle()
        self.check_the_end()

    def check_the_end(self) -> None:
        assert self.client.is_quiet()
        assert self.server.is_quiet()
        for number in set(self.opened) - self.cut:
            assert self.client.got[number] == self.answered[number]
            assert number in self.client.ended
            if number not in self.early:
                assert self.server.got[number] == self.asked[number]
                assert number in self.server.ended
                assert number not in self.client.resets
            assert number not in self.server.resets


class JoinedOurs(Joined):
    def check_the_end(self) -> None:
        super().check_the_end()
        assert isinstance(self.client, OurClient)
        assert isinstance(self.server, OurServer)
        client, server = self.client.owner, self.server.owner
        assert sorted(client.gone) == self.opened
        assert set(server.gone) == set(self.server.heads)
        # Every byte of window that was spent has been given back, or is known to be missing on both sides.
        assert client.machine.send_window == server.machine._window
        assert server.machine.send_window == client.machine._window


class JoinedTheirClient(Joined):
    CLIENT = TheirClient


class JoinedTheirServer(Joined):
    SERVER = TheirServer


@pytest.mark.parametrize("pair", [JoinedOurs, JoinedTheirClient, JoinedTheirServer])
def test_whatever_happens_bodies_are_equal_and_nothing_is_left(pair: type[Joined]) -> None:
    run_state_machine_as_test(pair, settings=RUNS)


@pytest.mark.parametrize("pair", [JoinedOurs, JoinedTheirClient, JoinedTheirServer])
@pytest.mark.parametrize("seed", range(3))
def test_large_bodies_both_ways_on_streams_side_by_side(pair: type[Joined], seed: int) -> None:
    joined = pair()
    generator = random.Random(seed)
    for _ in range(5):
        joined.open(end=False)
    for turn in range(40):
        joined.ask(index=generator.randrange(5), size=50_000)
        joined.answer(index=generator.randrange(5), size=50_000)
        joined.move(to_client=bool(turn & 1), size=generator.choice([1_000, 100_000]))
    assert joined.client.room() == isinstance(joined.server, TheirServer)
    joined.teardown()
    assert sum(map(len, joined.client.got.values())) > 1_000_000


def test_goaway_in_the_middle_leaves_every_stream_served_or_given_back() -> None:
    for announced_first in (True, False):
        joined = JoinedOurs()
        client, server = joined.client, joined.server
        assert isinstance(client, OurClient)
        assert isinstance(server, OurServer)
        numbers = [client.open(end=True) for _ in range(2)]
        joined.settle()
        late = [client.open(end=True) for _ in range(2)]
        if announced_first:
            server.owner.machine.announce_end()
        joined.deliver(client, 1 << 20)
        assert client.room() == (not announced_first)
        server.owner.machine.end()
        joined.settle()
        assert not client.room()
        assert set(server.heads) == set(numbers)
        assert client.resets == dict.fromkeys(late, 7)
        for number in numbers:
            server.respond(number)
            server.finish(number, trailers=True)
        joined.settle()
        assert set(client.ended) == set(numbers)
        assert client.is_quiet()
        assert server.is_quiet()


LARGE = [(b"x-large-%d" % count, b"v" * 9_000) for count in range(4)]


def test_sections_in_many_frames_are_read_by_the_other_side() -> None:
    asking, asked = OurClient(), h2.connection.H2Connection(OF_A_SERVER)
    asked.initiate_connection()
    stream = asking.owner.open(b"/large")
    stream.send_trailers(by_hand.block(LARGE))
    events = asked.receive_data(asking.out())
    trailers = next(event for event in events if isinstance(event, h2.events.TrailersReceived))
    assert [tuple(field) for field in trailers.headers] == LARGE
    asked.send_headers(1, [(b":status", b"200"), *LARGE], end_stream=True)
    asking.feed(asked.data_to_send())
    assert asking.owner.heads[1].fields == LARGE
    assert asking.is_quiet()


def test_a_peer_without_a_table_reads_every_block() -> None:
    """The first block after its SETTINGS has to say that the table has shrunk (RFC 9113 section 4.3.1)."""
    asking, asked = OurClient(), h2.connection.H2Connection(OF_A_SERVER)
    asked.initiate_connection()
    asked.update_settings({by_hand.HEADER_TABLE_SIZE: 0})
    asked.receive_data(asking.out())
    asking.feed(asked.data_to_send())
    for _ in range(3):
        asking.open(end=True)
        asked.receive_data(asking.out())
    assert asked.open_inbound_streams == 3
