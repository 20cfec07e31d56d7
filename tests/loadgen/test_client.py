"""What the clients of both protocols share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from loadgen import grpc_client, http_client
from loadgen.client import BaseClient
from loadgen.record import Sample

NOWHERE = ("127.0.0.1", 9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: http_client.fetch(NOWHERE, b"", 5.0),
        lambda: grpc_client.call(NOWHERE, b"", b"", 5.0),
    ],
    ids=["http", "grpc"],
)
async def test_an_answer_may_come_in_the_turn_in_which_nobody_waits_any_more(
    ask: Callable[[], Awaitable[Sample]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, wrong = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, context: wrong.append(context))

    def send(client: BaseClient[Any], _: bytes, sample: Sample) -> None:
        loop.call_soon(lambda: (task.cancel(), client._on_done(sample)))

    monkeypatch.setattr(BaseClient, "send", send)
    task = asyncio.ensure_future(ask())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wrong == []
