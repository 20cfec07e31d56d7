"""The predictor of `tests.faults.test_restarts`: `python -m tests.faults.restart_predictor PORT`.

It speaks HTTP/1.1 and HTTP/2 on its port and answers each request with its own body. One with `hold` in its body runs
until SIGTERM, which is taken as model servers take it: no new connections; idle ones close without a word, HTTP/2 ones
after GOAWAY; what runs is answered. Standard output has a line for each request that has begun.
"""

import asyncio
import re
import signal
import socket
import sys
from typing import cast

import h2.events as on
from h2.config import H2Configuration
from h2.connection import H2Connection

LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)


class Predictor:
    """What all connections share."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.ending = asyncio.Event()
        self.left = asyncio.Event()

    async def answer(self, connection: "Connection", stream: int, body: bytes) -> None:
        """Run one request."""
        print("begun", body.decode(errors="replace").split("#")[1], flush=True)
        if b"hold" in body:
            await self.ending.wait()
            await asyncio.sleep(0.05)  # it is still at it when the others have been told
        connection.send(stream, body)

    def end(self) -> None:
        """SIGTERM."""
        self.ending.set()
        for connection in list(self.connections):
            connection.wind_up()
        self.leave()

    def leave(self) -> None:
        """A connection has gone, or the end has begun: the last one ends the process."""
        if self.ending.is_set() and not self.connections:
            self.left.set()


class Connection(asyncio.Protocol):
    """One of the agent's, in either protocol."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._seen = b""
        self._h2: H2Connection | None = None
        self._bodies: dict[int, bytes] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._predictor.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._predictor.connections.discard(self)
        for task in self._running.values():
            task.cancel()
        self._predictor.leave()

    def data_received(self, data: bytes) -> None:
        if self._h2 is None and (self._seen + data).startswith(b"PRI"):
            self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
            self._h2.initiate_connection()
            data, self._seen = self._seen + data, b""
        if self._h2 is not None:
            for event in self._h2.receive_data(data):
                self._act(event)
            self._flush()
            return
        self._seen += data
        head, end, rest = self._seen.partition(b"\r\n\r\n")
        length = LENGTH.search(head + b"\r\n")
        if end and length is not None and len(rest) >= int(length[1]):
            self._seen = b""
            self._run(0, rest)

    def _act(self, event: on.Event) -> None:
        if isinstance(event, on.DataReceived) and self._h2 is not None:
            self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + (event.data or b"")
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, on.StreamEnded):
            self._run(event.stream_id, self._bodies.pop(event.stream_id))

    def _run(self, stream: int, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._predictor.answer(self, stream, body))
        self._running[stream] = task
        task.add_done_callback(lambda _: self._running.pop(stream, None))

    def send(self, stream: int, body: bytes) -> None:
        """Answer a request."""
        self._running.pop(stream, None)
        if self._h2 is None:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            self._h2.send_headers(stream, [(b":status", b"200"), (b"content-type", b"application/grpc")])
            self._h2.send_data(stream, body)
            self._h2.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
            # h2 takes a connection that has said GOAWAY for closed, so that is said last, and by hand below.
            self._flush()
        self._close_if_done()

    def wind_up(self) -> None:
        """The process ends."""
        if self._h2 is not None:
            last = self._h2.highest_inbound_stream_id
            self._transport.write(b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + bytes(4))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._predictor.ending.is_set() and not self._running and not self._transport.is_closing():
            # At once: the agent gives a close 2 ms to follow the answer (DECISIONS 11).
            self._transport.write_eof()
            self._transport.close()

    def _flush(self) -> None:
        assert self._h2 is not None
        self._transport.write(self._h2.data_to_send())


async def serve(port: int) -> None:
    """Until SIGTERM and the end of what runs."""
    loop = asyncio.get_running_loop()
    predictor = Predictor()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    server = await loop.create_server(lambda: Connection(predictor), sock=sock, backlog=1024)

    def end() -> None:
        server.close()
        predictor.end()

    loop.add_signal_handler(signal.SIGTERM, end)
    print("listening", flush=True)
    await predictor.ending.wait()
    await predictor.left.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
