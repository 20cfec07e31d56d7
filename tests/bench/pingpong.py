"""Streams of equal messages over HTTP/2: one message a DATA frame, many frames a write, each answered by one."""

from . import h2frames as h2
from .h2connection import Connection


class _Lane:
    """One stream: bytes of an incomplete message, messages to send, and whether the other side has ended."""

    __slots__ = ("due", "ended", "part")

    def __init__(self) -> None:
        self.part = b""
        self.due = 0
        self.ended = False


class Pingpong(Connection):
    """Answers each message `theirs`, which is compared byte for byte, with a message `mine`; both with their prefix."""

    joins = True

    def __init__(self, *, server: bool, mine: bytes, theirs: bytes) -> None:
        super().__init__(server=server)
        self._mine, self._theirs = mine, theirs
        self.lanes: dict[int, _Lane] = {}

    def received(self, stream: int, count: int) -> int:
        """Messages have come; returns how many to send."""
        return count

    def finished(self, stream: int) -> None:
        """The other side has ended and every message of it is answered."""

    def on_headers(self, stream: int, block: memoryview, end: bool) -> None:
        if stream not in self.lanes:
            self.lanes[stream] = _Lane()
        if end:
            self._end(stream)

    def on_data(self, stream: int, payload: memoryview, end: bool) -> None:
        lane = self.lanes[stream]
        data = lane.part + payload
        count = len(data) // len(self._theirs)
        whole = self._theirs * count
        if not data.startswith(whole):
            raise ValueError("a message arrived changed")
        lane.part = data[len(whole) :]
        if count:
            lane.due += self.received(stream, count)
            self._send_due(stream, lane)
        if end:
            self._end(stream)

    def on_credit(self) -> None:
        for stream, lane in list(self.lanes.items()):
            if lane.due and stream in self.windows:
                self._send_due(stream, lane)

    def owe(self, stream: int, count: int) -> None:
        """Send that many messages more."""
        lane = self.lanes.setdefault(stream, _Lane())
        lane.due += count
        self._send_due(stream, lane)

    def _send_due(self, stream: int, lane: _Lane) -> None:
        size = len(self._mine)
        count = min(lane.due, self.window // size, self.windows[stream] // size)
        if count > 0:
            lane.due -= count
            self.spend(stream, count * size)
            self.out.append((h2.head(size, h2.DATA, 0, stream) + self._mine) * count)
        if lane.ended and not lane.due:
            self._end(stream)

    def _end(self, stream: int) -> None:
        lane = self.lanes[stream]
        lane.ended = True
        if not lane.due:
            del self.lanes[stream]
            self.finished(stream)
