"""The predictor behind every proxy in the gRPC rows: it answers at once with bytes made beforehand.

It reads no header: one port does one thing. `python -m tests.bench.grpc_backend PORT BEHAVIOUR` runs it.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvloop

from . import h2frames as h2
from .grpc_payload import DOWNLOAD, MESSAGE, SMALL, UPLOAD, Call, framed
from .h2connection import Connection
from .pingpong import Pingpong
from .process import Child, Command, Cores, accepts, free_ports, poll_until

_START_S = 10.0

HEAD = h2.block(
    [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-accept-encoding", "identity, deflate, gzip"),
    ]
)
TRAILERS = h2.block([("grpc-status", "0")])
_WRONG = h2.block([(":status", "500")])
_END = h2.END_HEADERS | h2.END_STREAM


class Answering(Connection):
    """Answers every call whose body has the expected length; any other gets status 500, which load generators count."""

    def __init__(self, call: Call) -> None:
        super().__init__(server=True)
        self._expected = len(framed(call.request))
        self._answer = framed(call.answer)
        self._sizes: dict[int, int] = {}
        # One answer in the parts between which its stream number stands, for the usual case that the windows allow it.
        self._parts = (
            h2.frame(h2.HEADERS, h2.END_HEADERS, 0, HEAD)[:5],
            HEAD + h2.head(len(self._answer), h2.DATA, 0, 0)[:5],
            self._answer + h2.frame(h2.HEADERS, _END, 0, TRAILERS)[:5],
            TRAILERS,
        )
        self._short = len(self._answer) <= h2.MAX_FRAME

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self._sizes[stream] = 0
        if end:
            self._complete(stream)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        self._sizes[stream] += len(payload)
        if end:
            self._complete(stream)

    def _complete(self, stream: int) -> None:
        number = stream.to_bytes(4, "big")
        if self._sizes.pop(stream) != self._expected:
            self.out.append(h2.frame(h2.HEADERS, _END, stream, _WRONG))
            del self.windows[stream]
        elif self._short and len(self._answer) <= min(self.window, self.windows[stream]):
            self.window -= len(self._answer)
            del self.windows[stream]
            self.out.append(number.join(self._parts))
        else:
            self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, HEAD))
            self.send(stream, memoryview(self._answer), h2.frame(h2.HEADERS, _END, stream, TRAILERS))


class Streaming(Pingpong):
    """Answers every message of a stream with one message, a frame each, and ends the stream when its client does."""

    def __init__(self) -> None:
        super().__init__(server=True, mine=framed(MESSAGE.answer), theirs=framed(MESSAGE.request))

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self.out.append(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, HEAD))
        super().on_headers(stream, block, end)

    def finished(self, stream: int) -> None:
        del self.windows[stream]
        self.out.append(h2.frame(h2.HEADERS, _END, stream, TRAILERS))


class Holding(Connection):
    """Takes calls and never answers."""

    def __init__(self) -> None:
        super().__init__(server=True)


BEHAVIOURS: Mapping[str, Callable[[], Connection]] = {
    **{call.name: partial(Answering, call) for call in (SMALL, UPLOAD, DOWNLOAD)},
    MESSAGE.name: Streaming,
    "hold": Holding,
}


@contextmanager
def backend(behaviour: str, cores: Cores, directory: Path) -> Iterator[int]:
    """Run a backend beside the load; yields its port. Raises BenchError if it does not start."""
    (port,) = free_ports(1)
    command = Command([sys.executable, "-m", __name__, str(port), behaviour], {})
    with Child(command, cores.client, directory / f"backend-{port}.log") as child:
        deadline = time.monotonic() + _START_S
        while not accepts(port):
            poll_until(deadline, child)
        yield port
        child.require_alive()


async def _serve(port: int, behaviour: Callable[[], Connection]) -> None:
    server = await asyncio.get_running_loop().create_server(behaviour, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), BEHAVIOURS[sys.argv[2]]))
