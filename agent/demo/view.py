"""What a view of the demo is, and the plain one: lines, for pipes, CI logs and simple terminals."""

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Protocol, Self, TextIO

from agent.demo.story import PHASES, PLAIN_HEADER, Frame, Script, opening, plain_line
from agent.demo.summary import NEXT_STEPS, Chapter, conclusions, summary_rows, table

_WIDTH = 100


class View(Protocol):
    """Shows frames between `__enter__` and `__exit__`, and the ending after that."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, frame: Frame) -> None:
        """Take over the latest frame; must not block."""

    def finish(self, chapters: Sequence[Chapter], rejected: float) -> None:
        """Print the summary."""


class PlainView:
    """A heading per phase and a line per beat."""

    def __init__(self, script: Script, out: TextIO | None = None) -> None:
        self._script = script
        self._out = sys.stdout if out is None else out
        self._next_s = 0.0
        self._phase = -1

    def __enter__(self) -> Self:
        self._print(opening(self._script))
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, frame: Frame) -> None:
        if frame.phase != self._phase:
            phase = PHASES[frame.phase]
            self._phase = frame.phase
            self._next_s = frame.elapsed_s + self._script.beat_s
            self._print(f"\n{phase.name}, {phase.factor:g}x capacity: {phase.text}")
            self._print(PLAIN_HEADER)
        elif frame.elapsed_s >= self._next_s:
            self._next_s += self._script.beat_s
            self._print(plain_line(self._script, frame))

    def finish(self, chapters: Sequence[Chapter], rejected: float) -> None:
        for line in summary_text(self._script, chapters, rejected):
            self._print(line)

    def _print(self, line: str) -> None:
        print(line, file=self._out, flush=True)


def summary_text(script: Script, chapters: Sequence[Chapter], rejected: float) -> Iterator[str]:
    """The ending as plain lines."""
    yield ""
    yield from table(summary_rows(chapters))
    yield ""
    for point in conclusions(script, chapters, rejected):
        yield from textwrap.wrap(point, _WIDTH, initial_indent="* ", subsequent_indent="  ")
    yield ""
    yield from NEXT_STEPS
