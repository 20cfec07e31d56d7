"""Connections of the ports that are not for inference: so many, however many come."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from agent import logs

# A pod's kubelet, Prometheus, KEDA and browsers need a dozen.
MOST = 128
# Above a connection that has not said yet what it is for.
NOBODY = asyncio.Protocol()


class Guests:
    """Who is connected, at most `most`. At that number the one that has been silent for longest gives way.

    So a probe is answered whatever strangers hold open: to be in its way they have to come `most` times faster than it
    asks. Refusing newcomers instead would leave the port to whoever came first.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        # In the order of their last words.
        self._silent: dict[Guest, None] = {}
        self._waiting: set[Guest] = set()
        self._crowded = logs.Rarely("connection given up", every_s=10.0)

    def __len__(self) -> int:
        return len(self._silent) + len(self._waiting)

    def enter(self, guest: "Guest") -> None:
        """One more, which may be the one that gives way."""
        self._silent[guest] = None
        if len(self) > self._most:
            first = next(iter(self._silent))
            del self._silent[first]
            self._crowded.log(reason=f"{self._most} connections to the admin port", peer=first.peer)
            first.abort()

    def heard(self, guest: "Guest") -> None:
        """It has said something."""
        if guest in self._silent:
            del self._silent[guest]
            self._silent[guest] = None

    def leave(self, guest: "Guest") -> None:
        """It has gone."""
        self._silent.pop(guest, None)
        self._waiting.discard(guest)

    @contextmanager
    def excused(self, above: object) -> Iterator[None]:
        """The connection of this protocol waits for an answer that comes late, and gives way to nobody."""
        guest = next((one for one in self._silent if one.above is above), None)
        if guest is None:
            yield
            return
        del self._silent[guest]
        self._waiting.add(guest)
        try:
            yield
        finally:
            if guest in self._waiting:
                self._waiting.discard(guest)
                self._silent[guest] = None


class Guest(asyncio.Protocol):
    """A connection that is counted. `above` is what it is for; a subclass may tell that by the first bytes."""

    def __init__(self, guests: Guests, above: asyncio.Protocol = NOBODY) -> None:
        self.above = above
        self._guests = guests
        self._transport: asyncio.Transport

    @property
    def peer(self) -> str | None:
        """The address, where it has one."""
        address = self._transport.get_extra_info("peername")
        return address[0] if isinstance(address, tuple) else None

    def abort(self) -> None:
        """End it at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not isinstance: uvloop's transports are none of asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)
        self._guests.enter(self)
        self.above.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._guests.heard(self)
        self.above.data_received(data)

    def eof_received(self) -> bool | None:
        return self.above.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._guests.leave(self)
        self.above.connection_lost(exc)

    def pause_writing(self) -> None:
        self.above.pause_writing()

    def resume_writing(self) -> None:
        self.above.resume_writing()
