"""Large uploads and the predictor that receives them: every byte is compared, whoever sent it and however late."""

import asyncio
import random
import socket
from functools import cache
from typing import cast

BLOCK_BYTES = 50_000
# With buffers that grow, a thousand clients on one machine fill the kernel's memory for all of TCP (tcp_mem), and then
# it is the kernel that is measured, dropping segments.
_SEND_BUFFER_BYTES = 128 * 1024


@cache
def _block(number: int) -> bytes:
    """What upload `number` repeats until its length is reached: no two uploads share a block."""
    return random.Random(number).randbytes(BLOCK_BYTES)


class Predictor:
    """A backend that answers its first upload only when released. `intact` has the uploads that arrived, by number."""

    def __init__(self) -> None:
        self.holding = asyncio.Event()
        self.release = asyncio.Event()
        self.intact: set[int] = set()
        self.faults: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the agent."""
        try:
            while True:
                await self._receive(reader)
                self.holding.set()
                await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.faults.append(f"a request ended {len(error.partial)} bytes into a part of {error.expected}")
        except (OSError, KeyError, ValueError, asyncio.LimitOverrunError) as error:
            self.faults.append(repr(error))
        finally:
            writer.close()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        number, length = int(fields["x-upload"]), int(fields["content-length"])
        block = _block(number)
        equal = True
        for _ in range(length // BLOCK_BYTES):
            equal &= await reader.readexactly(BLOCK_BYTES) == block
        if equal and number not in self.intact:
            self.intact.add(number)
        else:
            self.faults.append(f"upload {number} arrived changed or twice")


class Uploader(asyncio.Protocol):
    """A client that sends as fast as the socket takes it. `answered` gets the status line, or what went wrong."""

    def __init__(self, number: int, blocks: int) -> None:
        self._number = number
        self._left = blocks
        self._length = blocks * BLOCK_BYTES
        self._received = b""
        self._transport: asyncio.Transport
        self.answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def handed_over(self) -> int:
        """Bytes of the body that the kernel has taken, to a block."""
        return self._length - self._left * BLOCK_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._transport.write(
            b"POST /v2/models/big/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\n"
            b"X-Upload: %d\r\nContent-Length: %d\r\n\r\n" % (self._number, self._length)
        )
        self.resume_writing()

    def resume_writing(self) -> None:
        while self._left and not self._transport.get_write_buffer_size():
            self._left -= 1
            self._transport.write(_block(self._number))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if b"\r\n\r\n" in self._received and not self.answered.done():
            self.answered.set_result(self._received.split(b"\r\n", 1)[0].decode("latin-1"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_result(f"no answer: {exc}")
