"""Clients over HTTP/1.1: each asks for one thing after the other, and behaves as the request's plan says."""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import cast

from tests.soak.body import Body, chunk, field
from tests.soak.client import Client
from tests.soak.ledger import Ledger
from tests.soak.plan import (
    CUT,
    HUNG,
    LEFT,
    SERVED,
    UNSERVED,
    WRONG,
    Conduct,
    Deed,
    Plan,
    answer,
    content,
    expected,
)

PATIENCE_S = 30.0
_PIPELINED = 0.03
_PROBES = 0.02
_THINKS = 0.02
_PROBE = b"GET /v2/health/ready HTTP/1.1\r\nHost: soak\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """A reply that has come whole. `head` is in lower case."""

    status: int
    head: bytes
    body: bytes

    @property
    def closes(self) -> bool:
        return field(self.head, b"connection") == b"close"


class HttpConnection(asyncio.Protocol):
    """One connection to the agent: takes answers apart, and wakes whoever waits for the next."""

    def __init__(self) -> None:
        self.began = False  # a part of an answer has come
        self.may_send = False  # 100 Continue has come
        self._answers: list[Answer] = []
        self._buffer = bytearray()
        self._head = b""
        self._status = 0
        self._body: Body | None = None
        self._content: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wake()

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        self.began = True
        self._buffer += data
        while self._buffer:
            if self._body is None and not self._take_head():
                break
            if self._body is not None:
                self._content.append(self._body.take(self._buffer))
                if not self._body.done:
                    break
                self._answers.append(Answer(self._status, self._head, b"".join(self._content)))
                self._body = None
                self._content = []
                self.began = bool(self._buffer)
        self._wake()

    def _take_head(self) -> bool:
        """Whether a head is there."""
        at = self._buffer.find(b"\r\n\r\n")
        if at < 0:
            return False
        self._head = bytes(self._buffer[:at]).lower()
        del self._buffer[: at + 4]
        self._status = int(self._head[9:12])
        if self._status < 200:
            self.may_send |= self._status == 100
            self.began = False
            return True
        length = field(self._head, b"content-length")
        if length is None and field(self._head, b"transfer-encoding") != b"chunked":
            raise ValueError(f"an answer without an end: {self._head!r}")
        self._body = Body(None if length is None else int(length))
        if self._body.done:
            self._answers.append(Answer(self._status, self._head, b""))
            self._body = None
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def news(self, seconds: float) -> None:
        """Until something has come, or the time is over."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, or is about to; an answer that has come before can be heard still."""
        return self.transport.is_closing()

    @property
    def has_answer(self) -> bool:
        return bool(self._answers)

    def send(self, data: bytes) -> None:
        """Nothing, where it is lost."""
        if not self.is_lost:
            self.transport.write(data)

    async def answer(self) -> Answer | None:
        """The next answer; None if the connection ends first. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while not self._answers:
            if self.is_lost:
                return None
            if loop.time() >= until:
                raise TimeoutError
            await self.news(until - loop.time())
        return self._answers.pop(0)

    def reset(self) -> None:
        """Leave at once."""
        if not self.is_lost:
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()


class HttpClient(Client[HttpConnection]):
    """Asks until the ledger has enough, on one connection after the other."""

    def __init__(self, address: tuple[str, int], ledger: Ledger, seed: int) -> None:
        super().__init__(address, ledger, seed, grpc=False)

    async def run(self, most: int = 1 << 62) -> None:
        """Make requests, `most` at the most."""
        ledger, below = self._ledger, self._rng.random
        while not ledger.stopped and most > 0:
            # Few bytes, so that the agent feels it when this client does not read.
            connection = await self.dial(kernel_buffer=16_384 if below() < 0.3 else 0)
            while not ledger.stopped and most > 0 and not connection.is_lost:
                if below() < _THINKS:
                    await asyncio.sleep(below() * 0.1)
                if below() < _PROBES and not connection.is_lost:
                    await self._probe(connection)
                if connection.is_lost:
                    break
                count = min(1 + int(below() * 4), most) if below() < _PIPELINED else 1
                most -= count
                if count > 1:
                    goes_on = await self._pipeline(connection, count)
                else:
                    goes_on = await self._behave(connection)
                if not goes_on:
                    break
            connection.reset()

    def make(self) -> HttpConnection:
        return HttpConnection()

    def leave(self, connection: HttpConnection) -> None:
        connection.reset()

    async def ask(self, connection: HttpConnection, plan: Plan) -> None:
        """One plain request."""
        number = self._ledger.begin(plan, "http")
        body = content(number, plan.body)
        connection.send(_head(number, plan, body) + _framed(plan, body))
        await self._hear(connection, number, plan, body)

    async def _probe(self, connection: HttpConnection) -> None:
        connection.send(_PROBE)
        reply = await connection.answer()
        self._ledger.probes[reply is not None] += 1
        if reply is not None and not (reply.status == 200 or _reason(reply).startswith("upstream")):
            self._ledger.problems.append(f"a probe was answered {reply.status} {_reason(reply)}")

    async def _pipeline(self, connection: HttpConnection, count: int) -> bool:
        """Several requests in one write; their answers come in this order. Returns whether the connection goes on."""
        ledger = self._ledger
        ledger.conducts["pipelines"] += count
        asked, data = [], []
        for _ in range(count):
            plan = self._dice.draw(calm=True)
            number = ledger.begin(plan, "http")
            body = content(number, min(plan.body, 4000))
            asked.append((number, plan, body))
            data += [_head(number, plan, body), _framed(plan, body)]
        connection.send(b"".join(data))
        closed = False
        for number, plan, body in asked:
            if closed:
                ledger.end(number, UNSERVED)
                continue
            closed = not await self._hear(connection, number, plan, body)
        return not closed

    async def _behave(self, connection: HttpConnection) -> bool:
        """One request, as its plan says. Returns whether the connection goes on."""
        ledger, below = self._ledger, self._rng.random
        plan = self._dice.draw(calm=ledger.calm)
        conduct = plan.conduct
        number = ledger.begin(plan, "http")
        ledger.conducts[conduct] += 1
        ledger.deeds[plan.deed] += 1
        body = content(number, plan.body)
        head, framed, write = _head(number, plan, body), _framed(plan, body), connection.send
        if conduct is Conduct.LEAVES_HEAD:
            write(head[: int(below() * (len(head) - 1))])
            await asyncio.sleep(below() * 0.01)
            return self._leave(connection, number)
        if conduct in {Conduct.LEAVES_BODY, Conduct.ENDS_BODY}:
            write(head + framed[: len(framed) // 2])
            await asyncio.sleep(below() * 0.02)
            if conduct is Conduct.LEAVES_BODY:
                return self._leave(connection, number)
            if not connection.is_lost:
                connection.transport.write_eof()
            return await self._hear(connection, number, plan, body, may_leave=True)
        if conduct is Conduct.EXPECTS:
            write(head)
            while not (connection.may_send or connection.has_answer or connection.is_lost):
                await connection.news(PATIENCE_S)
            if connection.may_send:
                write(framed)
            connection.may_send = False
        elif conduct is Conduct.HALVES or plan.deed is Deed.EARLY:
            write(head + framed[: len(framed) // 2])
            await connection.news(below() * 0.02)
            write(framed[len(framed) // 2 :])
        else:
            write(head + framed)
        return await self._go_through(connection, number, plan, body)

    async def _go_through(self, connection: HttpConnection, number: int, plan: Plan, body: bytes) -> bool:
        """The request is sent: what its client does until it is answered."""
        below, conduct = self._rng.random, plan.conduct
        if conduct is Conduct.LEAVES_SENT:
            await connection.news(below() * 0.02)
            return self._leave(connection, number)
        if conduct is Conduct.LEAVES_ANSWER:
            while not (connection.began or connection.has_answer or connection.is_lost):
                await connection.news(PATIENCE_S)
            return self._leave(connection, number)
        if conduct is Conduct.NOT_READING:
            await connection.news(PATIENCE_S)
            if not connection.is_lost:
                connection.transport.pause_reading()
                await asyncio.sleep(below() * 0.2)
                if not connection.is_lost:
                    connection.transport.resume_reading()
        elif conduct is Conduct.HALF_CLOSES and not connection.is_lost:
            connection.transport.write_eof()
            return await self._hear(connection, number, plan, body, may_leave=True)
        return await self._hear(connection, number, plan, body)

    def _leave(self, connection: HttpConnection, number: int) -> bool:
        self._ledger.end(number, LEFT)
        connection.reset()
        return False

    async def _hear(
        self, connection: HttpConnection, number: int, plan: Plan, body: bytes, *, may_leave: bool = False
    ) -> bool:
        """How it ended. Returns whether the connection goes on. A client that half-closes may be taken for gone."""
        ledger = self._ledger
        try:
            reply = await connection.answer()
        except TimeoutError:
            ledger.end(number, HUNG)
            return False
        if reply is None:
            ledger.end(number, LEFT if may_leave else CUT)
            return False
        reason = _reason(reply)
        if reason:
            ledger.end(number, reason)
            if not reply.closes:
                await asyncio.sleep(0.02 + self._rng.random() * 0.05)
        else:
            right = answer(number, 0, plan.answer) if reply.status == 413 else expected(number, body, plan.answer)
            if plan.deed is Deed.EVENTS:
                right = _in_events(right)
            if reply.body == right:
                ledger.end(number, SERVED)
            else:
                ledger.end(number, WRONG)
                ledger.problems.append(f"request {number} was answered {reply.body[:60]!r}, not {right[:60]!r}")
        return not (reply.closes or may_leave)


def _head(number: int, plan: Plan, body: bytes) -> bytes:
    framing = b"Transfer-Encoding: chunked" if plan.chunked else b"Content-Length: %d" % len(body)
    expect = b"Expect: 100-continue\r\n" if plan.conduct is Conduct.EXPECTS else b""
    patience = b""
    if plan.patience:
        patience = b"x-envoy-expected-rq-timeout-ms: %d\r\n" % (plan.patience * 1000)
    return b"POST /v2/models/%b/infer%b HTTP/1.1\r\nHost: soak\r\nX-Id: %d\r\nX-Plan: %b\r\n%b%b%b\r\n\r\n" % (
        plan.model,
        b"_stream" if plan.deed is Deed.EVENTS else b"",
        number,
        plan.words,
        expect,
        patience,
        framing,
    )


def _framed(plan: Plan, body: bytes) -> bytes:
    if not plan.chunked:
        return body
    third = len(body) // 3
    return chunk(body[:third]) + chunk(body[third:]) + chunk(b"")


def _in_events(whole: bytes) -> bytes:
    """As the predictor sends it: a part that is empty is a line end, for an empty chunk would be the last one."""
    size = len(whole) // 4 + 1
    return b"".join(whole[index * size : (index + 1) * size] or b"\n" for index in range(4))


def _reason(reply: Answer) -> str:
    return (field(reply.head, b"x-headgate-reason") or b"").decode()
