"""Takes the measurements of a grid, cell by cell, each on a fresh predictor."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tests.bench.peers import Peer
from tests.bench.process import BenchError, Cores

from . import contestants, grid, load
from .figures import Figures, summarise
from .grid import Cell, Panel
from .predictors import LIMITS, NOMINAL, RUNNING, Ports

# A search begins at 8 and is not measured on its way to the right limit.
_SEARCH_S = 12.0


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


class Run:
    """The measurements, cell by cell. `failures` says why a panel or a cell has no figures."""

    def __init__(self, effort: load.Effort, cores: Cores, seed: int) -> None:
        self.capacities: dict[Panel, float] = {}
        self.results: dict[Cell, Figures] = {}
        self.failures: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._effort = effort
        self._cores = cores
        self._seed = seed

    def measure(self, cells: Sequence[Cell]) -> None:
        """Measure cells, those of a panel one after the other; what fails does not stop the rest."""
        for panel, group in groupby(cells, key=lambda cell: cell.panel):
            say(f"capacity: {panel.title}")
            try:
                with self._predictor(panel.predictor) as (ports, _):
                    rate = load.capacity(panel.protocol, ports.of(panel.protocol), self._effort.capacity_s)
            except (BenchError, OSError) as error:
                self.failures[panel.title] = str(error) or repr(error)
                continue
            self.capacities[panel] = max(rate, NOMINAL.get(panel.predictor, 0.0))
            for name, same in groupby(group, key=lambda cell: cell.contestant):
                self._measure_one(name, list(same))

    def _measure_one(self, name: str, cells: Sequence[Cell]) -> None:
        """All loads of one contestant."""
        try:
            peer = contestants.find(name, LIMITS[cells[0].panel.predictor])
        except BenchError as error:
            self.failures[grid.CONTESTANTS[name]] = str(error)
            return
        if peer is not None:
            self.versions[name] = peer.version
        for cell in cells:
            try:
                self.results[cell] = figures = self._figures(cell, peer)
            except (BenchError, OSError) as error:
                self.failures[str(cell)] = str(error) or repr(error)
            else:
                say(f"{cell}: goodput {figures.goodput:.1%}, refused {figures.refused:.1%}")

    def _figures(self, cell: Cell, peer: Peer | None) -> Figures:
        protocol, capacity = cell.panel.protocol, self.capacities[cell.panel]
        effort = self._effort
        if cell.contestant == "auto":
            effort = replace(effort, warm_up_s=max(effort.warm_up_s, _SEARCH_S))
        with (
            self._predictor(cell.panel.predictor) as (ports, directory),
            contestants.running(peer, ports.of(protocol), protocol, self._cores, directory) as port,
        ):
            samples = load.offered(protocol, port, cell.load * capacity, effort, self._seed)
        return summarise(samples, capacity, self._effort.measured_s)

    @contextmanager
    def _predictor(self, name: str) -> Iterator[tuple[Ports, Path]]:
        """A fresh predictor, and a directory for everything that runs with it."""
        with (
            tempfile.TemporaryDirectory(prefix="headgate-goodput-") as folder,
            RUNNING[name](self._cores, Path(folder)) as ports,
        ):
            yield ports, Path(folder)
