"""Stand-ins for what the pure layers are given: a sink, a clock, a record, a server."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from agent.errors import Fault, Outcome
from agent.net.guests import Guests
from agent.net.handshakes import Result
from agent.net.pulse import Pulse
from agent.net.server import admission_of
from agent.observe.counters import Counters
from agent.policy.classify import Kind, Route
from agent.policy.usage import Usage, UsageTable
from agent.scale.page import LoadPage
from agent.settings import Settings, resolve
from agent.wire.head import NO_STATUS, Fields, RequestHead, ResponseHead

# What a machine told its owner: the call's name, then the head as it would be forwarded, the status, the data, the
# fields or the outcome.
Event = tuple[Any, ...]

INFERENCE = Route(Kind.INFERENCE, "m")

# What `serialize` puts in Host where the client named none.
AUTHORITY = b"predictor:1"


class RecordingSink:
    """Sink of either HTTP/1.1 machine. Adjacent pieces of a body are one event, so reads of any size look alike.

    `on_end` is called when a message is complete, from inside the machine's `feed`, as an owner that replies at once
    would act. `heads` and `faults` hold what `events` only summarises.
    """

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self.events: list[Event] = []
        self.heads: list[RequestHead | ResponseHead] = []
        self.faults: list[Fault] = []
        self.on_end = on_end

    def on_request(self, head: RequestHead, end: bool) -> None:
        self.heads.append(head)
        self.events.append(("request", head.serialize(AUTHORITY)))
        self._end(end=end)

    def on_response(self, head: ResponseHead, end: bool) -> None:
        self.heads.append(head)
        self.events.append(("response", head.serialize(chunked=head.chunked, close=False)))
        self._end(end=end)

    def on_interim(self, head: ResponseHead) -> None:
        self.heads.append(head)
        self.events.append(("interim", head.status))

    def on_body(self, data: memoryview, end: bool) -> None:
        if data:
            if self.events[-1][0] != "body":
                self.events.append(("body", bytearray()))
            self.events[-1][1].extend(data)
        self._end(end=end)

    def on_trailers(self, fields: Fields) -> None:
        self.events.append(("trailers", list(fields)))
        self.on_end()

    def on_fault(self, fault: Fault) -> None:
        self.faults.append(fault)
        self.events.append(("fault", fault.outcome))

    def _end(self, *, end: bool) -> None:
        if end:
            self.events.append(("end",))
            self.on_end()


class ManualClock:
    """Monotonic seconds that pass only when told to. Never 0.0, which a record takes for `never`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def advance(self, seconds: float) -> float:
        self.now += seconds
        return self.now


@dataclass(slots=True, kw_only=True)
class FakeRecord:
    """An exchange that has ended, as observers read it (observe.hooks.Record)."""

    route: Route = INFERENCE
    outcome: Outcome = Outcome.SERVED
    status: int = 200
    grpc_status: int = NO_STATUS
    usage: Usage | None = None
    protocol: str = "http"
    arrived: float = 1000.0
    dispatched: float = 1000.0
    responded: float = 1000.0
    ended: float = 1000.0
    bytes_in: int = 0
    bytes_out: int = 0
    is_retry: bool = False
    method: bytes = b"POST"
    target: bytes = b"/v2/models/m/infer"
    peer: str = "192.0.2.1:5000"


@dataclass(slots=True)
class FakePool:
    """The connections to a predictor, as the admin pages count them."""

    busy: int = 0
    idle: int = 0

    def counts(self) -> tuple[int, int]:
        return self.busy, self.idle


@dataclass(slots=True)
class FakeGate:
    active: int = 0


class FakeSecure:
    """TLS on the data port, none on the admin port. `token` opens the protected pages, once there is one."""

    def __init__(self) -> None:
        self.ports = {"data": [SimpleNamespace(counts=dict.fromkeys(Result, 0))], "admin": []}
        self.token: bytes | None = None
        self.certificates = [("data", 2e9)]

    @property
    def protects_admin(self) -> bool:
        return self.token is not None

    def ends(self) -> list[tuple[str, float]]:
        return self.certificates

    def admin_port(self, above: Callable[[], object]) -> Callable[[], object]:
        return above


class FakeServer:
    """The parts of a server that the admin pages show, without a loop or a socket."""

    def __init__(self, flags: dict[str, list[str]] | None = None, now: float = 0.0) -> None:
        self.settings: Settings = resolve({"routes": ["127.0.0.1:0=http://127.0.0.1:9000"], **(flags or {})}, {})
        self.counters = Counters()
        names = [name for name, _ in self.settings.model_limits]
        self.usages = {protocol: UsageTable(names, now, protocol) for protocol in ("http", "grpc")}
        self.admission = admission_of(self.settings)
        self.load = LoadPage(self.admission, self.usages, self.counters, now)
        self.pulse = Pulse(self.admission, self.usages, self.counters)
        self.gate = FakeGate()
        self.connections: set[object] = set()
        self.pools = [FakePool()]
        self.secure = FakeSecure()
        self.guests = Guests()

    def book(self, records: Iterable[FakeRecord]) -> None:
        for record in records:
            self.counters.ended(record)
