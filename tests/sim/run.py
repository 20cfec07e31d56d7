"""One run: requests, a gate and a predictor in virtual time, and what came of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from tests.sim.clock import Clock
from tests.sim.gates import QUEUED, RUNNING, Gate
from tests.sim.load import Request
from tests.sim.predictors import Done, Predictor

MakePredictor = Callable[[Clock, Done], Predictor]
_TAIL_S = 20.0


@dataclass(frozen=True, slots=True)
class Result:
    """`requests` are those that came in the measured time of `seconds`; `limits` the limit every quarter second."""

    requests: Sequence[Request]
    seconds: float
    limits: Sequence[int]

    def goodput(self, capacity: float) -> float:
        """Answers in time, in percent of what the predictor can do."""
        return 100 * sum(request.in_time for request in self.requests) / self.seconds / capacity

    def in_time(self, choose: Callable[[Request], bool] = lambda _: True) -> float:
        """The share of the chosen requests that were answered in time, in percent."""
        chosen = [request for request in self.requests if choose(request)]
        return 100 * sum(request.in_time for request in chosen) / max(1, len(chosen))

    def latency_ms(self, share: float, outcome: str = "served") -> float:
        """A quantile of the time to an answer, or to a refusal; 0.0 where there was none."""
        times = sorted(request.ended - request.at for request in self.requests if request.outcome == outcome)
        return 1000 * times[int(share * len(times))] if times else 0.0

    @property
    def wasted(self) -> float:
        """The share of the predictor's work that was for answers that came too late, in percent."""
        done = [request for request in self.requests if request.dispatched]
        work = sum(request.work for request in done)
        return 100 * sum(request.work for request in done if not request.in_time) / work if work else 0.0

    @property
    def limit(self) -> float:
        return median(self.limits)


class Run:
    """Carries requests from the gate to the predictor and back."""

    def __init__(self, requests: Iterable[Request], gate: Gate, predictor: MakePredictor, *, cancel: bool) -> None:
        self.clock = Clock()
        self._gate = gate
        self._cancel = cancel
        self._predictor = predictor(self.clock, self._ended)
        for request in requests:
            self.clock.at(request.at, partial(self._arrive, request))

    def _arrive(self, request: Request) -> None:
        now = self.clock.now
        state = self._gate.offer(request, now)
        if state == RUNNING:
            self._dispatch(request)
        elif state == QUEUED:
            if not self._cancel:
                self.clock.at(request.at + request.patience, self._expire)
        else:
            self._refuse(request)
        if self._cancel:
            self.clock.at(request.at + request.patience, partial(self._give_up, request))

    def _dispatch(self, request: Request) -> None:
        request.dispatched = True
        self._predictor.start(request)

    def _refuse(self, request: Request) -> None:
        request.outcome, request.ended = "refused", self.clock.now

    def _expire(self) -> None:
        for request in self._gate.expire(self.clock.now):
            self._refuse(request)

    def _give_up(self, request: Request) -> None:
        if not request.outcome:
            request.outcome, request.ended = "gone", self.clock.now
            if not request.dispatched:
                self._gate.leave(request, self.clock.now)

    def _ended(self, request: Request) -> None:
        if not request.outcome:
            request.outcome, request.ended = "served", self.clock.now
        for other, runs in self._gate.finish(request, self.clock.now):
            if runs:
                self._dispatch(other)
            else:
                self._refuse(other)


def simulate(
    requests: Sequence[Request],
    gate: Gate,
    predictor: MakePredictor,
    *,
    duration: float,
    warm: float = 5.0,
    cancel: bool = False,
) -> Result:
    """Requests come for `duration` seconds; those of the first `warm` seconds are not counted."""
    run = Run(requests, gate, predictor, cancel=cancel)
    limits: list[int] = []
    at = warm
    while at < duration:
        run.clock.run(at)
        limits.append(gate.limit)
        at += 0.25
    run.clock.run(duration + _TAIL_S)
    counted = [request for request in requests if warm <= request.at < duration]
    return Result(counted, duration - warm, limits)
