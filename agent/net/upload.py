"""A request's body on its way to the predictor: held while the request waits, then passed on piece by piece."""

from agent.net.upstream import Upstream
from agent.wire.head import Fields


class Upload:
    """Frames the body for the predictor. `size` is the bytes that came so far, `complete` whether they are all.

    `keep` is how many bytes stay at hand after they were sent, for a second sending; 0 keeps none.
    """

    __slots__ = ("_chunked", "_held", "_keep", "_trailers", "complete", "size")

    def __init__(self, *, chunked: bool, complete: bool, keep: int) -> None:
        self.size = 0
        self.complete = complete
        self._chunked = chunked
        self._keep = keep
        self._held: list[bytes] = []
        self._trailers: Fields = []

    @property
    def can_repeat(self) -> bool:
        """Whether all of the body is at hand to be sent once more."""
        return self.complete and self.size <= self._keep

    def hold(self, data: bytes) -> None:
        """Keep a piece until there is a connection."""
        self._held.append(data)

    def end_with(self, trailers: Fields) -> None:
        """The body is complete and these fields follow it."""
        self.complete = True
        self._trailers = trailers

    def send(self, up: Upstream, data: bytes) -> None:
        """Pass a piece on, or the end of a complete body when `data` is empty."""
        if self._keep:
            if self.size <= self._keep:
                self._held.append(data)
            else:
                self._held.clear()
        self._write(up, data)
        if self.complete:
            self._write_end(up)

    def send_held(self, up: Upstream) -> None:
        """Send what has been held, and the end of the body if it is there."""
        for data in self._held:
            self._write(up, data)
        if not self._keep:
            self._held.clear()
        if self.complete:
            self._write_end(up)

    def drop(self) -> None:
        """Forget what is held."""
        if self._held:
            self._held.clear()

    def _write(self, up: Upstream, data: bytes) -> None:
        if data:
            up.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _write_end(self, up: Upstream) -> None:
        if self._chunked:
            up.write(b"\r\n".join([b"0", *map(b": ".join, self._trailers), b"", b""]))
