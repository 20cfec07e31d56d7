"""Whether anything moves on a connection or a stream that somebody waits for, and whether it is enough."""


class Progress:
    """What had moved when it was looked at last, and since when nothing has."""

    __slots__ = ("_seen", "_since")

    def __init__(self) -> None:
        self._seen: object = None
        self._since = 0.0

    def has_stalled(self, seen: object, now: float, patience: float, *, waits: bool) -> bool:
        """Look once: `seen` changes with whatever moves. True if `waits` has held and nothing moved for `patience`."""
        if not waits or seen != self._seen:
            self._seen = seen
            self._since = now
        return now - self._since > patience


class Pace:
    """By how many seconds a client is behind the least rate.

    Only time in which the client was waited for counts: that between two looks which both found it so. What it moves
    makes good for it, but never in advance: a fast start is no licence to drip.
    """

    __slots__ = ("_behind", "_moved", "_of", "_waited")

    def __init__(self) -> None:
        self._of: object = None
        self._behind = 0.0
        self._moved = 0
        self._waited = False

    def is_behind(self, of: object, moved: int, elapsed: float, rate: int, grace: float, *, waits: bool) -> bool:
        """Look once, `elapsed` seconds after the last time. True if it is more than `grace` seconds behind.

        `of` tells one exchange from the next, `moved` is how many bytes the client has sent and taken in it, and `rate`
        is bytes a second.
        """
        if of != self._of:
            self._of, self._behind, self._waited = of, 0.0, False
        elif waits and self._waited:
            self._behind += elapsed
        self._behind = max(0.0, self._behind - max(0, moved - self._moved) / rate)
        self._moved, self._waited = moved, waits
        return waits and self._behind > grace
