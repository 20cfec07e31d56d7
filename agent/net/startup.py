"""The start: the predictor is looked for until it has been there once, and never again.

A look is a connection that is closed at once, or carries one GET. Dials for requests count as well.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import cast

from agent import logs
from agent.net.pool import CONNECT_TIMEOUT_S, Dialler
from agent.values import Address

# Sooner at first: most predictors that are awaited at all are there at once.
_FIRST_S, _MOST_S = 0.05, 1.0
# Longer than any interim answer.
_ENOUGH = 64 * 1024
_INTERIM, _END_OF_HEAD = b"HTTP/1.1 1", b"\r\n\r\n"


class Startup:
    """What is still missing of the predictors behind `pools`. `over` is called when nothing is.

    `path` is what those that speak HTTP/1.1 must have answered with 2xx; without one, a connection is enough.
    """

    __slots__ = ("_asked", "_began", "_early", "_is_told", "_over", "_path", "_pools", "_task", "_unreached", "_wake")

    def __init__(self, pools: Iterable[Dialler], asked: Iterable[Address], path: str, over: Callable[[], None]) -> None:
        self._pools: dict[Address, Dialler] = {}
        for pool in pools:
            pool.told = self._reached
            # The first is the one for HTTP/1.1, which over TLS is agreed on before anything can be asked.
            self._pools.setdefault(pool.address, pool)
        self._path = path
        self._unreached = dict.fromkeys(self._pools)
        self._asked = dict.fromkeys(asked if path else ())
        self._over = over
        self._began = monotonic()
        self._wake = asyncio.Event()
        # What a request's dial has reached before the log says where the agent listens, which comes first there.
        self._early: list[tuple[Address, float]] = []
        self._is_told = False
        self._task: asyncio.Task[None] | None = None

    @property
    def missing(self) -> list[str]:
        """What is waited for, in words."""
        return [
            *(f"{address} to accept a connection" for address in self._unreached),
            *(
                f"{address} to answer {self._path} with 2xx"
                for address in self._asked
                if address not in self._unreached
            ),
        ]

    def begin(self, *, looks: bool) -> None:
        """From here on the log is told; and with `looks`, somebody looks until nothing is missing."""
        self._is_told = True
        for address, seconds in self._early:
            _tell(address, seconds)
        if looks:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        pause = _FIRST_S
        while True:
            await asyncio.gather(*map(self._look, dict.fromkeys([*self._unreached, *self._asked])))
            if not (self._unreached or self._asked):
                break
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            pause = min(pause * 2, _MOST_S)
        self._over()

    async def _look(self, address: Address) -> None:
        look = _Look(self._path if address in self._asked else "", address.authority)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._pools[address].open(look)
                self._reached(address)
                if address in self._asked and await look.succeeds:
                    del self._asked[address]
                    logs.event("predictor ready", upstream=str(address), path=self._path, seconds=self._seconds)
        except OSError:  # refused, no such socket or name, or TimeoutError: not yet
            pass
        finally:
            look.close()

    def _reached(self, address: Address) -> None:
        """A connection has been accepted there."""
        if address in self._unreached:
            del self._unreached[address]
            if self._is_told:
                _tell(address, self._seconds)
            else:
                self._early.append((address, self._seconds))
            self._wake.set()

    @property
    def _seconds(self) -> float:
        return round(monotonic() - self._began, 3)


def _tell(address: Address, seconds: float) -> None:
    logs.event("predictor reachable", upstream=str(address), seconds=seconds)


class _Look(asyncio.Protocol):
    """One look. `succeeds` becomes whether the answer's status is 2xx; without a path nothing is asked."""

    def __init__(self, path: str, authority: bytes) -> None:
        self.succeeds: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        lines = (b"GET %b HTTP/1.1" % path.encode(), b"Host: %b" % authority, b"Connection: close", b"", b"")
        self._request = b"\r\n".join(lines) if path else b""
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not isinstance: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        if self._request:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        # Any number of interim answers may come before the one that counts (RFC 9110 section 15.2).
        while self._seen.startswith(_INTERIM) and _END_OF_HEAD in self._seen:
            _, _, self._seen = self._seen.partition(_END_OF_HEAD)
        version, _, rest = self._seen.partition(b" ")
        if len(self._seen) > _ENOUGH:
            self._tell(False)
        elif len(rest) >= 4 and not self._seen.startswith(_INTERIM):
            self._tell(version.startswith(b"HTTP/1.") and rest[:1] == b"2" and rest[:3].isdigit())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._tell(False)

    def close(self) -> None:
        """It has seen enough."""
        if self._transport is not None:
            self._transport.abort()

    def _tell(self, succeeds: bool) -> None:
        if not self.succeeds.done():
            self.succeeds.set_result(succeeds)
