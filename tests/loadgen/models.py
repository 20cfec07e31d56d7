"""`python -m tests.loadgen.models KIND ...`: predictors of known capacity, and one that stalls, as a process.

V2 over HTTP/1.1 on a free port, told in one line of JSON. `sharing CORES MS`: processor sharing, each request has MS of
work and at most one core. `batch SIZE A B`: one batch at a time, up to SIZE requests in A + B * n ms, gathered for two
milliseconds. `stall EVERY MS`: answers at once, except that after every EVERY-th request nobody is answered for MS.
"""

import asyncio
import json
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + b'{"outputs":[]}'
_GATHER_S = 0.002


class Model(Protocol):
    """Calls `done` when the request has been computed."""

    def submit(self, done: Callable[[], None]) -> None: ...


class Sharing:
    """Requests that execute share the cores evenly; time is exact, however late a timer fires."""

    def __init__(self, cores: float, work_ms: float) -> None:
        self._cores, self._work_s = cores, work_ms / 1e3
        self._loop = asyncio.get_running_loop()
        self._left: deque[tuple[float, Callable[[], None]]] = deque()  # by the service that ends them, in order
        self._served = 0.0
        self._at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, done: Callable[[], None]) -> None:
        self._advance()
        self._left.append((self._served + self._work_s, done))
        self._arm()

    def _speed(self) -> float:
        return min(1.0, self._cores / len(self._left))

    def _advance(self) -> None:
        """Each request that executes has been served as long as any other, so one counter tells who has ended when."""
        now = self._loop.time()
        while self._left:
            ends, done = self._left[0]
            ends_at = self._at + (ends - self._served) / self._speed()
            if ends_at > now:
                self._served += (now - self._at) * self._speed()
                break
            self._served, self._at = ends, ends_at
            self._left.popleft()
            self._loop.call_soon(done)
        self._at = now

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._left:
            wait_s = (self._left[0][0] - self._served) / self._speed()
            self._timer = self._loop.call_later(wait_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._advance()
        self._arm()


class Batch:
    """One batch at a time."""

    def __init__(self, size: float, start_ms: float, each_ms: float) -> None:
        self._size, self._start_s, self._each_s = int(size), start_ms / 1e3, each_ms / 1e3
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._busy = False

    def submit(self, done: Callable[[], None]) -> None:
        self._waiting.append(done)
        if not self._busy:
            self._busy = True
            self._loop.call_later(_GATHER_S, self._run, self._loop.time() + _GATHER_S)

    def _run(self, planned: float) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        ends = planned + self._start_s + self._each_s * len(batch)
        self._loop.call_at(ends, self._end, batch, ends)

    def _end(self, batch: list[Callable[[], None]], planned: float) -> None:
        for done in batch:
            done()
        if len(self._waiting) >= self._size:
            self._run(planned)
        else:
            self._loop.call_later(_GATHER_S, self._next, planned + _GATHER_S)

    def _next(self, planned: float) -> None:
        if self._waiting:
            self._run(planned)
        else:
            self._busy = False


class Stall:
    """Fast, but now and then not at all."""

    def __init__(self, every: float, pause_ms: float) -> None:
        self._every, self._pause_s = int(every), pause_ms / 1e3
        self._loop = asyncio.get_running_loop()
        self._seen = 0
        self._held: list[Callable[[], None]] | None = None

    def submit(self, done: Callable[[], None]) -> None:
        self._seen += 1
        if self._held is None and self._seen % self._every == 0:
            self._held = []
            self._loop.call_later(self._pause_s, self._go_on)
        if self._held is None:
            done()
        else:
            self._held.append(done)

    def _go_on(self) -> None:
        held, self._held = self._held or [], None
        for done in held:
            done()


class Connection(asyncio.Protocol):
    """One request at a time; every path and body will do."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, end, body = self._rest.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(
            (int(f.split(b":")[1]) for f in head.split(b"\r\n") if f.lower().startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return
        self._rest = body[length:]
        if head.startswith(b"GET"):
            told = json.dumps({"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(told), told))
        else:
            self._model.submit(self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


KINDS: dict[str, Callable[..., Model]] = {"sharing": Sharing, "batch": Batch, "stall": Stall}


async def serve(kind: str, numbers: list[float]) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    model = KINDS[kind](*numbers)
    server = await loop.create_server(lambda: Connection(model), "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"event": "listening", "port": server.sockets[0].getsockname()[1]}), flush=True)
    await stop.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], [float(number) for number in sys.argv[2:]]))
