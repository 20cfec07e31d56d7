"""What observers may read of an exchange (observe.hooks.Record)."""

from agent.errors import Outcome
from agent.net.upload import Upload
from agent.policy.classify import Route
from agent.policy.usage import Usage
from agent.wire.head import NO_STATUS, RequestHead


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

    def __init__(self, head: RequestHead, upload: Upload, protocol: str, peer: str) -> None:
        self._head = head
        self._upload = upload
        self.protocol = protocol
        self.peer = peer
        self.route: Route
        self.usage: Usage | None = None
        self.outcome = Outcome.SERVED
        self.status = 0
        self.grpc_status = NO_STATUS
        self.began = 0.0
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
