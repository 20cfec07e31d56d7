"""Random clients and predictors over HTTP/2 doing random things in random order: whatever happens, the accounts hold.

Each call carries a mark. No mark may reach the predictor twice unless it was handed back, no client may see an answer
to another's mark. The fixture checks that nothing is left. `calls` is the long version, with processes.
"""

import asyncio
import contextlib
import random
import re

import pytest
import uvloop

from tests.faults import calls
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.net.http2_peers import HELLO, INFER, LIVE, PREFACE, STREAM_INFER, grpc_head, infer, plain_head
from tests.sockets import Peer
from tests.wire import frames_by_hand as raw

STEPS = 1500
MARK = re.compile(rb"<(\d+)>")
CODES = [raw.NO_ERROR, raw.INTERNAL_ERROR, raw.REFUSED_STREAM, raw.CANCEL]


class Actor:
    """A connection, and what a test may do to it without waiting for anybody. `frames` are those that have come."""

    def __init__(self, peer: Peer, hello: bytes) -> None:
        self.peer = peer
        self.is_open = True
        self.data = bytearray()
        self._at = 0
        self.send(hello)

    def read(self) -> list[raw.Frame]:
        """The frames that have come since the last time."""
        with contextlib.suppress(OSError):
            self.data += self.peer.sock.recv(65536) if self.is_open else b""
        if self.data.startswith(PREFACE) and not self._at:
            self._at = len(PREFACE)
        frames = []
        while len(self.data) >= self._at + 9:
            end = self._at + 9 + int.from_bytes(self.data[self._at : self._at + 3], "big")
            if end > len(self.data):
                break
            frames += raw.parse(bytes(self.data[self._at : end]))
            self._at = end
        return frames

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self.is_open:
                self.peer.sock.send(data)

    def end(self, how: str) -> None:
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(OSError):
                getattr(self.peer, how)()


