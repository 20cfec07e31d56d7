"""The peers of tests.sockets with TLS between, and certificates in files as the kubelet mounts them.

TLS is Python's own, on memory BIOs, so that a test decides when a record is sent and read, and how a connection ends:
with close_notify, with FIN alone, or with RST.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Self

import trustme

from tests.mounted import Mounted
from tests.sockets import _READ, PATIENCE_S, FakePredictor, IncompleteError, Peer, dial, eventually

NAME = "predictor.test"


class Papers(Mounted):
    """An authority, and a certificate of it with its key in a directory like a mounted Secret's."""

    def __init__(self, directory: Path, *names: str) -> None:
        held = ("tls.crt", "tls.key", "ca.crt")
        super().__init__(directory, held)
        self._names = names or ("127.0.0.1", NAME)
        self.authority = trustme.CA()
        self.cert, self.key, self.ca = (str(directory / name) for name in held)
        self.renew()

    def renew(self, authority: trustme.CA | None = None) -> None:
        """Another certificate, of the same authority unless another is given."""
        self.authority = authority or self.authority
        leaf = self.authority.issue_cert(*self._names)
        self.files = {
            "tls.crt": b"".join(blob.bytes() for blob in leaf.cert_chain_pems),
            "tls.key": leaf.private_key_pem.bytes(),
            "ca.crt": self.authority.cert_pem.bytes(),
        }
        self.write(self.files)

    def server(self, *alpn: str) -> ssl.SSLContext:
        """What a server with this certificate uses."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def client(self, *alpn: str) -> ssl.SSLContext:
        """What a client that knows this authority alone uses."""
        context = ssl.create_default_context(cadata=Path(self.ca).read_text())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


class TlsPeer(Peer):
    """One end of a connection with TLS. A connection that ends without close_notify counts as reset."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        is_server = context.protocol is ssl.PROTOCOL_TLS_SERVER
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=is_server, server_hostname=name, session=session
        )
        self._sending: asyncio.Task[None] | None = None

    async def handshake(self) -> Self:
        """Raises ssl.SSLError, or IncompleteError where the other side leaves."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._push()
                await self._pull()
            except ssl.SSLError:
                await self._push()
                raise
            else:
                await self._push()
                return self

    @property
    def serial(self) -> object:
        """That of the other side's certificate."""
        certificate = self.tls.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]

    @property
    def has_more(self) -> bool:
        return bool(self._incoming.pending or self.tls.pending()) or super().has_more

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        await self._push()

    async def stuff(self, data: bytes, *, most: int, until: Callable[[], object] = lambda: True) -> int:
        sent = idle = 0
        rest = memoryview(b"")
        async with asyncio.timeout(PATIENCE_S):
            while idle < 50 or not until():
                if not rest:
                    view = memoryview(data)
                    while view:
                        view = view[self.tls.write(view) :]
                    rest = memoryview(self._outgoing.read())
                    sent += len(data)
                try:
                    rest = rest[self.sock.send(rest) :]
                    idle = 0
                except BlockingIOError:
                    idle += 1
                    await asyncio.sleep(0)
                assert sent <= most, f"{sent} bytes taken"
        # No record may stay half sent, and who does not read is not waited for.
        self._sending = asyncio.ensure_future(self._finish(rest))
        return sent

    async def _finish(self, rest: memoryview) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self.sock, rest)

    async def more(self) -> bytes:
        if self._end is not None:
            raise self._end
        while True:
            data = b""
            try:
                data = self.tls.read(_READ)
            except ssl.SSLWantReadError:
                try:
                    await self._pull()
                except IncompleteError as end:
                    self._end = IncompleteError(bytes(self.received[self.taken :]), was_reset=True)
                    raise self._end from end
                continue
            except ssl.SSLZeroReturnError:
                pass
            if not data:
                self._end = IncompleteError(bytes(self.received[self.taken :]), was_reset=False)
                raise self._end
            self.received += data
            return data

    def half_close(self) -> None:
        self.say_end()
        self.sock.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Send FIN and no close_notify, as whoever cuts a connection to truncate it."""
        self.sock.close()

    def close(self) -> None:
        if self.sock.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            # A session ticket that was never read would make the kernel send RST.
            self.sock.recv(_READ)
        self._end_tls()
        if self._sending is not None and not self._sending.done():
            self._sending.add_done_callback(lambda _: self.close())
            return
        rest = memoryview(self._outgoing.read())
        with contextlib.suppress(OSError):
            rest = rest[self.sock.send(rest) :]
            if not rest:
                self.sock.close()
                return
        self._sending = asyncio.ensure_future(self._finish(rest))
        self._sending.add_done_callback(lambda _: self.sock.close())

    def reset(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        super().reset()

    def say_end(self) -> None:
        """Send close_notify, and go on with TCP."""
        self._end_tls()
        self.sock.sendall(self._outgoing.read())

    def _end_tls(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()

    async def _push(self) -> None:
        if self._sending is not None:
            await self._sending
        data = self._outgoing.read()
        if data:
            await super().send(data)

    async def _pull(self) -> None:
        data, was_reset = await self._receive()
        if not data:
            raise IncompleteError(b"", was_reset=was_reset)
        self._incoming.write(data)


async def dial_tls(
    host: str, port: int, context: ssl.SSLContext, *, name: str | None = None, kernel_buffer: int | None = None
) -> TlsPeer:
    """Connect and shake hands."""
    peer = await dial(host, port, kernel_buffer=kernel_buffer)
    try:
        return await TlsPeer(peer.sock, context, name or host).handshake()
    except (ssl.SSLError, IncompleteError, OSError):
        peer.close()
        raise


class TlsPredictor(FakePredictor):
    """A predictor that speaks TLS. It shakes hands by itself, as the kernel does for TCP; the rest is the test's."""

    def __init__(self, context: ssl.SSLContext, *, scheme: str = "https") -> None:
        super().__init__()
        self._context = context
        self._scheme = scheme
        self._ready: deque[TlsPeer] = deque()
        self._shaking: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return super().url.replace("http", self._scheme, 1)

    def listen(self) -> Self:
        super().listen()
        self._shaking = asyncio.ensure_future(self._shake_all())
        return self

    def refuse(self) -> None:
        super().refuse()
        if self._shaking is not None:
            self._shaking.cancel()
            self._shaking = None

    async def accept(self) -> Peer:
        assert self._shaking is not None, "it does not listen"
        await eventually(lambda: self._ready, "nobody dialled")
        return self.accept_now()

    def accept_now(self) -> Peer:
        peer = self._ready.popleft()
        self.peers.append(peer)
        return peer

    def is_left_alone(self) -> bool:
        return not self._ready and super().is_left_alone()

    async def _next(self) -> Peer:
        while not self._ready:  # noqa: ASYNC110 - a server of threads' turns, without events
            await asyncio.sleep(0)
        return self.accept_now()

    async def _shake_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._listener is not None:
            sock, _ = await loop.sock_accept(self._listener)
            peer = TlsPeer(sock, self._context)
            try:
                self._ready.append(await peer.handshake())
            except (IncompleteError, OSError):  # who leaves may do so while it is sent to; ssl.SSLError is an OSError
                sock.close()
            except asyncio.CancelledError:
                sock.close()
                raise

    def close(self) -> None:
        super().close()
        for peer in self._ready:
            peer.close()
