"""Whether anything moves on a connection or a stream that somebody waits for."""


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
