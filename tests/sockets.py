"""Both ends of the agent in the hands of a test: raw sockets that send what they are told and read only when asked.

Nothing here knows the agent: framing is read again from the bytes, so that a mistake of the agent's cannot hide in the
code that looks for it.
"""

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Longer than any wait in the tests on a busy machine; reached only when a test fails.
PATIENCE_S = 10.0
_READ = 64 * 1024

Fields = list[tuple[bytes, bytes]]


class IncompleteError(Exception):
    """The other side ended the connection before what was waited for; `was_reset` tells RST from FIN."""

    def __init__(self, data: bytes, *, was_reset: bool) -> None:
        super().__init__(f"{'reset' if was_reset else 'closed'} after {data[-80:]!r}")
        self.data = data
        self.was_reset = was_reset


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response. `raw` is all of it as it came, `body` without its framing."""

    start: bytes
    fields: Fields
    body: bytes
    trailers: Fields
    raw: bytes

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1]

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, whatever the case of its name."""
        return [value for field, value in self.fields if field.lower() == name.lower()]


async def eventually(condition: Callable[[], object], what: str = "the condition never held") -> None:
    """Run the loop until the condition holds. Looks once a turn of the loop and never waits for time to pass."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():  # noqa: ASYNC110 - the agent's state, which has no event to wait for
                await asyncio.sleep(0)
    except TimeoutError:
        raise AssertionError(what) from None


class Peer:
    """One end of a connection. All bytes that were read are in `received`; `taken` of them were handed out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.received = bytearray()
        self.taken = 0
        self._end: IncompleteError | None = None

    @property
    def has_more(self) -> bool:
        """Whether bytes have come that were not read; the end of the connection is none."""
        if self.sock.fileno() < 0:
            return False
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    async def send(self, data: bytes) -> None:
        """Send all of it; waits while the other side does not read."""
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def stuff(self, data: bytes, *, most: int, until: Callable[[], object] = lambda: True) -> int:
        """Send `data` over and over until nothing more fits in the sockets; returns how many bytes did.

        Fails beyond `most` bytes: then the other side takes without bound. `until` tells that it has stopped reading;
        then it has had its chance when the loop has turned many times.
        """
        sent = idle = 0
        async with asyncio.timeout(PATIENCE_S):
            while idle < 50 or not until():
                try:
                    sent += self.sock.send(data[sent % len(data) :])
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    await asyncio.sleep(0)
                assert sent <= most, f"{sent} bytes taken"
        return sent

    async def more(self) -> bytes:
        """Whatever comes next, as one read. Raises IncompleteError at the end of the connection."""
        if self._end is not None:
            raise self._end
        data, was_reset = await self._receive()
        if not data:
            self._end = IncompleteError(bytes(self.received[self.taken :]), was_reset=was_reset)
            raise self._end
        self.received += data
        return data

    async def _receive(self) -> tuple[bytes, bool]:
        """What one read brings, nothing at the end of the connection; and whether that was reset."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await asyncio.get_running_loop().sock_recv(self.sock, _READ), False
            except ConnectionError:
                return b"", True

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self.received) - self.taken < size:
            await self.more()
        return self._take(self.taken + size)

    async def until(self, marker: bytes) -> bytes:
        """Everything up to the marker and with it."""
        looked = self.taken
        while True:
            at = self.received.find(marker, looked)
            if at >= 0:
                return self._take(at + len(marker))
            looked = max(self.taken, len(self.received) - len(marker) + 1)
            await self.more()

    async def rest(self) -> bytes:
        """Everything up to a clean end. Raises IncompleteError at a reset."""
        while True:
            try:
                await self.more()
            except IncompleteError as end:
                if end.was_reset:
                    raise
                return self._take(len(self.received))

    async def ended(self) -> IncompleteError:
        """How the connection ended, once everything that came before the end has been read."""
        while True:
            try:
                await self.more()
            except IncompleteError as end:
                return end

    async def head(self) -> bytes:
        """The next message up to the empty line after its fields."""
        return await self.until(b"\r\n\r\n")

    async def request(self) -> Message:
        """The next request with its whole body."""
        return await self._message(has_body=True, until_end=False)

    async def response(self, *, bodyless: bool = False) -> Message:
        """The next response, 1xx included. `bodyless` for what answers HEAD."""
        return await self._message(has_body=not bodyless, until_end=True)

    async def _message(self, *, has_body: bool, until_end: bool) -> Message:
        begin = self.taken
        start, *lines = (await self.head())[:-4].split(b"\r\n")
        fields = [_field(line) for line in lines]
        kinds = {name.lower(): value for name, value in fields}
        body: bytes
        trailers: Fields
        bodyless = not has_body or (start.startswith(b"HTTP/") and start.split(b" ")[1] in {b"204", b"304"})
        if bodyless or start.startswith(b"HTTP/1.1 1"):
            body, trailers = b"", []
        elif kinds.get(b"transfer-encoding") == b"chunked":
            body, trailers = await self._chunks()
        elif b"content-length" in kinds:
            body, trailers = await self.exactly(int(kinds[b"content-length"])), []
        else:
            body, trailers = (await self.rest() if until_end else b""), []
        return Message(start, fields, body, trailers, bytes(self.received[begin : self.taken]))

    async def _chunks(self) -> tuple[bytes, Fields]:
        body = bytearray()
        while True:
            line = await self.until(b"\r\n")
            size = int(line, 16)
            if not size:
                break
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        trailers: Fields = []
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers.append(_field(line[:-2]))
        return bytes(body), trailers

    def _take(self, end: int) -> bytes:
        data = bytes(self.received[self.taken : end])
        self.taken = end
        return data

    def half_close(self) -> None:
        """Send FIN and stay to read."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close; FIN unless something that came was not read."""
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value


