"""For tests: the benchmark's own server side on a port of its own, in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .h2connection import Connection


@asynccontextmanager
async def listening(behaviour: Callable[[], Connection]) -> AsyncIterator[int]:
    """Serves; yields the port. No connection is left open behind it."""
    accepted: list[Connection] = []

    def accept() -> Connection:
        accepted.append(behaviour())
        return accepted[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for connection in accepted:
        connection.transport.abort()
    await asyncio.sleep(0)  # the sockets are closed in the next turn of the loop
