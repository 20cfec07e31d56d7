"""`run`, `replay` and `inspect`."""

import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from loadgen.exits import Exit
from loadgen.journal import Journal
from loadgen.level import Level, level_of
from loadgen.measure import extras_of, open_level
from loadgen.payload import GivenError
from loadgen.prepare import prepare, probe
from loadgen.record import Outcome, Result, Sample, merged, status_name
from loadgen.report import render_run
from loadgen.run import ClosedLoop, OpenLoop
from loadgen.schedule import Schedule, Step, draw, given
from loadgen.scrape import Scraper, split_of
from loadgen.session import Session, failures
from loadgen.settings import Settings
from loadgen.target import Target
from loadgen.units import NS_PER_S, format_duration, format_latency
from loadgen.values import Protocol
from loadgen.view import Loads, make_view

_BODY = 2000  # characters of an answer that `inspect` shows


Begin = Callable[[], Awaitable[int]]
Make = Callable[[Target, Callable[[Sample], None] | None], Loads]


async def run(settings: Settings) -> Exit:
    """One load. Raises OSError, UnreachableError, PayloadError."""
    prepared = await prepare(settings)
    session = Session(settings, prepared, make_view(settings))
    session.listen()
    with session.view:
        session.view.plan("run", _planned_s(settings))
        level = await measured(session, begin_at(session))
    return await conclude(session, level)


async def measured(session: Session, begin: Begin | None) -> Level:
    """What one load has shown. Raises OSError, GivenError."""
    settings = session.settings
    scraper = Scraper(settings.scrape)
    before = await scraper.read()
    result, load = await driven(session, begin, lambda target, on_sample: _make_load(settings, target, on_sample))
    split = split_of(before, await scraper.read())
    level = _open(settings, load, result) if isinstance(load, OpenLoop) else _closed(settings, result)
    return replace(level, server=split)


async def driven(session: Session, begin: Begin | None, make: Make) -> tuple[Result, Loads]:
    """Run the load that `make` makes, with its journal where one is asked for. Raises OSError, GivenError."""
    settings, target = session.settings, session.prepared.target
    journal = None
    if settings.record:
        assert settings.output is not None, "--record is only with --output"
        target = replace(target, keep_bodies=True)
        try:
            journal = Journal(settings.output, settings.record, target, settings.seed)
        except OSError as error:
            raise GivenError(f"--record: {error.filename}: {error.strerror}") from None
    with journal or nullcontext():
        load = make(target, journal)
        if journal is not None:
            journal.follow(load)
        load.begin = begin
        session.watch(load)
        return await load.run(), load


def begin_at(session: Session) -> Begin | None:
    """When --start-at says; where that has passed already, at once and with a note."""
    moment = session.settings.start_at
    if moment is None:
        return None

    async def begin() -> int:
        late_s = time.time() - moment
        if late_s > 0:
            session.notes.append(f"began {format_duration(round(late_s, 1))} after --start-at")
        return time.monotonic_ns() - round(late_s * NS_PER_S)

    return begin


async def conclude(session: Session, level: Level) -> Exit:
    """Tell what one load has shown."""
    session.levels.append(level)
    text = render_run(session.settings, session.facts, level, session.prepared.request)
    text += "".join(f"\nWARNING  {note}" for note in session.notes)
    failed = await session.all_failed()
    if failed:
        print(f"headgate-load: {failed}", file=sys.stderr)
    return session.finish(text, extra=Exit.UNREACHABLE if failed else failures([level], session.settings))


def _planned_s(settings: Settings) -> float:
    return settings.warmup + (
        sum(step.duration_s for step in settings.steps) if settings.steps else settings.ramp + settings.duration
    )


def _make_load(settings: Settings, target: Target, on_sample: Callable[[Sample], None] | None) -> OpenLoop | ClosedLoop:
    extras = extras_of(settings)
    limit = sys.maxsize if math.isinf(settings.requests) else int(settings.requests)
    if settings.arrivals.file is not None:
        schedule = _read_times(settings.arrivals.file)
        return OpenLoop(target, schedule.share(*settings.share), on_sample, extras)
    if not settings.steps:
        duration_s = settings.warmup + settings.ramp + settings.duration
        return ClosedLoop(target, settings.concurrency[0], duration_s, limit, on_sample, extras, ramp_s=settings.ramp)
    steps = list(settings.steps)
    if settings.warmup:
        steps.insert(0, Step(steps[0].rate or steps[0].end_rate or 0.0, settings.warmup))
    spread = settings.arrivals
    schedule = draw(steps, spread.kind, settings.seed, limit, spread=spread.cv)
    return OpenLoop(target, schedule.share(*settings.share), on_sample, extras)


def _read_times(path: Path) -> Schedule:
    try:
        return given([float(line) for line in path.read_text().split()])
    except (ValueError, OSError) as error:
        raise GivenError(f"--arrivals file:{path}: {error}; it holds seconds from the start, one a line") from None


def _open(settings: Settings, load: OpenLoop, result: Result) -> Level:
    rate = load.planned / result.rated_s if result.rated_s else 0.0
    if settings.warmup and settings.steps and not load.is_stopped:
        planned_s = sum(step.duration_s for step in settings.steps)
        return replace(open_level(result, rate, settings.warmup, planned_s), problem="")
    return level_of(result, rate=rate)


def _closed(settings: Settings, result: Result) -> Level:
    first = math.ceil(settings.warmup / settings.window)
    level = level_of(result, callers=settings.concurrency[0], first=first)
    if not first:
        return level
    windows = [window for window in level.windows if window.start_s >= first * settings.window - 1e-9]
    seconds = max(result.elapsed_s - first * settings.window, 1e-9)
    total = merged(window.recorder for window in windows)
    return replace(level, windows=windows, total=total, steps=[total], seconds=seconds)


async def inspect(settings: Settings) -> Exit:
    """What the model takes, the request that would be sent, and one answer with every header."""
    prepared = await prepare(settings)
    request = prepared.target.requests[0]
    lines = [
        f"target   {settings.url}  {settings.protocol}  {prepared.target.address[0]}:{prepared.target.address[1]}",
        f"inputs   {prepared.request}",
        f"request  {len(request):,} bytes, one of {prepared.bodies}",
        *_shown_request(settings, request),
        "",
    ]
    answer = await probe(settings, prepared.target)
    took = format_latency(answer.done_ns - answer.sent_ns)
    ended = status_name(answer.status) if answer.cause is None else str(answer.cause)
    lines.append(f"answer   {ended} after {took}, {len(answer.body):,} bytes")
    lines += [f"  {name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in answer.headers]
    body = answer.body[5:] if settings.is_grpc else answer.body
    if body:
        lines += ["", *_indented(body[:_BODY])]
    print("\n".join(lines))
    return Exit.OK if answer.outcome in {Outcome.OK, Outcome.SHED} else Exit.UNREACHABLE


def _shown_request(settings: Settings, request: bytes) -> Sequence[str]:
    if settings.is_grpc:
        return [f"  {Protocol(settings.protocol)} message, {len(request) - 5:,} bytes"]
    head, _, body = request.partition(b"\r\n\r\n")
    return [*_indented(head), "", *_indented(body[:_BODY])]


def _indented(data: bytes) -> list[str]:
    text = data.decode("utf-8", errors="replace")
    shown = "".join(character if character.isprintable() or character == "\n" else "·" for character in text)
    return [f"  {line}" for line in shown.splitlines()]
