"""Exchanges that ended in every way, made at random."""

import random

from agent.errors import REPLIES, Outcome
from agent.policy.classify import Kind, Route
from agent.policy.usage import Usage
from tests.fakes import FakeRecord

USAGES = [Usage(name, 0.0) for name in ("a", "b", "_other")]
LOCAL = {Outcome.QUEUE_FULL, Outcome.EXPIRED, Outcome.DRAINING, Outcome.BAD_REQUEST}


def some_records(seed: int, count: int) -> list[FakeRecord]:
    """Records whose stamps fit their outcome; a fifth of them bypassed admission."""
    generator = random.Random(seed)
    return [_record(generator) for _ in range(count)]


def _record(generator: random.Random) -> FakeRecord:
    outcome = generator.choice([Outcome.SERVED, Outcome.SERVED, *Outcome])
    arrived = generator.uniform(1000.0, 2000.0)
    waited = generator.choice([0.0, 0.001, generator.expovariate(1.0)])
    ran = generator.choice([0.001, 0.1, generator.expovariate(0.05)])
    is_dispatched = outcome is Outcome.SERVED or (outcome not in LOCAL and generator.random() < 0.8)
    is_inference = generator.random() < 0.8
    return FakeRecord(
        route=Route(generator.choice(list(Kind)[1:])) if not is_inference else Route(Kind.INFERENCE, "a"),
        outcome=outcome,
        status=generator.choice([200, 404, 500]) if outcome is Outcome.SERVED else REPLIES[outcome].http,
        usage=generator.choice(USAGES) if is_inference else None,
        protocol=generator.choice(["http", "grpc"]),
        is_retry=generator.random() < 0.2,
        arrived=arrived,
        dispatched=arrived + waited if is_dispatched else 0.0,
        ended=arrived + waited + ran,
    )
