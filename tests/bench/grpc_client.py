"""What the benchmark's own gRPC clients share: one call on one connection, its head written, its end understood."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

from hpack import Decoder

from . import h2frames as h2
from .grpc_payload import HEADERS
from .h2connection import Connection
from .process import BenchError

STREAM = 1


def request_head(port: int, method: str) -> bytes:
    """The header block of a call."""
    pseudo = {":method": "POST", ":scheme": "http", ":authority": f"127.0.0.1:{port}", ":path": method}
    return h2.block([*pseudo.items(), *HEADERS.items()])


class Ending:
    """The fate of a call. It is OK when trailers say so, and anything else fails `wait`."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    @cached_property
    def _done(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def headers(self, block: memoryview, end: bool) -> None:
        """A head or trailers of the answer."""
        fields = {bytes(name): bytes(value) for name, value in self._decoder.decode(bytes(block), raw=True)}
        if fields.get(b":status", b"200") != b"200" or fields.get(b"grpc-status", b"0") != b"0":
            self.fault(f"answered {fields}")
        elif end:
            if b"grpc-status" not in fields:
                self.fault(f"trailers without a status: {fields}")
            elif not self._done.done():
                self._done.set_result(None)

    def fault(self, reason: str) -> None:
        """Something ended the call; counts only if it has not ended before."""
        if not self._done.done():
            self._done.set_exception(BenchError(reason))

    async def wait(self, timeout_s: float) -> None:
        """Until the call has ended with status OK. Raises BenchError if it ends otherwise or not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._done)
        except TimeoutError as error:
            raise BenchError(f"a stream did not end within {timeout_s:g} s") from error


class Calling(Connection):
    """Mixed into a connection that makes one call: `ending` learns what becomes of it."""

    ending: Ending

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        self.ending.headers(block, end)

    def on_fault(self, reason: str) -> None:
        self.ending.fault(reason)


_Caller = TypeVar("_Caller", bound=Calling)


async def dial(port: int, make: Callable[[], _Caller]) -> _Caller:
    """A connection to a port of this machine."""
    _, caller = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    return caller
