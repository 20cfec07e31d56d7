"""What the exchanges of a process share, and the one timer that serves them all."""

import asyncio
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent.errors import Outcome
from agent.net.connection import ClientConnection, Shared
from agent.net.orca import Orca
from agent.net.replies import Replies
from agent.observe.hooks import Hooks
from agent.policy.admission import RUNNING, Admission, Ticket
from agent.policy.classify import Classifier
from agent.policy.stated import Reader
from agent.policy.usage import UsageTable
from agent.scale.page import LoadPage
from agent.scale.stat import Proxied
from agent.wire.hints import HintReader

if TYPE_CHECKING:
    from agent.net.exchange import Exchange


class Gate:
    """Admission and its surroundings, as an exchange sees them.

    `connections` holds the clients' connections, `active` counts the exchanges that have begun and not ended, bypassing
    ones included. `closing` tells connections to end after the reply in hand. `queued_body` bounds, in bytes, what is
    read of the body of a request that is not yet dispatched. `proxied` counts what came through Knative's activator,
    where Knative is to be told, and `orca` puts the load beside answers, where that is wanted. `times_answers` asks for
    `Account.sent` to be known of every request. While `holds`, what has its slot gathers in `held`: the predictor
    accepts connections, or will soon, and cannot serve yet.
    """

    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_leaving",
        "_loop",
        "active",
        "admission",
        "classifier",
        "closing",
        "connections",
        "held",
        "hints",
        "holds",
        "hooks",
        "idle",
        "load",
        "max_connections",
        "orca",
        "proxied",
        "queued_body",
        "replies",
        "retry_stale",
        "shared",
        "stated",
        "times_answers",
        "usages",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        admission: Admission[Any],
        classifier: Classifier,
        stated: Reader,
        hints: HintReader | None,
        usages: Mapping[str, UsageTable],
        load: LoadPage,
        proxied: Proxied | None,
        orca: Orca | None,
        hooks: Hooks,
        replies: Replies,
        queued_body: int,
        retry_stale: bool,
        max_connections: int,
        times_answers: bool,
    ) -> None:
        self.shared = shared
        self.admission = admission
        self.classifier = classifier
        self.stated = stated
        self.hints = hints
        self.usages = usages
        self.load = load
        self.proxied = proxied
        self.orca = orca
        self.hooks = hooks
        self.replies = replies
        self.queued_body = queued_body
        self.retry_stale = retry_stale
        self.max_connections = max_connections
        self.times_answers = times_answers
        self.connections: set[ClientConnection] = set()
        self.active = 0
        self.closing = False
        self.holds = False
        self.held: dict[Exchange, None] = {}
        self.idle = asyncio.Event()
        self._loop = loop
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._leaving: list[tuple[float, int, Exchange]] = []

    def depart(self, connection: ClientConnection) -> None:
        """A client's connection is gone."""
        self.connections.discard(connection)
        if self.closing and not self.connections:
            self.idle.set()

    def wake_at(self, when: float) -> None:
        """Have expired tickets answered at `when`, in seconds of the monotonic clock.

        One timer serves every request.
        """
        if self._alarm is not None:
            if self._alarm_at <= when:
                return
            self._alarm.cancel()
        self._alarm_at = when
        self._alarm = self._loop.call_later(max(0.0, when - monotonic()), self._on_alarm)

    def dispatch(self, tickets: Sequence[Ticket], now: float) -> None:
        """Send off the tickets that admission has started, and answer those that it has dropped.

        A flat loop: a dispatch never ends an exchange in the same turn, and an answer starts nobody.
        """
        for ticket in tickets:
            if ticket.state is RUNNING:
                ticket.owner.dispatch(now)
            else:
                ticket.owner.refuse(Outcome.EXPIRED)

    def let_go(self) -> None:
        """The predictor can serve: send what was held."""
        self.holds = False
        held, self.held = self.held, {}
        for exchange in held:
            exchange.connect()
        self.shared.flush()

    def displace(self) -> None:
        """Answer the tickets that one of a higher priority has pushed out."""
        for ticket in self.admission.take_displaced():
            ticket.owner.refuse(Outcome.OVERLOAD)

    def expire(self, now: float) -> None:
        """Answer the tickets whose deadline has passed in the queue."""
        for ticket in self.admission.expire(now):
            ticket.owner.refuse(Outcome.EXPIRED)

    def release_at(self, when: float, exchange: "Exchange") -> None:
        """Have the slot of an exchange released at `when`, in seconds of the monotonic clock."""
        heappush(self._leaving, (when, id(exchange), exchange))
        self.wake_at(when)

    def release(self, now: float) -> None:
        """Release the slots whose time has come."""
        leaving = self._leaving
        while leaving and leaving[0][0] <= now:
            heappop(leaving)[2].release()

    def _on_alarm(self) -> None:
        self._alarm = None
        now = monotonic()
        self.release(now)
        self.expire(now)
        when = self.admission.next_deadline()
        if when is not None:
            self.wake_at(when)
        if self._leaving:
            self.wake_at(self._leaving[0][0])
        self.shared.flush()
