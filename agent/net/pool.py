"""What the pools of both protocols share: dialling, backing off while the predictor refuses, and who waits."""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from agent.errors import Outcome
from agent.net.connection import Connection, Shared
from agent.values import Address

if TYPE_CHECKING:
    from agent.net.exchange import Exchange
    from agent.net.handshakes import Dialled

CONNECT_TIMEOUT_S = 5.0
# While the predictor refuses connections, one dial at a time: first soon, for a restart may be nearly over, then rarer.
FIRST_BACKOFF_S = 0.01
MAX_BACKOFF_S = 0.25


class Dialler:
    """Makes connections to one predictor for the exchanges in `waiting`, which are served in that order.

    `told` is called once, at the first dial that succeeds. `siblings` lead to the same predictor's other ports.
    """

    __slots__ = (
        "_backoff",
        "_dialling",
        "_loop",
        "_redial",
        "_secure",
        "_shared",
        "_tasks",
        "address",
        "doubtful",
        "siblings",
        "told",
        "waiting",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        address: Address,
        secure: Callable[[asyncio.BaseProtocol], "Dialled"] | None,
    ) -> None:
        self.waiting: OrderedDict[Exchange, None] = OrderedDict()
        self._loop = loop
        self._shared = shared
        self.address = address
        # What puts TLS under a connection; None in the clear.
        self._secure = secure
        self.told: Callable[[Address], None] | None = None
        self.siblings: Sequence[Dialler] = ()
        # A dial is over when its connection is made. Its task ends a few turns later, too late to be counted: whoever
        # came in between would wait for a dial that serves nobody.
        self._dialling: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._redial: asyncio.TimerHandle | None = None
        self._backoff = FIRST_BACKOFF_S
        # Whether whatever the predictor says now tells that it lives.
        self.doubtful = False

    # What a pool does about it

    def _new(self) -> Connection:
        """A connection that is not made yet."""
        raise NotImplementedError

    def _wanted(self) -> int:
        """How many dials those who wait are worth."""
        raise NotImplementedError

    def serve(self) -> None:
        """Give those who wait what room the connections have that are there."""
        raise NotImplementedError

    # What exchanges and connections call

    @property
    def is_refusing(self) -> bool:
        """Whether the last dial failed, so that the next is put off."""
        return self._redial is not None

    def wait(self, exchange: "Exchange") -> None:
        """Give the exchange the next connection that can take it: `exchange.attach` is called with it."""
        self.waiting[exchange] = None
        # With a redial pending the predictor is known to refuse; more dials now would only be refused as well.
        if self._redial is None and len(self._dialling) < self._wanted():
            self._dial()

    def forget(self, exchange: "Exchange") -> None:
        """The exchange no longer waits."""
        self.waiting.pop(exchange, None)

    def distrust(self) -> None:
        """The predictor has ended a connection in the middle of an exchange: it may be dying, and so its other ports.

        One port's end may be seen a moment before another's, and what waits must not go there in between.
        """
        for pool in (self, *self.siblings):
            pool.doubt()

    def doubt(self) -> None:
        """Send nobody there for a moment, or until the predictor has said something."""
        self._put_off(self._backoff)
        self.doubtful = False
        self._loop.call_soon(self._listen)

    def reassure(self) -> None:
        """What breaks connections has said something since: it lives. One that dies has said all before."""
        if self._redial is not None:
            self._redial.cancel()
        self._try_again()

    def stop_dialling(self) -> None:
        """Give up what is under way, and whoever waits."""
        self.waiting.clear()
        if self._redial is not None:
            self._redial.cancel()
        for task in self._tasks:
            task.cancel()
        self._dialling.clear()

    def _succeeded(self, connection: Connection) -> None:
        """A dial has succeeded."""
        self._backoff = FIRST_BACKOFF_S
        self._dialling.discard(connection)
        if self.told is not None:
            told, self.told = self.told, None
            told(self.address)

    def _dial_more(self) -> None:
        for _ in range(self._wanted() - len(self._dialling)):
            self._dial()

    def _next(self) -> "Exchange":
        """Who has waited longest."""
        exchange, _ = self.waiting.popitem(last=False)
        return exchange

    def _put_off(self, seconds: float) -> None:
        """Dial for those who wait after a while, and for nobody before."""
        if self._redial is None:
            self._redial = self._loop.call_later(seconds, self._try_again)

    def _dial(self) -> None:
        # A task a connection, not a request: connections live for thousands of requests.
        connection = self._new()
        self._dialling.add(connection)
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def open(self, protocol: asyncio.BaseProtocol) -> None:
        """Connect a protocol to the predictor. Raises OSError: ssl.SSLError where another dial would fail as well."""
        if self._secure is None:
            await self._reach(protocol)
            return
        dialled = self._secure(protocol)
        try:
            await self._reach(dialled.layer)
            await dialled.done
        finally:
            dialled.end()
            del dialled  # `done` holds what it raised, which holds this frame

    async def _reach(self, protocol: asyncio.BaseProtocol) -> None:
        address = self.address
        if address.path:
            await self._loop.create_unix_connection(lambda: protocol, address.path)
        else:
            await self._loop.create_connection(lambda: protocol, address.host, address.port)

    async def _connect(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self.open(connection)
        except ssl.SSLError:
            self._dialling.discard(connection)
            self._failed(lambda exchange: exchange.refuse(Outcome.UPSTREAM_TLS))
        except OSError:  # refused, no such socket, no route, no descriptor left, or TimeoutError: all may pass
            self._dialling.discard(connection)
            now = monotonic()
            self._failed(lambda exchange: exchange.on_refused_connection(now))

    def _listen(self) -> None:
        # What came together with the break may have been said before it; what the loop reads from now on was not.
        self.doubtful = self._redial is not None

    def _failed(self, tell: Callable[["Exchange"], None]) -> None:
        self.doubtful = False
        # First of all, so that what is dispatched in place of a refused exchange does not dial at once.
        if self._redial is None:
            self._put_off(self._backoff)
            self._backoff = min(self._backoff * 2, MAX_BACKOFF_S)
        for exchange in list(self.waiting):
            tell(exchange)
        self._shared.flush()

    def _try_again(self) -> None:
        self._redial = None
        self.doubtful = False
        self.serve()
        if len(self._dialling) < self._wanted():
            self._dial()
        self._shared.flush()
