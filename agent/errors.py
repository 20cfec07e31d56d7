"""How an exchange can end: one enum and its one table.

The outcome is the metric label, the log field and the reply selector at once, so the three can never disagree. Each row
names who is at fault, what an HTTP client and a gRPC client are told, and whether a retry elsewhere may help.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple


class Blame(StrEnum):
    """Whose doing an outcome is."""

    NOBODY = "nobody"
    CLIENT = "client"
    AGENT = "agent"
    UPSTREAM = "upstream"


class Outcome(IntEnum):
    """How an exchange ended; the index of its row in `REPLIES`."""

    SERVED = 0
    QUEUE_FULL = 1
    EXPIRED = 2
    DRAINING = 3
    UPSTREAM_UNAVAILABLE = 4
    UPSTREAM_CLOSED = 5
    UPSTREAM_INVALID = 6
    UPSTREAM_TRUNCATED = 7
    TIMEOUT = 8
    CLIENT_GONE = 9
    BAD_REQUEST = 10
    URI_TOO_LONG = 11
    HEAD_TOO_LARGE = 12
    EXPECTATION_FAILED = 13
    NOT_IMPLEMENTED = 14
    VERSION_UNSUPPORTED = 15
    HEAD_TIMEOUT = 16
    INTERNAL = 17
    DEADLINE = 18
    OVERLOAD = 19
    UPSTREAM_RESET = 20
    CLIENT_SLOW = 21
    UPSTREAM_TLS = 22

    @property
    def label(self) -> str:
        """The metric label, log value and `x-headgate-reason` of this outcome."""
        return self.name.lower()


class Reply(NamedTuple):
    """What the peer is told.

    `http` is the status code, `grpc` the status of the gRPC specification, `retry` whether a hint (Retry-After,
    grpc-retry-pushback-ms) goes with it. `text` never names an address, a path or a library.
    """

    http: int
    grpc: int
    retry: bool
    blame: Blame
    text: str


# gRPC codes: 0 OK, 1 CANCELLED, 4 DEADLINE_EXCEEDED, 8 RESOURCE_EXHAUSTED, 12 UNIMPLEMENTED, 13 INTERNAL, 14
# UNAVAILABLE. 499 is nginx's number for a client that left; nobody is there to read it, so it appears in metrics and
# logs alone.
REPLIES: tuple[Reply, ...] = (
    Reply(200, 0, False, Blame.NOBODY, "served"),
    Reply(503, 14, True, Blame.AGENT, "the queue is full"),
    Reply(504, 4, False, Blame.AGENT, "the deadline passed while the request was queued"),
    Reply(503, 14, True, Blame.AGENT, "the server is shutting down"),
    Reply(503, 14, True, Blame.UPSTREAM, "the predictor does not accept connections"),
    Reply(502, 14, False, Blame.UPSTREAM, "the predictor closed the connection before it answered"),
    Reply(502, 13, False, Blame.UPSTREAM, "the predictor's answer is not valid HTTP"),
    Reply(502, 14, False, Blame.UPSTREAM, "the predictor closed the connection in the middle of its answer"),
    Reply(504, 4, False, Blame.UPSTREAM, "the predictor did not answer in time"),
    Reply(499, 1, False, Blame.CLIENT, "the client left"),
    Reply(400, 13, False, Blame.CLIENT, "bad request"),
    Reply(414, 13, False, Blame.CLIENT, "the request target is too long"),
    Reply(431, 8, False, Blame.CLIENT, "the header section is too large"),
    Reply(417, 13, False, Blame.CLIENT, "the expectation cannot be met"),
    Reply(501, 12, False, Blame.CLIENT, "not implemented"),
    Reply(505, 12, False, Blame.CLIENT, "HTTP version not supported"),
    Reply(408, 4, False, Blame.CLIENT, "the request head did not arrive in time"),
    Reply(500, 13, False, Blame.AGENT, "internal error"),
    Reply(503, 14, True, Blame.AGENT, "the deadline cannot be met at this load"),
    Reply(503, 14, True, Blame.AGENT, "the server is overloaded"),
    Reply(502, 13, False, Blame.UPSTREAM, "the predictor gave the request up"),
    Reply(408, 4, False, Blame.CLIENT, "the client was too slow"),
    Reply(502, 14, False, Blame.UPSTREAM, "there is no secure connection to the predictor"),
)


class Fault(NamedTuple):
    """A peer's mistake, as a protocol machine reports it: the outcome, and words for the log and the error body."""

    outcome: Outcome
    detail: str


class SettingsError(Exception):
    """Bad settings. `problems` holds one sentence for each: the setting, its value, the accepted range."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CertificateError(ValueError):
    """Files of certificates, keys or tokens are not what they should be; the message names them."""
