"""The live page: drawn by rich's own thread from the latest frame, so that drawing does not delay the load's sends."""

import sys
from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.demo.chart import ANSWERED, FAILED, REFUSED, WAITING, bar, ruled_rows, spark
from agent.demo.story import PHASES, Frame, Script, opening
from agent.demo.summary import NEXT_STEPS, Chapter, conclusions, summary_rows
from agent.demo.watch import COLUMNS
from loadgen.units import NS_PER_S, format_duration, format_rate

_FPS = 8
# The drawing thread holds the interpreter this long before the load's thread may send; 5 ms is Python's default.
_SWITCH_S = 0.0005
_WIDTH = 80
_LINES_BESIDE_CHART = 17  # with the line the cursor stands on
_ROWS_PER_CAPACITY = 3
_GAUGE = 16
_AXIS = 9
_LEGEND = ((ANSWERED, "answered"), (REFUSED, "refused at once"), (FAILED, "gave up"), (WAITING, "waiting"))


class LiveView:
    """A page that redraws in place, then a summary below what the terminal showed before."""

    def __init__(self, script: Script, console: Console | None = None) -> None:
        self._script = script
        self._console = console or Console(highlight=False)
        self._frame: Frame | None = None
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=_FPS,
            transient=True,
            redirect_stderr=False,
        )
        self._switch_s = sys.getswitchinterval()

    def __enter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_S)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        sys.setswitchinterval(self._switch_s)

    def show(self, frame: Frame) -> None:
        self._frame = frame

    def render(self) -> RenderableType:
        """The page for the latest frame."""
        frame = self._frame
        body = Group(*self._lines(frame)) if frame else Text("starting ...", style="dim")
        title = Text(" headgate demo ", style="bold")
        return Panel(body, title=title, title_align="left", box=box.ROUNDED, width=min(_WIDTH, self._console.width))

    def finish(self, chapters: Sequence[Chapter], rejected: float) -> None:
        header, *rows = summary_rows(chapters)
        grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
        styles = ("bold", "", "", ANSWERED, REFUSED, FAILED, "", "", "dim")
        for number, (name, style) in enumerate(zip(header, styles, strict=True)):
            grid.add_column(
                name.replace(" + ", "\n+ "),
                style=style,
                justify="right" if number else "left",
                no_wrap=True,
                vertical="bottom",
            )
        for row in rows:
            grid.add_row(*row)
        self._console.print(Text("What happened", style="bold"))
        self._console.print(grid)
        points = Table.grid(padding=(0, 1))
        for point in conclusions(self._script, chapters, rejected):
            points.add_row("•", point)
        self._console.print(points)
        self._console.print()
        for line in NEXT_STEPS:
            self._console.print(Text(line, style="bold cyan" if line.startswith(" ") else ""), soft_wrap=True)

    def _lines(self, frame: Frame) -> list[RenderableType]:
        phase = PHASES[frame.phase]
        clock = f"{frame.elapsed_s:.1f} of {format_duration(self._script.duration_s)}"
        heading = Table.grid(expand=True)
        heading.add_column()
        heading.add_column(justify="right")
        load = f"   {phase.factor:g}x capacity: {format_rate(phase.factor * self._script.capacity)}"
        name = Text.assemble((f"▶ {phase.name}", "bold"), load)
        heading.add_row(name, Text(clock, style="dim"))
        return [
            Text(opening(self._script), "dim", no_wrap=True, overflow="ellipsis"),
            heading,
            Text(f"  {phase.text}", "italic", no_wrap=True, overflow="ellipsis"),
            Text(),
            *self._gauges(frame),
            self._now(frame),
            self._latencies(frame),
            self._calls(frame),
            Text(),
            *self._chart(frame),
        ]

    def _gauges(self, frame: Frame) -> list[Text]:
        gate, model, slots = frame.gate, frame.model, self._script.slots
        if PHASES[frame.phase].gated:
            first = Text.assemble(
                ("  gate   ", "bold"),
                *_gauge("executing", gate.executing, gate.limit or slots, ANSWERED),
                "   ",
                *_gauge("queued", gate.queued, gate.queue_limit, REFUSED),
            )
        else:
            first = Text.assemble(("  gate   ", "bold"), ("not in the way", "dim"))
        waiting_style = FAILED if model.waiting > slots else ""
        second = Text.assemble(
            ("  model  ", "bold"),
            *_gauge("executing", model.executing, slots, ANSWERED),
            "   ",
            (f"waiting inside {model.waiting}", waiting_style),
        )
        return [first, second]

    def _now(self, frame: Frame) -> Text:
        rates = frame.rates
        refused_share = rates.refused / (rates.answered + rates.refused + rates.gave_up or 1)
        return Text.assemble(
            ("  now    ", "bold"),
            f"offered {format_rate(rates.offered):<7}",
            (f"answered {format_rate(rates.answered):<7}", ANSWERED),
            (
                f"refused {format_rate(rates.refused)} ({refused_share:.0%})".ljust(21),
                REFUSED if rates.refused else "dim",
            ),
            (f"gave up {format_rate(rates.gave_up)}", FAILED if rates.gave_up else "dim"),
        )

    def _latencies(self, frame: Frame) -> Text:
        return Text.assemble(
            ("  phase  ", "bold"),
            f"answers take p50 {frame.p50}, p99 {frame.p99}",
            f"   refusals p50 {frame.refusal_p50}" if PHASES[frame.phase].gated else "",
        )

    def _calls(self, frame: Frame) -> Text:
        calls = frame.calls
        return Text.assemble(
            ("  gRPC   ", "bold"),
            (f"answered {calls.answered}", ANSWERED),
            (f"   refused {calls.refused} (p50 {calls.refusal_p50})", REFUSED if calls.refused else "dim"),
            (f"   late {calls.late}", FAILED if calls.late else "dim"),
            (f"   failed {calls.failed}", FAILED) if calls.failed else ("   on the same port", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )

    def _chart(self, frame: Frame) -> list[Text]:
        capacity = self._script.capacity * self._script.duration_s / COLUMNS
        levels = max(1, min(3, (self._console.height - _LINES_BESIDE_CHART - 1) // _ROWS_PER_CAPACITY))
        height = levels * _ROWS_PER_CAPACITY + 1
        lines = []
        rows = ruled_rows(frame.columns, COLUMNS, height, capacity * height / _ROWS_PER_CAPACITY, _ROWS_PER_CAPACITY)
        for number, row in enumerate(rows):
            level, rest = divmod(height - number, _ROWS_PER_CAPACITY)
            label = "" if rest else "capacity" if level == 1 else f"{level}x"
            line = Text.assemble((f"{label:>{_AXIS - 1}} ", "bold" if level == 1 else "dim"))
            for glyph, colour, background in row:
                line.append(glyph, f"{colour} on {background}" if background else colour)
            lines.append(line)
        lines += self._axis(frame)
        slowest = spark([column.slowest_ns for column in frame.columns], self._script.patience_s * NS_PER_S)
        lines.append(Text.assemble((f"{'slowest':>{_AXIS - 1}} ", "dim"), (slowest, "cyan")))
        legend = Text(" " * _AXIS)
        for colour, name in _LEGEND:
            legend.append("█ ", colour)
            legend.append(f"{name}   ")
        lines.append(legend)
        return lines

    def _axis(self, frame: Frame) -> list[Text]:
        names, factors = Text(" " * _AXIS), Text(" " * _AXIS)
        for number, phase in enumerate(PHASES):
            start, end = (
                round(self._script.start_s(at) / self._script.duration_s * COLUMNS) for at in (number, number + 1)
            )
            style = "bold reverse" if number == frame.phase else "dim"
            names.append("╵", "dim")
            names.append(phase.name, style)
            names.append(" " * (end - start - 1 - len(phase.name)))
            factors.append(f" {phase.factor:g}x".ljust(end - start), "dim")
        return [names, factors]


def _gauge(name: str, value: int, limit: int, colour: str) -> tuple[str | tuple[str, str], ...]:
    filled, empty = bar(value, limit, _GAUGE)
    return f"{name} ", (filled, colour), (empty, "dim"), f" {value:>2}/{limit:<3}"
