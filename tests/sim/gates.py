"""The agent's policies as a simulation uses them, and the queues that others put in front of a predictor."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agent.errors import Outcome
from agent.policy.admission import Admission, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.knee import Knee
from agent.policy.usage import Usage
from tests.sim.load import Request

QUEUED, RUNNING, ENDED = "queued", "running", "ended"


class Gate(Protocol):
    """Who may run. Calls return the requests whose turn it is, each with whether it runs or is refused after all."""

    limit: int

    def offer(self, request: Request, now: float) -> str: ...

    def finish(self, request: Request, now: float) -> Sequence[tuple[Request, bool]]: ...

    def leave(self, request: Request, now: float) -> None: ...

    def expire(self, now: float) -> Sequence[Request]: ...


class Breaker:
    """`limit` at once, `pending` wait, first come, first served: Knative's breaker, and Envoy's pending requests."""

    def __init__(self, limit: int, pending: int) -> None:
        self.limit, self._pending, self._running = limit, pending, 0
        self._queue: deque[Request] = deque()

    def offer(self, request: Request, now: float) -> str:
        if self._running < self.limit:
            self._running += 1
            return RUNNING
        if len(self._queue) >= self._pending:
            return ENDED
        self._queue.append(request)
        return QUEUED

    def finish(self, request: Request, now: float) -> Sequence[tuple[Request, bool]]:
        if self._queue:
            return [(self._queue.popleft(), True)]
        self._running -= 1
        return ()

    def leave(self, request: Request, now: float) -> None:
        self._queue.remove(request)

    def expire(self, now: float) -> Sequence[Request]:
        return ()


class Headgate:
    """One of the agent's own policies."""

    def __init__(self, admission: Admission[Any]) -> None:
        self.admission = admission
        self._usage = Usage("m", 0.0)

    @property
    def limit(self) -> int:
        return self.admission.limit or 0

    def offer(self, request: Request, now: float) -> str:
        gate = self.admission
        ticket = request.ticket = gate.ticket(request, "m", self._usage)
        refusal = gate.offer(ticket, now, request.patience, tenant=request.tenant)
        assert not gate.take_displaced(), "no priorities here"
        gate.take_decisions()
        assert refusal in {None, Outcome.DEADLINE, Outcome.OVERLOAD, Outcome.QUEUE_FULL}
        return ticket.state.name.lower()

    def finish(self, request: Request, now: float) -> Sequence[tuple[Request, bool]]:
        assert isinstance(request.ticket, Ticket)
        changed = self.admission.finish(request.ticket, now)
        return [(ticket.owner, ticket.state.name == "RUNNING") for ticket in changed]

    def leave(self, request: Request, now: float) -> None:
        assert isinstance(request.ticket, Ticket)
        self.admission.cancel(request.ticket, now)

    def expire(self, now: float) -> Sequence[Request]:
        return [ticket.owner for ticket in self.admission.expire(now)]


Make = Callable[[int], Gate]


def deadline(limit: int) -> Gate:
    return Headgate(
        DeadlineAdmission(limit=limit, model_limits={}, queue_limit=1000, queue_bytes=1 << 30, patience=10.0)
    )


def fair(limit: int) -> Gate:
    return Headgate(
        DeadlineAdmission(limit=limit, model_limits={}, queue_limit=1000, queue_bytes=1 << 30, patience=10.0, fair=True)
    )


def auto(start: int) -> Gate:
    """The limit is searched for; `start` is the first guess."""
    return Headgate(
        DeadlineAdmission(
            limit=start, model_limits={}, queue_limit=1000, queue_bytes=1 << 30, patience=10.0, search=Knee(start)
        )
    )


def fifo(limit: int) -> Gate:
    """The agent's own `--policy fifo`, with Knative's ten waiting requests for each slot."""
    return Headgate(
        FifoAdmission(limit=limit, model_limits={}, queue_limit=10 * limit, queue_bytes=1 << 30, patience=10.0)
    )


def knative(limit: int) -> Gate:
    return Breaker(limit, 10 * limit)


def envoy(limit: int) -> Gate:
    return Breaker(limit, 1024)
