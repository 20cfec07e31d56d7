"""An agent in this process before the recording predictor, and what must hold after every case."""

import asyncio
from dataclasses import dataclass, field

import h11

from tests.hostile.recorder import Recorder
from tests.net.bed import Bed
from tests.sockets import IncompleteError, Peer, dial, eventually
from tests.wire.oracle import Reading

GOOD = b"POST /v2/models/good/infer HTTP/1.1\r\nHost: good\r\nContent-Length: 4\r\nConnection: close\r\n\r\ngood"


@dataclass(slots=True)
class Heard:
    """What a client got: all its bytes, whole HTTP/1.1 answers read by h11, and how the connection ended."""

    data: bytes
    answers: list[Reading] = field(default_factory=list)
    interim: int = 0
    is_half: bool = False
    was_reset: bool = False
    error: str = ""

    @property
    def statuses(self) -> list[int]:
        return [int(answer.start[0]) for answer in self.answers]


class Site:
    """One agent on one loop. Cases use it one after the other."""

    def __init__(self) -> None:
        self.recorder: Recorder
        self.bed: Bed
        self._clients: list[Peer] = []

    async def start(self, **settings: str) -> "Site":
        self.recorder = await Recorder().start()
        authority = f"127.0.0.1:{self.recorder.port}"
        self.bed = Bed(settings, self.recorder, f"http://{authority},h2c://{authority}")  # type: ignore[arg-type]
        await self.bed.server.start()
        return self

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        await self.bed.close()

    async def client(self) -> Peer:
        """A new connection to the agent; it is closed with the site at the latest."""
        host, _, port = self.bed.server.addresses[0].rpartition(":")
        client = await dial(host, int(port))
        self._clients.append(client)
        return client

    async def settle(self) -> None:
        """Until nothing is under way and nobody is connected; then every count is zero and nothing went wrong here."""
        bed = self.bed
        await eventually(lambda: not (bed.gate.active or bed.server.connections), "exchanges or clients are left")
        assert (bed.admission.inflight, bed.admission.queued, bed.admission.queued_bytes) == (0, 0, 0)
        assert len(bed.outcomes) == bed.begun, (bed.outcomes, bed.begun)
        assert not bed.errors, bed.errors
        # What the agent has written is in the predictor's socket; it has had its turns to read it when these are over.
        for _ in range(5):
            await asyncio.sleep(0)

    async def check(self) -> None:
        """A good request is served, and it is the only one that the predictor gets for it."""
        await self.settle()
        self.recorder.forget()
        client = await self.client()
        await client.send(GOOD)
        heard = await listen(client)
        client.close()
        assert heard.statuses == [200], heard
        [good] = self.recorder.requests
        assert (good.complete, bytes(good.body), self.recorder.errors) == (True, b"good", [])
        await self.settle()
        self._clients.clear()
        self.recorder.forget()
        self.bed.forget()
        self.bed.faults.clear()


async def listen(client: Peer, method: bytes = b"GET", count: int = 0) -> Heard:
    """Everything until the connection ends, or until that many whole answers have come, read by h11."""
    heard = Heard(b"")
    while not count or len(heard.answers) < count:
        try:
            await client.more()
        except IncompleteError as end:
            heard = read(bytes(client.received), method, eof=not end.was_reset)
            heard.was_reset = end.was_reset
            break
        if count:
            heard = read(bytes(client.received), method, eof=False)
    return heard


def read(data: bytes, method: bytes, *, eof: bool) -> Heard:
    """The answers in some bytes, as a client reads them that has pipelined requests with one method."""
    heard = Heard(data)
    rest = data
    while rest:
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        try:
            reader.receive_data(rest)
            if eof:
                reader.receive_data(b"")
            answer = _read_one(reader, heard)
        except h11.RemoteProtocolError as error:
            heard.is_half, heard.error = True, str(error)
            return heard
        if answer is None:
            heard.is_half = True
            return heard
        heard.answers.append(answer)
        rest = answer.rest
    return heard


def _read_one(reader: h11.Connection, heard: Heard) -> Reading | None:
    start: tuple[bytes, ...] = ()
    fields: list[tuple[bytes, bytes]] = []
    body = bytearray()
    while True:
        event = reader.next_event()
        if isinstance(event, h11.InformationalResponse):
            heard.interim += 1
            if event.status_code == 101:
                return Reading((b"101",), [], b"", [], True, b"")
        elif isinstance(event, h11.Response):
            start, fields = (b"%d" % event.status_code, bytes(event.reason)), event.headers.raw_items()
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Reading(start, fields, bytes(body), event.headers.raw_items(), True, reader.trailing_data[0])
        else:
            return None
