"""Row: the agent's memory while gigabytes go through one stream from a fast sender to a receiver that keeps pausing.

The receiver opens its windows as far as HTTP/2 allows and then does not read its socket: nothing but the agent's own
back-pressure keeps what the sender could send in a pause out of the agent's memory. Both ends run in this process.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from time import perf_counter

import uvloop

from . import h2frames as h2
from .grpc_backend import HEAD, TRAILERS
from .grpc_client import STREAM, Calling, Ending, dial, request_head
from .grpc_payload import MESSAGE, POUR, framed
from .grpc_rows import settled
from .h2connection import Connection
from .peers import agent, running_h2c
from .plan import Plan
from .process import BenchError
from .report import Samples

BLOCK = framed(POUR.request)
PAUSE_EVERY_BYTES = 128 << 20
PAUSE_S = 0.1

_MIB = 1 << 20
_END_S = 120.0
_END = h2.END_HEADERS | h2.END_STREAM
_BLOCK = memoryview(BLOCK)


class Tally:
    """Bytes of messages that have arrived, prefixes included, and how often reading paused meanwhile."""

    __slots__ = ("pauses", "received")

    def __init__(self) -> None:
        self.received = 0
        self.pauses = 0


class Sender(Connection):
    """Sends BLOCK again and again on a stream, as fast as windows and socket take it, then the frames `last`."""

    def __init__(self, blocks: int, *, server: bool) -> None:
        super().__init__(server=server)
        self._left = blocks
        self._stream, self._last = 0, b""
        self._full = False

    def pour(self, stream: int, last: bytes) -> None:
        """Begin."""
        self._stream, self._last = stream, last
        self._more()

    def on_credit(self) -> None:
        self._more()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._more()

    def _more(self) -> None:
        while self._stream and self._left and not self._full and not self.is_blocked(self._stream):
            self._left -= 1
            self.send(self._stream, _BLOCK, b"" if self._left else self._last)
            self.flush()


class Receiver(Connection):
    """Compares what it gets with BLOCK again and again, and stops reading its socket for a while every so often."""

    def __init__(self, tally: Tally, *, server: bool) -> None:
        super().__init__(server=server, stream_window=h2.MAX_WINDOW, connection_window=h2.MAX_WINDOW)
        self._tally = tally
        self._pause_at = PAUSE_EVERY_BYTES

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        at = self._tally.received % len(BLOCK)
        data = bytes(payload)
        first = BLOCK[at : at + len(data)]
        if data != first + BLOCK[: len(data) - len(first)]:
            raise ValueError(f"the stream arrived changed at byte {self._tally.received}")
        self._tally.received += len(data)
        if self._tally.received >= self._pause_at:
            self._pause_at += PAUSE_EVERY_BYTES
            self._tally.pauses += 1
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE_S, self._resume_reading)

    def _resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


class Uploader(Calling, Sender):
    """The client of a long request."""

    def __init__(self, blocks: int, port: int) -> None:
        super().__init__(blocks, server=False)
        self.ending = Ending()
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.open(STREAM, request_head(self._port, MESSAGE.method))
        self.pour(STREAM, h2.frame(h2.DATA, h2.END_STREAM, STREAM))


class UploadServer(Receiver):
    """The slow predictor of a long request."""

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, HEAD))

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        super().on_data(stream, payload, end)
        if end:
            self.out.append(h2.frame(h2.HEADERS, _END, stream, TRAILERS))


class Downloader(Calling, Receiver):
    """The slow client of a long answer."""

    def __init__(self, tally: Tally, port: int) -> None:
        super().__init__(tally, server=False)
        self.ending = Ending()
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.open(STREAM, request_head(self._port, MESSAGE.method))
        self.out.append(h2.frame(h2.DATA, h2.END_STREAM, STREAM, framed(MESSAGE.request)))
        super().connection_made(transport)


class DownloadServer(Sender):
    """The predictor of a long answer."""

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, HEAD))
        self.pour(stream, h2.frame(h2.HEADERS, _END, stream, TRAILERS))


def slow(plan: Plan) -> Samples:
    """The agent's peak growth over its idle memory, with the receiver behind it (`up`) and before it (`down`)."""
    blocks = plan.effort.stream_bytes // len(BLOCK)
    up, down = Tally(), Tally()
    upload = _measure(plan, partial(UploadServer, up, server=True), partial(Uploader, blocks), up)
    download = _measure(plan, partial(DownloadServer, blocks, server=True), partial(Downloader, down), down)
    up_mib, up_mb_s = uvloop.run(upload)
    down_mib, down_mb_s = uvloop.run(download)
    return {"agent": [{"up_mib": up_mib, "down_mib": down_mib, "up_mb_s": up_mb_s, "down_mb_s": down_mb_s}]}


async def _measure(
    plan: Plan, serve: Callable[[], Connection], call: Callable[[int], Calling], tally: Tally
) -> tuple[float, float]:
    """Growth in MiB and speed in MB/s, pauses included, of one stream through an agent of its own."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(serve, "127.0.0.1", 0)
    with running_h2c(agent(), server.sockets[0].getsockname()[1], plan.cores, plan.directory) as proxy:
        await asyncio.to_thread(settled, proxy, inflight=0)
        idle = proxy.child.rss_bytes()
        begun = perf_counter()
        caller = await dial(proxy.ports.data, partial(call, proxy.ports.data))
        await caller.ending.wait(_END_S)
        elapsed_s = perf_counter() - begun
        caller.transport.close()
        await asyncio.to_thread(settled, proxy, inflight=0)
        growth = proxy.child.peak_rss_bytes() - idle
    server.close()
    if tally.received != plan.effort.stream_bytes:
        raise BenchError(f"{tally.received} of {plan.effort.stream_bytes} bytes of a stream arrived")
    if tally.pauses != plan.effort.stream_bytes // PAUSE_EVERY_BYTES:
        raise BenchError(f"the receiver paused {tally.pauses} times only")
    return growth / _MIB, tally.received / elapsed_s / 1e6
