"""One HTTP/2 stream: what its owner sends and hears, and how much each side may have under way (RFC 9113 section 5).

    IDLE --HEADERS--> open both ways --END_STREAM of one side--> half closed --of the other--> gone
                            \\------------- RST_STREAM of either side ------------------------> gone

What may not be sent yet, for lack of window, is held in the stream, and the stream says so (`blocked`). What the peer
may send is up to the owner (`window`, `target`, `withhold`, `credit`). The windows that were given bound the memory.
"""

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.errors import Fault
from agent.wire import frames
from agent.wire.fields import Trailers
from agent.wire.frames import DATA, END_HEADERS, HEADER, HEADERS, Code

if TYPE_CHECKING:
    from agent.wire.connection import Http2

_pack = HEADER.pack
# Up to here a payload is joined to its frame header, beyond it is handed on as it is.
_JOIN_BELOW = 4096
# Held pieces are joined up to here: each is an object of some 40 bytes beside what it carries, and a sender that sends
# byte by byte must not make us hold forty times the window.
_HOLD_JOINED = 512


class Bounds(NamedTuple):
    """What a peer may make us hold or do.

    `streams` at once: a client that shares one connection among its callers must be able to show all its demand.
    `stream_window` and `connection_window` are bytes on their way to us. `block` bounds a header block before it is
    decoded, and `continuations` the frames that it comes in. `resets` streams that we reset are remembered, so that
    frames which cross our RST_STREAM are no mistake. `budget` is what everything costs that costs us more than it costs
    the peer: resets, control frames, empty frames; see the `COST` and `EARNS` constants. Time refills it.
    """

    streams: int = 1000
    stream_window: int = 64 * 1024
    connection_window: int = 16 * 1024 * 1024
    block: int = 64 * 1024
    continuations: int = 8
    resets: int = 1000
    budget: int = 3000
    refill_per_s: int = 100


# What the peer pays for what it makes us do; a reset undoes a request that has cost us far more than a frame.
COST_RESET = 3
COST_CONTROL = 1
# What a sent DATA frame earns: a peer may answer each with a WINDOW_UPDATE for the stream and one for the connection.
EARNS_SENT = 2
EARNS_FINISHED = 3


class Stream:
    """One exchange on a connection. Owners derive from it and implement the `on_` methods.

    `send_window` is what the peer takes; `window` what it may send beyond what has come; `withhold` keeps it from being
    refilled up to `target`. `answered` says that the head has come which the body belongs to.
    """

    __slots__ = (
        "_held",
        "_length",
        "_machine",
        "_tail",
        "answered",
        "bodyless",
        "id",
        "interim",
        "local_open",
        "remote_open",
        "send_window",
        "target",
        "window",
        "withhold",
    )

    def __init__(self) -> None:
        self._machine: Http2[Any]
        self.id = 0
        self.answered = False
        self.bodyless = False
        self.interim = 0
        self.send_window = 0
        self.window = 0
        self.target = 0
        self.withhold = 0
        self.local_open = True
        self.remote_open = True
        self._length = 0  # no body is due before the head that it belongs to
        self._held: deque[bytes] | None = None
        self._tail: bytes | None = None

    # What an owner implements

    def on_data(self, data: bytes | memoryview, end: bool) -> None:
        """A piece of the body; a view is valid during the call only."""
        raise NotImplementedError

    def on_trailers(self, trailers: Trailers) -> None:
        """The end of a body that has trailers."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The stream is gone: the peer has reset it, or never acts on it (REFUSED_STREAM)."""
        raise NotImplementedError

    def on_fault(self, fault: Fault) -> None:
        """The peer broke a rule inside this stream; it has been reset."""
        raise NotImplementedError

    def on_blocked(self) -> None:
        """The peer takes no more for now; what is sent meanwhile is held."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """All that was held is on its way."""
        raise NotImplementedError

    # What an owner calls

    @property
    def blocked(self) -> bool:
        """Whether something is held for lack of window."""
        return self._held is not None

    def send_head(self, block: bytes, end: bool) -> None:
        """Send a header section, interim or not."""
        machine = self._machine
        size = len(block)
        if size > machine.max_frame or machine.table_update:
            block, machine.table_update = machine.table_update + block, b""
            machine.write(frames.header_block(self.id, block, end=end, max_frame=machine.max_frame))
        else:
            machine.write(_pack(size << 8 | HEADERS, END_HEADERS | end, self.id) + block)
        if end:
            machine.end_local(self)

    def send_data(self, data: bytes, end: bool) -> None:
        """Send a piece of the body, or hold it until the peer takes it."""
        machine = self._machine
        size = len(data)
        # An empty frame needs no window, not even where SETTINGS have made it negative (RFC 9113 section 6.9.1).
        if self._held is not None or (
            size and (size > self.send_window or size > machine.send_window or size > machine.max_frame)
        ):
            self._hold(data, end)
            return
        self.send_window -= size
        machine.send_window -= size
        machine.budget += EARNS_SENT
        if size < _JOIN_BELOW:
            machine.write(_pack(size << 8 | DATA, end, self.id) + data)
        else:
            machine.write(_pack(size << 8 | DATA, end, self.id))
            machine.write(data)
        if end:
            machine.end_local(self)

    def send_trailers(self, block: bytes) -> None:
        """Send the trailer section, after whatever is held."""
        if self._held is not None:
            self._tail = block
        else:
            self.send_head(block, True)

    def reset(self, code: Code) -> None:
        """End the stream at once, unless it is gone."""
        self._machine.reset(self, code)

    def credit(self) -> None:
        """Let the peer send up to `target` again, if that is worth a frame."""
        if self.remote_open and not self.withhold and self.window <= self.target >> 1:
            size = self.target - self.window
            if size > 0:
                self.window = self.target
                self._machine.write(frames.window_update(self.id, size))

    def pause(self, reason: int) -> None:
        """Give the peer no more window, for a reason out of a bit set."""
        self.withhold |= reason

    def resume(self, reason: int) -> None:
        """Withdraw a reason."""
        if self.withhold & reason:
            self.withhold &= ~reason
            self.credit()

    # The machine and the above call these

    def _hold(self, data: bytes, end: bool) -> None:
        """Keep what the peer does not take yet, and send what it does."""
        held = self._held
        was_blocked = held is not None
        if held is None:
            held = self._held = deque()
        if held and len(held[-1]) + len(data) <= _HOLD_JOINED:
            held[-1] += data
        elif data:
            held.append(data)
        if end:
            self._tail = b""
        if was_blocked:
            return
        self._flush()
        if self._held is not None:
            self.on_blocked()

    def pump(self) -> None:
        """Windows have grown: send what they allow of what is held."""
        if self._flush():
            self.on_drained()

    def _flush(self) -> bool:
        """Send what the windows allow. Returns whether the owner may send more."""
        held, machine = self._held, self._machine
        assert held is not None
        while held:
            size = min(len(held[0]), self.send_window, machine.send_window, machine.max_frame)
            if size <= 0:
                machine.waiting[self] = None
                return False
            piece = held.popleft()
            if size < len(piece):
                held.appendleft(piece[size:])
                piece = piece[:size]
            self.send_window -= size
            machine.send_window -= size
            machine.budget += EARNS_SENT
            machine.write(_pack(size << 8 | DATA, not held and self._tail == b"", self.id))
            machine.write(piece)
        tail = self._tail
        self._held = self._tail = None
        machine.waiting.pop(self, None)
        if tail is None:
            return True
        if tail:
            self.send_head(tail, True)
        else:
            machine.end_local(self)
        return False
