"""Both machines, joined without a socket: what one writes the other reads, also after a relay in between."""

import random

import pytest

from agent.wire.http1 import ClientHttp1, ServerHttp1
from agent.wire.message import HeadCache, State
from tests.fakes import Event, RecordingSink
from tests.wire import test_http1_requests, test_http1_responses
from tests.wire.feeding import LIMITS, cut, feed, is_complete, requests, responses

ASKED = {
    name: data
    for name, (data, events) in test_http1_requests.ACCEPTED.items()
    if is_complete(events) and b"upgrade" not in name.encode()
}
ANSWERED = {name: data for name, (data, events) in test_http1_responses.ACCEPTED.items() if is_complete(events)}


def written(events: list[Event]) -> bytes:
    """What a relay sends for one message: the head as serialised, then the body in the head's framing."""
    chunked = b"\r\ntransfer-encoding:" in events[0][1].lower()
    parts = []
    for kind, *args in events:
        if kind in {"request", "response"}:
            parts.append(args[0])
        elif kind == "body":
            parts.append(b"%x\r\n%b\r\n" % (len(args[0]), args[0]) if chunked else bytes(args[0]))
        elif kind == "trailers":
            parts.append(b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in args[0]) + b"\r\n")
        elif chunked:
            parts.append(b"0\r\n\r\n")
    return b"".join(parts)


@pytest.mark.parametrize("case", ASKED)
def test_a_forwarded_request_is_read_as_the_one_that_came(case: str) -> None:
    events = requests(ASKED[case])
    assert requests(written(events)) == events


@pytest.mark.parametrize("case", ANSWERED)
def test_a_forwarded_answer_is_read_as_the_one_that_came(case: str) -> None:
    events = [event for event in responses(ANSWERED[case]) if event[0] != "interim"]
    bodyless = any(status in events[0][1] for status in (b" 204 ", b" 304 "))
    assert responses(events[0][1] if bodyless else written(events)) == events


class Relay:
    """An agent without a loop between a client and a predictor; each byte stream is cut at will."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        heads = HeadCache()
        self.asked, self.relayed, self.answered = RecordingSink(), RecordingSink(), RecordingSink()
        self.agent_server = ServerHttp1(self.asked, LIMITS, heads)
        self.predictor = ServerHttp1(self.relayed, LIMITS, heads)
        self.agent_client = ClientHttp1(self.answered, LIMITS, heads)

    def send(self, machine: ServerHttp1 | ClientHttp1, data: bytes) -> None:
        places = [self._random.randint(0, len(data)) for _ in range(self._random.randint(0, 5))]
        feed(machine, cut(data, places))

    def exchange(self, answer: bytes) -> tuple[list[Event], list[Event]]:
        """Relay the request that has arrived, and an answer to it. Returns what predictor and client were told."""
        for sink in (self.relayed, self.answered):
            sink.events.clear()
        events = list(self.asked.events)
        self.asked.events.clear()
        self.agent_client.expect(b"POST")
        self.send(self.predictor, written(events))
        self.predictor.next_message()
        self.send(self.agent_client, answer)
        assert self.agent_client.state is State.READY
        self.agent_server.next_message()
        return list(self.relayed.events), list(self.answered.events)


@pytest.mark.parametrize("seed", range(10))
def test_many_exchanges_on_one_pair_of_connections(seed: int) -> None:
    relay = Relay(seed)
    generator = random.Random(seed)
    asked = generator.choices(list(ASKED.values()), k=30)
    # All requests are pipelined: each waits in the machine until the one before is answered.
    relay.send(relay.agent_server, b"".join(asked))
    for request in asked:
        answer = generator.choice(list(ANSWERED.values()))
        relayed, answered = relay.exchange(answer)
        assert relayed == requests(request)
        assert answered == responses(answer)
    assert not relay.agent_server.held
    assert relay.agent_server.state is State.HEAD
