"""One module a target: `check` judges one input, `seeds` yields inputs from the tables of the other tests.

`check` raises AssertionError where a property does not hold; whatever else it raises is a finding as well.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))
_FUZZ = Path(__file__).parent.parent


class Target(NamedTuple):
    """`check` and `seeds` of one module."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]

    def kept(self) -> list[Path]:
        """The files of the repository for it: recorded traffic, and what once broke it."""
        return [path for folder in ("corpus", "crashers") for path in sorted((_FUZZ / folder / self.name).glob("*"))]

    def inputs(self) -> list[bytes]:
        """All that there is to begin with, each once."""
        return list(dict.fromkeys([*self.seeds(), *(path.read_bytes() for path in self.kept())]))


def load(name: str) -> Target:
    """A target by its name."""
    module = import_module(f"{__name__}.{name}")
    return Target(name, module.check, module.seeds)
