"""How busy each model is, as levels and as their integrals over time.

An integral counter is exact over any window and survives lost scrapes: the difference between two readings divided by
the time between them is the time-weighted mean, which no sampled gauge can give when load comes in bursts.
"""

# Model names come from clients; each that becomes a label costs memory here and in every Prometheus that scrapes us.
MAX_MODELS = 100
OTHER = "_other"


class Usage:
    """Levels and integrals of one model: `inflight` and `queued` requests, and the seconds spent in each."""

    __slots__ = ("_last", "inflight", "inflight_seconds", "name", "queued", "queued_seconds")

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.inflight = 0
        self.queued = 0
        self.inflight_seconds = 0.0
        self.queued_seconds = 0.0
        self._last = now

    def advance(self, now: float) -> None:
        """Bring the integrals up to `now`; call before a level changes and before reading."""
        elapsed = now - self._last
        self._last = now
        if self.inflight:
            self.inflight_seconds += elapsed * self.inflight
        if self.queued:
            self.queued_seconds += elapsed * self.queued


class UsageTable:
    """The models that have earned a label; all others share `other`."""

    __slots__ = ("_known", "other")

    def __init__(self, names: list[str], now: float) -> None:
        self.other = Usage(OTHER, now)
        self._known = {name: Usage(name, now) for name in names if name != OTHER}

    def of(self, name: str) -> Usage:
        """The usage that a request for this model is booked on."""
        return self._known.get(name, self.other)

    def learn(self, name: str, now: float) -> Usage:
        """Give the model a label of its own: the predictor has answered for it. Bounded by MAX_MODELS."""
        usage = self._known.get(name)
        if usage is None:
            if not name or name == OTHER or len(self._known) >= MAX_MODELS:
                return self.other
            usage = self._known[name] = Usage(name, now)
        return usage

    def rows(self, now: float) -> list[Usage]:
        """All usages with their integrals at `now`, `other` last."""
        rows = [*self._known.values(), self.other]
        for usage in rows:
            usage.advance(now)
        return rows
