"""Where a run sends and what, whichever the protocol."""

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loadgen.client import MAX_CONNECTIONS, Address, BaseClient, Tls
from loadgen.grpc_client import EndedStreams, GrpcClient, OpenStreams
from loadgen.http_client import Client
from loadgen.record import Sample


class Wire(StrEnum):
    """How requests travel."""

    HTTP = "http"
    EVENTS = "http events"  # answers are server-sent events
    GRPC = "grpc"
    GRPC_OPEN = "grpc open streams"  # requests and answers are messages of streams that stay open
    GRPC_ENDED = "grpc ended streams"  # each request has a stream of its own


_GRPC: dict[Wire, type[GrpcClient]] = {
    Wire.GRPC: GrpcClient,
    Wire.GRPC_OPEN: OpenStreams,
    Wire.GRPC_ENDED: EndedStreams,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send and what: `requests` are sent in turn, each whole for HTTP/1.1, the message alone for gRPC, whose
    header block is `head`; `timeout_s` is the patience of a caller, counted from the intended send time.

    `model_of` names for each request its place in `models`, where there are several. `streams` is how many calls share
    a gRPC connection. With `keep_bodies` samples carry the answers of HTTP.
    """

    address: Address
    requests: Sequence[bytes]
    timeout_s: float
    max_connections: int = MAX_CONNECTIONS
    wire: Wire = Wire.HTTP
    tls: Tls | None = None
    head: bytes = b""
    streams: int = 64
    keep_bodies: bool = False
    models: Sequence[str] = ()
    model_of: Sequence[int] = ()

    def client(self, on_done: Callable[[Sample], None]) -> BaseClient:  # type: ignore[type-arg]
        """A client for it, to be made and used inside one running loop."""
        if kind := _GRPC.get(self.wire):
            return kind(
                self.address,
                on_done,
                self.timeout_s,
                head=self.head,
                streams=self.streams,
                max_connections=self.max_connections,
                tls=self.tls,
            )
        return Client(
            self.address,
            on_done,
            self.timeout_s,
            max_connections=self.max_connections,
            tls=self.tls,
            streaming=self.wire is Wire.EVENTS,
            keep_bodies=self.keep_bodies,
        )

    def links(self, requests: int) -> int:
        """How many connections so many concurrent requests need."""
        return requests if self.wire in {Wire.HTTP, Wire.EVENTS} else -(-requests // self.streams)


def allow_many_connections() -> None:
    """Raise this process's limit of open files to what the system allows it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
