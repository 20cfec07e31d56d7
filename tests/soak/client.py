"""What clients of both protocols share: how they dial, and one request on a connection of its own."""

import asyncio
import socket
from typing import Generic, TypeVar

from tests.soak.ledger import Ledger
from tests.soak.plan import Dice, Plan

_Connection = TypeVar("_Connection", bound=asyncio.Protocol)


class Client(Generic[_Connection]):
    """Asks the agent at an address, and keeps the ledger."""

    def __init__(self, address: tuple[str, int], ledger: Ledger, seed: int, *, grpc: bool) -> None:
        self._address = address
        self._ledger = ledger
        self._dice = Dice(seed, grpc=grpc)
        self._rng = self._dice.rng

    def make(self) -> _Connection:
        """A connection that is not made yet."""
        raise NotImplementedError

    async def ask(self, connection: _Connection, plan: Plan) -> None:
        """One request."""
        raise NotImplementedError

    def leave(self, connection: _Connection) -> None:
        """End it."""
        raise NotImplementedError

    async def dial(self, *, kernel_buffer: int = 0) -> _Connection:
        """A new connection, on which the kernel holds so many bytes that are not read."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setblocking(False)
        if kernel_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_buffer)
        await loop.sock_connect(sock, self._address)
        _, connection = await loop.create_connection(self.make, sock=sock)
        return connection

    async def one(self, plan: Plan) -> None:
        """One request on a connection of its own."""
        connection = await self.dial()
        await self.ask(connection, plan)
        self.leave(connection)
