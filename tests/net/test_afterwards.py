"""The check after each test on sockets finds what a test has left."""

import asyncio
import socket

import pytest

from agent.wire.http2 import ClientStream
from tests import sockets
from tests.net.afterwards import nothing_left


async def test_nothing_is_left() -> None:
    async with nothing_left():
        sock = socket.socket()
        stream = ClientStream()
        sock.close()
        del stream


async def test_a_socket_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "PATIENCE_S", 0.01)
    with pytest.raises(AssertionError, match="sockets are left open"):
        async with nothing_left():
            sock = socket.socket()
    sock.close()


async def test_an_object_is_left() -> None:
    kept: list[object] = []
    with pytest.raises(AssertionError, match="ClientStream"):
        async with nothing_left():
            kept.append(ClientStream())


class Ring(ClientStream):
    """Nobody but the collector frees it."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = self


async def test_what_the_loop_lets_go_a_few_turns_later_is_not_left() -> None:
    async def hold(ring: Ring) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async with nothing_left():
        task = asyncio.create_task(hold(Ring()))
    await task