async def dial(host: str, port: int, *, kernel_buffer: int | None = None) -> Peer:
    """Connect. `kernel_buffer` fixes what the kernel holds for this end each way, in bytes."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kernel_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kernel_buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except OSError:
        sock.close()
        raise
    return Peer(sock)


Answer = Callable[[Message, Peer], Awaitable[None]]


class FakePredictor:
    """Listens like a predictor and does what the test does: it accepts, reads and answers only when asked to.

    With `serve` it answers by itself. `requests` holds what it then got, complete ones only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        # Bound and never listening: while there is no listener beside it dials are refused, and nobody else can take
        # the port.
        self._holder = _bind("127.0.0.1", 0)
        self.peers: list[Peer] = []
        self.requests: list[Message] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http+unix:{self._path}" if self._path else f"http://127.0.0.1:{self._port}"

    @property
    def authority(self) -> bytes:
        """What Host names when the client names nothing."""
        return b"localhost" if self._path else b"127.0.0.1:%d" % self._port

    def listen(self) -> Self:
        """Let dials succeed."""
        if self._path:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
        else:
            self._listener = _bind("127.0.0.1", self._port)
        self._listener.setblocking(False)
        self._listener.listen(1024)
        return self

    def refuse(self) -> None:
        """Refuse dials from now on; connections that were accepted stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> Peer:
        """The next connection."""
        assert self._listener is not None, "it does not listen"
        async with asyncio.timeout(PATIENCE_S):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    async def _next(self) -> Peer:
        """The next connection, however long it takes."""
        assert self._listener is not None
        sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    def accept_now(self) -> Peer:
        """The next connection, which must be there already."""
        assert self._listener is not None, "it does not listen"
        peer = Peer(self._listener.accept()[0])
        self.peers.append(peer)
        return peer

    @property
    def is_listening(self) -> bool:
        return self._listener is not None

    async def next(self) -> tuple[Peer, Message]:
        """The next request, on whatever connection it comes."""
        found: list[Peer] = []

        def look() -> bool:
            found.extend(peer for peer in self.peers if peer.has_more)
            return bool(found) or not self.is_left_alone()

        await eventually(look, "no request came")
        peer = found[0] if found else await self.accept()
        return peer, await peer.request()

    def is_left_alone(self) -> bool:
        """Whether nobody has dialled since the last accept."""
        return self._listener is None or not select.select([self._listener], [], [], 0)[0]

    @contextlib.asynccontextmanager
    async def serve(self, answer: Answer) -> AsyncIterator[None]:
        """Answer every request on every connection, one after the other on each."""
        accepting = asyncio.ensure_future(self._accept_all(answer))
        self._tasks.add(accepting)
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            for result in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result
            self._tasks.clear()

    async def _accept_all(self, answer: Answer) -> None:
        while True:
            peer = await self._next()
            self._tasks.add(asyncio.ensure_future(self._answer_all(peer, answer)))

    async def _answer_all(self, peer: Peer, answer: Answer) -> None:
        while True:
            try:
                request = await peer.request()
                self.requests.append(request)
                await answer(request, peer)
            except (IncompleteError, ConnectionError):
                return

    def close(self) -> None:
        """Refuse new connections and end those that exist."""
        self.refuse()
        self._holder.close()
        for peer in self.peers:
            peer.close()

    @property
    def _port(self) -> int:
        return int(self._holder.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    return sock
