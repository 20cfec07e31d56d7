"""Handshakes: those of a port, bounded in number, time and share of the loop, and those with a predictor."""

import asyncio
import ssl
from collections.abc import Callable
from enum import StrEnum
from time import monotonic

from agent import logs
from agent.net.tls import HANDSHAKING, Tls

# A handshake takes two round trips; Envoy's and nginx's own bounds are 15 s and 60 s.
TIMEOUT_S = 10.0
# Each holds 46 KB. At the bound the oldest gives way: a client that means it is done in milliseconds, so that a
# flood of half-open ones has to be this many times faster than a round trip to be in its way.
MAX_PENDING = 1024
_TICK_S = 1.0


class Result(StrEnum):
    """How a client's handshake ended: the label of a metric."""

    DONE = "done"
    FAILED = "failed"  # another protocol, version or cipher suite, an unknown certificate, or the client left
    UNWELCOME = "unwelcome"  # a certificate without a name that is let in
    TIMEOUT = "timeout"
    CROWDED = "crowded"  # more at once than there may be
    FULL = "full"  # no room for another connection


def why(error: Exception) -> str:
    """The reason of a failed handshake, in OpenSSL's words where they are its."""
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)


class Handshakes:
    """The clients of a port that are not known yet. `counts` says how many handshakes ended which way.

    `welcome` says what is above the TLS of a client, or None for one that is not let in, `is_full` whether there is no
    room for another connection; `most` may be under way.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        room: memoryview,
        context: Callable[[], ssl.SSLContext],
        welcome: Callable[[Tls], asyncio.BaseProtocol | None],
        is_full: Callable[[], bool],
        most: int = MAX_PENDING,
    ) -> None:
        self.counts = dict.fromkeys(Result, 0)
        self._loop = loop
        self._room = room
        self._context = context
        self._welcome = welcome
        self._is_full = is_full
        self._most = most
        # Both in the order of their coming.
        self._pending: dict[Tls, float] = {}
        self._heard: dict[Tls, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._failures = logs.Rarely("handshake failed")

    @property
    def pending(self) -> int:
        """How many are under way."""
        return len(self._pending)

    def accept(self) -> Tls:
        """A new connection: asyncio's protocol factory."""
        return Tls(self._loop, self, self._context(), self._room)

    def stop(self) -> None:
        """End those that are under way."""
        for layer in list(self._pending):
            layer.reject(ConnectionAbortedError("the port is closed"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def expire(self, now: float) -> None:
        """End those that have taken too long."""
        for layer, since in list(self._pending.items()):
            if now - since < TIMEOUT_S:
                return
            self._reject(layer, Result.TIMEOUT)

    # Owner of a layer

    def begun(self, layer: Tls) -> None:
        """Make room for it, if there may be any."""
        pending = self._pending
        if self._is_full():
            self._reject(layer, Result.FULL)
            return
        if len(pending) >= self._most:
            self._reject(next(iter(pending)), Result.CROWDED)
        pending[layer] = monotonic()
        if self._timer is None:
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def heard(self, layer: Tls) -> None:
        """Its turn comes. A step costs up to a millisecond: one a turn of the loop leaves the others their share."""
        layer.pause_reading()
        if not self._heard:
            self._loop.call_soon(self._step)
        self._heard[layer] = None

    def succeeded(self, layer: Tls) -> asyncio.BaseProtocol | None:
        """The client is known."""
        self._pending.pop(layer, None)
        above = self._welcome(layer)
        self._count(layer, Result.UNWELCOME if above is None else Result.DONE, "no name of its certificate is let in")
        return above

    def failed(self, layer: Tls, error: Exception) -> None:
        """The client is not known. One that comes and goes without a word is a probe of TCP's, and no handshake."""
        if self._pending.pop(layer, None) is not None and layer.has_spoken:
            self._count(layer, Result.FAILED, why(error))

    # Inside

    def _step(self) -> None:
        layer = next(iter(self._heard))
        del self._heard[layer]
        if self._heard:
            self._loop.call_soon(self._step)
        if layer in self._pending:
            layer.resume_reading()
            layer.shake()

    def _tick(self) -> None:
        self._timer = None
        self.expire(monotonic())
        if self._pending:
            self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _reject(self, layer: Tls, result: Result) -> None:
        self._pending.pop(layer, None)
        self._count(layer, result, result.value)
        layer.reject(ConnectionAbortedError(result.value))

    def _count(self, layer: Tls, result: Result, reason: str) -> None:
        self.counts[result] += 1
        if result is not Result.DONE:
            peer = layer.get_extra_info("peername")
            self._failures.log(peer=peer[0] if isinstance(peer, tuple) else None, reason=reason)


class Dialled:
    """The handshake with a predictor, from the side that dials; `layer` is what to put above TCP.

    `done` is set when it is over, or has its error: ssl.SSLError where another dial would end the same way.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        above: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        room: memoryview,
        name: str | None,
        alpn: str,
        failures: logs.Rarely,
    ) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self.layer = Tls(loop, self, context, room, name)
        self._above = above
        self._alpn = alpn
        self._failures = failures
        self._has_begun = False

    def end(self) -> None:
        """Give up what is not done."""
        layer = self.layer
        del self.layer  # each holds the other, which only the collector would find
        if self._has_begun and layer.phase is HANDSHAKING:
            layer.abort()
        if self.done.done():
            self.done.exception()
        else:
            self.done.cancel()

    # Owner of a layer

    def begun(self, layer: Tls) -> None:
        """Speak first."""
        self._has_begun = True
        layer.shake()

    def heard(self, layer: Tls) -> None:
        """Answer."""
        layer.shake()

    def succeeded(self, layer: Tls) -> asyncio.BaseProtocol | None:
        """The predictor is who it should be. Over HTTP/2 it must have agreed to that (RFC 9113 section 3.2)."""
        if layer.alpn != self._alpn and (layer.alpn or self._alpn == "h2"):
            self.failed(layer, ssl.SSLError(1, f"the predictor does not speak {self._alpn}"))
            return None
        if self.done.cancelled():
            return None
        self.done.set_result(None)
        return self._above

    def failed(self, layer: Tls, error: Exception) -> None:  # noqa: ARG002 - tls.Owner
        """It is not, or is not there. With TLS 1.3 it tells only later that it does not accept our certificate."""
        if isinstance(error, ssl.SSLError):
            self._failures.log(reason=why(error))
        if not self.done.done():
            self.done.set_exception(error.with_traceback(None))  # it holds the layer, which holds us
