"""Owners of HTTP/2 machines that write down what they are told, and feed bytes as a socket may deliver them."""

from collections.abc import Callable, Iterable
from typing import Any

from agent.errors import Fault
from agent.wire.fields import Http2Request, Http2Response, Trailers
from agent.wire.frames import Code
from agent.wire.http2 import ClientHttp2, ClientStream, ServerHttp2, ServerStream
from agent.wire.message import Limits
from agent.wire.stream import Bounds, Stream
from tests.wire import frames_by_hand as by_hand
from tests.wire.frames_by_hand import Frame

# The call's name, the stream's number, and what it was told. Adjacent pieces of a body are one event.
Event = tuple[Any, ...]

LIMITS = Limits()
BOUNDS = Bounds()


class _Recording(Stream):
    """What both kinds of streams record."""

    owner: "Owner"

    def tell(self, name: str, *values: Any) -> None:
        self.owner.events.append((name, self.id, *values))

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        events = self.owner.events
        if data:
            if not events or events[-1][:2] != ("data", self.id):
                self.tell("data", bytearray())
            events[-1][2].extend(data)
        self.end(end=end)

    def on_trailers(self, trailers: Trailers) -> None:
        self.tell("trailers", trailers.fields)
        self.owner.on_end(self)

    def on_reset(self, code: int) -> None:
        self.tell("reset", code)

    def on_fault(self, fault: Fault) -> None:
        self.tell("fault", fault.outcome)

    def on_blocked(self) -> None:
        self.owner.blocked.append(self.id)

    def on_drained(self) -> None:
        self.owner.drained.append(self.id)
        self.owner.on_drained(self)

    def end(self, *, end: bool) -> None:
        if end:
            self.tell("end")
            self.owner.on_end(self)


class AskedStream(_Recording, ServerStream):
    def on_request(self, head: Http2Request, fault: Fault | None, end: bool) -> None:
        self.tell("request", head.method, head.target, *([fault.outcome] if fault else []))
        self.owner.heads[self.id] = head
        self.owner.streams[self.id] = self
        act = self.owner.acts.get(head.target)
        if act is not None:
            act(self)
        self.end(end=end)


class AskingStream(_Recording, ClientStream):
    def on_interim(self, head: Http2Response) -> None:
        self.tell("interim", head.status)

    def on_response(self, head: Http2Response, end: bool) -> None:
        self.tell("response", head.status)
        self.owner.heads[self.id] = head
        self.end(end=end)


class Owner:
    """The sink of either machine. `acts` does something with a request by its target, `on_end` at a message's end."""

    machine: ServerHttp2 | ClientHttp2

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.heads: dict[int, Any] = {}
        self.streams: dict[int, Any] = {}
        self.out = bytearray()
        self.blocked: list[int] = []
        self.drained: list[int] = []
        self.gone: list[int] = []
        self.details: list[str] = []
        self.acts: dict[bytes, Callable[[Any], None]] = {}
        self.on_end: Callable[[Any], None] = lambda stream: None
        self.on_drained: Callable[[Any], None] = lambda stream: None

    def write(self, data: bytes) -> None:
        self.out += data

    def on_broken(self, code: Code, detail: str) -> None:
        self.events.append(("broken", int(code)))
        self.details.append(detail)

    def on_stream_end(self, stream: Stream) -> None:
        assert self.machine.streams.get(stream.id) is None
        self.gone.append(stream.id)

    def feed(self, *pieces: bytes) -> list[Event]:
        """Each piece comes in the same buffer, as reads do. Returns all events so far."""
        buffer = bytearray(max(map(len, pieces), default=0))
        for piece in pieces:
            with memoryview(buffer) as whole, whole[: len(piece)] as view:
                view[:] = piece
                self.machine.feed(view)
                view[:] = b"\xaa" * len(piece)
        return self.events

    def take(self) -> list[Frame]:
        """The frames written since the last time."""
        frames = by_hand.parse(bytes(self.out))
        self.out.clear()
        return frames

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events


