"""One request's life: classify, admit, dispatch, relay both ways, account exactly once.

    begin --> NAMING --> QUEUED --> CONNECTING --> RELAYING --> ENDED
      |         |          \\            \\           |  \\-101-> TUNNEL --> ENDED
      |         |           \\            \\          \\---cancelled--> LEAVING --> ENDED
      \\---------+------------\\------------\\--refuse------------------------------^

NAMING waits for the first bytes of a gRPC message, which name the model. The slot is held until the upstream side ends,
also after the client has left: the model goes on computing (DECISIONS 5).
"""

from collections.abc import Callable
from time import monotonic

from agent.errors import Fault, Outcome
from agent.net.account import SERVED
from agent.net.connection import PAUSE_PEER, PAUSE_QUEUED
from agent.net.entry import Entry
from agent.net.gate import Gate
from agent.net.phase import CONNECTING, ENDED, LEAVING, NAMING, QUEUED, RELAYING, TUNNEL
from agent.net.sides import Client, Pool, Upstream
from agent.net.upload import Upload
from agent.policy.usage import Usage
from agent.wire.fields import Trailers
from agent.wire.head import NO_STATUS, RequestHead, ResponseHead

# How often a request that the predictor has handed back unprocessed is sent again.
_MAX_RETURNS = 3


