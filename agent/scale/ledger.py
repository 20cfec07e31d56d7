"""What the agents of a workload said last, and what it adds up to (PURE)."""

import json
from collections.abc import Iterable
from math import isfinite
from typing import NamedTuple


class Said(NamedTuple):
    """An agent's load: the demand on it, and how many replicas it asks for, None where it has no limit."""

    demand: float
    replicas: float | None


class Total(NamedTuple):
    """A workload's load. `agents` have been counted, of which `held` did not answer; `missing` were not counted.

    `replicas` is None where an agent has no limit.
    """

    demand: float
    replicas: float | None
    agents: int
    held: int
    missing: int


def read(body: bytes) -> Said:
    """What a load page says. Raises ValueError where it is none."""
    numbers = json.loads(body)
    if not isinstance(numbers, dict):
        raise ValueError("not a load page")  # noqa: TRY004 - bad input, whatever it is
    replicas = numbers.get("replicas")
    return Said(_amount(numbers.get("demand")), None if replicas is None else _amount(replicas))


def _amount(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value) or value < 0:
        raise ValueError("not a load page")
    return float(value)


class Ledger:
    """The last word of each agent. One that does not answer counts for `hold_s` with what it said before.

    A pod that hangs or is cut off is still there and so is its load; forgetting it at once would look like a drop in
    demand. An agent that the discovery names no more is forgotten at once: its load has moved to the others.
    """

    __slots__ = ("_hold_s", "_said")

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._said: dict[str, tuple[float, Said]] = {}

    def keep(self, agents: Iterable[str], answers: Iterable[Said | None], now: float) -> Total:
        """Book what the agents that are there have said just now, None for no answer. Returns the sums."""
        said: dict[str, tuple[float, Said]] = {}
        held = missing = 0
        for agent, answer in zip(agents, answers, strict=True):
            if answer is not None:
                said[agent] = (now, answer)
                continue
            last = self._said.get(agent)
            if last is None or now - last[0] > self._hold_s:
                missing += 1
            else:
                held += 1
                said[agent] = last
        self._said = said
        words = [word for _, word in said.values()]
        shares = [word.replicas for word in words if word.replicas is not None]
        replicas = sum(shares) if len(shares) == len(words) else None
        return Total(sum(word.demand for word in words), replicas, len(words), held, missing)
