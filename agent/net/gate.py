"""What the exchanges of a process share, and the two timers that serve them all."""

import asyncio
from collections.abc import Sequence
from time import monotonic

from agent.errors import Outcome
from agent.net.connection import Shared
from agent.net.replies import Replies
from agent.observe.hooks import Hooks
from agent.policy.admission import Admission, Ticket
from agent.policy.classify import Classifier
from agent.policy.usage import UsageTable


class Gate:
    """Admission and its surroundings, as an exchange sees them.

    `active` counts the exchanges that have begun and not ended, bypassing ones included. `closing` tells connections to
    end after the reply in hand. `queued_body` bounds, in bytes, what is read of the body of a request that is not yet
    dispatched.
    """

    __slots__ = (
        "_alarm",
        "_alarm_at",
        "_loop",
        "active",
        "admission",
        "classifier",
        "closing",
        "hooks",
        "idle",
        "max_connections",
        "queued_body",
        "replies",
        "retry_stale",
        "shared",
        "usages",
    )

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        shared: Shared,
        admission: Admission,
        classifier: Classifier,
        usages: UsageTable,
        hooks: Hooks,
        replies: Replies,
        queued_body: int,
        retry_stale: bool,
        max_connections: int,
    ) -> None:
        self.shared = shared
        self.admission = admission
        self.classifier = classifier
        self.usages = usages
        self.hooks = hooks
        self.replies = replies
        self.queued_body = queued_body
        self.retry_stale = retry_stale
        self.max_connections = max_connections
        self.active = 0
        self.closing = False
        self.idle = asyncio.Event()
        self._loop = loop
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0

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
        """Send off the tickets that admission has started.

        A flat loop: a dispatch never ends an exchange in the same turn.
        """
        for ticket in tickets:
            ticket.owner.dispatch(now)

    def expire(self, now: float) -> None:
        """Answer the tickets whose deadline has passed in the queue."""
        for ticket in self.admission.expire(now):
            ticket.owner.refuse(Outcome.EXPIRED)

    def _on_alarm(self) -> None:
        self._alarm = None
        self.expire(monotonic())
        when = self.admission.next_deadline()
        if when is not None:
            self.wake_at(when)
        self.shared.flush()
