"""Random clients and predictors doing random things in random order: whatever happens, the accounts hold.

Each request carries a mark. No mark may reach the predictor twice, no client may see an answer to another's mark, and
bytes that answer nothing may reach nobody. The fixture checks that nothing is left.
"""

import asyncio
import contextlib
import random
import re

import pytest

from tests.net.bed import Bed, Opener
from tests.sockets import Peer

STEPS = 400
MARK = re.compile(rb"<(\d+)>")


class Actor:
    """A connection, and what a test may do to it without waiting for anybody."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.is_open = True

    def read(self) -> None:
        try:
            data = self.peer.sock.recv(65536) if self.is_open else b""
        except OSError:
            return
        self.peer.received += data

    def send(self, data: bytes) -> None:
        try:
            if self.is_open:
                self.peer.sock.send(data)
        except OSError:
            pass

    def end(self, how: str) -> None:
        if self.is_open:
            self.is_open = how == "half_close"
            with contextlib.suppress(OSError):
                getattr(self.peer, how)()


class Client(Actor):
    """Sends marked requests, whole, in halves or several at once."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self.rest = b""
        self.marks: set[bytes] = set()

    def ask(self, rng: random.Random, mark: bytes) -> None:
        if self.rest:
            self.send(self.rest)
            self.rest = b""
            return
        body = b"x" * rng.choice([0, 10, 3000, 40_000])
        infer, length = b"POST /v2/models/m/infer HTTP/1.1", b"Content-Length: %d" % len(body)
        chunked, upgrade = b"Transfer-Encoding: chunked", b"Connection: upgrade\r\nUpgrade: x"
        self.marks.add(mark)
        request = rng.choice(
            [
                _head(infer, mark, length) + body,
                _head(infer, mark, chunked) + b"%x\r\n%b\r\n0\r\nT: 1\r\n\r\n" % (len(body) or 1, body or b"x"),
                _head(infer, mark, chunked) + b"bad",
                _head(infer.replace(b"1.1", b"1.0"), mark, length) + body,
                _head(infer, mark, b"Connection: close\r\n" + length) + body,
                _head(b"POST / HTTP/1.1", mark, b"Expect: 100-continue\r\n" + length) + body,
                _head(b"GET /v2/health/ready HTTP/1.1", mark),
                _head(b"GET /ws HTTP/1.1", mark, upgrade) + b"early",
                b"nonsense\r\n\r\n",
            ]
        )
        cut = rng.randrange(len(request)) if rng.random() < 0.3 else len(request)
        self.send(request[:cut])
        self.rest = request[cut:]


def _head(start: bytes, mark: bytes, fields: bytes = b"") -> bytes:
    return b"\r\n".join([start, b"Host: a", b"Mark: <%b>" % mark, *([fields] if fields else []), b"", b""])


class Server(Actor):
    """Answers each request head at most once, now and then badly."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        self.answered = 0

    def answer(self, rng: random.Random) -> None:
        received = bytes(self.peer.received)
        if received.count(b" HTTP/1.1\r\n") <= self.answered:
            return
        self.answered += 1
        marks = MARK.findall(received)
        body = b"<%b>" % marks[-1] if marks else b"none"
        length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        self.send(
            rng.choice(
                [
                    length,
                    length,
                    length,
                    b"HTTP/1.1 103 Hints\r\n\r\n" + length,
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
                    b"HTTP/1.1 200 OK\r\n\r\n" + body,
                    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + body,
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + body,
                    length + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
                    b"garbage\r\n\r\n",
                    length[:20],
                ]
            )
        )


class Chaos:
    """The stage: one agent, its clients and the predictor's connections."""

    def __init__(self, agent: Bed, rng: random.Random) -> None:
        self.agent = agent
        self.rng = rng
        self.clients: list[Client] = []
        self.servers: list[Server] = []
        self.marks = 0

    async def step(self) -> None:
        """One random action, then a few turns of the loop."""
        rng = self.rng
        action = rng.choice([self.ask, self.ask, self.ask, self.serve, self.serve, self.serve, self.read, self.end])
        if len(self.clients) < 3 or rng.random() < 0.1:
            self.clients.append(Client(await self.agent.client()))
        elif rng.random() < 0.03:
            if self.agent.predictor.is_listening:
                self.agent.predictor.refuse()
            else:
                self.agent.predictor.listen()
        else:
            action()
        for _ in range(rng.choice([0, 0, 1, 2, 5, 20])):
            await asyncio.sleep(0)

    def ask(self) -> None:
        self.marks += 1
        self.rng.choice(self.clients).ask(self.rng, b"%d" % self.marks)

    def serve(self) -> None:
        while not self.agent.predictor.is_left_alone():
            self.servers.append(Server(self.agent.predictor.accept_now()))
        if self.servers:
            server = self.rng.choice(self.servers[-8:])
            server.read()
            server.answer(self.rng)

    def read(self) -> None:
        self.rng.choice(self.clients).read()

    def end(self) -> None:
        actors = [each for each in (*self.clients, *self.servers) if each.is_open]
        if actors:
            self.rng.choice(actors).end(self.rng.choice(["close", "reset", "half_close"]))

    def check(self) -> None:
        """Read what is left, and compare."""
        for actor in (*self.clients, *self.servers):
            actor.read()
        delivered = [mark for server in self.servers for mark in MARK.findall(bytes(server.peer.received))]
        assert len(delivered) == len(set(delivered)), "delivered twice"
        for client in self.clients:
            assert set(MARK.findall(bytes(client.peer.received))) <= client.marks, "an answer to somebody else"
            assert b"POISON" not in client.peer.received or b" 101 " in client.peer.received


@pytest.mark.parametrize("seed", range(6))
async def test_the_accounts_hold(bed: Opener, seed: int) -> None:
    rng = random.Random(seed)
    agent = await bed(limit="3", queue="4", deadline="200ms", idle_timeout="100ms", queued_body="8KiB")
    chaos = Chaos(agent, rng)
    for _ in range(STEPS):
        await chaos.step()
    chaos.check()
