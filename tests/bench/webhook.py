"""How long the webhook takes when fifty pods are created at once: `python -m tests.bench.webhook`.

One webhook process with its log on, one client process; TLS 1.3, connections kept as the API server keeps them.
"""

import argparse
import asyncio
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from typing import cast

import uvloop

from tests.inject.endpoint import HOST, Pair, review_of
from tests.inject.goldens import CASES

CONCURRENT = 50
_WARM_UP = 500
_ROW = "| {:<44} | {:>6.2f} | {:>6.2f} | {:>6.2f} | {:>9.0f} |"


class Caller(asyncio.Protocol):
    """One connection of the API server's: a review, its answer, and how long it took."""

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._received = bytearray()
        self._answered: asyncio.Future[None] | None = None
        self.times_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's class

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) == length and self._answered is not None:
            assert head.startswith(b"HTTP/1.1 200")
            self._answered.set_result(None)

    async def call(self) -> None:
        self._received.clear()
        self._answered = asyncio.get_running_loop().create_future()
        begun = perf_counter()
        self._transport.write(next(self._requests))
        await self._answered
        self.times_s.append(perf_counter() - begun)

    def close(self) -> None:
        self._transport.close()


def _request(body: bytes) -> bytes:
    return (
        b"POST /mutate?timeout=5s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (
            HOST.encode(),
            len(body),
        )
        + body
    )


def _figures(times_s: list[float], seconds: float) -> tuple[float, float, float, float]:
    """p50, p99 and the worst, in milliseconds, and calls a second."""
    cuts = quantiles(times_s, n=100)
    return cuts[49] * 1000, cuts[98] * 1000, max(times_s) * 1000, len(times_s) / seconds


def _cpu_s(pid: int) -> float:
    """What a process has used, from its 14th and 15th field in proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(port: int, context: ssl.SSLContext, seconds: float) -> int:
    """Print the rows. Returns how many reviews were answered."""
    requests = cycle([_request(review_of(case.before)) for case in CASES])
    loop = asyncio.get_running_loop()

    async def dial() -> Caller:
        _, caller = await loop.create_connection(
            lambda: Caller(requests), "127.0.0.1", port, ssl=context, server_hostname=HOST
        )
        return caller

    callers = [await dial() for _ in range(CONCURRENT)]
    for _ in range(_WARM_UP // CONCURRENT):
        await asyncio.gather(*(caller.call() for caller in callers))

    async def load(caller: Caller, until: float) -> None:
        while perf_counter() < until:
            await caller.call()

    async def waiting(until: float) -> None:
        await asyncio.gather(*(load(caller, until) for caller in callers))

    async def bursts(until: float) -> None:
        while perf_counter() < until:
            await asyncio.gather(*(caller.call() for caller in callers))
            await asyncio.sleep(0.1)

    print("| reviews of all golden pods, in ms            |    p50 |    p99 |  worst |  a second |")
    print("|---|---|---|---|---|")
    answered = _WARM_UP
    for name, drive in (
        (f"{CONCURRENT} always waiting for an answer", waiting),
        (f"{CONCURRENT} at once, ten times a second", bursts),
        ("one after the other", partial(load, callers[0])),
    ):
        for caller in callers:
            caller.times_s.clear()
        begun = perf_counter()
        await drive(begun + seconds)
        times = [one for caller in callers for one in caller.times_s]
        print(_ROW.format(name, *_figures(times, perf_counter() - begun)))
        answered += len(times)
    for caller in callers:
        caller.close()
    return answered


@contextmanager
def running(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Pair]]:
    """A webhook process whose log goes into a file, its port and its certificate."""
    pair = Pair(directory)
    log = directory / "log"
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADGATE_")}
    flags = ("--listen=127.0.0.1:0", "--image=r/headgate:1", "--sidecar=native", "--drain-delay=0")
    files = (f"--tls-cert={pair.cert}", f"--tls-key={pair.key}")
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "agent", "webhook", *flags, *files], stderr=output, env=env)
    try:
        while not (lines := log.read_text().splitlines()):
            if process.poll() is not None:
                raise RuntimeError("the webhook did not start")
        yield process, int(json.loads(lines[0])["listen"].rpartition(":")[2]), pair
    finally:
        process.terminate()
        process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default 10)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory, running(Path(directory)) as (process, port, pair):
        began = _cpu_s(process.pid)
        reviews = uvloop.run(_measure(port, pair.client(), seconds))
        print(f"\nCPU of the webhook: {(_cpu_s(process.pid) - began) / reviews * 1e6:.0f} us a review")
    return 0


if __name__ == "__main__":
    sys.exit(main())
