"""What is shown while a command works: one line for each level that is done, and, on a terminal, what goes on."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol, Self

from loadgen.level import Level
from loadgen.record import Outcome
from loadgen.run import ClosedLoop, OpenLoop
from loadgen.settings import Settings
from loadgen.units import NS_PER_S, format_rate

Loads = OpenLoop | ClosedLoop
Keys = Mapping[str, tuple[str, Callable[[], None]]]  # by the key: a word for it, and what it does
_REFRESH_S = 0.25


class View(Protocol):
    """Shows progress on standard error, or nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def plan(self, text: str, planned_s: float) -> None:
        """What comes next, and how long it should take at most."""

    def watch(self, load: Loads) -> None:
        """A load that has begun."""

    def add(self, level: Level, row: str) -> None:
        """A level that is measured."""

    def say(self, text: str) -> None:
        """A line of its own."""

    def bind(self, keys: Keys) -> None:
        """What a key does; where nobody can press one, nothing."""


class QuietView:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""

    def plan(self, text: str, planned_s: float) -> None:
        """Nothing."""

    def watch(self, load: Loads) -> None:
        """Nothing."""

    def add(self, level: Level, row: str) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def bind(self, keys: Keys) -> None:
        """Nothing."""


class PlainView(QuietView):
    """A line for each level, for logs."""

    def add(self, _: Level, row: str) -> None:
        self.say(row)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LineView(PlainView):
    """One line that changes, for `run` on a terminal without rich."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._ends_s = 0.0

    def plan(self, _: str, planned_s: float) -> None:
        self._ends_s = time.monotonic() + planned_s

    def watch(self, load: Loads) -> None:
        self.__exit__()
        self._task = asyncio.create_task(self._follow(load))

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def add(self, level: Level, row: str) -> None:
        self.__exit__()
        super().add(level, row)

    async def _follow(self, load: Loads) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            if load.started_ns:
                print(f"\r\x1b[K{progress(load, self._ends_s - time.monotonic())}", end="", file=sys.stderr, flush=True)


def progress(load: Loads, left_s: float) -> str:
    """`in flight 14   331/s   ok 3310   shed 12   2s left`."""
    seconds = max(1e-3, (time.monotonic_ns() - load.started_ns) / NS_PER_S)
    counts = load.outcomes()
    ends = "   ".join(f"{outcome} {count}" for outcome, count in counts.items() if count)
    left = f"   {format_left(left_s)} left" if left_s >= 1 else ""
    return f"in flight {load.inflight}   {format_rate(counts[Outcome.OK] / seconds)}   {ends}{left}"


def format_left(seconds: float) -> str:
    """`45s`, `1m05s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def make_view(settings: Settings) -> View:
    """The one that suits where the output goes."""
    if settings.quiet:
        return QuietView()
    if sys.stderr.isatty() and not settings.no_tui:
        try:
            from loadgen.live import LiveView  # noqa: PLC0415 (rich takes 60 ms, and is optional)
        except ImportError:
            return LineView()
        return LiveView(settings)
    return PlainView()
