"""Servers for the load generator's tests: raw sockets on port 0 that do exactly what a test says."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from loadgen.http_client import Address

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHED = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class Line:
    """One accepted connection, as the server's script sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request, head and body. Raises asyncio.IncompleteReadError when the client is gone."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for field in head.split(b"\r\n"):
            name, _, value = field.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return head + await self._reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        """Write and wait until the kernel has it."""
        self._writer.write(data)
        await self._writer.drain()

    async def read(self) -> bytes:
        """What has arrived; empty when the client is gone."""
        return await self._reader.read(65536)

    async def gone(self) -> None:
        """Wait until the client has closed."""
        while await self._reader.read(65536):
            pass

    def reset(self) -> None:
        """Close with a TCP reset."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close in the orderly way."""
        self._writer.close()


class Peer:
    """Where a server listens and how many connections it has accepted."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.accepted = 0


@asynccontextmanager
async def serving(script: Callable[[Line], Awaitable[None]]) -> AsyncIterator[Peer]:
    """A server on a free port, and half a minute for what a test does with it.

    When left, it waits for every script to end, so a client that leaks a connection is noticed.
    """
    loop = asyncio.get_running_loop()
    scripts: set[asyncio.Task[None]] = set()

    async def play(line: Line) -> None:
        peer.accepted += 1
        try:
            await script(line)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            line.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripts.add(loop.create_task(play(Line(reader, writer))))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
    peer = Peer(server.sockets[0].getsockname()[:2])
    try:
        async with asyncio.timeout(30):
            yield peer
    finally:
        server.close()
        async with asyncio.timeout(5):
            await asyncio.gather(*scripts)


def answering(answer: bytes = OK) -> Callable[[Line], Awaitable[None]]:
    """A script that gives the same answer to every request until the client leaves."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.send(answer)

    return script


def refused_address() -> tuple[Address, socket.socket]:
    """An address that refuses connections for as long as the returned socket is kept."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held.getsockname(), held
