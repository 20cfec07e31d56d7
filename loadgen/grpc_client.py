"""gRPC client for load: prebuilt messages on raw HTTP/2, many calls to a connection.

grpc.aio costs some 50 us of CPU per call and tritonclient 70; this costs 4 to 5. `GrpcClient` makes unary calls;
`OpenStreams` keeps streams open, with one request under way on each, for servers that mark a request's last answer;
`EndedStreams` gives each request a stream of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from loadgen.client import MAX_CONNECTIONS, Address, BaseClient, Tls, settle
from loadgen.grpc_link import CallLink
from loadgen.grpc_stream import EndedStreamLink, OpenStreamLink
from loadgen.record import Outcome, Sample


async def call(
    address: Address, head: bytes, message: bytes, timeout_s: float, tls: Tls | None = None, *, is_stream: bool = False
) -> Sample:
    """One call on a connection of its own, unary or of a stream that it ends; the returned sample carries the (first)
    answer's message, with its prefix, and fields."""
    done: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
    kind = EndedStreams if is_stream else GrpcClient
    client = kind(address, settle(done), timeout_s, head=head, keep_bodies=True, tls=tls)
    try:
        client.send(message, Sample(time.monotonic_ns()))
        return await done
    finally:
        await client.close()


class GrpcClient(BaseClient[CallLink]):
    """Unary calls, `streams` of them at once on a connection, or as many as the server allows."""

    def __init__(
        self,
        address: Address,
        on_done: Callable[[Sample], None],
        timeout_s: float,
        *,
        head: bytes,
        streams: int = 64,
        max_connections: int = MAX_CONNECTIONS,
        keep_bodies: bool = False,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(address, on_done, timeout_s, max_connections=max_connections, keep_bodies=keep_bodies, tls=tls)
        self.head = head
        self.streams = streams
        self._ready: deque[CallLink] = deque()

    def _make(self) -> CallLink:
        return CallLink(self)

    def _take(self) -> CallLink | None:
        if not self._ready:
            return None
        connection = self._ready[0]
        if connection.room > 1:
            self._ready.rotate(-1)
        else:
            self._ready.popleft()
            connection.is_listed = False
        return connection

    def _forget(self, connection: CallLink) -> None:
        if connection.is_listed:
            self._ready.remove(connection)
            connection.is_listed = False

    async def _settled(self, connection: CallLink) -> None:
        if self._closing:
            return  # `close` will drop it
        async with asyncio.timeout(self._timeout_s):
            await connection.settled
        self.on_free(connection)

    def on_going(self, connection: CallLink) -> None:
        """The connection takes no further calls."""
        self._forget(connection)

    def on_free(self, connection: CallLink) -> None:
        """`connection` has room for more calls than before."""
        while connection.room > 0 and self._pending and (waiting := self._next_pending(connection)):
            connection.send(*waiting)
        if connection.room > 0 and not connection.is_listed:
            self._ready.append(connection)
            connection.is_listed = True

    def on_answered(self, sample: Sample, status: int, outcome: Outcome, read_ns: int) -> None:
        """The answer to `sample` was whole with what was read at `read_ns`."""
        del self._unanswered[sample]
        sample.status, sample.outcome, sample.done_ns = status, outcome, read_ns
        self._on_done(sample)


class OpenStreams(GrpcClient):
    """Requests as messages of streams that stay open."""

    def _make(self) -> CallLink:
        return OpenStreamLink(self)


class EndedStreams(GrpcClient):
    """Each request on a stream of its own."""

    def _make(self) -> CallLink:
        return EndedStreamLink(self)
