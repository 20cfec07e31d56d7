"""The one periodic look at every connection: time-outs are found here, so that no request needs a timer of its own."""

import asyncio
from collections.abc import Iterable
from time import monotonic

from agent.errors import Outcome
from agent.net import downstream
from agent.net.downstream import LINGER_S, Downstream
from agent.net.upstream import Pool
from agent.settings import Settings

# A time-out may be noticed this much of its length late, and no later than a second.
_RESOLUTION = 0.1
_MIN_TICK_S, _MAX_TICK_S = 0.02, 1.0


class Sweeper:
    """Ends connections and exchanges that are overdue.

    A look at 10,000 connections takes about four milliseconds; keeping them in order of their deadlines instead would
    cost every request a move.
    """

    __slots__ = ("_connections", "_handle", "_loop", "_pools", "_settings", "_tick")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        connections: Iterable[Downstream],
        pools: Iterable[Pool],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._connections = connections
        self._pools = pools
        shortest = min(t for t in (settings.head_timeout, settings.idle_timeout, settings.timeout, LINGER_S) if t)
        self._tick = max(_MIN_TICK_S, min(_MAX_TICK_S, shortest * _RESOLUTION))
        self._handle = loop.call_later(self._tick, self._run)

    def stop(self) -> None:
        """No more looks."""
        self._handle.cancel()

    def _run(self) -> None:
        self._handle = self._loop.call_later(self._tick, self._run)
        self.sweep(monotonic())

    def sweep(self, now: float) -> None:
        """Look once."""
        for connection in list(self._connections):
            self._look_at(connection, now)
        for pool in self._pools:
            pool.drop_idle(now)
            if self._settings.timeout:
                self._end_overdue(pool, now)

    def _look_at(self, connection: Downstream, now: float) -> None:
        settings = self._settings
        waited = now - connection.since
        if connection.has_stalled(now, settings.idle_timeout):
            connection.give_up()
        elif connection.unsent:
            connection.since = now  # a reply that is still on its way; what comes after it begins when it is out
        elif connection.phase is downstream.IDLE:
            if connection.head_since:
                if now - connection.head_since > settings.head_timeout:
                    connection.expire_head()
            elif waited > settings.idle_timeout:
                connection.close()
        elif connection.phase is downstream.LINGERING:
            if waited > LINGER_S:
                connection.close()  # not with a reset: the kernel may still be delivering the reply
        elif connection.exchange is None and waited > settings.head_timeout:
            connection.close()  # it was refused, and the body that it still owes us does not come

    def _end_overdue(self, pool: Pool, now: float) -> None:
        for up in list(pool.connections):
            exchange = up.exchange
            if exchange is not None and now - exchange.arrived > self._settings.timeout:
                exchange.refuse(Outcome.TIMEOUT)
