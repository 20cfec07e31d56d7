"""PURE: levels as rows, for the terminal."""

from collections.abc import Sequence

from loadgen.knee import Knee
from loadgen.level import Level, generator_problem
from loadgen.record import Outcome
from loadgen.report import cell, table
from loadgen.settings import Settings
from loadgen.units import NS_PER_S, format_latency, format_rate

_BAR = 32
_HEAD = ("", "level", "req/s", "mean", "p50", "p99", "shed", "errors", "queue/compute", "checks", "throughput")
_WIDTHS = (1, 10, 8, 7, 7, 9, 5, 6, 15, 7)


def heading() -> str:
    """Over rows that come one by one."""
    return "  ".join(name.rjust(width) for name, width in zip(_HEAD, _WIDTHS, strict=False)).rstrip()


def row_of(level: Level) -> str:
    """A level on a line of its own, while the next one is measured."""
    return "  ".join(text.rjust(width) for text, width in zip(_cells(level), _WIDTHS, strict=False)).rstrip()


def levels_table(settings: Settings, levels: Sequence[Level], knee: Knee | None = None) -> list[str]:
    """All levels with bars and marks: closed loop by callers, then open loop by rate."""
    levels = sorted(levels, key=lambda level: (not level.callers, level.load))
    head, *lines = plain_table(levels)
    return [head, *(f"{line}{_mark(settings, level, knee)}" for line, level in zip(lines, levels, strict=True))]


def plain_table(levels: Sequence[Level]) -> list[str]:
    """All levels with bars, in their order."""
    best = max((level.throughput for level in levels), default=0.0)
    head, *lines = table([_HEAD, *map(_cells, levels)])
    width = len(head) - len(_HEAD[-1])
    return [head, *(f"{line:<{width}}{_bar(level, best)}" for line, level in zip(lines, levels, strict=True))]


def _bar(level: Level, best: float) -> str:
    return "#" * round(_BAR * level.throughput / best) if best else ""


def _mark(settings: Settings, level: Level, knee: Knee | None) -> str:
    marks = []
    if knee is not None and level.callers == knee.throughput:
        marks.append(f"throughput knee {level.throughput / knee.plateau:.1%}")
    if knee is not None and level.callers == knee.latency:
        marks.append("latency knee")
    if settings.slo and not level.keeps(settings.slo):
        marks.append("SLO broken")
    return "   " + ", ".join(marks) if marks else ""


def _cells(level: Level) -> tuple[str, ...]:
    times = level.answers
    problem = "!" if generator_problem(level) or level.problem else ""
    server = ""
    if level.server is not None:
        server = (
            f"{format_latency(level.server.queue_s * NS_PER_S)} / {format_latency(level.server.compute_s * NS_PER_S)}"
        )
    checks = "unstable" if level.problem else "generator" if problem else "ok"
    return (
        problem,
        f"{level.callers}" if level.callers else format_rate(level.rate),
        format_rate(level.throughput),
        format_latency(times.mean()) if times.count else "-",
        cell(times, 0.5),
        cell(times, 0.99),
        f"{level.share(Outcome.SHED):.1%}",
        f"{level.share(Outcome.ERROR) + level.share(Outcome.TIMEOUT):.1%}",
        server,
        checks,
        "",
    )
