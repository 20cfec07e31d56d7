"""The benchmark's own side of HTTP/2, with the h2 library as a strict peer: it raises when a window is overrun."""

import asyncio
from functools import partial

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, PingAckReceived, SettingsAcknowledged, StreamEnded, TrailersReceived
from h2.settings import SettingCodes

from . import h2frames
from .grpc_backend import BEHAVIOURS, TRAILERS
from .grpc_client import STREAM, Calling, Ending, dial, request_head
from .grpc_payload import DOWNLOAD, HEADERS, MESSAGE, SMALL, Call, framed
from .grpc_slow import BLOCK, Sender
from .h2connection import Connection, _times
from .listening import listening
from .process import BenchError


class Strict:
    """One connection in the hands of the h2 library."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, client: bool) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=client, header_encoding="utf-8"))
        self._reader, self._writer = reader, writer

    def flush(self) -> None:
        self._writer.write(self.h2.data_to_send())

    async def events(self) -> list[Event]:
        """What the next read brings; empty at the end."""
        data = await self._reader.read(65536)
        events = self.h2.receive_data(data) if data else []
        self.flush()
        return events

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def call_strictly(port: int, call: Call, initial_window: int, messages: int = 1) -> Strict:
    """A client that has sent one whole call."""
    client = Strict(*await asyncio.open_connection("127.0.0.1", port), client=True)
    client.h2.local_settings = type(client.h2.local_settings)(
        client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: initial_window, SettingCodes.ENABLE_PUSH: 0}
    )
    client.h2.initiate_connection()
    pseudo = {":method": "POST", ":scheme": "http", ":authority": "bench", ":path": call.method}
    client.h2.send_headers(1, [*pseudo.items(), *HEADERS.items()])
    for _ in range(messages):
        client.h2.send_data(1, framed(call.request))
    client.h2.end_stream(1)
    client.flush()
    return client


@pytest.mark.parametrize(
    ("call", "window", "messages"),
    [(SMALL, 10, 1), (SMALL, 20_000, 1), (DOWNLOAD, 10, 1), (DOWNLOAD, 20_000, 1), (MESSAGE, 100, 50)],
)
async def test_an_answer_keeps_to_the_windows_of_its_client(call: Call, window: int, messages: int) -> None:
    async with listening(BEHAVIOURS[call.name]) as port, asyncio.timeout(10):
        client = await call_strictly(port, call, initial_window=window, messages=messages)
        body, ended = b"", False
        status: list[tuple[str, str]] = []
        while not ended:
            events = await client.events()
            ended = any(isinstance(event, StreamEnded) for event in events)
            for event in events:
                if isinstance(event, DataReceived):
                    body += event.data
                    client.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                    if not ended:
                        # Beside what was taken, a little more each time: windows of many sizes occur.
                        client.h2.increment_flow_control_window(997, 1)
                elif isinstance(event, TrailersReceived):
                    status = [(str(name), str(value)) for name, value in event.headers or ()]
            client.flush()
        await client.close()
    assert body == framed(call.answer) * messages
    assert status == [("grpc-status", "0")]


async def test_settings_and_pings_are_acknowledged() -> None:
    async with listening(partial(Connection, server=True)) as port, asyncio.timeout(10):
        client = await call_strictly(port, SMALL, initial_window=65535)
        client.h2.ping(b"12345678")
        client.flush()
        seen: list[type] = []
        while not {SettingsAcknowledged, PingAckReceived} <= set(seen):
            seen += [type(event) for event in await client.events()]
        await client.close()


class Pourer(Calling, Sender):
    """Sends blocks, far more than any window here."""

    def __init__(self, blocks: int) -> None:
        super().__init__(blocks, server=False)
        self.ending = Ending()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.open(STREAM, request_head(0, MESSAGE.method))
        self.pour(STREAM, h2frames.frame(h2frames.DATA, h2frames.END_STREAM, STREAM))


class Tight(Connection):
    """A server that can do with little at a time."""

    def __init__(self) -> None:
        super().__init__(server=True, stream_window=20_000, connection_window=70_000)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        if end:
            ending = h2frames.END_HEADERS | h2frames.END_STREAM
            self.out.append(h2frames.frame(h2frames.HEADERS, ending, stream, TRAILERS))


async def test_windows_are_given_back() -> None:
    async with listening(Tight) as port:
        caller = await dial(port, partial(Pourer, 1))
        await caller.ending.wait(10)
        caller.transport.abort()


@pytest.mark.parametrize("status", ["0", "13"])
async def test_a_long_request_keeps_to_the_windows_of_its_server(status: str) -> None:
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Strict(reader, writer, client=False)
        peer.h2.initiate_connection()
        peer.flush()
        ended = False
        while not ended:
            for event in await peer.events():
                if isinstance(event, DataReceived):
                    received.append(event.data)
                    peer.h2.acknowledge_received_data(event.flow_controlled_length, 1)
                ended = ended or isinstance(event, StreamEnded)
            peer.flush()
        peer.h2.send_headers(1, [(":status", "200")])
        peer.h2.send_headers(1, [("grpc-status", status)], end_stream=True)
        peer.flush()
        await peer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        caller = await dial(server.sockets[0].getsockname()[1], partial(Pourer, 2))
        if status == "0":
            await caller.ending.wait(10)
        else:
            with pytest.raises(BenchError, match="'13'"):
                await caller.ending.wait(10)
        caller.transport.close()
    assert b"".join(received) == BLOCK * 2


@pytest.mark.parametrize(
    ("data", "times"),
    [
        (b"abc", 1),
        (b"abcab", 1),
        (b"abcabc", 2),
        (b"abcabcabcabc-", 4),
        (b"abcabd", 1),
        (b"abcabcabcabd", 2),
        (b"abcabcxxxxxx", 2),
    ],
)
def test_a_run_of_equal_frames_is_never_taken_for_longer_than_it_is(data: bytes, times: int) -> None:
    assert _times(b"--" + data, 2, 5) == times


def test_a_name_that_needs_a_longer_length_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        h2frames.block([("x", "v" * 127)])
