"""Measures one level: warms up, watches until the numbers stand still, and stops."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from loadgen.histogram import samples_needed
from loadgen.level import Level, level_of
from loadgen.record import Outcome, Recorder, Result
from loadgen.run import ClosedLoop, Extras, OpenLoop
from loadgen.schedule import Step, draw
from loadgen.settings import Settings
from loadgen.stats import is_drifting, is_steady
from loadgen.target import Target
from loadgen.units import NS_PER_S, format_duration

# What a verdict by the 99th percentile needs, where no objective asks for more.
_QUANTILE = 0.99
_MAX_QUANTILE = 0.999
_MIN_WINDOWS = 4
_SKIPPED = "ended early on request"
# Beyond a percentile's bare minimum, so that one outlier does not decide.
_AMPLE = 1.5

Loads = OpenLoop | ClosedLoop
Watch = Callable[[Loads], None]


def extras_of(settings: Settings) -> Extras:
    """What the settings ask of a run besides its load."""
    return Extras(
        window_s=settings.window,
        retries=settings.retry,
        honour=settings.retry_after == "honour",
        cancel_share=settings.cancel[0],
        cancel_after_s=settings.cancel[1],
        seed=settings.seed + settings.share[0],
        share=settings.share,
    )


def needed_samples(settings: Settings) -> int:
    """How many answers a level must have for its objectives' percentiles."""
    quantiles = [slo.quantile for slo in settings.slo if slo.quantile is not None] or [_QUANTILE]
    return samples_needed(min(max(quantiles), _MAX_QUANTILE))


async def measure_callers(settings: Settings, target: Target, callers: int, watch: Watch) -> Level:
    """A closed-loop level. It ends as soon as four windows agree and there are samples enough, at the latest after
    `max_level_time`. Raises OSError when the target cannot be reached."""
    load = ClosedLoop(target, callers, extras=extras_of(settings))
    running = asyncio.create_task(load.run())
    watch(load)
    first = math.ceil(settings.warmup / settings.window)
    latest = first + max(_MIN_WINDOWS, math.floor(settings.max_level_time / settings.window))
    last, problem = first, "it did not begin"
    try:
        for last in range(first + 1, latest + 1):
            if not await _reached(load, last * settings.window, running):
                last, problem = last - 1, _SKIPPED
                break
            windows = _between(load.windows(), first, last)
            problem = _unrest(settings, windows)
            # Percentiles that lack samples are told as bounds; waiting for them beyond the time would not be worth it.
            if not problem and (last == latest or _is_ample(settings, windows)):
                break
        load.end()
        result = await running
    except BaseException:
        running.cancel()
        raise
    return level_of(result, callers=callers, first=first, last=last, problem=problem)


async def _reached(load: Loads, at_s: float, running: "asyncio.Task[Result]") -> bool:
    """Wait until the run is `at_s` old; False when it has ended before."""
    while not running.done():
        if load.started_ns:
            wait_s = at_s - (time.monotonic_ns() - load.started_ns) / NS_PER_S
            if wait_s <= 0:
                return True
            await asyncio.wait([running], timeout=wait_s)
        else:
            await asyncio.wait([running], timeout=0.005)
    return False


def _between(windows: dict[int, Recorder], first: int, last: int) -> list[Recorder]:
    return [windows.get(number) or Recorder() for number in range(first, last)]


def _unrest(settings: Settings, windows: Sequence[Recorder]) -> str:
    """Why these windows are no measurement yet; empty when they are."""
    ok = [window.count_of(Outcome.OK) for window in windows]
    if not any(ok) and len(windows) >= _MIN_WINDOWS and sum(window.count for window in windows) > 0:
        return ""  # nothing but refusals or failures: waiting longer tells nothing more
    if len(windows) < _MIN_WINDOWS:
        return f"fewer than {_MIN_WINDOWS} windows"
    if not is_steady(ok, settings.stable):
        return f"throughput varies by more than {settings.stable:.0%} from window to window"
    times = [window.service[Outcome.OK].mean() for window in windows]
    if is_drifting(times):
        return "latency goes on rising or falling"
    return ""


def _is_ample(settings: Settings, windows: Sequence[Recorder]) -> bool:
    ok = sum(window.count_of(Outcome.OK) for window in windows)
    return ok >= needed_samples(settings) or (not ok and any(window.count for window in windows))


async def measure_rate(settings: Settings, target: Target, rate: float, watch: Watch, *, seconds: float = 0.0) -> Level:
    """An open-loop level: `seconds` long, or as long as its percentiles need. Raises OSError."""
    planned_s = seconds or min(
        settings.max_level_time,
        max(2 * _MIN_WINDOWS * settings.window, _AMPLE * needed_samples(settings) / rate),
    )
    steps = [Step(rate, settings.warmup), Step(rate, planned_s)]
    spread = settings.arrivals
    # A seed of its own for each level: the same bursts at every rate would be one experiment repeated.
    schedule = draw(steps, spread.kind, settings.seed ^ round(rate * 1000), spread=spread.cv)
    load = OpenLoop(target, schedule, extras=extras_of(settings))
    running = asyncio.create_task(load.run())
    watch(load)
    try:
        result = await running
    except BaseException:
        running.cancel()
        raise
    if not load.is_stopped:
        return open_level(result, rate, settings.warmup, planned_s)
    return replace(
        open_level(result, rate, settings.warmup, max(0.0, result.elapsed_s - settings.warmup)), problem=_SKIPPED
    )


def open_level(result: Result, rate: float, warmup_s: float, planned_s: float) -> Level:
    """A level from an open-loop run whose first step was the warm-up."""
    first = math.ceil(warmup_s / result.window_s)
    counted = replace(
        result,
        steps=result.steps[1:],
        windows={number: window for number, window in result.windows.items() if number >= first},
        beats=[beat for beat in result.beats if warmup_s <= beat.at_s < warmup_s + planned_s],
        rated_s=planned_s,
    )
    times = [window.response[Outcome.OK].mean() for window in counted.windows.values() if window.count]
    problem = ""
    if is_drifting(times) and times[-1] > 2 * min(times):
        problem = f"latency kept rising for {format_duration(planned_s)}: the target takes less than this"
    level = level_of(counted, rate=rate, problem=problem)
    return replace(level, models=result.by_model(step=1))
