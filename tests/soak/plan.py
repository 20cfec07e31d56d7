"""What a request asks of the predictor, what its client does meanwhile, and how that may end. Pure."""

import random
from enum import StrEnum
from typing import ClassVar, NamedTuple
from zlib import crc32

PAD = b"0123456789abcdef" * 262_144
MODELS = [b"m%d" % number for number in range(6)]


class Deed(StrEnum):
    """What the predictor does with a request, which says it, so that the ledger knows what to expect."""

    ANSWER = "a"
    CHUNKED = "c"
    EVENTS = "s"  # one after the other, as server-sent events or as messages of a gRPC stream
    INTERIM = "i"  # a 103, then the answer
    CLOSING = "z"  # an answer that says that the connection ends
    SURPLUS = "x"  # bytes behind the answer that answer nothing
    EARLY = "e"  # the answer comes before the request is all there
    FAILED = "t"  # gRPC: a status, and nothing else
    HANDED_BACK = "u"  # REFUSED_STREAM the first time
    GOAWAY = "w"  # the first time; the streams below it are finished
    NEVER = "n"
    RESET = "r"  # of the connection, over HTTP/2 of the stream, before the answer
    TRUNCATED = "d"  # the same inside the answer
    CLOSED = "f"  # a half-close before the answer
    HALF = "h"  # the same inside it
    GARBAGE = "g"  # over HTTP/2 it costs the connection
    ABORT = "k"  # HTTP/2: reset the connection with all that it carries


class Conduct(StrEnum):
    """What the client does. From LEAVES_HEAD on it breaks its request off."""

    PLAIN = "plain"
    HALVES = "body in halves"
    EXPECTS = "expects 100"
    NOT_READING = "stops reading"
    HALF_CLOSES = "half-closes"
    LEAVES_HEAD = "leaves in head"
    LEAVES_BODY = "leaves in body"
    LEAVES_SENT = "leaves when sent"
    LEAVES_ANSWER = "leaves in answer"
    ENDS_BODY = "half-closes in body"


# In a million requests.
_HTTP_DEEDS = {
    Deed.CHUNKED: 150_000,
    Deed.EVENTS: 20_000,
    Deed.INTERIM: 10_000,
    Deed.CLOSING: 10_000,
    Deed.SURPLUS: 2_000,
    Deed.EARLY: 8_000,
    Deed.NEVER: 150,
    Deed.RESET: 3_000,
    Deed.TRUNCATED: 3_000,
    Deed.CLOSED: 2_000,
    Deed.HALF: 2_000,
    Deed.GARBAGE: 2_000,
}
_GRPC_DEEDS = {
    Deed.EVENTS: 60_000,
    Deed.EARLY: 8_000,
    Deed.FAILED: 10_000,
    Deed.HANDED_BACK: 10_000,
    Deed.GOAWAY: 300,
    Deed.NEVER: 150,
    Deed.RESET: 4_000,
    Deed.TRUNCATED: 4_000,
    Deed.GARBAGE: 60,
    Deed.ABORT: 60,
}
_CONDUCTS = {
    Conduct.HALVES: 30_000,
    Conduct.EXPECTS: 15_000,
    Conduct.NOT_READING: 10_000,
    Conduct.HALF_CLOSES: 4_000,
    Conduct.LEAVES_HEAD: 2_000,
    Conduct.LEAVES_BODY: 4_000,
    Conduct.LEAVES_SENT: 8_000,
    Conduct.LEAVES_ANSWER: 4_000,
    Conduct.ENDS_BODY: 2_000,
}
_SIZES = [(600_000, 900), (250_000, 8_000), (130_000, 60_000), (20_000, 200_000)]

# A body of which so many bytes are sent is kept until it is answered, and can be sent again.
_KEPT = 30_000

SERVED = "served"
CUT = "cut"  # the agent has ended it visibly, without words
LEFT = "left"  # by its client
UNSERVED = "unserved"  # behind a reply that ended the connection
WRONG = "wrong answer"
HUNG = "hung"
REFUSALS = frozenset({"queue_full", "expired", "deadline", "overload"})
# Where the predictor is the one that has failed.
FAILURES = frozenset(
    {"upstream_unavailable", "upstream_closed", "upstream_invalid", "upstream_truncated", "upstream_reset", "timeout"}
)

