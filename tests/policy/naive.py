"""Admission as plain lists: every answer is found by looking at all tickets."""

from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Waiting:
    """A request as the model knows it. `order` is the order of arrival among those that had to wait."""

    model: str
    order: int = 0
    deadline: float = 0.0
    held: int = 0
    state: str = "NEW"


@dataclass(slots=True)
class Gate:
    """The naive model of `policy.fifo.FifoAdmission`."""

    limit: int | None
    model_limits: dict[str, int]
    queue_limit: int
    queue_bytes: int
    patience: float
    running: list[Waiting] = field(default_factory=list)
    queue: list[Waiting] = field(default_factory=list)
    arrivals: int = 0

    def lane(self, one: Waiting) -> str | None:
        return one.model if one.model in self.model_limits else None

    def has_slot(self, one: Waiting) -> bool:
        if self.limit is not None and len(self.running) >= self.limit:
            return False
        lane = self.lane(one)
        return lane is None or sum(self.lane(other) == lane for other in self.running) < self.model_limits[lane]

    def offer(self, one: Waiting, now: float) -> None:
        if self.has_slot(one) and not any(self.lane(other) == self.lane(one) for other in self.queue):
            one.state = "RUNNING"
            self.running.append(one)
        elif len(self.queue) >= self.queue_limit or sum(other.held for other in self.queue) >= self.queue_bytes:
            one.state = "ENDED"
        else:
            self.arrivals += 1
            one.order, one.deadline, one.state = self.arrivals, now + self.patience, "QUEUED"
            self.queue.append(one)

    def dispatch(self) -> list[Waiting]:
        """Start whoever can run, the longest waiting first, until nobody can."""
        started: list[Waiting] = []
        while True:
            able = [one for one in self.queue if self.has_slot(one)]
            if not able:
                return started
            first = min(able, key=lambda one: one.order)
            self.queue.remove(first)
            first.state = "RUNNING"
            self.running.append(first)
            started.append(first)

    def finish(self, one: Waiting) -> list[Waiting]:
        self.running.remove(one)
        one.state = "ENDED"
        return self.dispatch()

    def cancel(self, one: Waiting) -> None:
        self.queue.remove(one)
        one.state = "ENDED"

    def expire(self, now: float) -> list[Waiting]:
        expired = [one for one in self.queue if one.deadline <= now]
        for one in expired:
            self.cancel(one)
        return expired

    def resize(self, limit: int | None) -> list[Waiting]:
        self.limit = limit
        return self.dispatch()

    @property
    def is_busy(self) -> bool:
        return self.limit is not None and len(self.running) >= self.limit
