"""An agent in this process between a raw client and a raw predictor, and what must hold after every test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from time import monotonic
from typing import Any, Protocol

import pytest

from agent.errors import Fault, Outcome
from agent.net import http1_upstream as upstream
from agent.net.server import Server
from agent.observe.hooks import Hooks, Record
from agent.policy.classify import Classifier, Kind, Route
from agent.scale import page
from agent.settings import resolve
from tests.net.afterwards import nothing_left
from tests.sockets import FakePredictor, Peer, dial, eventually

INFER = b"/v2/models/m/infer"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# With these settings `Bed.later(61)` ends what runs by its time-out, and nothing else for being silent so long.
TIME_OUTS = {"timeout": "60s", "idle_timeout": "1h", "min_rate": "0"}


def post(body: bytes = b"", *fields: bytes, target: bytes = INFER, version: bytes = b"1.1") -> bytes:
    """An inference request with a body of known length."""
    lines = [
        b"POST %b HTTP/%b" % (target, version),
        b"Host: m.test",
        *fields,
        b"Content-Length: %d" % len(body),
        b"",
        b"",
    ]
    return b"\r\n".join(lines) + body


def get(target: bytes = b"/v2/health/ready", *fields: bytes) -> bytes:
    """A request without a body that bypasses admission."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: m.test", *fields, b"", b""])


def ok(body: bytes = b"ok", *fields: bytes) -> bytes:
    """An answer of known length."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Content-Length: %d" % len(body), b"", b""]) + body


class _Counting(Classifier):
    """Every exchange is classified once, when it begins."""

    __slots__ = ("begun",)

    def __init__(self, *, admit_unknown: bool, page: bytes) -> None:
        super().__init__(admit_unknown=admit_unknown, page=page)
        self.begun = 0

    def classify(self, method: bytes, target: bytes) -> Route:
        return self._counted(super().classify(method, target))

    def classify_call(self, target: bytes, model: str) -> Route:
        return self._counted(super().classify_call(target, model))

    def _counted(self, route: Route) -> Route:
        self.begun += route.kind is not Kind.PAGE
        return route


class _Endings:
    """Observer: how each exchange ended, in order, and the faults that never became one."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.statuses: list[int] = []
        self.codes: list[int] = []
        self.faults: list[Outcome] = []

    def ended(self, record: Record) -> None:
        self.outcomes.append(record.outcome)
        self.statuses.append(record.status)
        self.codes.append(record.grpc_status)

    def faulted(self, fault: Fault, peer: str, now: float) -> None:
        self.faults.append(fault.outcome)


