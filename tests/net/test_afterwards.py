"""The check after each test on sockets finds what a test has left."""

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
