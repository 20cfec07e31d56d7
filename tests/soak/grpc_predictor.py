"""The predictor over gRPC: does with each call what the call says, and writes down what it did."""

import asyncio
from dataclasses import dataclass
from zlib import crc32

from hpack import Decoder

from tests.bench import h2frames as h2
from tests.bench.h2connection import Connection
from tests.soak import book
from tests.soak.plan import Deed, answer, deed_of

_HEAD = h2.block([(":status", "200"), ("content-type", "application/grpc")])
_OK = h2.block([("grpc-status", "0")])
_FAILED = h2.block([(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "9")])
_END = h2.END_HEADERS | h2.END_STREAM
_EVENT_GAP_S = 0.004
_EVENTS = 4
_NO_ERROR, _INTERNAL, _REFUSED = 0, 2, 7


@dataclass(slots=True)
class _Call:
    number: int
    deed: Deed
    size: int
    delay_ms: int
    digest: int = 0
    prefix: bytes = b""  # what has come of the message's five bytes in front


class GrpcPredictor(Connection):
    """One connection of the agent. `few` accepts that many streams at once."""

    def __init__(self, log: book.Book, open_ones: set["GrpcPredictor"], few: int = 0) -> None:
        super().__init__(server=True, stream_window=1 << 18)
        if few:
            self.out.append(h2.settings({h2.MAX_CONCURRENT_STREAMS: few}))
        self._log = log
        self._open = open_ones
        self._decoder = Decoder()
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._ending = False
        self._later = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self)

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        fields = dict(self._decoder.decode(bytes(block), raw=True))
        if stream <= self._last and self._ending:
            pass
        elif self._ending:
            self._drop(stream)  # above what GOAWAY named
            return
        else:
            self._last = stream
        if b"x-id" not in fields:
            self._reply(stream, b"\x00\x00\x00\x00\x00")
            return
        number = int(fields[b"x-id"])
        call = self._calls[stream] = _Call(number, *deed_of(fields[b"x-plan"]))
        _, _, returned, _ = self._log.line(number)
        self._log.arrive(number)
        if call.deed is Deed.HANDED_BACK and not returned:
            self._log.hand_back(number)
            self._reset(stream, _REFUSED)
        elif call.deed is Deed.GOAWAY and not returned:
            self._log.hand_back(number)
            self._drop(stream)
            # What is answered and still on its way out is not handed back.
            self._last = max((*self._calls, *self.windows), default=0)
            self.end()
        elif call.deed is Deed.EARLY and not end:
            self._log.do(number, book.ANSWERED)
            self._answer(stream, call, 0)
            self.out.append(h2.frame(h2.RST_STREAM, 0, stream, bytes(4)))
            self._drop(stream)
        elif end:
            self._complete(stream)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        call = self._calls.get(stream)
        if call is None:
            return
        if len(call.prefix) < 5:
            lacking = 5 - len(call.prefix)
            call.prefix += bytes(payload[:lacking])
            payload = payload[lacking:]
        call.digest = crc32(payload, call.digest)
        if end:
            self._complete(stream)

    def on_reset(self, stream: int, code: int) -> None:
        self._done(stream)

    def end(self) -> None:
        """Take no more calls, and end the connection after those under way."""
        if not self._ending:
            self._ending = True
            self.out.append(h2.frame(h2.GOAWAY, 0, 0, self._last.to_bytes(4, "big") + bytes(4)))
        self._close_when_done()

    def _complete(self, stream: int) -> None:
        call = self._calls[stream]
        self._log.execute(call.number)
        if call.delay_ms:
            self._later(call.delay_ms / 1000, self._act_later, stream)
        else:
            self._act(stream)

    def _act_later(self, stream: int) -> None:
        if stream in self._calls and not self.transport.is_closing():
            self._act(stream)
            if not self.transport.is_closing():
                self.flush()

    def _act(self, stream: int) -> None:
        call = self._calls[stream]
        deed, number = call.deed, call.number
        if deed in _FAILING:
            self._log.do(number, book.FAILED)
        if deed is Deed.NEVER:
            return
        if deed is Deed.RESET:
            self._reset(stream, _INTERNAL)
        elif deed is Deed.TRUNCATED:
            self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD))
            self.send(stream, memoryview(b"\x00\x00\x01\x00\x00half"))
            self._reset(stream, _INTERNAL)
        elif deed in {Deed.GARBAGE, Deed.ABORT}:
            self._break(deed)
        elif deed is Deed.FAILED:
            self._log.do(number, book.ANSWERED)
            self.out.append(h2.frame(h2.HEADERS, _END, stream, _FAILED))
            self._done(stream)
        elif deed is Deed.EVENTS:
            self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD))
            self._event(stream, answer(number, call.digest, call.size), 0)
        else:
            self._log.do(number, book.ANSWERED)
            self._answer(stream, call, call.digest)
            self._done(stream)

    def _answer(self, stream: int, call: _Call, digest: int) -> None:
        self._reply(stream, framed(answer(call.number, digest, call.size)))

    def _reply(self, stream: int, data: bytes) -> None:
        self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, _HEAD))
        self.send(stream, memoryview(data), h2.frame(h2.HEADERS, _END, stream, _OK))

    def _event(self, stream: int, content: bytes, index: int) -> None:
        """A message of several; each is a part of the whole answer."""
        if stream not in self._calls or self.transport.is_closing():
            return
        size = len(content) // _EVENTS + 1
        message = memoryview(framed(content[index * size : (index + 1) * size]))
        if index + 1 < _EVENTS:
            self.send(stream, message)
            self._later(_EVENT_GAP_S, self._event, stream, content, index + 1)
        else:
            self._log.do(self._calls[stream].number, book.ANSWERED)
            self.send(stream, message, h2.frame(h2.HEADERS, _END, stream, _OK))
            self._done(stream)
        self.flush()

    def _break(self, deed: Deed) -> None:
        """Lose the connection, and write down who was on it."""
        for other in self._calls.values():
            if self._log.line(other.number)[3] == book.NOTHING:
                self._log.do(other.number, book.COLLATERAL)
        self._calls.clear()
        if deed is Deed.GARBAGE:
            self.out.append(b"\xff" * 64)
        else:
            self.out.clear()
            self.transport.abort()

    def _reset(self, stream: int, code: int) -> None:
        self.out.append(h2.frame(h2.RST_STREAM, 0, stream, code.to_bytes(4, "big")))
        self._drop(stream)

    def _drop(self, stream: int) -> None:
        self.forget(stream)
        self._done(stream)

    def _done(self, stream: int) -> None:
        self._calls.pop(stream, None)
        if self._ending:
            self._close_when_done()

    def _close_when_done(self) -> None:
        # What was put off by a window is still to be sent.
        if not (self._calls or self.windows):
            self.flush()
            self.transport.close()


_FAILING = {Deed.NEVER, Deed.RESET, Deed.TRUNCATED, Deed.GARBAGE, Deed.ABORT}


def framed(message: bytes) -> bytes:
    """With the five bytes in front of it."""
    return b"\x00" + len(message).to_bytes(4, "big") + message
