"""CPU of an admitted request, offer and finish, by the depth of the queue: `python -m tests.bench.policy`."""

import random
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from agent.policy.admission import RUNNING, Admission
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.usage import Usage

DEPTHS = (0, 50, 500, 5000)
LIMIT = 8
_ROUNDS = 5
_REQUESTS = 4000
_random = random.Random(1)
PATIENCES = [_random.uniform(40.0, 100.0) for _ in range(997)]
TENANTS = [_random.randrange(20) for _ in range(997)]

Gate = Admission[Any]
Make = Callable[[], Gate]
Offer = Callable[[Gate, Any, float, int], None]


def fifo() -> Gate:
    return FifoAdmission(limit=LIMIT, model_limits={}, queue_limit=10_000, queue_bytes=1 << 30, patience=100.0)


def deadline(*, fair: bool = False) -> Gate:
    return DeadlineAdmission(
        limit=LIMIT, model_limits={}, queue_limit=10_000, queue_bytes=1 << 30, patience=100.0, fair=fair
    )


def alike(gate: Gate, ticket: Any, now: float, _: int) -> None:
    gate.offer(ticket, now)


def mixed(gate: Gate, ticket: Any, now: float, number: int) -> None:
    gate.offer(ticket, now, PATIENCES[number % len(PATIENCES)])


def tenants(gate: Gate, ticket: Any, now: float, number: int) -> None:
    gate.offer(ticket, now, tenant=TENANTS[number % len(TENANTS)])


ROWS: tuple[tuple[str, Make, Offer], ...] = (
    ("fifo", fifo, alike),
    ("deadline, equal deadlines", deadline, alike),
    ("deadline, mixed deadlines", deadline, mixed),
    ("deadline, 20 tenants", lambda: deadline(fair=True), tenants),
)


def microseconds(make: Make, offer: Offer, depth: int) -> float:
    """The best of five rounds: the mean of an offer and the finish that follows it, with `depth` requests waiting."""
    best = float("inf")
    for _ in range(_ROUNDS):
        gate, usage = make(), Usage("m", 0.0)
        now, running = 1.0, []
        for number in range(LIMIT - (not depth) + depth):
            ticket = gate.ticket(None, "m", usage)
            offer(gate, ticket, now, number)
            running += [ticket] if ticket.state is RUNNING else []
        tickets = [gate.ticket(None, "m", usage) for _ in range(_REQUESTS)]
        begun = perf_counter()
        for done, ticket in enumerate(tickets):
            now += 0.0062  # a predictor of 8 workers and 50 ms, at its capacity
            offer(gate, ticket, now, done)
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
