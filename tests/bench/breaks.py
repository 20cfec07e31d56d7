"""What requests that break a connection to the predictor cost those beside them: `python -m tests.bench.breaks`.

The predictor resets the connection of each of them and lives. Callers of each protocol in turn keep four times as many
requests as there are slots; what they are answered a second is printed.
"""

import argparse
import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import perf_counter

import aiohttp
import grpc.aio

from tests.soak.book import Book
from tests.soak.plan import Deed, plain
from tests.soak.processes import Agent, Predictor

SLOTS, SERVICE_S, CALLERS = 2, 0.002, 8
RATES = (0, 10, 50, 100)
_BOOK_LINES = 1 << 20
_PATH = "/v2/models/m0/infer"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"

Call = Callable[[dict[str, str]], Awaitable[bool]]


def _fields(deed: Deed, delay_s: float, numbers: "itertools.count[int]") -> dict[str, str]:
    return {"x-id": str(next(numbers) % _BOOK_LINES), "x-plan": plain(deed, delay_s=delay_s).words.decode()}


@asynccontextmanager
async def _http(address: str) -> AsyncIterator[Call]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(fields: dict[str, str]) -> bool:
            async with session.post(f"http://{address}{_PATH}", data=b"x" * 100, headers=fields) as response:
                await response.read()
                return response.status == 200

        yield call


@asynccontextmanager
async def _grpc(address: str) -> AsyncIterator[Call]:
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(_METHOD)

        async def call(fields: dict[str, str]) -> bool:
            try:
                await method(b"\x0a\x02m0", metadata=tuple(fields.items()))
            except grpc.aio.AioRpcError:
                return False
            return True

        yield call


async def _goodput(call: Call, breaking: Call, rate: float, seconds: float, numbers: "itertools.count[int]") -> float:
    """Answers a second to the callers."""
    answered, until = 0, perf_counter() + seconds

    async def caller() -> None:
        nonlocal answered
        while perf_counter() < until:
            good = await call(_fields(Deed.ANSWER, SERVICE_S, numbers))
            answered += good

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
        for index in range(int(rate * seconds)):
            await asyncio.sleep(until - seconds + index / rate - perf_counter())
            group.create_task(breaking(_fields(Deed.RESET, 0.0, numbers)))
    return answered / seconds


async def measure(seconds: float, folder: Path) -> None:
    """Print a row for each rate."""
    Book(folder / "book", _BOOK_LINES).close()
    numbers = itertools.count()
    async with AsyncExitStack() as stack:
        predictor = Predictor(folder)
        stack.push_async_callback(predictor.close)
        await predictor.start()
        agent = await Agent.start(predictor.upstream, folder, f"limit = {SLOTS}\n", [])
        stack.push_async_callback(agent.close)
        address = "{}:{}".format(*agent.address)
        http, grpc_ = [await stack.enter_async_context(calling(address)) for calling in (_http, _grpc)]
        print("| requests that break a connection, a second | HTTP/1.1 answers a second | gRPC |\n|---|---|---|")
        for rate in RATES:
            rows = [await _goodput(call, http, rate, seconds, numbers) for call in (http, grpc_)]
            print(f"| {rate:>5} | {rows[0]:>7.0f} | {rows[1]:>7.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(parser.parse_args().seconds, Path(directory)))
