"""What a second brings: a reading for the history, the decisions on limits for the log, word to those who watch."""

import asyncio
from collections.abc import Mapping
from typing import Any

from agent import logs
from agent.observe.counters import Counters
from agent.observe.history import Event, History, read
from agent.policy.admission import Admission
from agent.policy.usage import UsageTable


class Pulse:
    """Keeps `history`. `beat` must be called once a second, until `stop`."""

    __slots__ = ("_admission", "_counters", "_next", "_usages", "history", "is_stopped")

    def __init__(
        self,
        admission: Admission[Any],
        usages: Mapping[str, UsageTable],
        counters: Counters,
    ) -> None:
        self.history = History()
        self.is_stopped = False
        self._admission = admission
        self._usages = usages
        self._counters = counters
        self._next: asyncio.Future[None] | None = None

    def stop(self) -> None:
        """No more beats; whoever waits for one is told."""
        self.is_stopped = True
        self._tell()

    def beat(self, now: float) -> None:
        """A second has passed."""
        self.history.readings.append(read(self._admission, self._usages, self._counters, now))
        self._admission.take_peak()
        for error in self._admission.take_wait_errors():
            self._counters.wait_error.observe(error)
        for cost in self._admission.take_costs():
            self._counters.cost.observe(cost)
        for model, (limit, reason, rate) in self._admission.take_decisions():
            self.history.events.append(Event(now, model, limit, reason.value, rate))
            logs.event("limit", model=model, limit=limit, reason=reason.value, rate=rate)
        self._tell()

    async def next(self) -> None:
        """Until the next beat, or the end."""
        if self.is_stopped:
            return
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def _tell(self) -> None:
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.set_result(None)