class Exchange(Entry):
    """A request and its answer."""

    __slots__ = ("_pool", "_returns", "_up")

    def __init__(self, gate: Gate, pool: Pool, down: Client, head: RequestHead, *, uploaded: bool) -> None:
        keep = gate.queued_body if pool.refuses or gate.retry_stale else 0
        super().__init__(gate, down, head, Upload(complete=uploaded, keep=keep))
        self._pool = pool
        self._up: Upstream | None = None
        self._returns = 0

    @property
    def runs(self) -> bool:
        """Whether the predictor has the request, or is about to, and has not begun to answer."""
        if self._phase is CONNECTING:
            return not (self._pool.is_refusing or self._gate.holds)
        return self._phase is RELAYING and self._response is None

    # From admission

    def dispatch(self, now: float) -> None:
        """The slot is ours: send the request as soon as there is a connection."""
        self.dispatched = now
        if self._gate.holds and self._ticket is not None:
            self._phase = CONNECTING
            self._was_refused = True
            self._gate.held[self] = None
            return
        up = self._pool.take(now)
        if up is not None:
            self.attach(up, now)
        else:
            self.connect()

    def connect(self) -> None:
        """Wait for a connection."""
        self._phase = CONNECTING
        self._was_refused = self._was_refused or self._pool.is_refusing
        self._pool.wait(self)

    def refuse(self, outcome: Outcome, detail: str = "") -> None:
        """Answer without the predictor, or end visibly what cannot be answered any more."""
        down, response = self._down, self._response
        if self._phase is not QUEUED:
            self._drop_upstream()
        self._book_refusal(outcome)
        retry = self._retry_after(outcome)
        self._finish(outcome)
        if down is None:
            return
        try:
            if response is None:
                down.send_refusal(outcome, detail, retry)
            else:
                down.cut(outcome)
        except Exception:
            down.cut(Outcome.INTERNAL)  # nobody would find this client any more
            raise

    def abandon(self) -> None:
        """Account for an exchange that a bug of ours has broken, wherever it was."""
        if self._phase is ENDED:
            return
        down, self._down = self._down, None
        self._book_refusal(Outcome.INTERNAL)
        self._drop_upstream()
        self._finish(Outcome.INTERNAL)
        if down is not None:
            down.cut(Outcome.INTERNAL)

    def hear(self, ending: Callable[[], None]) -> None:
        """Hear of an ending from a stream that is gone: after a bug its connection's guard would not find us."""
        try:
            ending()
        except Exception:
            self.abandon()
            raise

    def release(self) -> None:
        """The model has had the time that it takes for an answer that nobody wants any more."""
        if self._phase is LEAVING:
            self._finish(Outcome.CLIENT_GONE)

    # From the client

    def on_request_body(self, data: bytes | memoryview, end: bool) -> None:
        """A piece of the request's body; a view is valid during the call only."""
        upload = self._upload
        upload.size += len(data)
        if end:
            upload.complete = True
            if self._gate.times_answers and self._up is not None:
                self.sent = monotonic()
        if self._messages is not None:
            self._messages.ask(data)
        if self._up is not None:
            upload.send(self._up, bytes(data), end)
        elif self._phase is not ENDED:
            if data:
                self._hold(bytes(data))
            if self._phase is NAMING:
                self.name(whole=end)

    def on_request_trailers(self, trailers: Trailers) -> None:
        """The end of a request body that has trailers."""
        self._upload.finish(trailers)
        if self._up is not None:
            self.sent = monotonic()
            self._up.finish(trailers)
        elif self._phase is NAMING:
            self.name(whole=True)

    def on_client_fault(self, fault: Fault) -> None:
        """The client broke a rule inside its request, and has been told."""
        if self._phase is ENDED:
            return
        self._down = None
        self._book_refusal(fault.outcome)
        self._drop_upstream()
        self._finish(fault.outcome)

    def on_client_gone(self, *, cut: bool = False) -> None:
        """The client has left, or was `cut` off. What the model has not seen is undone; what may run keeps its slot."""
        if self._phase is ENDED:
            return  # the end of its answer was still on its way
        self._down = None
        if self._phase is TUNNEL:
            up, self._up = self._up, None
            if up is not None:
                (up.discard if cut else up.shut)()
            self._finish(SERVED)
            return
        self.status = self._gate.replies.status(Outcome.CLIENT_GONE)
        self.grpc_status = self._gate.replies.grpc_status(Outcome.CLIENT_GONE) if self._head.grpc else NO_STATUS
        if self._phase is RELAYING and self._upload.complete and self._response is None:
            assert self._up is not None
            if not self._up.cancels:
                return
            if self.usage is not None and self._linger(self.usage):
                return
        self._drop_upstream()
        self._finish(Outcome.CLIENT_GONE)

    def on_client_writable(self, *, ready: bool) -> None:
        """The client's write buffer filled up or drained: pass it on to the predictor."""
        if self._up is not None:
            (self._up.resume if ready else self._up.pause)(PAUSE_PEER)

    # From the pool and the predictor

    def attach(self, up: Upstream, now: float) -> None:
        """Send the request on this connection."""
        self._phase = RELAYING
        self._up = up
        if self._was_refused and self._ticket is not None:
            self.dispatched = now
            self._gate.admission.reached(self._ticket, now)
        head, down, upload = self._head, self._down, self._upload
        up.begin(self, head, not upload.size and upload.is_empty, now - self.began)
        if upload.size or upload.complete:
            upload.send_held(up)
        if upload.complete:
            self.sent = now
        if down is not None and not upload.complete:
            if head.expects_continue and not upload.size:
                down.send_continue()
            down.expect_bulk(bulk=True)
            down.resume(PAUSE_QUEUED)
            if up.congested:
                down.pause(PAUSE_PEER)

    def on_refused_connection(self, now: float) -> None:
        """A dial has failed.

        Only inference waits for the next one: a probe is there to learn that the predictor is down.
        """
        self._was_refused = True
        if self._ticket is None:
            self.refuse(Outcome.EXPIRED if self._has_expired(now) else Outcome.UPSTREAM_UNAVAILABLE)
        else:
            self.check_patience(now)

    def check_patience(self, now: float) -> None:
        """Give up what waits for a connection and may not any longer."""
        if self._ticket is not None and now >= self._ticket.deadline:
            # It may be there and have no room for another stream.
            is_there = not self._gate.holds and self._pool.counts() != (0, 0)
            self.refuse(Outcome.EXPIRED if is_there or self._has_expired(now) else Outcome.UPSTREAM_UNAVAILABLE)

    def has_no_answer(self, now: float, patience: float) -> bool:
        """Whether the predictor has had the whole request for over `patience` seconds, and no answer has begun."""
        if self._response is not None or not self.sent:
            return False
        if self._up is not None and self._up.congested:
            self.sent = now  # it does not even take the request
        return now - self.sent > patience

    def on_interim(self, head: ResponseHead) -> None:
        """A 1xx answer."""
        if self._down is not None:
            self._down.send_interim(head)

    def on_response(self, head: ResponseHead, end: bool) -> None:
        """The final answer's head."""
        self._response = head
        self._upload.drop()
        now = self.responded = monotonic()
        route = self.route
        if route.streams and self._ticket is not None:
            self._gate.admission.responded(self._ticket, now)
        elif route.may_stream and head.is_event_stream:
            self._is_stream = True
        down = self._down
        if down is None:
            if head.status == 101:
                self.refuse(Outcome.CLIENT_GONE)
            elif end:
                self._end_response()
            return
        self.status = head.status
        if head.status == 101:
            self._phase = TUNNEL
            down.start_tunnel(head)
        elif end:
            self.grpc_status = head.grpc_status
            self._end_response()
            down.start(head, True)
        else:
            down.start(head, False)
            if down.congested and self._up is not None:
                self._up.pause(PAUSE_PEER)

    def on_response_body(self, data: bytes | memoryview, end: bool) -> None:
        """A piece of the answer's body; a view is valid during the call only."""
        down = self._down
        self.bytes_out += len(data)
        if self._messages is not None:
            self._messages.answer(data)
        if end:
            self._end_response()
        if down is not None:
            down.send_data(bytes(data), end)

    def on_response_trailers(self, trailers: Trailers) -> None:
        """The end of an answer that has trailers."""
        down = self._down
        self.grpc_status = trailers.grpc_status
        self._end_response()
        if down is not None:
            down.finish(trailers)

    def on_upstream_fault(self, fault: Fault) -> None:
        """The predictor broke the protocol, or ended the connection inside its answer."""
        if fault.outcome is Outcome.UPSTREAM_CLOSED:
            self.on_upstream_lost()
        else:
            self.refuse(fault.outcome)

    def on_upstream_lost(self, *, cut: bool = False) -> None:
        """The connection to the predictor is gone: `cut`, or ended."""
        if self._phase is TUNNEL:
            down = self._down
            self._drop_upstream()
            self._finish(SERVED)
            if down is not None and cut:
                down.cut(Outcome.UPSTREAM_TRUNCATED)
            elif down is not None:
                down.close_tunnel()
        elif self._response is not None:
            self.refuse(Outcome.UPSTREAM_TRUNCATED)
        elif self._may_repeat_stale():
            self._connect_again()
        else:
            self.refuse(Outcome.UPSTREAM_CLOSED)

    def on_upstream_reset(self) -> None:
        """The predictor has given this request up, and goes on with others."""
        self.refuse(Outcome.UPSTREAM_RESET)

    def on_upstream_returned(self) -> None:
        """The predictor has not looked at the request and says so (RFC 9113 section 8.7): it may be sent again."""
        if self._down is None:
            self.refuse(Outcome.CLIENT_GONE)
        elif self._response is None and self._upload.at_hand and self._returns < _MAX_RETURNS:
            self._connect_again()
        else:
            self.refuse(Outcome.UPSTREAM_CLOSED)

    def on_upstream_writable(self, *, ready: bool) -> None:
        """The predictor's connection filled up or drained: pass it on to the client."""
        if self._down is not None:
            (self._down.resume if ready else self._down.pause)(PAUSE_PEER)

    # Inside

    def _has_expired(self, now: float) -> bool:
        """Whether the time is over that the caller itself has set."""
        patience = self._head.patience
        return patience is not None and now - self.began >= patience

    def _may_repeat_stale(self) -> bool:
        up, upload = self._up, self._upload
        return (
            self._gate.retry_stale
            and self._down is not None
            and up is not None
            and up.stale
            and not self._returns
            and upload.complete
            and upload.at_hand
        )

    def _connect_again(self) -> None:
        self._returns += 1
        self._drop_upstream()
        self._was_refused = False
        self.connect()

    def _linger(self, usage: Usage) -> bool:
        """Hold the slot of a call that was cancelled for as long as the model usually takes.

        Triton computes on whatever it is told, and says nothing of it.
        """
        until = self.dispatched + usage.service_s
        if until <= monotonic():
            return False
        self._drop_upstream()
        self._phase = LEAVING
        self._gate.release_at(until, self)
        return True

    def _end_response(self) -> None:
        """The answer is complete, but for its end on the client's side."""
        up, response = self._up, self._response
        assert up is not None
        assert response is not None
        self._up = None
        # A request that is not all sent would be continued by the next one's head. An answer that lasts until the end
        # has used the connection up. After an error uvicorn closes without having said so, once its log is written.
        up.end(reusable=self._upload.complete and response.keep_alive and response.status < 500)
        self._finish(SERVED if self._down is not None else Outcome.CLIENT_GONE)

    def _drop_upstream(self) -> None:
        if self._phase is CONNECTING:
            self._gate.held.pop(self, None)
            self._pool.forget(self)
        up, self._up = self._up, None
        if up is not None:
            up.discard()