class Client(Actor):
    """Begins marked calls and goes on with them, ends, resets and breaks them."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer, HELLO + raw.window_update(0, 2**20))
        self.marks: dict[bytes, bytes] = {}
        self._stream = -1
        self._begun: list[int] = []

    def ask(self, rng: random.Random, mark: bytes) -> None:
        if self._begun and rng.random() < 0.4:
            self._go_on(rng, rng.choice(self._begun))
            return
        self._stream += 2
        number = self._stream
        fields = rng.choice([grpc_head(INFER), grpc_head(STREAM_INFER), grpc_head(LIVE), plain_head()])
        if rng.random() < 0.2:
            fields.append((b"grpc-timeout", rng.choice([b"1m", b"20m", b"10S"])))
        if rng.random() < 0.05:
            fields.append(rng.choice([(b"connection", b"close"), (b"content-length", b"3")]))
        self.marks[mark] = b"%d" % number
        body = infer(b"<%b>" % mark + b"x" * rng.choice([0, 10, 3000, 15_000]))
        head = raw.headers(number, raw.block(fields))
        if rng.random() < 0.6:
            self.send(head + raw.data(number, body[:16_000], end=True))
        else:
            cut = rng.randrange(len(body[:16_000]))
            self._begun.append(number)
            self.send(head + raw.data(number, body[:cut]))

    def _go_on(self, rng: random.Random, number: int) -> None:
        self.send(
            rng.choice(
                [
                    raw.data(number, b"more"),
                    raw.data(number, b"y" * 16_000),
                    raw.data(number, b"end", end=True),
                    raw.headers(number, raw.block([(b"x-t", b"1")]), end=True),
                    raw.rst_stream(number, rng.choice(CODES)),
                    raw.rst_stream(number),
                    raw.window_update(number, rng.choice([1, 70_000])),
                    raw.data(number, b"z" * 16_000) * 30,
                ]
            )
        )

    def meddle(self, rng: random.Random) -> None:
        """Something about the connection."""
        self.send(
            rng.choice(
                [
                    raw.ping(),
                    raw.settings((raw.INITIAL_WINDOW_SIZE, rng.choice([0, 100, 70_000]))),
                    raw.settings((raw.INITIAL_WINDOW_SIZE, 65_535)),
                    raw.window_update(0, 100_000),
                    raw.goaway(0),
                    b"\xff" * 9 if rng.random() < 0.2 else raw.ping(),
                ]
            )
        )


class Server(Actor):
    """Answers streams, now and then badly; knows which it has handed back."""

    def __init__(self, peer: Peer, rng: random.Random) -> None:
        pairs = [(raw.INITIAL_WINDOW_SIZE, rng.choice([1000, 65_535]))] if rng.random() < 0.3 else []
        if rng.random() < 0.3:
            pairs.append((raw.MAX_CONCURRENT_STREAMS, rng.choice([1, 2])))
        super().__init__(peer, raw.settings(*pairs))
        self.delivered: dict[int, bytes] = {}
        self.returned: set[int] = set()
        self.last = raw.MAX_31
        self._waiting: dict[int, bytes] = {}

    def take(self) -> None:
        """Look at what has come."""
        for frame in self.read():
            if frame.kind == raw.HEADERS:
                self._waiting.setdefault(frame.stream, b"")
            elif frame.kind == raw.DATA:
                body = self.delivered[frame.stream] = self.delivered.get(frame.stream, b"") + frame.payload
                if frame.stream in self._waiting:
                    self._waiting[frame.stream] = body
            elif frame.kind == raw.RST_STREAM:
                self._waiting.pop(frame.stream, None)

    def answer(self, rng: random.Random) -> None:
        self.take()
        if not self._waiting:
            return
        number = rng.choice(list(self._waiting))
        body = b"".join(b"<%b>" % mark for mark in MARK.findall(self._waiting.pop(number)))
        head = raw.headers(number, raw.response(200, (b"content-type", b"application/grpc")))
        tail = raw.headers(number, raw.block([(b"grpc-status", b"0")]), end=True)
        whole = head + raw.data(number, body) + tail
        lot = rng.randrange(16)
        if lot == 0:
            self.returned.add(number)
            self.send(raw.rst_stream(number, raw.REFUSED_STREAM))
        elif lot == 1:
            self.last = min(self.last, max(0, number - 2))
            self.send(raw.goaway(self.last))
        else:
            choices = [
                raw.headers(number, raw.response(103)) + whole,
                head + raw.data(number, body),
                head + raw.data(number, body + b"x" * 16_000) * 8 + tail,
                raw.rst_stream(number, rng.choice([raw.NO_ERROR, raw.INTERNAL_ERROR, raw.CANCEL])),
                head + raw.rst_stream(number, raw.CANCEL),
                raw.data(number, body),
                raw.headers(number, raw.block([(b"x", b"1")])),
                b"\xff" * 20 if rng.random() < 0.2 else whole,
            ]
            self.send(rng.choice(choices) if lot < 8 else whole)
        if rng.random() < 0.2:
            self.send(raw.window_update(0, 100_000) + raw.ping())


class Chaos:
    """The stage: one agent, its clients and the predictor's connections."""

    def __init__(self, agent: Http2Bed, rng: random.Random) -> None:
        self.agent = agent
        self.rng = rng
        self.clients: list[Client] = []
        self.servers: list[Server] = []
        self.marks = 0

    async def step(self) -> None:
        """One random action, then a few turns of the loop."""
        rng = self.rng
        if len(self.clients) < 3 or rng.random() < 0.08:
            self.clients.append(Client(await self.agent.client()))
        elif self.agent.predictor.is_listening and rng.random() < 0.01:
            self.agent.predictor.refuse()
        elif not self.agent.predictor.is_listening and rng.random() < 0.1:
            self.agent.predictor.listen()
        else:
            rng.choice([self.ask] * 6 + [self.serve] * 6 + [self.read] * 2 + [self.meddle, self.end])()
        for _ in range(rng.choice([0, 0, 1, 2, 5, 20])):
            await asyncio.sleep(0)

    def ask(self) -> None:
        self.marks += 1
        self.rng.choice(self.clients[-4:]).ask(self.rng, b"%d" % self.marks)

    def serve(self) -> None:
        while not self.agent.predictor.is_left_alone():
            self.servers.append(Server(self.agent.predictor.accept_now(), self.rng))
        for server in self.servers[-4:]:
            server.answer(self.rng)

    def read(self) -> None:
        for actor in (*self.clients, *self.servers):
            if self.rng.random() < 0.5:
                if isinstance(actor, Server):
                    actor.take()
                else:
                    self.look(actor)

    def meddle(self) -> None:
        self.rng.choice(self.clients[-4:]).meddle(self.rng)

    def end(self) -> None:
        actors = [each for each in (*self.clients, *self.servers) if each.is_open]
        if actors:
            self.rng.choice(actors).end(self.rng.choice(["close", "reset"]))

    def look(self, client: Actor) -> None:
        """Every answer belongs to the stream on which its mark was sent."""
        assert isinstance(client, Client)
        for frame in client.read():
            if frame.kind == raw.DATA:
                for mark in MARK.findall(frame.payload):
                    assert client.marks.get(mark) == b"%d" % frame.stream, "an answer to somebody else"

    def check(self) -> None:
        """Read what is left, and compare."""
        for client in self.clients:
            self.look(client)
        delivered = []
        for server in self.servers:
            server.take()
            for number, body in server.delivered.items():
                if number <= server.last and number not in server.returned:
                    delivered += MARK.findall(body)
        assert len(delivered) == len(set(delivered)), "delivered twice"
        assert len(delivered) > 20, "hardly anything has happened"


@pytest.mark.parametrize("seed", range(6))
async def test_the_accounts_hold(h2bed: Http2Opener, seed: int) -> None:
    agent = await h2bed(limit="3", queue="4", deadline="200ms", idle_timeout="100ms", queued_body="8KiB")
    chaos = Chaos(agent, random.Random(seed))
    for _ in range(STEPS):
        await chaos.step()
    chaos.check()


def test_calls_survive_a_predictor_that_dies_all_the_time() -> None:
    """Every call is answered with its own message or fails with a status, and nothing is left."""
    report = uvloop.run(calls.run(4000, seed=1, kill_every=0.5))
    assert not report.problems, str(report)
    assert sum(report.ends.values()) == 4000
    assert report.ends["status 0"] > 2000, str(report)
    assert report.ends["cancelled"] > 20, str(report)
    assert report.kills, str(report)
