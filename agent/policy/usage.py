"""How busy each model is, as levels and as their integrals over time.

An integral counter is exact over any window and survives lost scrapes: the difference between two readings divided by
the time between them is the time-weighted mean, which no sampled gauge can give when load comes in bursts.
"""

# Model names come from clients; each that becomes a label costs memory here and in every Prometheus that scrapes us.
MAX_MODELS = 100
# Kubernetes names have 253 characters. A label is repeated for each of some forty series of a model.
MAX_NAME = 256
OTHER = "_other"


# Weight of the newest service time in the mean.
_NEWEST = 0.125


class Usage:
    """Levels and integrals of one model over one protocol: requests `inflight` and `queued`, and the seconds in each.

    `outstanding` counts the messages of open streams that are sent and not answered, `service_s` is the recent mean
    from dispatch to the end of an answer, 0.0 before there was one. `rejected_demand_seconds` is how long the requests
    that were turned away for lack of room or time would have kept the predictor busy. `missed` counts the answers that
    came after their deadline, `late_seconds` sums up how long those kept their slots.
    """

    __slots__ = (
        "_last",
        "inflight",
        "inflight_seconds",
        "late_seconds",
        "missed",
        "name",
        "outstanding",
        "protocol",
        "queued",
        "queued_seconds",
        "rejected_demand_seconds",
        "service_s",
    )

    def __init__(self, name: str, now: float, protocol: str = "http") -> None:
        self.name = name
        self.protocol = protocol
        self.outstanding = 0
        self.service_s = 0.0
        self.inflight = 0
        self.queued = 0
        self.inflight_seconds = 0.0
        self.queued_seconds = 0.0
        self.rejected_demand_seconds = 0.0
        self.missed = 0
        self.late_seconds = 0.0
        self._last = now

    def advance(self, now: float) -> None:
        """Bring the integrals up to `now`; call before a level changes and before reading."""
        elapsed = now - self._last
        self._last = now
        if self.inflight:
            self.inflight_seconds += elapsed * self.inflight
        if self.queued:
            self.queued_seconds += elapsed * self.queued

    def served(self, seconds: float) -> None:
        """A request has been answered `seconds` after its dispatch."""
        self.service_s += (seconds - self.service_s) * (_NEWEST if self.service_s else 1.0)


class UsageTable:
    """The models that have earned a label, over one protocol; all others share `other`."""

    __slots__ = ("_known", "_protocol", "other")

    def __init__(self, names: list[str], now: float, protocol: str = "http") -> None:
        self.other = Usage(OTHER, now, protocol)
        self._protocol = protocol
        self._known = {name: Usage(name, now, protocol) for name in names if name != OTHER}

    def of(self, name: str) -> Usage:
        """The usage that a request for this model is booked on."""
        return self._known.get(name, self.other)

    def learn(self, name: str, now: float) -> Usage:
        """Give the model a label of its own: the predictor has answered for it. Bounded by MAX_MODELS and MAX_NAME."""
        usage = self._known.get(name)
        if usage is None:
            is_sound = 0 < len(name) <= MAX_NAME and name != OTHER and name.isprintable()
            if not is_sound or len(self._known) >= MAX_MODELS:
                return self.other
            usage = self._known[name] = Usage(name, now, self._protocol)
        return usage

    def rows(self, now: float) -> list[Usage]:
        """All usages with their integrals at `now`, `other` last."""
        rows = [*self._known.values(), self.other]
        for usage in rows:
            usage.advance(now)
        return rows
