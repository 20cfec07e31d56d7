"""Many gRPC calls on a few HTTP/2 connections, each reported as the load generator's samples are.

The interface is that of loadgen's HTTP client. grpc.aio costs some 300 us of CPU a call, this a tenth.
"""

import asyncio
import time
from collections.abc import Callable

from hpack import Decoder

from loadgen.record import Cause, Outcome, Sample, outcome_of_status
from loadgen.units import NS_PER_S
from tests.bench import h2frames as h2
from tests.bench.grpc_payload import HEADERS, SMALL, framed
from tests.bench.h2connection import Connection

# HAProxy takes 100 streams on a connection, the least of all; four times 160 calls/s that stay for a second fit.
_CONNECTIONS = 16
_SWEEP_S = 0.02
_CANCEL = (8).to_bytes(4, "big")
_END = h2.frame(h2.DATA, h2.END_STREAM, 0)[:5]

# Where HTTP has a status of the same meaning; the rest is 500.
_STATUSES = {b"0": 200, b"4": 504, b"8": 429, b"14": 503}


def status_of(fields: dict[bytes, bytes]) -> int:
    """The HTTP status that means what the fields of a call's head and trailers say, also without gRPC's own."""
    status = fields.get(b"grpc-status")
    if status is not None:
        return _STATUSES.get(status, 500)
    plain = int(fields.get(b":status", b"500"))
    return 500 if plain == 200 else plain


class _Caller(Connection):
    """A connection; `on_end` gets each sample that has ended."""

    def __init__(self, block: bytes, on_end: Callable[[Sample], None]) -> None:
        super().__init__(server=False)
        self.is_open = True
        self._block = block
        self._on_end = on_end
        self._decoder = Decoder()
        self._last = -1
        self._samples: dict[int, Sample] = {}
        self._fields: dict[int, dict[bytes, bytes]] = {}

    @property
    def inflight(self) -> int:
        """How many calls have not ended."""
        return len(self._samples)

    def call(self, message: memoryview, sample: Sample) -> None:
        """Send a call."""
        self._last += 2
        stream = self._last
        self._samples[stream] = sample
        self._fields[stream] = {}
        self.open(stream, self._block)
        self.send(stream, message, _END + stream.to_bytes(4, "big"))
        self.flush()

    def give_up(self, before_ns: int) -> None:
        """Cancel every call that was due before a time."""
        late = []
        for stream, sample in self._samples.items():
            if sample.intended_ns > before_ns:
                break
            late.append(stream)
        for stream in late:
            self.windows.pop(stream, None)
            self.out.append(h2.frame(h2.RST_STREAM, 0, stream, _CANCEL))
            self._fail(stream, Cause.TIMEOUT)
        self.flush()

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        # Blocks of streams that were cancelled build the table too.
        fields = {bytes(name): bytes(value) for name, value in self._decoder.decode(bytes(block), raw=True)}
        if stream in self._samples:
            self._fields[stream].update(fields)
            if end:
                self._answered(stream)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        if end and stream in self._samples:
            self._answered(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        for stream in list(self._samples):
            self._fail(stream, Cause.RESET if exc else Cause.CLOSED)

    def _control(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        super()._control(kind, flags, stream, payload)
        if kind == h2.RST_STREAM and stream in self._samples:
            self._fail(stream, Cause.RESET)
        elif kind == h2.GOAWAY:
            self.is_open = False

    def _answered(self, stream: int) -> None:
        self.windows.pop(stream, None)
        sample = self._samples.pop(stream)
        sample.status = status_of(self._fields.pop(stream))
        sample.outcome = outcome_of_status(sample.status)
        self._end(sample)

    def _fail(self, stream: int, cause: Cause) -> None:
        del self._fields[stream]
        sample = self._samples.pop(stream)
        sample.cause = cause
        sample.outcome = Outcome.TIMEOUT if cause is Cause.TIMEOUT else Outcome.ERROR
        self._end(sample)

    def _end(self, sample: Sample) -> None:
        sample.done_ns = time.monotonic_ns()
        self._on_end(sample)


class Client:
    """Calls ModelInfer on one port, by the connections in turn. `patience_s` runs from a sample's intended time.

    `told_s` is the deadline in grpc-timeout. `on_end` may send the next call.
    """

    def __init__(self, port: int, on_end: Callable[[Sample], None], *, patience_s: float, told_s: float) -> None:
        pseudo = {":method": "POST", ":scheme": "http", ":authority": f"127.0.0.1:{port}", ":path": SMALL.method}
        told = {"grpc-timeout": f"{told_s * 1000:.0f}m"}
        self._block = h2.block([*pseudo.items(), *HEADERS.items(), *told.items()])
        self._message = memoryview(framed(SMALL.request))
        self._port = port
        self._on_end = on_end
        self._patience_ns = round(patience_s * NS_PER_S)
        self._callers: list[_Caller] = []
        self._turn = 0
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def inflight(self) -> int:
        """How many calls have not ended."""
        return sum(caller.inflight for caller in self._callers)

    async def connect(self) -> None:
        """Open the connections. Raises OSError."""
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECTIONS):
            _, caller = await loop.create_connection(
                lambda: _Caller(self._block, self._on_end), "127.0.0.1", self._port
            )
            self._callers.append(caller)
        self._sweep()

    def send(self, sample: Sample) -> None:
        """Make a call now; where no connection is left it fails at once."""
        sample.sent_ns = time.monotonic_ns()
        for _ in range(_CONNECTIONS):
            self._turn = (self._turn + 1) % _CONNECTIONS
            if self._callers[self._turn].is_open:
                self._callers[self._turn].call(self._message, sample)
                return
        sample.done_ns = sample.sent_ns
        sample.outcome, sample.cause = Outcome.ERROR, Cause.CONNECT
        self._on_end(sample)

    def close(self) -> None:
        """Drop the connections; calls in flight end as failed."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for caller in self._callers:
            caller.transport.abort()

    def _sweep(self) -> None:
        before_ns = time.monotonic_ns() - self._patience_ns
        for caller in self._callers:
            if caller.is_open:
                caller.give_up(before_ns)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
