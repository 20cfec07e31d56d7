"""The orderly end: fail readiness, serve on while the world takes notice, finish what runs, end the rest visibly."""

import asyncio
from collections.abc import Callable, Iterable
from enum import StrEnum
from math import inf
from time import monotonic

from agent.errors import Outcome
from agent.net.gate import Gate
from agent.net.sides import Pool


class Stage(StrEnum):
    """Where the process is in its life; readiness holds in `SERVING` alone.

    `STARTING` is over once the predictor has been there for the first time, and never comes back: a predictor that
    restarts is waited for.
    """

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    DRAINED = "drained"


class Drain:
    """Ends the service once.

    `delay` and `timeout` are seconds: keep accepting that long, then wait that long for what runs. Whoever is in
    `watchers` is called when readiness changes.
    """

    __slots__ = (
        "_close_listeners",
        "_delay",
        "_done",
        "_gate",
        "_hurry",
        "_pools",
        "_task",
        "_timeout",
        "stage",
        "watchers",
    )

    def __init__(
        self,
        gate: Gate,
        pools: Iterable[Pool],
        close_listeners: Callable[[], None],
        *,
        delay: float,
        timeout: float,
        stage: Stage = Stage.SERVING,
    ) -> None:
        self.stage = stage
        self.watchers: set[Callable[[], None]] = set()
        self._gate = gate
        self._pools = pools
        self._close_listeners = close_listeners
        self._delay = delay
        self._timeout = timeout
        self._hurry = asyncio.Event()
        self._done = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def serve(self) -> None:
        """The predictor is there: the start is over, unless the end has begun."""
        if self.stage is Stage.STARTING:
            self._enter(Stage.SERVING)

    def begin(self, *, hurry: bool = False) -> None:
        """Start, unless it has started. `hurry` leaves out the delay: nobody routes to us."""
        if hurry:
            self._hurry.set()
        if self._task is None:
            self._enter(Stage.DRAINING)
            # From here on replies end their connections, so that clients move to another pod while this one still
            # answers.
            self._gate.closing = True
            for connection in list(self._gate.connections):
                connection.announce_end()
            self._gate.shared.flush()
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait(self) -> None:
        """Until everything has ended."""
        await self._done.wait()

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        for watcher in list(self.watchers):
            watcher()

    async def _run(self) -> None:
        await _wait_at_most(self._hurry, self._delay)
        self._close_listeners()
        for connection in list(self._gate.connections):
            connection.close_if_idle()
        until = monotonic() + self._timeout
        await self._wait_while(lambda: self._gate.active, until)
        self._end_the_rest()
        # Let clients read what has been written to them: the end of the process would cut it off.
        await self._wait_while(lambda: self._gate.connections, until)
        for connection in list(self._gate.connections):
            connection.close()
        self.stage = Stage.DRAINED
        self._done.set()

    def _end_the_rest(self) -> None:
        """Whatever has not ended by itself is told so, or cut where telling is no longer possible."""
        gate = self._gate
        for ticket in gate.admission.waiting():
            ticket.owner.refuse(Outcome.DRAINING)
        for exchange in list(gate.held):
            exchange.refuse(Outcome.DRAINING)
        for pool in self._pools:
            for exchange in [*pool.waiting, *pool.exchanges()]:
                exchange.refuse(Outcome.DRAINING)
        for connection in list(gate.connections):
            connection.refuse_all(Outcome.DRAINING)
        gate.release(inf)
        gate.shared.flush()
        for connection in list(gate.connections):
            connection.close_when_sent()

    async def _wait_while(self, busy: Callable[[], object], until: float) -> None:
        while busy() and monotonic() < until:
            self._gate.idle.clear()
            await _wait_at_most(self._gate.idle, until - monotonic())


async def _wait_at_most(event: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
