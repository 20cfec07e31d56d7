"""The clients and predictors of the streaming rows, joined without a proxy between them."""

from functools import partial

import pytest

from . import grpc_slow
from .grpc_backend import BEHAVIOURS, TRAILERS, Streaming
from .grpc_client import dial
from .grpc_payload import MESSAGE
from .grpc_slow import BLOCK, Downloader, DownloadServer, Tally, Uploader, UploadServer
from .grpc_stream import OUTSTANDING, Caller
from .h2frames import END_HEADERS, END_STREAM, HEADERS, frame
from .listening import listening
from .process import BenchError


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch) -> Tally:
    """Pauses as often as a short stream allows."""
    monkeypatch.setattr(grpc_slow, "PAUSE_EVERY_BYTES", len(BLOCK))
    monkeypatch.setattr(grpc_slow, "PAUSE_S", 0.001)
    return Tally()


async def test_a_long_request_reaches_a_slow_predictor(tally: Tally) -> None:
    async with listening(partial(UploadServer, tally, server=True)) as port:
        caller = await dial(port, partial(Uploader, 3, port))
        await caller.ending.wait(10)
        caller.transport.abort()
    assert (tally.received, tally.pauses) == (3 * len(BLOCK), 3)


async def test_a_long_answer_reaches_a_slow_client(tally: Tally) -> None:
    async with listening(partial(DownloadServer, 3, server=True)) as port:
        caller = await dial(port, partial(Downloader, tally, port))
        await caller.ending.wait(10)
        caller.transport.abort()
    assert (tally.received, tally.pauses) == (3 * len(BLOCK), 3)


async def test_a_changed_byte_fails_the_stream(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = bytearray(BLOCK)
    changed[len(BLOCK) // 2] ^= 1
    monkeypatch.setattr(grpc_slow, "_BLOCK", memoryview(changed))
    async with listening(partial(UploadServer, tally, server=True)) as port:
        caller = await dial(port, partial(Uploader, 1, port))
        with pytest.raises(BenchError, match="connection lost"):
            await caller.ending.wait(10)
    assert tally.received < len(BLOCK)


async def test_messages_go_round_until_the_caller_stops() -> None:
    class Stopping(Caller):
        def received(self, stream: int, count: int) -> int:
            if self.answered > 10 * OUTSTANDING:
                self.stop()
            return super().received(stream, count)

    async with listening(BEHAVIOURS[MESSAGE.name]) as port:
        caller = await dial(port, partial(Stopping, port))
        await caller.ending.wait(10)
        caller.transport.abort()
    assert caller.answered > 10 * OUTSTANDING


async def test_a_stream_that_ends_with_messages_unanswered_fails() -> None:
    class Early(Streaming):
        def received(self, stream: int, count: int) -> int:
            self.out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS))
            return 0

    async with listening(Early) as port:
        caller = await dial(port, partial(Caller, port))
        with pytest.raises(BenchError, match=f"{OUTSTANDING} messages are not answered"):
            await caller.ending.wait(10)
        caller.transport.abort()
