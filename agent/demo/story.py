"""PURE: what the demo plays, and what a view shows of it at one moment."""

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from loadgen.record import Outcome, Recorder
from loadgen.schedule import Arrivals, Schedule, Step, draw
from loadgen.units import NS_PER_S, format_duration, format_latency, format_rate

# Callers wait this many service times, then leave. Enough for any answer that comes through the gate, whose queue is
# two rounds deep, and short enough for the flood without the gate to show its effect within seconds.
PATIENCE = 10
QUEUE_ROUNDS = 2
# gRPC calls are there to be seen, not to be the load: this many a second, or a sixteenth of what the model can do.
_CALLS_RATE = 20.0
_CALLS_SHARE = 1 / 16


class Phase(NamedTuple):
    """A stretch of constant load: `factor` times capacity, `weight` its share of the time."""

    name: str
    factor: float
    weight: int
    gated: bool
    text: str


PHASES = (
    Phase("calm", 0.5, 3, True, "half of what the model can do: every request is passed on at once"),
    Phase("busy", 0.8, 3, True, "close to capacity: bursts wait in the gate's queue for a moment"),
    Phase("overload", 1.5, 3, True, "more than the model can do: the queue fills, the rest is refused at once"),
    Phase("flood", 3.0, 4, True, "three times too much: refused at once, while the model works at its best"),
    Phase("recovery", 0.7, 3, True, "back below capacity: nothing was left over, so all is well at once"),
    Phase("no gate", 3.0, 4, False, "the same flood straight to the model: it queues without bound inside"),
)
FLOOD, NO_GATE = 3, 5


@dataclass(frozen=True, slots=True)
class Script:
    """What the demo plays: `duration_s` seconds of load for a model of `slots` x `service_s`, drawn from `seed`."""

    duration_s: float
    slots: int
    service_s: float
    seed: int

    @property
    def capacity(self) -> float:
        """Answers per second that the model can give."""
        return self.slots / self.service_s

    @property
    def queue(self) -> int:
        """How many the gate lets wait."""
        return QUEUE_ROUNDS * self.slots

    @property
    def beat_s(self) -> float:
        """How often to print, and the window of what counts as now: a second, or less where phases are short."""
        return min(1.0, self.duration_s / 15)

    @property
    def patience_s(self) -> float:
        """How long a caller waits for its answer."""
        return PATIENCE * self.service_s

    @property
    def calls_rate(self) -> float:
        """gRPC calls per second while the gate is in the way, besides the phases' load."""
        return min(_CALLS_RATE, self.capacity * _CALLS_SHARE)

    @property
    def steps(self) -> tuple[Step, ...]:
        """One per phase."""
        unit_s = self.duration_s / sum(phase.weight for phase in PHASES)
        return tuple(Step(phase.factor * self.capacity, phase.weight * unit_s) for phase in PHASES)

    def start_s(self, phase: int) -> float:
        """When phase number `phase` begins."""
        return sum(step.duration_s for step in self.steps[:phase])

    def schedules(self) -> tuple[Schedule, Schedule]:
        """The arrivals at the gate, and those of the flood once more for the model alone: the very same gaps."""
        gated = draw(self.steps[:NO_GATE], Arrivals.POISSON, self.seed)
        first, after = gated.first[FLOOD], gated.first[FLOOD + 1]
        start_ns = round(self.start_s(FLOOD) * NS_PER_S)
        again = array("q", (offset - start_ns for offset in gated.offsets_ns[first:after]))
        return gated, Schedule((self.steps[NO_GATE],), again, (0,))


class Gate(NamedTuple):
    """The agent's own account: `executing` and `queued` are gauges, the others counters since its start."""

    executing: int = 0
    queued: int = 0
    limit: int | None = None
    queue_limit: int = 0
    rejected: float = 0.0
    executing_s: float = 0.0
    queued_s: float = 0.0


class Model(NamedTuple):
    """The predictor's own account: what runs in its slots and what waits inside it."""

    executing: int = 0
    waiting: int = 0


class Rates(NamedTuple):
    """Requests per second, lately."""

    offered: float = 0.0
    answered: float = 0.0
    refused: float = 0.0
    gave_up: float = 0.0


class Calls(NamedTuple):
    """How gRPC calls have ended until now: `late` ones at their deadline, `failed` ones in any other way."""

    answered: int = 0
    refused: int = 0
    late: int = 0
    failed: int = 0
    refusal_p50: str = "-"


class Column(NamedTuple):
    """A slice of time: how many requests were due in it, how those ended until now, the slowest answer among them."""

    offered: int
    answered: int
    refused: int
    failed: int
    slowest_ns: int

    @property
    def waiting(self) -> int:
        """How many have no end yet."""
        return self.offered - self.answered - self.refused - self.failed


class Frame(NamedTuple):
    """Everything a view shows at one moment; immutable, as the view draws in a thread of its own."""

    elapsed_s: float
    phase: int
    gate: Gate
    model: Model
    rates: Rates
    p50: str
    p99: str
    refusal_p50: str
    columns: tuple[Column, ...]
    calls: Calls = Calls()


def calls_of(recorder: Recorder) -> Calls:
    """The account of gRPC calls as a view shows it."""
    return Calls(
        answered=recorder.count_of(Outcome.OK),
        refused=recorder.count_of(Outcome.SHED),
        late=recorder.count_of(Outcome.TIMEOUT),
        failed=recorder.count_of(Outcome.ERROR),
        refusal_p50=cell(recorder, Outcome.SHED, 0.5),
    )


def cell(recorder: Recorder, outcome: Outcome, quantile: float) -> str:
    """A latency percentile as text, `-` where there are too few samples for it."""
    histogram = recorder.response[outcome]
    return format_latency(histogram.percentile(quantile)) if histogram.is_enough_for(quantile) else "-"


PLAIN_HEADER = (
    f"{'time':>6}  {'offered':>8}  {'answered':>8}  {'refused':>8}  {'gave up':>8}  {'p50':>7}  {'p99':>7}  where"
)


def plain_line(script: Script, frame: Frame) -> str:
    """One moment as one line of text, below PLAIN_HEADER."""
    gate, model = frame.gate, frame.model
    where = (
        f"gate: {gate.executing}/{gate.limit or '-'} executing, {gate.queued}/{gate.queue_limit} queued"
        if PHASES[frame.phase].gated
        else f"model: {model.executing}/{script.slots} executing, {model.waiting} waiting inside"
    )
    rates = "  ".join(f"{format_rate(rate):>8}" for rate in frame.rates)
    return f"{frame.elapsed_s:5.1f}s  {rates}  {frame.p50:>7}  {frame.p99:>7}  {where}"


def opening(script: Script) -> str:
    """What is about to happen, in one line."""
    return (
        f"a model with {script.slots} slots of {format_duration(script.service_s)} = {format_rate(script.capacity)}; "
        f"the gate lets {script.slots} in and {script.queue} wait"
    )
