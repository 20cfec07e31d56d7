"""Ambiguous HTTP/1.1 requests to real predictors, directly and through the agent: do they read what is sent on alike?

`python -m tests.fuzz.differential [--count N] [--seed S] [PREDICTOR...]` prints how many were forwarded and refused,
and every disagreement. What the agent forwards passes a `Relay`, which writes it down. It is then sent once more, as
the messages that h11 finds in it, to the predictor itself, with a marker request behind: each message must be answered
once, in order, as the client was answered through the agent, and the marker as a request of its own.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from agent.wire.http1 import ServerHttp1
from agent.wire.message import HeadCache
from tests.contract.launchers import LAUNCHERS
from tests.contract.processes import Agent, Server, eventually, running_agent
from tests.contract.rawhttp import RawClient, request
from tests.fakes import RecordingSink
from tests.fuzz import ambiguous
from tests.fuzz.relay import Relay
from tests.wire.feeding import LIMITS, feed
from tests.wire.oracle import read_request

MARKER = request("GET", "/v2/models/other").data
# How long what has been understood may take to be answered, and how long to wait for what may never come.
_ANSWER_S = 10.0
_QUIET_S = 0.3

# What was heard for a message: status and body, or why there was neither.
Heard = tuple[int, bytes]
SILENCE: Heard = (0, b"silence")
CLOSED: Heard = (0, b"closed")

# What a predictor that is asked directly reads otherwise, or refuses, may be forwarded: it is sent another spelling.
FORWARDED, REWRITTEN, REFUSED, INCOMPLETE = "forwarded", "forwarded in another spelling", "refused", "incomplete"


class UnreadableError(Exception):
    """What was forwarded is not HTTP."""


class Result(NamedTuple):
    """How a request was read: `kind` is one of the above, `wrong` says where readings differ."""

    data: bytes
    kind: str
    direct: list[Heard]
    through: list[Heard]
    wrong: list[str]


def converse(address: str, pieces: Sequence[bytes], patience: float = _ANSWER_S) -> list[Heard]:
    """Send the pieces on one connection, each when one answer has come for the last, until the connection ends."""
    heard: list[Heard] = []
    with RawClient(address, patience) as client:
        for piece in pieces:
            try:
                client.send(piece)
                answer = client.receive()
                heard.append((answer.status, answer.body if answer.status < 300 else b""))
            except TimeoutError:
                heard.append(SILENCE)
            except (EOFError, ValueError, ConnectionError):
                heard.append(CLOSED)
                break
    return heard


def split(stream: bytes) -> tuple[list[bytes], bytes]:
    """The whole requests that h11 finds in a stream, and what begins another. Raises UnreadableError."""
    found = []
    while stream:
        reading = read_request(stream)
        if isinstance(reading, str):
            raise UnreadableError(f"h11 refuses what was forwarded: {reading}")
        if not reading.complete:
            break
        found.append(stream[: len(stream) - len(reading.rest)])
        stream = reading.rest
    return found, stream


def comes_to_an_end(data: bytes) -> str:
    """How the agent's own machine says that the first request ends: "end", "trailers" or "fault"; "" if it does not."""
    sink = RecordingSink()
    feed(ServerHttp1(sink, LIMITS, HeadCache()), [data])
    last = sink.events[-1][0] if sink.events else ""
    return last if last in {"end", "trailers", "fault"} else ""


