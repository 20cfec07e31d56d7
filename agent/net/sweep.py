"""The one periodic look at every connection: time-outs are found here, so that no request needs a timer of its own."""

import asyncio
from collections.abc import Iterable
from time import monotonic

from agent.errors import Outcome
from agent.net import http1_downstream
from agent.net.arrival import Arrival
from agent.net.gate import Gate
from agent.net.http1_downstream import LINGER_S, Http1Downstream
from agent.net.http2_downstream import Http2Downstream, Inbound
from agent.net.sides import Pool
from agent.settings import Settings

# A time-out may be noticed this much of its length late, and no later than a second.
_RESOLUTION = 0.1
_MIN_TICK_S, _MAX_TICK_S = 0.02, 1.0
# A stream may wait for an answer before it sends a message, though no model server is known to give one.
_NAMING_S = 1.0


class Sweeper:
    """Ends connections and exchanges that are overdue.

    A look at 10,000 connections takes about four milliseconds, of HTTP/2 fourteen; keeping them in order of their
    deadlines instead would cost every request a move.
    """

    __slots__ = ("_gate", "_handle", "_loop", "_pools", "_settings", "_swept", "_tick")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        gate: Gate,
        pools: Iterable[Pool],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._gate = gate
        self._pools = pools
        bounds = [settings.head_timeout, settings.idle_timeout, settings.timeout, settings.response_timeout, LINGER_S]
        if settings.min_rate:
            bounds.append(settings.slow_grace)
        shortest = min(bound for bound in bounds if bound)
        self._tick = max(_MIN_TICK_S, min(_MAX_TICK_S, shortest * _RESOLUTION))
        self._swept = monotonic()
        self._handle = loop.call_later(self._tick, self._run)

    def stop(self) -> None:
        """No more looks."""
        self._handle.cancel()

    def _run(self) -> None:
        self._handle = self._loop.call_later(self._tick, self._run)
        self.sweep(monotonic())
        self._gate.shared.flush()

    def sweep(self, now: float) -> None:
        """Look once."""
        elapsed, self._swept = now - self._swept, now
        # Should the loop have stood still, it was the clients that waited.
        counted = max(0.0, min(elapsed, 2 * self._tick))
        for connection in list(self._gate.connections):
            if isinstance(connection, Http1Downstream):
                self._look_at_http1(connection, now, counted)
            elif isinstance(connection, Http2Downstream):
                connection.refill(elapsed)
                self._look_at_http2(connection, now, counted)
            elif isinstance(connection, Arrival):
                self._look_at_arrival(connection, now)
        for exchange in list(self._gate.held):
            exchange.check_patience(now)
        for pool in self._pools:
            pool.drop_idle(now)
            for exchange in list(pool.waiting):
                # A dial that is refused says so at once; this is for one that hangs, and not for a loop that did.
                exchange.check_patience(now - _MAX_TICK_S)
            if self._settings.timeout or self._settings.response_timeout:
                self._end_overdue(pool, now)

    def _look_at_http1(self, connection: Http1Downstream, now: float, counted: float) -> None:
        settings = self._settings
        waited = now - connection.since
        exchange = connection.exchange
        if exchange is not None and exchange.is_unnamed and now - exchange.began > _NAMING_S:
            exchange.name(whole=True)
        elif exchange is not None and self._is_behind(connection, counted):
            connection.turn_away()
        elif connection.has_stalled(now, settings.idle_timeout):
            connection.give_up()
        elif connection.unsent:
            connection.since = now  # a reply that is still on its way; what comes after it begins when it is out
        elif connection.phase is http1_downstream.IDLE:
            if connection.head_since:
                if now - connection.head_since > settings.head_timeout:
                    connection.expire_head()
            elif waited > settings.idle_timeout:
                connection.close()
        elif connection.phase is http1_downstream.LINGERING:
            if waited > LINGER_S:
                connection.close()  # not with a reset: the kernel may still be delivering the reply
        elif connection.exchange is None and waited > settings.head_timeout:
            connection.close()  # it was refused, and the body that it still owes us does not come

    def _look_at_arrival(self, connection: Arrival, now: float) -> None:
        settings = self._settings
        if connection.head_since:
            if now - connection.head_since > settings.head_timeout:
                connection.expire_head()
        elif now - connection.since > settings.idle_timeout:
            connection.close()

    def _look_at_http2(self, connection: Http2Downstream, now: float, counted: float) -> None:
        settings = self._settings
        waited = now - connection.since
        if connection.is_lingering:
            if waited > LINGER_S:
                connection.close()
        elif self._is_behind(connection, counted):
            connection.turn_away()
        elif connection.has_stalled(now, settings.idle_timeout) or connection.has_overdue_head(
            now, settings.head_timeout
        ):
            connection.give_up()
        elif not connection.has_settings:
            if waited > settings.head_timeout:
                connection.close()
        elif streams := connection.streams:
            for stream in streams:
                self._look_at_stream(stream, now, counted)
        elif waited > settings.idle_timeout:
            connection.close()

    def _look_at_stream(self, stream: Inbound, now: float, counted: float) -> None:
        exchange = stream.exchange
        if exchange is not None and exchange.is_unnamed and now - exchange.began > _NAMING_S:
            exchange.name(whole=True)
        elif self._is_behind(stream, counted):
            stream.turn_away()
        elif stream.has_stalled(now, self._settings.idle_timeout):
            stream.give_up()

    def _is_behind(self, client: Http1Downstream | Http2Downstream | Inbound, counted: float) -> bool:
        rate = self._settings.min_rate
        return rate > 0 and client.is_behind(counted, rate, self._settings.slow_grace)

    def _end_overdue(self, pool: Pool, now: float) -> None:
        whole, response = self._settings.timeout, self._settings.response_timeout
        for exchange in list(pool.exchanges()):
            if (whole and now - exchange.arrived > whole) or (response and exchange.has_no_answer(now, response)):
                exchange.refuse(Outcome.TIMEOUT)
