"""One request's life: classify, admit, dispatch, relay both ways, account exactly once.

    begin --> QUEUED --> CONNECTING --> RELAYING --> ENDED
      |          \\            \\           |  \\-101-> TUNNEL --> ENDED
      \\-----------\\------------\\--refuse--+---------------------^

The slot is held until the upstream side ends, also after the client has left: the model goes on computing (DECISIONS
5).
"""

from collections.abc import Sequence
from enum import IntEnum
from time import monotonic

from agent.errors import Fault, Outcome
from agent.net.client import Client
from agent.net.connection import PAUSE_PEER, PAUSE_QUEUED
from agent.net.gate import Gate
from agent.net.upload import Upload
from agent.net.upstream import Pool, Upstream
from agent.policy import admission
from agent.policy.admission import Ticket
from agent.policy.classify import Kind, Route
from agent.policy.usage import Usage
from agent.wire.head import Fields, RequestHead, ResponseHead


class Phase(IntEnum):
    """See the diagram in the module's docstring."""

    QUEUED = 0
    CONNECTING = 1
    RELAYING = 2
    TUNNEL = 3
    ENDED = 4


# Bound once: looking a member up on its class costs more than the comparison (CPython 3.11: 60 against 15 ns).
QUEUED, CONNECTING, RELAYING, TUNNEL, ENDED = Phase
INFERENCE = Kind.INFERENCE
RUNNING = admission.RUNNING
SERVED = Outcome.SERVED


