"""An exchange on its way in: classified, named, offered, and what is kept of its body until it has a slot."""

from time import monotonic

from agent.errors import Outcome
from agent.net.account import RUNNING, Account
from agent.net.connection import PAUSE_QUEUED
from agent.net.messages import Messages
from agent.net.phase import ENDED, NAMING, QUEUED
from agent.policy.classify import Kind, Route
from agent.wire.grpc import model_name

INFERENCE, PAGE = Kind.INFERENCE, Kind.PAGE


class Entry(Account):
    """The part of an exchange that comes before its dispatch."""

    __slots__ = ()

    def dispatch(self, now: float) -> None:
        """The slot is there, or none is needed."""
        raise NotImplementedError

    def refuse(self, outcome: Outcome, detail: str = "") -> None:
        """Answer without the predictor."""
        raise NotImplementedError

    def begin(self) -> None:
        """Classify, and offer unless the model's name is still to come."""
        gate, head = self._gate, self._head
        gate.active += 1
        now = self.began = self.arrived = monotonic()
        if head.grpc:
            route = gate.classifier.classify_call(head.target, head.model_id)
        else:
            route = gate.classifier.classify(head.method, head.target)
        self.route = route
        if route.kind is INFERENCE:
            # A client that waits for 100 has sent nothing yet that could be looked at.
            heeds = route.inside or (route.hints and gate.hints is not None and not head.expects_continue)
            if heeds and not self._upload.complete:
                self._phase = NAMING
                self.usage = gate.usages[self.protocol].other
            else:
                self._offer(now)
        elif route.kind is PAGE:
            self._show_page(now)
        elif head.upgrade:
            # A tunnel keeps the predictor as busy as an inference of unknown length, so it takes a slot like one.
            self.route = Route(INFERENCE)
            self._offer(now)
        else:
            self.dispatch(now)

    def name(self, *, whole: bool) -> None:
        """Look at what has come of the first message; `whole` gives up waiting for more of it."""
        if self._phase is not NAMING:
            return
        if self.route.inside:
            model = model_name(self._upload.first_bytes(), whole=whole)
            if model is None:
                return
            self.route = self._gate.classifier.name(self.route, model)
        self._phase = QUEUED
        now = self.arrived = monotonic()
        self._offer(now)

    def _offer(self, now: float) -> None:
        refusal = self._enter(now)
        if refusal is not None:
            self.refuse(refusal)
        elif self._ticket is not None and self._ticket.state is RUNNING:
            self.dispatch(now)

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

    def _hold(self, data: bytes) -> None:
        """Keep a piece of the body of a request that waits, up to the bound; the rest stays in the client's socket."""
        self._upload.hold(data)
        if self._phase is QUEUED and self._ticket is not None:
            self._gate.admission.charge(self._ticket, len(data))
        if self._upload.size >= self._gate.queued_body and self._down is not None and not self._upload.complete:
            self._down.pause(PAUSE_QUEUED)

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
