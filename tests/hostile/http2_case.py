"""Cases over HTTP/2: frames of a client, and what each kind of them has to lead to."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hpack

from agent.errors import Outcome
from tests.hostile.case import Case
from tests.hostile.site import Site
from tests.net.http2_peers import HELLO, Field, FrameReader, plain_head
from tests.sockets import IncompleteError
from tests.wire import frames_by_hand as raw
from tests.wire.frames_by_hand import Frame

# What follows a case on its connection.
TAIL_STREAM = 100_001
TAIL = raw.headers(TAIL_STREAM, raw.block(plain_head(b"GET", b"/tail")), end=True)


@dataclass(slots=True)
class Frames:
    """What the client of an HTTP/2 case got."""

    seen: list[Frame]
    was_cut: bool

    def codes(self, stream: int) -> list[int]:
        return [frame.number for frame in self.seen if frame.kind == raw.RST_STREAM and frame.stream == stream]

    @property
    def goaway(self) -> int | None:
        return next((frame.number for frame in self.seen if frame.kind == raw.GOAWAY), None)

    def status(self, stream: int) -> int:
        """The status of a stream's answer, of an interim one if there is no other, 0 if there is none."""
        decoder = hpack.Decoder()
        status = 0
        for frame in self.seen:
            if frame.kind == raw.HEADERS:
                fields = dict(decoder.decode(frame.payload, raw=True))
                if frame.stream == stream and status < 200:
                    status = int(fields.get(b":status", b"%d" % status))
        return status

    def has_ended(self, stream: int) -> bool:
        return any(
            frame.kind == raw.RST_STREAM or (frame.kind in {raw.DATA, raw.HEADERS} and frame.flags & raw.END_STREAM)
            for frame in self.seen
            if frame.stream == stream
        )


async def converse(site: Site, data: bytes, *last: int, hello: bytes = HELLO) -> Frames:
    """Send it all, then read until the streams `last` have ended, or the connection has."""
    reader = FrameReader(await site.client())
    frames = Frames(reader.seen, was_cut=False)
    with contextlib.suppress(ConnectionError):  # what came before the end is read all the same
        await reader.peer.send(hello + data)
    try:
        while not all(map(frames.has_ended, last)):
            await reader.next()
    except IncompleteError:
        frames.was_cut = True
    reader.peer.close()
    return frames


@dataclass(frozen=True, slots=True)
class Http2Case(Case):
    """Frames of a client, after its preface and SETTINGS."""

    name: str
    data: bytes

    async def play(self, site: Site) -> None:
        frames = await converse(site, self.data + TAIL, TAIL_STREAM)
        await site.settle()
        try:
            assert not site.recorder.errors, site.recorder.errors
            self.judge(site, frames)
        except AssertionError as error:
            error.add_note(f"heard {frames.seen[:20]}; reached {site.recorder.requests}; faults {site.bed.faults}")
            raise
        await site.check()

    def judge(self, site: Site, frames: Frames) -> None:
        raise NotImplementedError

    def check_tail(self, site: Site, frames: Frames) -> None:
        """The connection went on, and what followed was served."""
        assert not frames.was_cut
        assert frames.goaway is None
        assert frames.status(TAIL_STREAM) == 200
        [tail] = [request for request in site.recorder.requests if request.target == b"/tail"]
        assert tail.complete


@dataclass(frozen=True, slots=True)
class Reset(Http2Case):
    """A malformed request: RST_STREAM, and nothing whole of it reaches the predictor. The connection goes on."""

    code: int = raw.PROTOCOL_ERROR

    def judge(self, site: Site, frames: Frames) -> None:
        assert frames.codes(1) == [self.code]
        assert frames.status(1) == 0
        assert not any(request.complete for request in site.recorder.requests if request.target != b"/tail")
        assert [*site.bed.faults, *site.bed.outcomes].count(Outcome.BAD_REQUEST) == 1
        self.check_tail(site, frames)


@dataclass(frozen=True, slots=True)
class Answered(Http2Case):
    """Well-formed and not done: the client is told why, over HTTP or gRPC, and the connection goes on."""

    status: int = 0

    def judge(self, site: Site, frames: Frames) -> None:
        assert frames.status(1) == self.status
        assert frames.has_ended(1)
        assert [request.target for request in site.recorder.requests] == [b"/tail"]
        self.check_tail(site, frames)


@dataclass(frozen=True, slots=True)
class Broken(Http2Case):
    """A rule of the connection is broken: GOAWAY, the end of the connection and of all that it carried."""

    code: int = raw.PROTOCOL_ERROR

    def judge(self, site: Site, frames: Frames) -> None:
        assert frames.was_cut
        assert frames.goaway == self.code
        assert not any(request.complete for request in site.recorder.requests)
        assert site.bed.faults == [Outcome.BAD_REQUEST]
        assert set(site.bed.outcomes) <= {Outcome.CLIENT_GONE}


@dataclass(frozen=True, slots=True)
class Served(Http2Case):
    """Odd and within the rules: the predictor gets the request whole, with these fields and this body."""

    body: bytes = b""
    fields: tuple[Field, ...] = ()

    def judge(self, site: Site, frames: Frames) -> None:
        assert frames.status(1) == 200
        [request] = [request for request in site.recorder.requests if request.target != b"/tail"]
        assert request.complete
        assert bytes(request.body) == self.body
        assert set(self.fields) <= set(request.fields)
        self.check_tail(site, frames)


@dataclass(frozen=True, slots=True)
class Flood(Case):
    """Rounds of frames from a client that does not read until it is done: told ENHANCE_YOUR_CALM within the budget.

    What the predictor got of it is cancelled or was answered; it gets no more than the budget pays for.
    """

    name: str
    rounds: Callable[[], Iterator[bytes]]
    code: int = raw.ENHANCE_YOUR_CALM

    async def play(self, site: Site) -> None:
        flood = self.rounds()
        data = bytearray()
        while len(data) < 400_000:
            data += next(flood)
        reader = FrameReader(await site.client())
        sent = 0
        try:
            await reader.peer.send(HELLO)
            while sent < 40 << 20 and not site.bed.faults:
                await reader.peer.send(bytes(data))
                sent += len(data)
                data = bytearray()
                while len(data) < 400_000:
                    data += next(flood)
        except (ConnectionError, TimeoutError):
            pass
        frames = Frames(reader.seen, was_cut=False)
        try:
            while True:
                await reader.next()
        except IncompleteError:
            pass
        reader.peer.close()
        await site.settle()
        assert frames.goaway == self.code, (frames.goaway, sent)
        assert Outcome.BAD_REQUEST in site.bed.faults
        assert len(site.recorder.requests) <= 3500
        await site.check()