# What may come of a deed that was done, where it is no answer. Over HTTP/1.1 the client of an answer that has begun
# sees the end of the connection.
HTTP_ENDS = {
    Deed.NEVER: {"timeout"},
    Deed.RESET: {"upstream_closed"},
    Deed.CLOSED: {"upstream_closed"},
    Deed.GARBAGE: {"upstream_invalid"},
    Deed.TRUNCATED: {CUT},
    Deed.HALF: {CUT},
}
GRPC_ENDS = {
    Deed.NEVER: {"timeout"},
    Deed.RESET: {"upstream_reset"},
    Deed.TRUNCATED: {"upstream_reset"},
    Deed.GARBAGE: {"upstream_invalid"},
    Deed.ABORT: {"upstream_closed"},
}
# Where one request costs others their connection, and what those are told. What is above GOAWAY's last stream is sent
# again, unless its body was too large to be kept.
BREAKS = {
    Deed.GARBAGE: {"upstream_invalid"},
    Deed.ABORT: {"upstream_closed", "upstream_truncated"},
    Deed.GOAWAY: {"upstream_closed"},
}


class Plan(NamedTuple):
    """One request. `answer` is the size of the answer's padding in bytes, `patience` 0.0 if the client says nothing."""

    deed: Deed
    conduct: Conduct
    model: bytes
    body: int
    answer: int
    chunked: bool
    delay_ms: int
    patience: float

    @property
    def words(self) -> bytes:
        """As the predictor is told."""
        return b"%b %d %d" % (self.deed.value.encode(), self.answer, self.delay_ms)


def plain(deed: Deed = Deed.ANSWER, *, delay_s: float = 0.0, body: int = 100, answer: int = 100) -> Plan:
    """A request by a client that stays."""
    return Plan(deed, Conduct.PLAIN, b"m0", body, answer, chunked=False, delay_ms=int(delay_s * 1000), patience=0.0)


def deed_of(words: bytes) -> tuple[Deed, int, int]:
    """Reads `Plan.words`: the deed, the answer's size, the delay."""
    deed, answer, delay_ms = words.split()
    return Deed(deed.decode()), int(answer), int(delay_ms)


class Dice:
    """Draws plans. `calm` lets every request be one that is simply answered, by a client that stays."""

    def __init__(self, seed: int, *, grpc: bool) -> None:
        self.rng = random.Random(seed)
        self._deeds = _ladder(_GRPC_DEEDS if grpc else _HTTP_DEEDS, Deed.ANSWER)
        self._conducts = _ladder(_CONDUCTS, Conduct.PLAIN)
        self._grpc = grpc

    def draw(self, *, calm: bool = False) -> Plan:
        """The next request."""
        below = self.rng.random
        deed, conduct = Deed.ANSWER, Conduct.PLAIN
        if not calm:
            deed = _at(self._deeds, below() * 1e6)
            # One fault a request: then what must come of it is known.
            if deed in _STEADY:
                conduct = _at(self._conducts, below() * 1e6)
        body = self._size()
        if deed in {Deed.HANDED_BACK, Deed.GOAWAY}:
            body = min(body, _KEPT)
        if conduct is Conduct.LEAVES_BODY or conduct is Conduct.ENDS_BODY or deed is Deed.EARLY:
            body += 1_000
        answer = 100 if deed is Deed.EARLY else self._size() + (250_000 if conduct is Conduct.NOT_READING else 0)
        lot = below()
        delay = 0 if lot < 0.3 else 2 + int(below() * 8) if lot < 0.97 else int(below() * 60)
        patience = 0.05 + below() if below() < 0.1 and not calm else 0.0
        model = MODELS[int(below() * len(MODELS))]
        return Plan(deed, conduct, model, body, answer, below() < 0.3, delay, patience)

    def _size(self) -> int:
        return int(self.rng.random() * _at(self._sizes, self.rng.random() * 1e6))

    _sizes: ClassVar = [
        (sum(share for share, _ in _SIZES[: index + 1]), size) for index, (_, size) in enumerate(_SIZES)
    ]


_STEADY = {Deed.ANSWER, Deed.CHUNKED, Deed.EVENTS}


def _ladder(shares, rest):
    rungs, total = [], 0
    for value, share in shares.items():
        total += share
        rungs.append((total, value))
    return [*rungs, (1_000_000, rest)]


def _at(rungs, lot):
    return next(value for upto, value in rungs if lot < upto)


def content(number: int, size: int) -> bytes:
    """A request's body: like no other, with so much padding."""
    return b'{"id":"%d","inputs":[],"pad":"%b"}' % (number, PAD[:size])


def answer(number: int, digest: int, size: int) -> bytes:
    """What the predictor answers to a body of that CRC-32."""
    return b'{"id":"%d","crc":"%08x","pad":"%b"}' % (number, digest, PAD[:size])


def expected(number: int, body: bytes, size: int) -> bytes:
    """The answer that belongs to this request, and to no other."""
    return answer(number, crc32(body), size)