class Server(Owner):
    """A server machine whose client has sent its SETTINGS."""

    machine: ServerHttp2

    def __init__(
        self, *, limits: Limits = LIMITS, bounds: Bounds = BOUNDS, target: int = 0, settings: bytes | None = None
    ) -> None:
        super().__init__()
        self.target = target
        self.machine = ServerHttp2(self, limits, bounds)
        self.acts = {b"/answer": answer, b"/reset": cancel}
        self.feed(by_hand.settings() if settings is None else settings)
        self.start = self.take()

    def open_stream(self) -> ServerStream:
        stream = AskedStream()
        stream.owner = self
        stream.target = self.target
        return stream

    def on_malformed(self, fault: Fault) -> None:
        self.events.append(("malformed", fault.outcome))


class Client(Owner):
    """A client machine whose server has sent its SETTINGS."""

    machine: ClientHttp2

    def __init__(self, *, limits: Limits = LIMITS, bounds: Bounds = BOUNDS, settings: bytes | None = None) -> None:
        super().__init__()
        self.ready = 0
        self.leaving = 0
        self.machine = ClientHttp2(self, limits, bounds)
        self.preface = bytes(self.out)
        self.out.clear()
        self.feed(by_hand.settings() if settings is None else settings)
        self.take()

    def open(self, path: bytes = b"/", *, end: bool = False, bodyless: bool = False) -> AskingStream:
        stream = AskingStream()
        stream.owner = self
        stream.bodyless = bodyless
        self.machine.open(stream, by_hand.request(path), end)
        return stream

    def on_ready(self) -> None:
        self.ready += 1

    def on_goaway(self) -> None:
        self.leaving += 1


def answer(stream: Stream) -> None:
    stream.send_head(by_hand.response(), True)


def cancel(stream: Stream) -> None:
    stream.reset(Code.CANCEL)


def kinds(frames: Iterable[Frame]) -> list[int]:
    return [frame.kind for frame in frames]


# The verdicts on what a peer sends: the connection ends, the stream is reset, or what the owner was told.
Verdict = tuple[Any, ...]


def broken(code: int) -> Verdict:
    return ("broken", code)


def reset(stream: int, code: int) -> Verdict:
    return ("reset", stream, code)


def ok(*events: Event) -> Verdict:
    return ("ok", *events)


PING = by_hand.ping(b"the-tail")
PONG = Frame(by_hand.PING, by_hand.ACK, 0, b"the-tail")


def judge(owner: Owner) -> Verdict:
    """The verdict on what has been fed since the last `take` and `take_events`, checked for sense on the way."""
    events, frames = owner.take_events(), owner.take()
    if ("broken" in {event[0] for event in events}) or by_hand.GOAWAY in kinds(frames):
        assert events[-1] == ("broken", frames[-1].number), "the owner and the peer are told the same, last of all"
        assert frames[-1].kind == by_hand.GOAWAY
        assert owner.machine.dead
        return broken(frames[-1].number)
    resets = [frame for frame in frames if frame.kind == by_hand.RST_STREAM]
    if resets:
        assert len(resets) == 1
        told = {event[0] for event in events}
        assert told & {"fault", "malformed"} or not told
        return reset(resets[0].stream, resets[0].number)
    return ok(*events)


def judged(make: Callable[[], Owner], splits: Iterable[list[bytes]]) -> Verdict:
    """The one verdict on a case, however it arrives, and whatever follows: a PING, which is answered or ignored."""
    verdicts = []
    for pieces in splits:
        owner = make()
        owner.feed(*pieces)
        verdict = judge(owner)
        owner.feed(PING)
        assert owner.take() == ([] if verdict[0] == "broken" else [PONG])
        with_tail = make()
        with_tail.feed(*pieces[:-1], pieces[-1] + PING)
        frames = by_hand.parse(bytes(with_tail.out))
        assert (PONG in frames) == (verdict[0] != "broken")
        with_tail.out = bytearray(with_tail.out.removesuffix(by_hand.ping(b"the-tail", ack=True)))
        assert judge(with_tail) == verdict
        verdicts.append(verdict)
    assert all(verdict == verdicts[0] for verdict in verdicts)
    return verdicts[0]
