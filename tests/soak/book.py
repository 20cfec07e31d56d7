"""The predictor's log of what reached it: a file in memory that outlives processes that are killed."""

import mmap
from pathlib import Path

# Bytes a request: how often its head came, how often it was taken up, how often it was handed back, what was done.
_STRIDE = 4
_ARRIVED, _EXECUTED, _RETURNED, _DEED = range(_STRIDE)

NOTHING, ANSWERED, FAILED, COLLATERAL = range(4)


class Book:
    """One line for each request, found by its number. Counts stop at 255."""

    def __init__(self, path: Path, lines: int = 0) -> None:
        if lines:
            with path.open("wb") as file:
                file.truncate(lines * _STRIDE)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def arrive(self, number: int) -> None:
        """Its head has come."""
        self._map[number * _STRIDE + _ARRIVED] += 1

    def execute(self, number: int) -> None:
        """It is all there, and a model would compute."""
        self._map[number * _STRIDE + _EXECUTED] += 1

    def hand_back(self, number: int) -> None:
        """The client has been told that nothing was done."""
        self._map[number * _STRIDE + _RETURNED] += 1

    def do(self, number: int, deed: int) -> None:
        """ANSWERED, FAILED on purpose, or lost with another's connection."""
        self._map[number * _STRIDE + _DEED] = deed

    def line(self, number: int) -> tuple[int, int, int, int]:
        """arrived, executed, returned, deed."""
        at = number * _STRIDE
        return tuple(self._map[at : at + _STRIDE])

    def close(self) -> None:
        self._map.close()
