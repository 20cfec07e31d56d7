"""An agent without a loop between a client that pipelines and a predictor: nothing is lost or mixed up in any order."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, State
from tests.examples import examples
from tests.fakes import Event, RecordingSink
from tests.wire import test_http1_refusals
from tests.wire.feeding import LIMITS, feed, is_complete, requests, responses
from tests.wire.test_http1_joined import ANSWERED, ASKED, written

REQUESTS = {data: requests(data) for data in ASKED.values()}
ANSWERS = {data: responses(data) for data in ANSWERED.values()}
BROKEN = [data for data, outcome in test_http1_refusals.HEADS.values() if data.endswith(b"\r\n\r\n")]

sizes = st.sampled_from([1, 7, 60, 1 << 16])


class Pipeline(RuleBasedStateMachine):
    """`asked` are the requests that are on their way to the agent, with their events, `answers` those to the last one.

    `heard` is what the agent was told of them, `due` what it has to be told.
    """

    def __init__(self) -> None:
        super().__init__()
        heads = HeadCache()
        self.heard, self.relayed, self.answered = RecordingSink(), RecordingSink(), RecordingSink()
        self.down, self.predictor = ServerHttp1(self.heard, LIMITS, heads), ServerHttp1(self.relayed, LIMITS, heads)
        self.up = ClientHttp1(self.answered, LIMITS, heads)
        self.due: list[Event] = []
        self.asked: deque[list[Event]] = deque()
        self.to_agent, self.to_client = bytearray(), bytearray()
        self.running: list[Event] | None = None
        self.broken = False

    def outstanding(self) -> bool:
        """Whether a request has come whole and waits for its answer."""
        return self.down.state is State.READY

    @precondition(lambda self: not self.broken)
    @rule(several=st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=4))
    def ask(self, several: list[bytes]) -> None:
        for data in several:
            self.to_agent += data
            self.asked.append(REQUESTS[data])
            self.due += REQUESTS[data]

    @precondition(lambda self: len(self.due) > 12 and not self.broken)
    @rule(data=st.sampled_from(BROKEN))
    def ask_badly(self, data: bytes) -> None:
        self.to_agent += data
        self.broken = True

    @rule(size=sizes)
    def come(self, size: int) -> None:
        piece = bytes(self.to_agent[:size])
        del self.to_agent[:size]
        feed(self.down, [piece])

    @precondition(lambda self: self.outstanding() and self.running is None and self.asked)
    @rule(size=sizes)
    def forward(self, size: int) -> None:
        """What arrived goes to the predictor, which reads the same in reads of any size."""
        self.running = self.asked.popleft()
        self.relayed.events.clear()
        sent = written(self.running)
        feed(self.predictor, [sent[at : at + size] for at in range(0, len(sent), size)])
        assert self.relayed.events == self.running
        self.predictor.next_message()
        self.up.expect(b"POST")

    @precondition(lambda self: self.running is not None and not self.to_client)
    @rule(data=st.sampled_from(list(ANSWERS)))
    def answer(self, data: bytes) -> None:
        self.answered.events.clear()
        self.to_client += data
        self.expected = ANSWERS[data]

    @precondition(lambda self: self.to_client)
    @rule(size=sizes)
    def answer_comes(self, size: int) -> None:
        piece = bytes(self.to_client[:size])
        del self.to_client[:size]
        feed(self.up, [piece])
        assert (self.up.state is State.READY) == (not self.to_client)
        if not self.to_client:
            assert self.answered.events == self.expected
            self.running = None
            self.down.next_message()

    @invariant()
    def what_was_heard_is_the_beginning_of_what_was_sent(self) -> None:
        heard = self.heard.events
        if heard and heard[-1][0] == "fault":
            assert self.broken
            assert self.down.state is State.DEAD
            assert heard[:-1][: len(self.due)] == self.due
            return
        whole = heard[:-1] if heard and heard[-1][0] == "body" else heard
        assert whole == self.due[: len(whole)]
        if len(whole) < len(heard):
            assert self.due[len(whole)][1].startswith(heard[-1][1])

    @invariant()
    def no_request_is_read_before_the_last_is_answered(self) -> None:
        heads = sum(event[0] == "request" for event in self.heard.events)
        ended = sum(is_complete([event]) for event in self.heard.events)
        assert heads - ended in {0, 1}
        assert not self.outstanding() or heads == ended
        # What is held is what has come and is not looked at.
        assert not self.down.held or self.outstanding()

    def teardown(self) -> None:
        self.come(1 << 20)
        while self.asked or self.running is not None:
            if self.running is None:
                if not self.outstanding():
                    break
                self.forward(1 << 16)
            if not self.to_client:
                self.answer(next(iter(ANSWERS)))
            self.answer_comes(1 << 16)
        assert not self.asked
        if self.broken:
            assert self.heard.events[-1][0] == "fault"
            assert self.heard.events[:-1][: len(self.due)] == self.due
        else:
            assert self.heard.events == self.due
            assert (self.down.state, bytes(self.down.held)) == (State.HEAD, b"")
        events = list(self.heard.events)
        self.down.stop()
        feed(self.down, [next(iter(REQUESTS))])
        self.down.next_message()
        self.down.eof()
        assert self.heard.events == events


def test_a_pipeline_in_any_order_of_events() -> None:
    run_state_machine_as_test(Pipeline, settings=settings(max_examples=examples(100), stateful_step_count=60))
