"""The live page on a terminal: levels that are done, what runs now, and how long it has left.

It is drawn by a timer of the load's own loop, four times a second and for about a millisecond: a thread of rich's would
hold the interpreter when a request is due.
"""

import asyncio
import os
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadgen.level import Level
from loadgen.record import Outcome
from loadgen.settings import Settings
from loadgen.units import format_latency, format_rate
from loadgen.view import Keys, Loads, format_left, progress

_REFRESH_S = 0.25
_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 60
_BAR = 30


class Keyboard:
    """Single keys of a terminal, while it is open; of anything else nothing. Ctrl-C stays what it is."""

    def __init__(self, fd: int, on_key: Callable[[str], None]) -> None:
        self.is_open = False
        self._fd = fd
        self._on_key = on_key

    def open(self) -> None:
        """Begin to read keys, inside a running loop."""
        if self._fd < 0 or not os.isatty(self._fd) or _is_behind(self._fd):
            return
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd, termios.TCSANOW)
        asyncio.get_running_loop().add_reader(self._fd, self._read)
        self.is_open = True

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().remove_reader(self._fd)
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)

    def _read(self) -> None:
        for key in os.read(self._fd, 64).decode(errors="replace"):
            self._on_key(key)


def _is_behind(fd: int) -> bool:
    """Whether this program is in the background of the terminal, where reading would stop it (SIGTTIN)."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False  # not the terminal that rules this program


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


class LiveView:
    """Redraws in place on standard error; what is done stays above."""

    def __init__(self, settings: Settings, console: Console | None = None, keyboard: int | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._settings = settings
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._load: Loads | None = None
        self._title = settings.command
        self._began_s = self._total_s = 0.0
        self._rates: deque[float] = deque(maxlen=_HISTORY)
        self._last: tuple[float, int] = (0.0, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._keys: Keys = {}
        self._keyboard = Keyboard(_standard_input() if keyboard is None else keyboard, self._on_key)

    def __enter__(self) -> Self:
        self._keyboard.open()
        self._live.start()
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._live.stop()
        self._keyboard.close()

    def bind(self, keys: Keys) -> None:
        self._keys = keys

    def _on_key(self, key: str) -> None:
        if key in self._keys:
            self._keys[key][1]()
            self._live.update(self.render(), refresh=True)

    def plan(self, text: str, planned_s: float) -> None:
        self._title, self._began_s, self._total_s = text, time.monotonic(), planned_s

    def watch(self, load: Loads) -> None:
        self._load = load
        self._rates.clear()
        self._last = (0.0, 0)

    def add(self, _: Level, row: str) -> None:
        self.say(row)

    def say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _tick(self) -> None:
        self._note()
        self._live.update(self.render(), refresh=True)
        self._timer = asyncio.get_running_loop().call_later(_REFRESH_S, self._tick)

    def _note(self) -> None:
        if self._load is None or not self._load.started_ns:
            return
        now_s, done = time.monotonic(), sum(self._load.outcomes().values())
        before_s, before = self._last
        if before_s:
            self._rates.append((done - before) / max(now_s - before_s, 1e-3))
        self._last = (now_s, done)

    def render(self) -> RenderableType:
        """The page as it is now."""
        elapsed_s = time.monotonic() - self._began_s if self._began_s else 0.0
        left_s = max(0.0, self._total_s - elapsed_s)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(self._total_s, 0.1), completed=min(elapsed_s, self._total_s), width=_BAR)
        left = f"at most {format_left(left_s)} left" if left_s >= 1 else ""
        head.add_row(Text(self._title, "bold"), bar, Text(left, "dim"))
        lines: list[RenderableType] = [head]
        if self._load is not None and self._load.started_ns:
            lines.append(Text(f"  {progress(self._load, 0.0)}"))
            lines.append(self._latency(self._load))
            lines.append(Text.assemble("  ", (self._spark(), "cyan"), (f" {self._now()}", "dim")))
        keys = [f"{key} {word}" for key, (word, _) in self._keys.items()] if self._keyboard.is_open else []
        lines.append(Text("  " + "   ".join([*keys, "ctrl-c ends it and tells what was measured"]), "dim"))
        return Group(*lines)

    def _latency(self, load: Loads) -> Text:
        windows = load.windows()
        latest = next((window for _, window in sorted(windows.items(), reverse=True) if window.count), None)
        answers = latest.response[Outcome.OK] if latest is not None else None
        if answers is None or not answers.count:
            return Text("  no answers yet", "dim")
        p50, p99 = (format_latency(answers.percentile(quantile)) for quantile in (0.5, 0.99))
        return Text(f"  this window: p50 {p50}, p99 {p99}, longest {format_latency(answers.max)}")

    def _spark(self) -> str:
        top = max(self._rates, default=0.0)
        return "".join(_SPARKS[min(7, int(rate / top * 7.99))] if top else _SPARKS[0] for rate in self._rates)

    def _now(self) -> str:
        return format_rate(self._rates[-1]) if self._rates else ""
