"""What Knative's autoscaler is told of a second (PURE): the demand, and the part that its activator counts too.

The autoscaler subtracts the proxied concurrency, and adds what its activator reports: all that the activator has
forwarded and that is not answered. So the proxied part is counted as the activator sees it, waiting included, and is
never more than the whole.
"""

from typing import NamedTuple

from agent.scale.demand import DRAIN_S, Demand


class Numbers(NamedTuple):
    """The numbers of a Stat: mean concurrencies, requests a second."""

    concurrency: float
    proxied_concurrency: float
    requests: float
    proxied_requests: float


class Proxied:
    """The requests that came through the activator, from their arrival to their end: how many, and the integral."""

    __slots__ = ("_arrived", "_last", "_present", "_seconds")

    def __init__(self, now: float) -> None:
        self._present = self._arrived = 0
        self._seconds = 0.0
        self._last = now

    def enter(self, now: float) -> None:
        """One more has come."""
        self._advance(now)
        self._present += 1
        self._arrived += 1

    def leave(self, now: float) -> None:
        """One of them has ended."""
        self._advance(now)
        self._present -= 1

    def read(self, now: float) -> tuple[float, int]:
        """Request seconds and arrivals so far."""
        self._advance(now)
        return self._seconds, self._arrived

    def _advance(self, now: float) -> None:
        self._seconds += (now - self._last) * self._present
        self._last = now


def numbers(demand: Demand, service_s: float, proxied_seconds: float, proxied_arrived: int) -> Numbers:
    """The numbers of the window that `demand` covers, in which proxied requests were present for `proxied_seconds`.

    `service_s` is the usual service time: what waits counts as the work to be done within `DRAIN_S`.
    """
    if not demand.seconds:
        return Numbers(0.0, 0.0, 0.0, 0.0)
    concurrency = demand.total + demand.queued * service_s / DRAIN_S
    proxied = min(concurrency, proxied_seconds / demand.seconds)
    return Numbers(concurrency, proxied, demand.arrived, proxied_arrived / demand.seconds)
