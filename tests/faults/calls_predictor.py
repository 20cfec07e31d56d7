"""The predictor of `tests.faults.calls`: a process that answers, hands back and fails calls until it is killed.

An answer repeats its request's message and its `x-id`, so that one which reaches somebody else is seen.
"""

import asyncio
import random
import socket
import sys
from typing import cast

import h2.events as on
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError, StreamClosedError

from tests.wire.frames_by_hand import INTERNAL_ERROR, REFUSED_STREAM

# Of a thousand calls: handed back unprocessed, reset, failed with a status.
REFUSED, RESET, FAILED = 10, 5, 10
MAX_DELAY_S = 0.004


class Predictor(asyncio.Protocol):
    """One connection of the agent's."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._bodies: dict[int, bytearray] = {}
        self._ids: dict[int, bytes] = {}
        self._held: dict[int, bytes] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._transport.abort()
            raise
        for event in events:
            self._act(event)
        self._flush()

    def _act(self, event: on.Event) -> None:
        if isinstance(event, on.RequestReceived):
            assert event.headers is not None
            self._ids[event.stream_id] = dict(event.headers)[b"x-id"]
            self._bodies[event.stream_id] = bytearray()
        elif isinstance(event, on.DataReceived):
            assert event.flow_controlled_length is not None
            self._bodies[event.stream_id] += event.data or b""
            if event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, on.StreamEnded):
            delay = self._rng.random() * MAX_DELAY_S
            asyncio.get_running_loop().call_later(delay, self._answer, event.stream_id)
        elif isinstance(event, on.StreamReset):
            self._forget(event.stream_id)
        elif isinstance(event, on.WindowUpdated):
            for stream in list(self._held):
                self._pump(stream)

    def _answer(self, stream: int) -> None:
        if stream not in self._bodies or self._transport.is_closing():
            return
        lot = self._rng.randrange(1000)
        try:
            if lot < REFUSED + RESET:
                self._h2.reset_stream(stream, REFUSED_STREAM if lot < REFUSED else INTERNAL_ERROR)
                self._forget(stream)
            else:
                fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-id", self._ids[stream])]
                self._h2.send_headers(stream, fields)
                self._held[stream] = b"" if lot < REFUSED + RESET + FAILED else bytes(self._bodies[stream])
                self._pump(stream)
        except StreamClosedError:
            self._forget(stream)
        self._flush()

    def _pump(self, stream: int) -> None:
        """Send what the window allows of an answer, and its trailers at the end."""
        body = self._held[stream]
        failed = not body
        try:
            while body:
                room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                if room <= 0:
                    self._held[stream] = body
                    return
                self._h2.send_data(stream, body[:room])
                body = body[room:]
            self._h2.send_headers(stream, [(b"grpc-status", b"9" if failed else b"0")], end_stream=True)
        except StreamClosedError:
            pass
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        for table in (self._bodies, self._ids, self._held):
            table.pop(stream, None)

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._transport.write(data)


async def serve(port: int, seed: int) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    rng = random.Random(seed)
    server = await asyncio.get_running_loop().create_server(lambda: Predictor(rng), sock=sock, backlog=1024)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
