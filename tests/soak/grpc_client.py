"""Clients over gRPC: connections with many callers each, who behave as their calls' plans say."""

import asyncio
from dataclasses import dataclass, field

from hpack import Decoder

from tests.bench import h2frames as h2
from tests.bench.h2connection import Connection
from tests.soak.client import Client
from tests.soak.grpc_predictor import framed
from tests.soak.ledger import Ledger
from tests.soak.plan import CUT, HUNG, LEFT, PAD, SERVED, UNSERVED, WRONG, Conduct, Deed, Plan, answer, expected

PATIENCE_S = 30.0
CALLERS = 14
_PROBES = 0.01
_THINKS = 0.02
# A connection is reset with all that it carries once in so many calls.
_DROPS = 1 / 2_000
_CANCEL, _REFUSED = 8, 7
_READY = "/inference.GRPCInferenceService/ServerReady"
_LEAVING = {
    Conduct.LEAVES_HEAD,
    Conduct.LEAVES_BODY,
    Conduct.LEAVES_SENT,
    Conduct.LEAVES_ANSWER,
    Conduct.ENDS_BODY,
}


@dataclass(slots=True, eq=False)
class Call:
    """A call under way. `ended` tells the end of its stream, once."""

    ended: asyncio.Future[None]
    data: bytearray = field(default_factory=bytearray)
    fields: dict[bytes, bytes] = field(default_factory=dict)
    reset: int = -1
    is_whole: bool = False
    began: asyncio.Event | None = None

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        if self.began is not None:
            self.began.set()


