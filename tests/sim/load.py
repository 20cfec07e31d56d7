"""Requests that come in an open loop, seeded: every policy sees the same ones."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log

# A predictor of 8 workers and 50 ms on the average.
CAPACITY = 160.0
_SERVICE_S = 0.050
_SPREAD = log(1 + 0.5**2)


@dataclass(slots=True, eq=False)
class Request:
    """One request: when it comes, what work it is, how long its client will wait, and how it ended.

    `ended` is when an answer or a refusal came. `outcome` is "served" (in time or late), "refused" or "gone".
    """

    number: int
    at: float
    work: float
    patience: float
    tenant: int = 0
    outcome: str = ""
    ended: float = 0.0
    dispatched: bool = False
    ticket: object = field(default=None, repr=False)

    @property
    def in_time(self) -> bool:
        return self.outcome == "served" and self.ended <= self.at + self.patience


Rate = Callable[[float], float]
# Shares of the requests and what they belong to: deadlines in seconds, or tenants.
Shares = Sequence[tuple[float, float]]


def draw(generator: random.Random, shares: Shares) -> float:
    place = generator.random() * sum(share for share, _ in shares)
    for share, value in shares:
        if place < share:
            return value
        place -= share
    return shares[-1][1]


def work_of(generator: random.Random) -> float:
    """Log-normal, with a deviation of half the mean."""
    return generator.lognormvariate(log(_SERVICE_S) - _SPREAD / 2, _SPREAD**0.5)


def poisson(
    seed: int,
    duration: float,
    rate: float | Rate,
    *,
    peak: float = 0.0,
    deadlines: Shares = ((1.0, 0.5),),
    tenants: Shares = ((1.0, 0),),
) -> list[Request]:
    """Arrivals of a Poisson process, in requests a second; a rate that changes needs its `peak`."""
    generator = random.Random(seed)
    highest = peak if callable(rate) else rate
    requests: list[Request] = []
    at = 0.0
    while True:
        at += generator.expovariate(highest)
        if at >= duration:
            return requests
        if callable(rate) and generator.random() > rate(at) / highest:
            continue
        deadline, tenant = draw(generator, deadlines), int(draw(generator, tenants))
        requests.append(Request(len(requests), at, work_of(generator), deadline, tenant))


def bursts(seed: int, duration: float) -> list[Request]:
    """0.3 times the capacity, and 50 at once every 0.8 s."""
    generator = random.Random(seed)
    requests = poisson(seed, duration, 0.3 * CAPACITY)
    at = 0.4
    while at < duration:
        requests += [Request(0, at, work_of(generator), 0.5) for _ in range(50)]
        at += 0.8
    requests.sort(key=lambda request: request.at)
    for number, request in enumerate(requests):
        request.number = number
    return requests