class Bed:
    """A running agent with one predictor. `errors` collects what the agent or the loop had to report as its own bug.

    `upstream` is what the route forwards to, if it is not the predictor over HTTP/1.1.
    """

    def __init__(self, settings: Mapping[str, str], predictor: FakePredictor, upstream: str = "") -> None:
        self.predictor = predictor
        self.errors: list[object] = []
        defaults = {"limit": "4", "queue": "8", "policy": "fifo", "access_log": "off", "drain_delay": "0"}
        # Nobody but the requests dials, so that tests know which connection is whose.
        defaults["ready_when"] = "listening"
        flags = {**defaults, **settings}
        routes = {"routes": [f"127.0.0.1:0={upstream or predictor.url}"], "admin": ["127.0.0.1:0"]}
        effective = resolve({**routes, **{name: [value] for name, value in flags.items()}}, {})
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._tasks = asyncio.all_tasks()
        self._ahead = 0.0
        self.server = server = Server(effective)
        self.gate = gate = server.gate
        self.admission = server.admission
        self._classifier = _Counting(
            admit_unknown=effective.unknown_route == "admit", page=page.PATH if effective.load_page else b""
        )
        self._endings = _Endings()
        gate.classifier = self._classifier
        gate.shared.report = self.errors.append
        gate.hooks = Hooks([server.counters, self._endings], self.errors.append)
        self._clients: list[Peer] = []
        self._senders: list[asyncio.Task[None]] = []

    @property
    def outcomes(self) -> list[Outcome]:
        """How the exchanges ended so far, in order."""
        return self._endings.outcomes

    @property
    def statuses(self) -> list[int]:
        """The status that each exchange was booked with."""
        return self._endings.statuses

    @property
    def codes(self) -> list[int]:
        """The gRPC status that each exchange was booked with."""
        return self._endings.codes

    @property
    def faults(self) -> list[Outcome]:
        """Client mistakes that never became an exchange."""
        return self._endings.faults

    @property
    def pool(self) -> Any:
        return self.server.pools[0]

    @property
    def begun(self) -> int:
        """How many exchanges have begun."""
        return self._classifier.begun

    def start(self, work: Coroutine[Any, Any, None], then: Callable[[], object] | None = None) -> None:
        """Have one side send while the test reads on the other; a failure fails the test."""

        async def run() -> None:
            await work
            if then is not None:
                then()

        self._senders.append(self._loop.create_task(run()))

    async def sent(self) -> None:
        """Until all that `start` has started is done."""
        await asyncio.gather(*self._senders)

    def later(self, seconds: float) -> None:
        """Have the time-outs looked at as if so many more seconds had passed. From now on nobody else looks."""
        self._ahead += seconds
        assert self.server.sweeper is not None
        self.server.sweeper.stop()  # for it time would go back
        self.server.sweeper.sweep(monotonic() + self._ahead)
        self.server.gate.shared.flush()

    def expire(self) -> None:
        """Have the deadlines of all that wait pass: an hour is the longest."""
        self.gate.expire(monotonic() + 3601)
        self.gate.shared.flush()

    async def page(self, path: bytes) -> bytes:
        """What the admin port answers."""
        host, _, port = self.server.admin_address.rpartition(":")
        peer = await dial(host, int(port))
        await peer.send(b"GET %b HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n" % path)
        answer = await peer.response()
        peer.close()
        return answer.body

    async def client(self, *, kernel_buffer: int | None = None) -> Peer:
        """A new connection to the agent."""
        host, _, port = self.server.addresses[0].rpartition(":")
        peer = await self._dial(host, int(port), kernel_buffer)
        self._clients.append(peer)
        return peer

    async def _dial(self, host: str, port: int, kernel_buffer: int | None) -> Peer:
        return await dial(host, port, kernel_buffer=kernel_buffer)

    async def narrow_client(self) -> tuple[Peer, asyncio.Transport]:
        """A new connection on which the kernel holds next to nothing, and the agent's transport for it.

        What such a client does not read stays in the agent.
        """
        known = set(self.server.connections)
        client = await self.client(kernel_buffer=4096)
        await eventually(lambda: self.server.connections - known)
        [connection] = self.server.connections - known
        transport = connection._transport
        assert transport is not None
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return client, transport

    async def warm(self) -> Peer:
        """The predictor's end of a connection that has served a request and is idle."""
        client = await self.client()
        await client.send(get())
        peer = await self.predictor.accept()
        await peer.request()
        await peer.send(OK)
        await client.response()
        client.close()
        await eventually(lambda: self.pool.idle)
        self.forget()
        return peer

    def forget(self) -> None:
        """Begin the lists of what happened anew."""
        self.outcomes.clear()
        self.statuses.clear()
        self.codes.clear()
        self._classifier.begun = 0

    async def fill(self, count: int) -> list[Peer]:
        """Queue `count` requests, each on a connection of its own, in this order."""
        clients = []
        for index in range(count):
            client = await self.client()
            await client.send(post(b"queued %d" % index))
            await eventually(lambda: self.admission.queued > index)  # noqa: B023 - looked at in this turn only
            clients.append(client)
        return clients

    async def occupy(self, predictor: FakePredictor | None = None) -> tuple[Peer, Peer]:
        """Send a request that the predictor, or another, takes and does not answer. Returns both ends."""
        client = await self.client()
        await client.send(post(b"running"))
        peer = await (predictor or self.predictor).accept()
        await peer.request()
        return client, peer

    async def close(self) -> None:
        """End both sides, and check that nothing is left and nothing was lost count of."""
        failures = [end for end in await asyncio.gather(*self._senders, return_exceptions=True) if end is not None]
        for client in self._clients:
            client.close()
        self.predictor.close()
        server, admission = self.server, self.admission
        try:
            await eventually(lambda: not (self.gate.active or server.connections), "exchanges or clients are left")
            for pool in server.pools:
                await eventually(lambda: pool.counts() == (0, 0) and not pool.waiting, "upstream connections are left")  # noqa: B023 - looked at in this turn only
            assert (admission.inflight, admission.queued, admission.queued_bytes) == (0, 0, 0)
            assert len(self.outcomes) == self.begun
            usages = [usage for table in server.usages.values() for usage in table.rows(monotonic())]
            assert not any(usage.inflight or usage.queued or usage.outstanding for usage in usages)
        finally:
            await server.stop()
            await eventually(lambda: asyncio.all_tasks() <= self._tasks | {asyncio.current_task()}, "tasks are left")
        assert not self.errors, self.errors
        assert not failures, failures


class Opener(Protocol):
    """Starts an agent; keywords are settings by name, as text."""

    async def __call__(self, predictor: FakePredictor | None = None, **settings: str) -> Bed: ...


@pytest.fixture
async def bed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Starts agents, in front of a predictor that listens unless told otherwise. Each is checked after the test."""
    # A connection to the predictor is free for the next request at once, so that tests know where that will arrive.
    monkeypatch.setattr(upstream, "REST_S", 0.0)
    beds: list[Bed] = []

    async def open_bed(predictor: FakePredictor | None = None, **settings: str) -> Bed:
        new = Bed(settings, predictor or FakePredictor().listen())
        beds.append(new)
        await new.server.start()
        return new

    async with nothing_left():
        yield open_bed
        for each in beds:
            await each.close()
