"""What an exchange owes admission and observers: its ticket, its stamps, and exactly one ending."""

from collections.abc import Sequence
from random import uniform
from time import monotonic

from agent.errors import REPLIES, Outcome
from agent.net.gate import Gate
from agent.net.messages import Messages
from agent.net.phase import CONNECTING, ENDED, NAMING, QUEUED, RELAYING, Phase
from agent.net.sides import Client
from agent.net.upload import Upload
from agent.policy import admission
from agent.policy.admission import Ticket
from agent.policy.classify import Route
from agent.policy.usage import Usage
from agent.wire.head import NO_STATUS, RequestHead, ResponseHead

RUNNING = admission.RUNNING
SERVED = Outcome.SERVED


class Account:
    """The part of an exchange that is booked; also the record that observers read (observe.hooks.Record).

    Stamps are monotonic seconds, 0.0 for what never happened; sizes are bytes. `began` is when the head came, `arrived`
    when the request could be decided on, which for a gRPC call takes the first bytes of its message, `dispatched` when
    it had its slot and a predictor that could be reached, `sent` when the predictor had been sent all of it.
    """

    __slots__ = (
        "_down",
        "_gate",
        "_head",
        "_is_proxied",
        "_is_stream",
        "_messages",
        "_phase",
        "_response",
        "_ticket",
        "_upload",
        "_was_refused",
        "arrived",
        "began",
        "bytes_out",
        "dispatched",
        "ended",
        "grpc_status",
        "outcome",
        "peer",
        "protocol",
        "responded",
        "route",
        "sent",
        "status",
        "usage",
    )

    def __init__(self, gate: Gate, down: Client, head: RequestHead, upload: Upload) -> None:
        self._down: Client | None = down
        self._gate = gate
        self._head = head
        self._upload = upload
        self._phase: Phase = QUEUED
        self._ticket: Ticket | None = None
        self._response: ResponseHead | None = None
        self._messages: Messages | None = None
        self._is_stream = self._is_proxied = self._was_refused = False
        self.protocol = down.protocol
        self.peer = down.peer
        self.route: Route
        self.usage: Usage | None = None
        self.outcome = SERVED
        self.status = self.bytes_out = 0
        self.grpc_status = NO_STATUS
        self.began = self.arrived = self.dispatched = self.sent = self.responded = self.ended = 0.0

    @property
    def bytes_in(self) -> int:
        return self._upload.size

    @property
    def method(self) -> bytes:
        return self._head.method

    @property
    def target(self) -> bytes:
        return self._head.target

    @property
    def is_retry(self) -> bool:
        return self._head.is_retry

    @property
    def is_over(self) -> bool:
        """Whether it is accounted for."""
        return self._phase is ENDED

    @property
    def waits(self) -> bool:
        """Whether it has no slot yet."""
        return self._phase is QUEUED or self._phase is NAMING

    @property
    def is_unnamed(self) -> bool:
        """Whether what it is judged by, the first bytes of its body, is still to come."""
        return self._phase is NAMING

    @property
    def is_served(self) -> bool:
        """Whether it keeps a slot and a predictor busy; a tunnel is a matter of its two ends."""
        return self._phase is RELAYING and self._ticket is not None

    @property
    def lacks_body(self) -> bool:
        """Whether it is the client's turn: the predictor waits for more of the body.

        It never is in a stream of messages: each is a request of its own, and the next may come when it likes.
        """
        return self._phase is RELAYING and not self._upload.complete and self._messages is None

    @property
    def owes_body(self) -> bool:
        """Whether the client must go on with its upload at once: it is no stream that may rest."""
        return self.lacks_body and not self.route.lasts

    def _retry_after(self, outcome: Outcome) -> float | None:
        """Seconds after which a refused caller may find room, spread so that they do not all come back together."""
        if self._ticket is None or not REPLIES[outcome].retry:
            return 0.0
        seconds = self._gate.admission.retry_after(self._ticket, monotonic())
        return None if seconds is None else seconds * uniform(1.0, 1.5)

    def _book_refusal(self, outcome: Outcome) -> None:
        """The client is told this by us, unless an answer has begun."""
        if self._response is None:
            self.status = self._gate.replies.status(outcome)
        if self._head.grpc:
            self.grpc_status = self._gate.replies.grpc_status(outcome)

    def _finish(self, outcome: Outcome) -> None:
        """Account for the exchange, once, and let the next one run."""
        assert self._phase is not ENDED, "an exchange ends once"
        gate, ticket = self._gate, self._ticket
        reached = self._phase is not CONNECTING
        self._phase = ENDED
        # They point back here; apart, all are freed at once and the garbage collector has nothing to find.
        self._ticket = self._down = None
        if self._response is None:
            self._upload.drop()
        if self._messages is not None:
            self._messages.end()
            self._messages = None
        self.outcome = outcome
        now = self.ended = monotonic()
        started: Sequence[Ticket] = ()
        if ticket is not None:
            if ticket.state is RUNNING:
                is_sample = outcome is SERVED and not self._is_stream
                started = gate.admission.finish(ticket, now, served=is_sample, reached=reached)
            elif ticket.state is admission.QUEUED:
                gate.admission.cancel(ticket, now)
            if outcome is SERVED:
                if not (self.route.streams or self._is_stream):
                    ticket.usage.served(now - self.dispatched)
                # A gRPC answer is HTTP's 200 whatever it says.
                if ticket.usage.name != self.route.model and (
                    self.grpc_status == 0 or (self.grpc_status == NO_STATUS and self.status != 404)
                ):
                    self.usage = gate.usages[self.protocol].learn(self.route.model, now)
            if self._is_proxied and gate.proxied is not None:
                gate.proxied.leave(now)
        gate.active -= 1
        gate.hooks.ended(self)
        if started:
            gate.dispatch(started, now)
        if gate.closing and not gate.active:
            gate.idle.set()
