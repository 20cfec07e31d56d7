"""The scenarios: what comes, before which predictor, and what counts as good."""

from collections.abc import Sequence
from functools import partial

from tests.sim import gates
from tests.sim.gates import Make
from tests.sim.load import CAPACITY, Request, Shares, bursts, poisson
from tests.sim.predictors import Batcher, Sharing, Stalling, Triton, Workers
from tests.sim.run import MakePredictor, Result, simulate

LIMIT = 8
LOADS = (0.8, 1.2, 2.0, 4.0)
MIXED: Shares = ((0.25, 0.120), (0.50, 0.500), (0.25, 2.0))
TIGHT: Shares = ((1.0, 0.150),)
HALF: Shares = ((1.0, 0.500),)
# One asks for 3.7 times the capacity, two for 0.15 times each.
HOG, POLITE = 3, (1, 2)
TENANTS: Shares = ((0.15, 1), (0.15, 2), (3.7, HOG))
_WARM_S = 5.0

# The first limits that `--limit auto` is tried with, as multiples of the right one.
STARTS = (0.25, 1, 4, 16)
# Predictor, capacity in requests a second, and the limit that is right for it.
UNKNOWN: dict[str, tuple[MakePredictor, float, int]] = {
    "sharing": (Sharing, CAPACITY, 8),
    "batcher": (Batcher, Batcher.capacity(), 16),
    "triton": (Triton, Triton.capacity(), 16),
}


def overload(
    make: Make, load: float, seconds: float, seed: int = 0, *, deadlines: Shares = HALF, cancel: bool = False
) -> Result:
    """Poisson arrivals at `load` times the capacity of 8 workers; with `cancel` clients leave at their deadline."""
    requests = poisson(1000 + seed, seconds + _WARM_S, load * CAPACITY, deadlines=deadlines)
    return simulate(requests, make(LIMIT), Workers, duration=seconds + _WARM_S, cancel=cancel)


def micro(make: Make, seconds: float, seed: int = 0) -> Result:
    """50 at once every 0.8 s and a light load beside: 0.69 times the capacity."""
    return simulate(bursts(300 + seed, seconds), make(LIMIT), Workers, duration=seconds)


def spike(make: Make, seconds: float, seed: int = 0) -> Result:
    """0.6 times the capacity, and 4 times for 2 s in every 10."""
    requests = poisson(
        1000 + seed,
        seconds + _WARM_S,
        lambda at: CAPACITY * (4.0 if at % 10 < 2 else 0.6),
        peak=4 * CAPACITY,
    )
    return simulate(requests, make(LIMIT), Workers, duration=seconds + _WARM_S)


def drift(make: Make, seconds: float, seed: int = 5) -> tuple[float, float]:
    """Service times of 50 ms that become 200 ms halfway, at 1.2 and then 4.8 times the capacity.

    Returns the goodput of both halves in percent of what is possible in each; two seconds are granted for the change.
    """
    half = seconds / 2
    requests = poisson(seed, seconds, 1.2 * CAPACITY)
    for request in requests:
        if request.at > half:
            request.work *= 4
    counted = simulate(requests, make(LIMIT), Workers, duration=seconds).requests
    before = Result([one for one in counted if one.at < half], half - _WARM_S, ())
    after = Result([one for one in counted if one.at >= half + 2], half - 2, ())
    return before.goodput(CAPACITY), after.goodput(CAPACITY / 4)


def unknown(
    make: Make,
    predictor: str,
    start: float,
    load: float,
    seconds: float,
    seed: int = 0,
    *,
    deadlines: Shares = HALF,
) -> Result:
    """A limit of `start` times the right one, at `load` times the capacity; the first 10 s are not counted."""
    kind, capacity, right = UNKNOWN[predictor]
    requests = poisson(1000 + seed, seconds + 10.0, load * capacity, deadlines=deadlines)
    return simulate(requests, make(int(start * right)), kind, duration=seconds + 10.0, warm=10.0)


def stalls(make: Make, load: float, seconds: float, seed: int = 0) -> Result:
    """Workers that stall now and then, at `load` times the capacity that they have else."""
    requests = poisson(1000 + seed, seconds + 10.0, load * CAPACITY, deadlines=HALF)
    return simulate(requests, make(LIMIT), Stalling, duration=seconds + 10.0, warm=10.0)


def tenants(make: Make, seconds: float, seed: int = 0) -> Result:
    """Four times the capacity, nearly all of it one tenant's."""
    requests = poisson(1000 + seed, seconds + _WARM_S, 4 * CAPACITY, tenants=TENANTS)
    return simulate(requests, make(LIMIT), Workers, duration=seconds + _WARM_S)


def of_tenant(result: Result, tenant: int) -> float:
    """The share of a tenant's requests that were answered in time, in percent."""
    return result.in_time(partial(_is_of, tenant))


def _is_of(tenant: int, request: Request) -> bool:
    return request.tenant == tenant


QUEUES: Sequence[tuple[str, Make]] = (
    ("Knative's breaker, 8 + 80", gates.knative),
    ("Envoy's pending requests, 8 + 1024", gates.envoy),
    ("headgate --policy fifo, 8 + 80", gates.fifo),
    ("headgate", gates.deadline),
)