class GrpcConnection(Connection):
    """One connection to the agent."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(server=False, stream_window=1 << 17, connection_window=1 << 20)
        self.calls: dict[int, Call] = {}
        self.was_dropped = self.going_away = False
        self._decoder = Decoder()
        self._ledger = ledger
        self._next = 1

    @property
    def is_lost(self) -> bool:
        """Whether it has ended, or is about to: nothing can be sent any more."""
        return self.transport.is_closing()

    def start(self, block: bytes, call: Call) -> int:
        """Send a head; returns the stream."""
        stream, self._next = self._next, self._next + 2
        self.calls[stream] = call
        self.open(stream, block)
        return stream

    def cancel(self, stream: int) -> None:
        """Give a call up."""
        if self.calls.pop(stream, None) is not None:
            self.forget(stream)
            self.out.append(h2.frame(h2.RST_STREAM, 0, stream, _CANCEL.to_bytes(4, "big")))
            self.flush()

    def drop(self) -> None:
        """Reset the connection with all that it carries."""
        self.was_dropped = True
        self.transport.abort()

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        fields = self._decoder.decode(bytes(block), raw=True)
        call = self.calls.get(stream)
        if call is None:
            self.forget(stream)
            return
        call.fields.update(fields)
        if call.began is not None:
            call.began.set()
        if end:
            call.is_whole = True
            self._end(stream)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        call = self.calls.get(stream)
        if call is not None:
            call.data += payload
            if end:
                self._end(stream)

    def on_reset(self, stream: int, code: int) -> None:
        call = self.calls.get(stream)
        if call is not None:
            call.reset = code
            self._end(stream)

    def on_goaway(self, last: int, code: int, detail: bytes) -> None:
        self.going_away = True
        self._ledger.problems.append(f"the agent sent GOAWAY {code}: {detail!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.was_dropped:
            self._ledger.problems.append(f"the agent ended an HTTP/2 connection: {exc}")
        for stream in list(self.calls):
            self._end(stream)

    def _end(self, stream: int) -> None:
        self.forget(stream)
        self.calls.pop(stream).end()


class GrpcClient(Client[GrpcConnection]):
    """Calls until the ledger has enough, on one connection after the other."""

    def __init__(self, address: tuple[str, int], ledger: Ledger, seed: int) -> None:
        super().__init__(address, ledger, seed, grpc=True)

    async def run(self, most: int = 1 << 62, callers: int = CALLERS) -> None:
        """Make calls, each caller `most` at the most."""
        ledger = self._ledger
        while not ledger.stopped:
            connection = await self.dial()
            async with asyncio.TaskGroup() as group:
                for _ in range(callers):
                    group.create_task(self._keep_calling(connection, most))
            connection.drop()
            if most < 1 << 62:
                break

    def make(self) -> GrpcConnection:
        return GrpcConnection(self._ledger)

    def leave(self, connection: GrpcConnection) -> None:
        connection.drop()

    async def _keep_calling(self, connection: GrpcConnection, most: int) -> None:
        ledger, below = self._ledger, self._rng.random
        while most and not (ledger.stopped or connection.is_lost or connection.going_away):
            most -= 1
            if below() < _THINKS:
                await asyncio.sleep(below() * 0.1)
            if below() < _DROPS and not ledger.calm:
                connection.drop()
            # While this caller thought or waited, another may have dropped it.
            if below() < _PROBES and not connection.is_lost:
                await self._probe(connection)
            if not connection.is_lost:
                await self.ask(connection, self._dice.draw(calm=ledger.calm))

    async def _probe(self, connection: GrpcConnection) -> None:
        call = Call(asyncio.get_running_loop().create_future())
        stream = connection.start(h2.block(_fields(_READY)), call)
        connection.send(stream, memoryview(bytes(5)), h2.frame(h2.DATA, h2.END_STREAM, stream))
        connection.flush()
        await call.ended
        self._ledger.probes[call.is_whole] += 1

    async def ask(self, connection: GrpcConnection, plan: Plan) -> None:
        """One call, as its plan says."""
        ledger, below = self._ledger, self._rng.random
        conduct = plan.conduct
        number = ledger.begin(plan, "grpc")
        ledger.conducts[conduct] += 1
        ledger.deeds[plan.deed] += 1
        message = _message(number, plan)
        call = Call(asyncio.get_running_loop().create_future())
        stream = connection.start(_head(number, plan), call)
        data = memoryview(framed(message))
        end = h2.frame(h2.DATA, h2.END_STREAM, stream)
        if conduct is Conduct.LEAVES_ANSWER:
            call.began = asyncio.Event()
        if conduct is Conduct.LEAVES_HEAD:
            connection.flush()
            await asyncio.sleep(below() * 0.01)
        elif conduct in {Conduct.LEAVES_BODY, Conduct.ENDS_BODY, Conduct.HALVES} or plan.deed is Deed.EARLY:
            half = len(data) // 2
            connection.send(stream, data[:half])
            connection.flush()
            await asyncio.sleep(below() * 0.02)
            if conduct not in _LEAVING and stream in connection.calls:
                connection.send(stream, data[half:], end)
                connection.flush()
        else:
            connection.send(stream, data, end)
            connection.flush()
        await self._go_through(connection, stream, call, number, plan, message)

    async def _go_through(
        self, connection: GrpcConnection, stream: int, call: Call, number: int, plan: Plan, message: bytes
    ) -> None:
        """The call is sent: what its client does until it has ended."""
        below, conduct, ledger = self._rng.random, plan.conduct, self._ledger
        if conduct in _LEAVING:
            if call.began is not None:
                await call.began.wait()
            elif conduct is Conduct.LEAVES_SENT:
                await asyncio.sleep(below() * 0.02)
            ledger.end(number, LEFT)
            connection.cancel(stream)
            return
        patience = plan.patience or PATIENCE_S
        if conduct is Conduct.NOT_READING and not connection.is_lost:
            # It stops the whole connection, as a client process that is stuck does.
            connection.transport.pause_reading()
            await asyncio.sleep(below() * 0.1)
            if not connection.is_lost:
                connection.transport.resume_reading()
        try:
            await asyncio.wait_for(asyncio.shield(call.ended), patience)
        except TimeoutError:
            # As gRPC's own clients do when their deadline has passed.
            ledger.end(number, LEFT if plan.patience else HUNG)
            connection.cancel(stream)
            return
        await self._judge(connection, call, number, plan, message)

    async def _judge(self, connection: GrpcConnection, call: Call, number: int, plan: Plan, message: bytes) -> None:
        ledger = self._ledger
        reason = call.fields.get(b"x-headgate-reason", b"").decode()
        if reason:
            ledger.end(number, reason)
            await asyncio.sleep(0.02 + self._rng.random() * 0.05)
        elif not call.is_whole:
            if connection.was_dropped:
                ledger.end(number, LEFT)
            else:
                ledger.end(number, UNSERVED if call.reset == _REFUSED else CUT)
        elif plan.deed is Deed.FAILED and call.fields.get(b"grpc-status") == b"9" and not call.data:
            ledger.end(number, SERVED)
        else:
            right = (
                answer(number, 0, plan.answer) if plan.deed is Deed.EARLY else expected(number, message, plan.answer)
            )
            if call.fields.get(b"grpc-status") == b"0" and call.data == _in_messages(right, plan):
                ledger.end(number, SERVED)
            else:
                ledger.end(number, WRONG)
                ledger.problems.append(f"call {number} was answered {call.fields} {bytes(call.data[:60])!r}")


def _fields(path: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "soak"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]


def _head(number: int, plan: Plan) -> bytes:
    method = "ModelStreamInfer" if plan.deed is Deed.EVENTS else "ModelInfer"
    fields = _fields("/inference.GRPCInferenceService/" + method)
    fields += [("x-id", str(number)), ("x-plan", plan.words.decode())]
    if plan.patience:
        fields.append(("grpc-timeout", f"{int(plan.patience * 1000)}m"))
    return h2.block(fields)


def _message(number: int, plan: Plan) -> bytes:
    """The model's name in field 1, the number in field 3, and padding in field 7."""
    mark = b"%d" % number
    front = b"\n%b%b\x1a%b%b" % (_size(len(plan.model)), plan.model, _size(len(mark)), mark)
    return b"%b:%b%b" % (front, _size(plan.body), PAD[: plan.body])


def _size(number: int) -> bytes:
    """As protobuf writes it."""
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    coded.append(number)
    return bytes(coded)


def _in_messages(whole: bytes, plan: Plan) -> bytes:
    if plan.deed is not Deed.EVENTS:
        return framed(whole)
    size = len(whole) // 4 + 1
    return b"".join(framed(whole[index * size : (index + 1) * size]) for index in range(4))
