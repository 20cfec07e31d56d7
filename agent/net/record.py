"""What observers may read of an exchange (observe.hooks.Record)."""

from agent.errors import Outcome
from agent.net.upload import Upload
from agent.policy.classify import Route
from agent.policy.usage import Usage
from agent.wire.head import RequestHead


class Record:
    """Stamps are monotonic seconds, 0.0 for what never happened; sizes are bytes.

    `began` is when the head came, `arrived` when the request could be decided on, which for a gRPC call takes the
    first bytes of its message.
    """

    __slots__ = (
        "_head",
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

    _head: RequestHead
    _upload: Upload
    protocol: str
    peer: str
    route: Route
    usage: Usage | None
    outcome: Outcome
    status: int
    grpc_status: int
    began: float
    arrived: float
    dispatched: float
    responded: float
    ended: float
    bytes_out: int

    @property
    def bytes_in(self) -> int:
        return self._upload.size

    @property
    def method(self) -> bytes:
        return self._head.method

    @property
    def target(self) -> bytes:
        return self._head.target
