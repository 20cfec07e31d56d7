"""Virtual time."""

from collections.abc import Callable
from heapq import heappop, heappush


class Clock:
    """Runs what is due, in order; `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, act: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._due, (when, self._number, act))

    def run(self, until: float) -> None:
        """Run what is due up to `until`, and what follows from it."""
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, act = heappop(due)
            act()
