"""What an exchange owes admission and observers: its ticket, its stamps, and exactly one ending."""

from collections.abc import Sequence
from random import uniform
from time import monotonic

from agent.errors import REPLIES, Outcome
from agent.net.gate import Gate
from agent.net.messages import Messages
from agent.net.phase import ENDED, NAMING, QUEUED, RELAYING, Phase
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
    when the request could be decided on, which for a gRPC call takes the first bytes of its message.
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
        self._is_stream = self._is_proxied = False
        self.protocol = down.protocol
        self.peer = down.peer
        self.route: Route
        self.usage: Usage | None = None
        self.outcome = SERVED
        self.status = self.bytes_out = 0
        self.grpc_status = NO_STATUS
        self.began = self.arrived = self.dispatched = self.responded = self.ended = 0.0

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
    def lacks_body(self) -> bool:
        """Whether it is the client's turn: the predictor waits for more of the body.

        It never is in a stream of messages: each is a request of its own, and the next may come when it likes.
        """
        return self._phase is RELAYING and not self._upload.complete and self._messages is None

    def _enter(self, now: float) -> Outcome | None:
        """Offer the request to admission. Returns the refusal; else the ticket runs or waits."""
        gate, route = self._gate, self.route
        usage = self.usage = gate.usages[self.protocol].of(route.model)
        if route.messages:
            self._messages = Messages(usage)
            self._messages.ask(self._upload.first_bytes())
        ticket = self._ticket = gate.admission.ticket(self, route.model, usage)
        patience = self._head.patience
        priority = tenant = 0
        if gate.stated.is_needed:
            said, priority, tenant, proxied, form = gate.stated.read(self._head.fields)
            if said is not None and (patience is None or said < patience):
                patience = said
            if proxied and gate.proxied is not None:
                self._is_proxied = True
                gate.proxied.enter(now)
            if gate.orca is not None and self._down is not None:
                self._down = gate.orca.client(self._down, form, grpc=self._head.grpc)
        cost = 1.0
        if route.hints and gate.hints is not None:
            hints = gate.hints.read(self._upload.first_bytes(), grpc=self._head.grpc)
            if hints.patience is not None and (patience is None or hints.patience < patience):
                patience = hints.patience
            priority = priority or hints.priority
            if hints.rows:
                cost = gate.admission.cost_of(ticket, hints.rows)
        if patience is not None:
            patience += self.began - now
        refusal = gate.admission.offer(
            ticket, now, patience, streams=route.streams, priority=priority, tenant=tenant, cost=cost
        )
        if priority:
            gate.displace()
        if refusal is None and ticket.state is not RUNNING:
            if self._upload.size:
                gate.admission.charge(ticket, self._upload.size)
            gate.wake_at(ticket.deadline)
        return refusal

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

    def _show_page(self, now: float) -> None:
        """Answer for the agent itself, whatever the load. Nothing is accounted for."""
        gate, head, down = self._gate, self._head, self._down
        assert down is not None
        accept = next((value for name, value in head.fields if name.lower() == b"accept"), b"")
        page = gate.load.answer(head.method, head.target, accept, now)
        self._phase = ENDED
        self._down = None
        self._upload.drop()
        gate.active -= 1
        down.send_page(page, bodyless=head.method == b"HEAD")
        if gate.closing and not gate.active:
            gate.idle.set()

    def _finish(self, outcome: Outcome) -> None:
        """Account for the exchange, once, and let the next one run."""
        assert self._phase is not ENDED, "an exchange ends once"
        gate, ticket = self._gate, self._ticket
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
                started = gate.admission.finish(ticket, now, served=outcome is SERVED and not self._is_stream)
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
