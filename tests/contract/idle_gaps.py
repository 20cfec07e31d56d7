"""Requests after idle gaps, for which a predictor may just have closed the connection.

    python -m tests.contract.idle_gaps --requests 20000

MLServer closes a connection that has been idle for 5 s, without a word. Several lanes send bursts of requests with gaps
between them. Each lane has a route of the agent to itself, and so connections to MLServer that are as idle as the lane
is. Half of the gaps are spread over a range around the 5 s. The other half end within milliseconds of them, when a
request and the end of its connection can meet under way. One failure is a failure.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .install import InstallError
from .launchers import mlserver
from .payloads import INFER, JSON, v2
from .processes import running_agent
from .rawhttp import request, split

LANES = 24
CLIENTS = 2
CLOSES_AFTER_S = 5.0
WIDE_S = (3.5, 6.0)
# An agent that kept idle connections for a minute lost 2 or 3 of 48 requests that began in this range.
NARROW_S = (4.985, 5.015)
# A request that is not answered by then never will be; far above what a busy machine needs.
_ANSWER_S = 20.0


@dataclass(slots=True)
class Tally:
    """What happened: gaps in seconds, answers that were right, and what else came instead, by its description."""

    gaps: list[float] = field(default_factory=list)
    served: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        failed = self.failures.total()
        beyond = sum(gap >= CLOSES_AFTER_S for gap in self.gaps)
        return (
            f"idle gaps: {self.served + failed} requests, {len(self.gaps)} gaps of {min(self.gaps):.2f} to "
            f"{max(self.gaps):.2f} s ({beyond} beyond {CLOSES_AFTER_S:g} s), {failed} failures"
            + "".join(f"; {count} x {reason}" for reason, count in self.failures.most_common(5))
        )


class Client:
    """A client that keeps its connection. It opens another only after a failure."""

    def __init__(self, address: str) -> None:
        self._address = split(address)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def infer(self, number: int) -> str:
        """Ask; returns what is wrong with the answer, if anything."""
        body = v2([float(number)], request_id=str(number))
        try:
            async with asyncio.timeout(_ANSWER_S):
                status_line, answer = await self._exchange(request("POST", INFER, body, JSON).data)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            return repr(error)
        if not status_line.startswith(b"http/1.1 200 "):
            return f"{status_line.decode()}: {answer.get('error')}"
        if answer["id"] != str(number) or answer["outputs"][0]["data"] != [2.0 * number]:
            return "the answer of another request"
        return ""

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, data: bytes) -> tuple[bytes, dict[str, Any]]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(data)
        status_line, *fields = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        (length,) = [line.partition(b":")[2] for line in fields if line.startswith(b"content-length:")]
        return status_line, json.loads(await reader.readexactly(int(length)))


def plan(requests: int, gaps: int, rng: random.Random) -> list[list[tuple[float, int]]]:
    """For each lane its bursts: the gap in seconds before it, none before the first, and how many requests it has."""
    count = LANES * gaps
    narrow = count // 2
    spread = _spread(WIDE_S, count - narrow, rng) + _spread(NARROW_S, narrow, rng)
    rng.shuffle(spread)
    bursts = LANES * (gaps + 1)
    sizes = [requests // bursts + (index < requests % bursts) for index in range(bursts)]
    return [list(zip([0.0, *spread[lane::LANES]], sizes[lane::LANES], strict=True)) for lane in range(LANES)]


def _spread(range_s: tuple[float, float], count: int, rng: random.Random) -> list[float]:
    """Random numbers that leave no part of the range out."""
    low, high = range_s
    return [low + (high - low) * (index + rng.random()) / count for index in range(count)]


async def drive(addresses: Sequence[str], requests: int, gaps: int, rng: random.Random) -> Tally:
    """Send `requests` over the lanes, one for each address, with so many gaps in each."""
    tally = Tally()
    numbers = itertools.count()

    async def send(client: Client, count: int) -> None:
        for _ in range(count):
            if wrong := await client.infer(next(numbers)):
                tally.failures[wrong] += 1
            else:
                tally.served += 1

    async def run(address: str, bursts: list[tuple[float, int]]) -> None:
        clients = [Client(address) for _ in range(CLIENTS)]
        for gap_s, size in bursts:
            await asyncio.sleep(gap_s)
            if gap_s:
                tally.gaps.append(gap_s)
            async with asyncio.TaskGroup() as group:
                for index, client in enumerate(clients):
                    group.create_task(send(client, size // CLIENTS + (index < size % CLIENTS)))
        for client in clients:
            client.close()

    async with asyncio.TaskGroup() as lanes:
        for address, bursts in zip(addresses, plan(requests, gaps, rng), strict=True):
            lanes.create_task(run(address, bursts))
    return tally


def check(url: str, directory: Path, requests: int, gaps: int, seed: int) -> Tally:
    """Put an agent in front of the MLServer at `url` and send the requests through it."""
    with running_agent(directory, [url] * LANES, "--limit", "none") as agent:
        return asyncio.run(drive(agent.addresses, requests, gaps, random.Random(seed)))


def main() -> int:
    """Returns the exit code: 1 after a failure, 69 (EX_UNAVAILABLE) without MLServer."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract.idle_gaps")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--gaps", type=int, default=18, help=f"idle gaps of each of the {LANES} lanes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        try:
            server = mlserver(Path(name))
        except InstallError as error:
            print(error, file=sys.stderr)
            return 69
        with server:
            tally = check(server.url, Path(name), options.requests, options.gaps, options.seed)
    print(f"{tally.verdict}, {time.monotonic() - began:.0f} s")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
