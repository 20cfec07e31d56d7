"""PURE: what is compared, cell by cell, and how a part of it is picked."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

PREDICTORS = {"demo": "demo predictor", "triton": "Triton"}
PROTOCOLS = {"http": "HTTP", "grpc": "gRPC"}
CONTESTANTS = {
    "deadline": "Headgate, fixed limit",
    "auto": "Headgate, limit auto",
    "fifo": "Headgate, fifo, queue 10 x limit",
    "haproxy": "HAProxy",
    "envoy": "Envoy",
    "none": "no gate",
}
LOADS = (0.8, 1.2, 2.0, 4.0)


class Panel(NamedTuple):
    """A predictor and what is spoken with it; it has a capacity."""

    predictor: str
    protocol: str

    @property
    def title(self) -> str:
        """For people."""
        return f"{PREDICTORS[self.predictor]}, {PROTOCOLS[self.protocol]}"


class Cell(NamedTuple):
    """One measurement; `load` is in multiples of the panel's capacity."""

    panel: Panel
    contestant: str
    load: float

    def __str__(self) -> str:
        return f"{self.panel.title}, {CONTESTANTS[self.contestant]}, {self.load:g}x"


def select(words: Sequence[str]) -> list[Cell]:
    """The cells that words pick, in order: names of any axis, loads as `2` or `2x`. An axis without a word is whole.

    Raises ValueError for a word of no axis.
    """
    loads = {f"{load:g}": load for load in LOADS}
    axes: list[dict[str, object]] = [dict(axis) for axis in (PREDICTORS, PROTOCOLS, CONTESTANTS, loads)]
    meant = {word: word.removesuffix("x") if word[:1].isdigit() else word for word in words}
    wanted, known = set(meant.values()), {name for axis in axes for name in axis}
    if unknown := {word for word, name in meant.items() if name not in known}:
        raise ValueError(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known_names())}")
    predictors, protocols, contestants, factors = ([name for name in axis if name in wanted] or axis for axis in axes)
    return [
        Cell(Panel(predictor, protocol), contestant, loads[factor])
        for predictor, protocol, contestant, factor in product(predictors, protocols, contestants, factors)
    ]


def known_names() -> list[str]:
    """Every word that `select` takes."""
    return [*PREDICTORS, *PROTOCOLS, *CONTESTANTS, *(f"{load:g}x" for load in LOADS)]