class Exchange:
    """A request and its answer. Also the record that observers read (observe.hooks.Record)."""

    __slots__ = (
        "_down",
        "_gate",
        "_head",
        "_phase",
        "_pool",
        "_response",
        "_retried",
        "_ticket",
        "_up",
        "_upload",
        "arrived",
        "bytes_out",
        "dispatched",
        "ended",
        "outcome",
        "peer",
        "protocol",
        "responded",
        "route",
        "status",
        "usage",
    )

    def __init__(self, gate: Gate, pool: Pool, down: Client, head: RequestHead, *, uploaded: bool) -> None:
        self._gate = gate
        self._pool = pool
        self._down: Client | None = down
        self._head = head
        self._phase = QUEUED
        self._ticket: Ticket | None = None
        self._up: Upstream | None = None
        self._response: ResponseHead | None = None
        self._upload = Upload(chunked=head.chunked, complete=uploaded, keep=gate.queued_body if gate.retry_stale else 0)
        self._retried = False
        self.usage: Usage | None = None
        self.route: Route
        self.outcome = SERVED
        self.protocol = down.protocol
        self.peer = down.peer
        self.status = 0
        self.arrived = 0.0
        self.dispatched = 0.0
        self.responded = 0.0
        self.ended = 0.0
        self.bytes_out = 0

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
    def runs(self) -> bool:
        """Whether the predictor has the request, or is about to, and has not begun to answer."""
        if self._phase is CONNECTING:
            return not self._pool.is_refusing
        return self._phase is RELAYING and self._response is None

    @property
    def lacks_body(self) -> bool:
        """Whether it is the client's turn: the predictor waits for more of the body."""
        return self._phase is RELAYING and not self._upload.complete

    # From admission

    def begin(self) -> None:
        """Classify and offer."""
        gate, head = self._gate, self._head
        gate.active += 1
        now = self.arrived = monotonic()
        route = self.route = gate.classifier.classify(head.method, head.target)
        if route.kind is not INFERENCE:
            if not head.upgrade:
                self.dispatch(now)
                return
            # A tunnel keeps the predictor as busy as an inference of unknown length, so it takes a slot like one.
            self.route = Route(INFERENCE)
        usage = self.usage = gate.usages.of(route.model)
        ticket = self._ticket = Ticket(self, route.model, usage, gate.admission)
        refusal = gate.admission.offer(ticket, now)
        if refusal is not None:
            self.refuse(refusal)
        elif ticket.state is RUNNING:
            self.dispatch(now)
        else:
            gate.wake_at(ticket.deadline)

    def dispatch(self, now: float) -> None:
        """The slot is ours: send the request as soon as there is a connection."""
        self.dispatched = now
        up = self._pool.take(now)
        if up is not None:
            self.attach(up)
        else:
            self._phase = CONNECTING
            self._pool.wait(self)

    def refuse(self, outcome: Outcome, detail: str = "") -> None:
        """Answer without the predictor, or end visibly what cannot be answered any more."""
        down, response = self._down, self._response
        self._drop_upstream()
        if response is None:
            self.status = self._gate.replies.status(outcome)
        self._finish(outcome)
        if down is None:
            return
        if response is None:
            down.send_refusal(outcome, detail)
        else:
            down.abort()

    def abandon(self) -> None:
        """Account for an exchange that a bug of ours has broken, wherever it was."""
        if self._phase is ENDED:
            return
        down, self._down = self._down, None
        if self._response is None:
            self.status = self._gate.replies.status(Outcome.INTERNAL)
        self._drop_upstream()
        self._finish(Outcome.INTERNAL)
        if down is not None:
            down.abort()

    # From the client

    def on_request_body(self, data: memoryview, end: bool) -> None:
        """A piece of the request's body; `data` is valid during the call only."""
        upload = self._upload
        upload.size += len(data)
        if end:
            upload.complete = True
        if self._up is not None:
            upload.send(self._up, bytes(data))
            if self._up.congested and self._down is not None:
                self._down.pause(PAUSE_PEER)
        elif self._phase is not ENDED and data:
            self._hold(bytes(data))

    def on_request_trailers(self, fields: Fields) -> None:
        """The end of a chunked request body that has trailers."""
        self._upload.end_with(fields)
        if self._up is not None:
            self._upload.send(self._up, b"")

    def on_client_gone(self) -> None:
        """The client has left. What has not reached the model is undone; what may be computing keeps its slot."""
        self._down = None
        if self._phase is TUNNEL:
            up, self._up = self._up, None
            if up is not None:
                up.finish()
            self._finish(SERVED)
            return
        self.status = self._gate.replies.status(Outcome.CLIENT_GONE)
        if self._phase is RELAYING and self._upload.complete and self._response is None:
            return
        self._drop_upstream()
        self._finish(Outcome.CLIENT_GONE)

    def on_client_writable(self, *, ready: bool) -> None:
        """The client's write buffer filled up or drained: pass it on to the predictor."""
        if self._up is not None:
            if ready:
                self._up.resume(PAUSE_PEER)
            else:
                self._up.pause(PAUSE_PEER)

    # From the pool and the predictor

    def attach(self, up: Upstream) -> None:
        """Send the request on this connection."""
        self._phase = RELAYING
        self._up = up
        head, down = self._head, self._down
        up.begin(self, head)
        self._upload.send_held(up)
        if down is not None and not self._upload.complete:
            if head.expects_continue and not self._upload.size:
                down.send_continue()
            down.expect_bulk(bulk=True)
            down.resume(PAUSE_QUEUED)

    def on_refused_connection(self) -> None:
        """A dial has failed.

        Only inference waits for the next one: a probe is there to learn that the predictor is down.
        """
        ticket = self._ticket
        if ticket is None or monotonic() - self.arrived >= self._gate.admission.patience:
            self.refuse(Outcome.UPSTREAM_UNAVAILABLE)

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx answer."""
        if head.status != 100 and self._down is not None:
            self._down.send_interim(head)

    def on_response(self, head: ResponseHead, end: bool) -> None:
        """The final answer's head."""
        self._response = head
        self._upload.drop()
        self.responded = monotonic()
        down = self._down
        if down is not None:
            self.status = head.status
            if head.status == 101:
                self._phase = TUNNEL
                down.start_tunnel(head)
                return
            down.send_head(head)
            if down.congested and self._up is not None:
                self._up.pause(PAUSE_PEER)
        elif head.status == 101:
            self.refuse(Outcome.CLIENT_GONE)
            return
        if end:
            self._on_response_end([])

    def on_response_body(self, data: memoryview, end: bool) -> None:
        """A piece of the answer's body; `data` is valid during the call only."""
        down = self._down
        self.bytes_out += len(data)
        if down is not None and data:
            down.send_body(bytes(data))
        if end:
            self._on_response_end([])

    def on_response_trailers(self, fields: Fields) -> None:
        """The end of a chunked answer that has trailers."""
        self._on_response_end(fields)

    def on_upstream_fault(self, fault: Fault) -> None:
        """The predictor broke the protocol, or ended the connection inside its answer."""
        if fault.outcome is Outcome.UPSTREAM_CLOSED:
            self.on_upstream_lost()
        else:
            self.refuse(fault.outcome)

    def on_upstream_lost(self) -> None:
        """The connection to the predictor is gone."""
        if self._phase is TUNNEL:
            down = self._down
            self._drop_upstream()
            self._finish(SERVED)
            if down is not None:
                down.close_tunnel()
        elif self._response is not None:
            self.refuse(Outcome.UPSTREAM_TRUNCATED)
        elif self._may_retry():
            self._retried = True
            self._drop_upstream()
            self._phase = CONNECTING
            self._pool.wait(self)
        else:
            self.refuse(Outcome.UPSTREAM_CLOSED)

    def on_upstream_writable(self, *, ready: bool) -> None:
        """The predictor's connection filled up or drained: pass it on to the client."""
        if self._down is not None:
            if ready:
                self._down.resume(PAUSE_PEER)
            else:
                self._down.pause(PAUSE_PEER)

    # Inside

    def _hold(self, data: bytes) -> None:
        """Keep a piece of the body of a request that waits, up to the bound; the rest stays in the client's socket."""
        self._upload.hold(data)
        if self._phase is QUEUED and self._ticket is not None:
            self._gate.admission.charge(self._ticket, len(data))
        if self._upload.size >= self._gate.queued_body and self._down is not None and not self._upload.complete:
            self._down.pause(PAUSE_QUEUED)

    def _may_retry(self) -> bool:
        up = self._up
        return (
            self._gate.retry_stale
            and self._down is not None
            and up is not None
            and not (up.fresh or up.answered or self._retried)
            and self._upload.can_repeat
        )

    def _on_response_end(self, trailers: Fields) -> None:
        down, up, response = self._down, self._up, self._response
        assert up is not None
        assert response is not None
        self._up = None
        # A request that is not all sent would be continued by the next one's head. An answer that lasts until the end
        # has used the connection up. After an error uvicorn closes without having said so, once its log is written.
        up.end(reusable=self._upload.complete and response.keep_alive and response.status < 500)
        self._finish(SERVED if down is not None else Outcome.CLIENT_GONE)
        if down is not None:
            down.send_end(trailers)

    def _drop_upstream(self) -> None:
        if self._phase is CONNECTING:
            self._pool.forget(self)
        up = self._up
        if up is not None:
            self._up = None
            up.discard()

    def _finish(self, outcome: Outcome) -> None:
        """Account for the exchange, once, and let the next one run."""
        assert self._phase is not ENDED, "an exchange ends once"
        gate, ticket = self._gate, self._ticket
        self._phase = ENDED
        # The two point at each other; apart, both are freed at once and the garbage collector has nothing to find.
        self._ticket = None
        self._upload.drop()
        self.outcome = outcome
        now = self.ended = monotonic()
        started: Sequence[Ticket] = ()
        if ticket is not None:
            if ticket.state is RUNNING:
                started = gate.admission.finish(ticket, now)
            elif ticket.state is admission.QUEUED:
                gate.admission.cancel(ticket, now)
            if outcome is SERVED and self.status != 404:
                self.usage = gate.usages.learn(self.route.model, now)
        gate.active -= 1
        gate.hooks.ended(self)
        if started:
            gate.dispatch(started, now)
        if gate.closing and not gate.active:
            gate.idle.set()
