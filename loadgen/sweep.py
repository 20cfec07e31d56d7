"""`sweep`: a table of levels with its knees; `search`: the largest level that keeps the objectives."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from loadgen.advice import latency_slo, points_of
from loadgen.exits import Exit
from loadgen.knee import Knee, find_knee
from loadgen.ladder import Ladder, StoppedError
from loadgen.level import Level
from loadgen.prepare import prepare
from loadgen.record import Outcome
from loadgen.report import verdict
from loadgen.resume import resumed
from loadgen.session import Session
from loadgen.settings import Settings
from loadgen.stats import rising
from loadgen.tables import levels_table
from loadgen.units import format_latency, format_rate
from loadgen.values import Slo
from loadgen.view import make_view

# A search ends when what passes and what fails are so close.
_BRACKET = 1.05
# A tail that grows so much faster than the load between them falls off a cliff: no number there would hold.
_CLIFF = 3.0


async def sweep(settings: Settings) -> Exit:
    """Raises OSError, UnreachableError, PayloadError."""
    session = await begin(settings)
    settings, ladder = session.settings, Ladder(session)
    with session.view:
        try:
            for rate in settings.rate:
                await ladder.rate(rate)
            for callers in settings.concurrency:
                await ladder.callers(callers)
        except StoppedError:
            pass
    return await _told(session, [])


async def begin(settings: Settings) -> Session:
    """A session whose target is known to answer. Raises OSError, UnreachableError, PayloadError, SettingsError."""
    settings, done = resumed(settings)
    prepared = await prepare(settings)
    session = Session(settings, prepared, make_view(settings))
    session.done = done
    await session.check_answers()
    session.listen()
    return session


async def _told(session: Session, more: Sequence[str], extra: Exit = Exit.OK, **parts: object) -> Exit:
    settings, levels = session.settings, session.levels
    points = points_of(levels)
    knee = find_knee(points) if len(points) > 1 else None
    lines = [headline(session), ""]
    lines += levels_table(settings, levels, knee) if levels else ["nothing was measured"]
    if knee is not None:
        lines += ["", *knee_lines(knee)]
        parts["knee"] = knee_json(knee)
    lines += more
    if failed := await session.all_failed():
        lines += ["", failed]
        extra = Exit.UNREACHABLE
    return session.finish("\n".join(lines), extra=extra, **parts)


def headline(session: Session) -> str:
    """What was loaded, with what."""
    settings, facts = session.settings, session.facts
    slo = "".join(f"  SLO {slo.text}" for slo in settings.slo)
    model = f"{','.join(settings.models)} @ " if settings.model else ""
    sent = f"{session.prepared.request}, {facts.mean_bytes:,.0f} bytes a request"
    return f"{settings.command}    {model}{settings.url}  {settings.protocol}  {sent}{slo}  seed {settings.seed}"


def knee_lines(knee: Knee) -> list[str]:
    """The knee by each method, for reading."""
    where = f"throughput {knee.throughput}, latency {knee.latency} in flight"
    lines = [f"knee     {where}; plateau {format_rate(knee.plateau)}; bounds cross at {knee.crossing:.1f}"]
    if knee.usl is not None:
        usl = knee.usl
        lines.append(
            f"usl      serial share {usl.s:.1%}, coherence loss {usl.k:.3%}, R2 {usl.r2:.3f} "
            "(a diagnosis of the curve, not a recommendation)"
        )
    return lines


def knee_json(knee: Knee) -> dict[str, object]:
    """The knee for the document."""
    return {**knee._asdict(), "usl": None if knee.usl is None else knee.usl._asdict()}


class Found(NamedTuple):
    """The outcome of a search: the largest load that keeps the objectives and the smallest above that does not (None:
    there is none), and the kind of border between them."""

    passing: Level | None
    failing: Level | None
    kind: str


async def search(settings: Settings) -> Exit:
    """Raises OSError, UnreachableError, PayloadError."""
    session = await begin(settings)
    settings, ladder = session.settings, Ladder(session)
    low, high = (settings.rate or settings.concurrency)[0], (settings.rate or settings.concurrency)[-1]
    with session.view:
        try:
            await _bracketed(session, ladder, low, high)
            found = find(session.levels, settings.slo)
            for level in (found.passing, found.failing):
                # One repeat of both sides: the border is where a single lucky level would lie most.
                if level is not None:
                    await _probe(settings, ladder, level.load, "repeat")
        except StoppedError:
            pass
    found = find(session.levels, settings.slo)
    lines = ["", f"RESULT   {_result(found, is_stopped=session.is_stopped)}"]
    if found.passing is not None:
        lines += [f"slo      {slo.text}: {verdict(slo, found.passing)} at {found.passing.name}" for slo in settings.slo]
    elif session.levels and not session.is_stopped:
        lines.append("         make the objective wider, the request smaller or the predictor faster; no setting helps")
    document = {
        "passing": None if found.passing is None else found.passing.load,
        "failing": None if found.failing is None else found.failing.load,
        "kind": found.kind,
    }
    return await _told(session, lines, Exit.OK if found.passing else Exit.NO_LEVEL, search=document)


def _result(found: Found, *, is_stopped: bool) -> str:
    so_far = "interrupted; so far " if is_stopped else ""
    if found.passing is None:
        return so_far + ("no level keeps the objectives" if found.failing is not None else "nothing was measured")
    above = "measured" if is_stopped else "asked for"
    beyond = f"nothing above was {above}" if found.failing is None else f"{found.failing.name} fails ({found.kind})"
    return f"{so_far}{found.passing.name} keep the objectives; {beyond}"


async def _probe(settings: Settings, ladder: Ladder, load: float, kind: str = "level") -> Level:
    return await (ladder.rate(load, kind) if settings.rate else ladder.callers(round(load), kind))


async def _bracketed(session: Session, ladder: Ladder, low: float, high: float) -> None:
    """Double from `low` until a level fails, then halve the ratio between the two sides."""
    settings = session.settings
    load, passing, failing = low, 0.0, math.inf
    while True:
        if (await _probe(settings, ladder, load)).keeps(settings.slo):
            passing = load
            if load >= high:
                return
            load = min(high, load * 2)
        else:
            failing = load
            break
    while passing and (middle := between(passing, failing, whole=not settings.rate)):
        if (await _probe(settings, ladder, middle)).keeps(settings.slo):
            passing = middle
        else:
            failing = middle


def between(low: float, high: float, *, whole: bool) -> float:
    """A load in the middle of the two, in proportion; 0 where they are close enough."""
    middle = math.sqrt(low * high)
    if whole:
        rounded = round(middle)
        return rounded if low < rounded < high and high / low > _BRACKET else 0.0
    return middle if high / low > _BRACKET else 0.0


def find(levels: Sequence[Level], slos: Sequence[Slo]) -> Found:
    """The border by all that was measured. The tail rises with the load, so noise that says otherwise is smoothed over
    (pool adjacent violators); repeats of a level count as their mean."""
    tail = latency_slo(slos)
    loads = sorted({level.load for level in levels})
    groups = [[level for level in levels if level.load == load] for load in loads]
    smooth = rising([_mean_value(group, tail) for group in groups]) if tail is not None else [0.0] * len(groups)
    others = [slo for slo in slos if slo is not tail]
    passing = failing = None
    for group, value in zip(groups, smooth, strict=True):
        kept = (tail is None or tail.holds(value)) and all(level.keeps(others) for level in group)
        if kept and failing is None:
            passing = group[-1]
        elif failing is None:
            failing = group[-1]
    return Found(passing, failing, _kind(passing, failing, tail))


def _mean_value(group: Sequence[Level], slo: Slo) -> float:
    values = [level.value(slo) for level in group]
    # What answered nothing, or too little to tell, does not keep an objective.
    known = [slo.bound * 2 if value is None else value for value in values]
    return math.fsum(known) / len(known)


def _kind(passing: Level | None, failing: Level | None, tail: Slo | None) -> str:
    if failing is None:
        return ""
    if failing.share(Outcome.SHED) > 0.01:
        return "shed"
    if passing is None or tail is None:
        return "smooth"
    before, after = passing.value(tail), failing.value(tail)
    if before and after and after / before > _CLIFF * failing.load / passing.load:
        return f"cliff: {format_latency(before * 1e9)} to {format_latency(after * 1e9)}"
    return "smooth"
