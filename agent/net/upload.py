"""A request's body on its way to the predictor: held while the request waits, then passed on piece by piece."""

from agent.net.sides import Upstream
from agent.wire.fields import Trailers

# A piece is an object of some 40 bytes beside what it carries. A body that comes byte by byte must not take forty times
# what it is charged for.
_JOIN_BELOW = 512


class Upload:
    """`size` is the bytes that came so far, `complete` whether they are all.

    `keep` is how many bytes stay at hand after they were sent, for a second sending; 0 keeps none.
    """

    __slots__ = ("_held", "_keep", "_trailers", "complete", "size")

    def __init__(self, *, complete: bool, keep: int) -> None:
        self.size = 0
        self.complete = complete
        self._keep = keep
        self._held: list[bytes] = []
        self._trailers: Trailers | None = None

    @property
    def at_hand(self) -> bool:
        """Whether all that came so far can be sent once more."""
        return self.size <= self._keep

    @property
    def is_empty(self) -> bool:
        """Whether the request has neither body nor trailers."""
        return self.complete and not self.size and self._trailers is None

    def hold(self, data: bytes) -> None:
        """Keep a piece until there is a connection."""
        held = self._held
        if held and len(held[-1]) + len(data) <= _JOIN_BELOW:
            held[-1] += data
        else:
            held.append(data)

    def first_bytes(self) -> bytes:
        """All that is held, before anything was sent."""
        return self._held[0] if len(self._held) == 1 else b"".join(self._held)

    def send(self, up: Upstream, data: bytes, end: bool) -> None:
        """Pass a piece on."""
        if self._keep:
            if self.size <= self._keep:
                self.hold(data)
            else:
                self._held.clear()
        up.send_data(data, end)

    def finish(self, trailers: Trailers) -> None:
        """The body is complete and these fields follow it."""
        self.complete = True
        self._trailers = trailers

    def send_held(self, up: Upstream) -> None:
        """Send what has been held, and the end of the body if it is there."""
        held, trailers = self._held, self._trailers
        end = self.complete and trailers is None
        if len(held) == 1:
            up.send_data(held[0], end)
        elif held:
            for data in held[:-1]:
                up.send_data(data, False)
            up.send_data(held[-1], end)
        elif end and self.size:
            up.send_data(b"", True)
        if trailers is not None:
            up.finish(trailers)
        if not self._keep:
            held.clear()

    def drop(self) -> None:
        """Forget what is held: there will be no second sending."""
        self._keep = 0
        if self._held:
            self._held.clear()