class Judge:
    """Compares the readings of one predictor, of an agent in front of it, and of what that sends through `relay`."""

    def __init__(self, server: Server, agent: Agent, relay: Relay) -> None:
        self._server, self._agent, self._relay = server.address, agent, relay
        (self._marker,) = converse(self._server, [MARKER])
        (through,) = converse(agent.address, [MARKER])
        assert through == self._marker
        assert through[0] == 200
        # As the agent sends it.
        (self._sent_marker,) = self._taken()

    def judge(self, data: bytes) -> Result:
        """Send one request in all ways."""
        # A request that is whole, or broken, is answered whenever the answer comes; of the others silence is expected.
        patience = _ANSWER_S if comes_to_an_end(data) else _QUIET_S
        through = converse(self._agent.address, [data, MARKER, MARKER], patience)
        direct = converse(self._server, [data, MARKER, MARKER], _QUIET_S)
        wrong: list[str] = []
        answers: list[Heard] = []
        forwarded: list[bytes] = []
        for stream in self._taken():
            try:
                found, rest = split(stream)
            except UnreadableError as error:
                wrong.append(str(error))
                continue
            forwarded += found
            answers += self._again(found, wrong)
            if rest and any(status // 100 == 2 for status, _ in converse(self._server, [rest], _QUIET_S)):
                wrong.append("what the agent never completed is whole to the predictor")
        for number, (told, again) in enumerate(zip(through, answers, strict=False)):
            if told not in {again, SILENCE, CLOSED} and (told[0], again) != (502, CLOSED):
                wrong.append(f"answer {number} through the agent is {told}, to the same bytes it is {again}")
        own = [message for message in forwarded if message != self._sent_marker]
        if own:
            kind = FORWARDED if direct[0] in {through[0], SILENCE} else REWRITTEN
        else:
            kind = REFUSED if through[0][0] >= 400 or through[0] == CLOSED else INCOMPLETE
        return Result(data, kind, direct, through, wrong)

    def _again(self, found: list[bytes], wrong: list[str]) -> list[Heard]:
        """The answers to the messages of one connection, each of which must come, and then the marker's."""
        answers: list[Heard] = []
        while len(answers) < len(found):
            *heard, last = converse(self._server, [*found[len(answers) :], MARKER])
            if last == CLOSED:
                # It may refuse and end the connection, silently too; the rest is sent on another one.
                heard = heard or [CLOSED]
                if 0 < heard[-1][0] < 400:
                    wrong.append("the predictor ends the connection behind a request that it has served")
            elif last != self._marker:
                wrong.append(f"the marker behind what was forwarded is answered with {last}")
                return answers
            answers += heard
        if SILENCE in answers:
            wrong.append("a message that the agent completed is not answered")
        return answers

    def _taken(self) -> list[bytes]:
        """What the agent sent, once it has come to an end with everything."""
        eventually(self._is_idle, "the agent has no client")
        return self._relay.take()

    def _is_idle(self) -> bool:
        state = self._agent.state()
        return state["connections"]["client"] == state["inflight"] == state["queued"] == 0


@contextmanager
def judging(server: Server, directory: Path) -> Iterator[Judge]:
    """A judge of a predictor that runs, with a relay and an agent of its own."""
    with Relay(server.address) as relay, running_agent(directory, [relay.url]) as agent:
        yield Judge(server, agent, relay)


def inputs(count: int, seed: int) -> Iterable[bytes]:
    """The table, and so many more from the generator."""
    return chain(ambiguous.table(), islice(ambiguous.generated(seed), count))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.differential", description=__doc__)
    parser.add_argument("predictors", nargs="*", metavar="PREDICTOR", help=f"of {', '.join(LAUNCHERS)}; all by default")
    parser.add_argument("--count", type=int, default=1000, help="how many more than the table's")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bad = 0
    for name in asked.predictors or LAUNCHERS:
        with (
            tempfile.TemporaryDirectory() as folder,
            LAUNCHERS[name](Path(folder)) as server,
            judging(server, Path(folder)) as judge,
        ):
            results = [judge.judge(data) for data in inputs(asked.count, asked.seed)]
        kinds = Counter(result.kind for result in results)
        wrong = [result for result in results if result.wrong]
        for result in wrong:
            print(f"{name}: {result.data!r}\n    {'; '.join(result.wrong)}")
        told = ", ".join(f"{kinds[kind]} {kind}" for kind in (FORWARDED, REWRITTEN, REFUSED, INCOMPLETE))
        print(f"{name}: {len(results)} inputs, {told}, {len(wrong)} disagreements", flush=True)
        bad += len(wrong)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
