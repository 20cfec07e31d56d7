"""CPU of an admitted request, offer and finish, by the depth of the queue: `python -m tests.bench.policy`."""

import random
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter

from agent.policy.admission import RUNNING, Admission, Ticket
from agent.policy.deadline import DeadlineAdmission
from agent.policy.usage import Usage

DEPTHS = (0, 50, 500, 5000)
LIMIT = 8
_ROUNDS = 5
_REQUESTS = 4000

Make = Callable[[], Admission]
Offer = Callable[[Admission, Ticket, float, random.Random], None]


def fifo() -> Admission:
    return Admission(limit=LIMIT, model_limits={}, queue_limit=10_000, queue_bytes=1 << 30, patience=100.0)


def deadline(*, fair: bool = False) -> Admission:
    return DeadlineAdmission(
        limit=LIMIT, model_limits={}, queue_limit=10_000, queue_bytes=1 << 30, patience=100.0, fair=fair
    )


def alike(gate: Admission, ticket: Ticket, now: float, _: random.Random) -> None:
    gate.offer(ticket, now)


def mixed(gate: Admission, ticket: Ticket, now: float, generator: random.Random) -> None:
    gate.offer(ticket, now, 40.0 + 60.0 * generator.random())


def tenants(gate: Admission, ticket: Ticket, now: float, generator: random.Random) -> None:
    assert isinstance(gate, DeadlineAdmission)
    gate.offer(ticket, now, tenant=generator.randrange(20))


ROWS: tuple[tuple[str, Make, Offer], ...] = (
    ("fifo", fifo, alike),
    ("deadline, equal deadlines", deadline, alike),
    ("deadline, mixed deadlines", deadline, mixed),
    ("deadline, 20 tenants", lambda: deadline(fair=True), tenants),
)


def _ticket(gate: Admission, owner: object, model: str, usage: Usage) -> Ticket:
    return Ticket(owner, model, usage, gate)


def microseconds(make: Make, offer: Offer, depth: int) -> float:
    """The best of five rounds: the mean of an offer and the finish that follows it, with `depth` requests waiting."""
    best = float("inf")
    for attempt in range(_ROUNDS):
        gate, generator, usage = make(), random.Random(attempt), Usage("m", 0.0)
        new = gate.ticket if isinstance(gate, DeadlineAdmission) else partial(_ticket, gate)
        now, running = 1.0, []
        for _ in range(LIMIT - (not depth) + depth):
            ticket = new(None, "m", usage)
            offer(gate, ticket, now, generator)
            running += [ticket] if ticket.state is RUNNING else []
        tickets = [new(None, "m", usage) for _ in range(_REQUESTS)]
        begun = perf_counter()
        for done, ticket in enumerate(tickets):
            now += 0.0062  # a predictor of 8 workers and 50 ms, at its capacity
            offer(gate, ticket, now, generator)
            if ticket.state is RUNNING:
                running.append(ticket)
            running.extend(gate.finish(running[done], now))
        best = min(best, perf_counter() - begun)
        assert gate.queued == depth, f"{gate.queued} wait instead of {depth}"
    return best / _REQUESTS * 1e6


def main() -> int:
    print("| us per admitted request, offer + finish | " + " | ".join(f"{depth} queued" for depth in DEPTHS) + " |")
    print("|---" * (len(DEPTHS) + 1) + "|")
    for name, make, offer in ROWS:
        print(f"| {name} | " + " | ".join(f"{microseconds(make, offer, depth):.2f}" for depth in DEPTHS) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
