"""`tune`: from a sweep to settings that are proved: limit, queue, deadline and autoscaling targets."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from loadgen import gate
from loadgen.advice import (
    Limit,
    Queue,
    Scaling,
    gated_patch,
    headgate_flags,
    isvc_patch,
    keda_scaledobject,
    kpa_percent,
    latency_slo,
    limit_of,
    points_of,
    queue_of,
    scaling_of,
)
from loadgen.client import Address, resolve
from loadgen.exits import Exit
from loadgen.knee import bracket, find_knee
from loadgen.ladder import Ladder, StoppedError
from loadgen.level import Level
from loadgen.prepare import UnreachableError
from loadgen.record import Outcome
from loadgen.report import cell, format_value, verdict
from loadgen.session import Session
from loadgen.settings import Settings, SettingsError
from loadgen.stats import variation
from loadgen.sweep import begin, between, headline, knee_json, knee_lines
from loadgen.tables import levels_table
from loadgen.target import Target
from loadgen.units import NS_PER_S, format_duration, format_rate
from loadgen.values import Slo, parse_url

_PROOF = (0.8, 0.9, 1.0, 1.1, 1.5)
_LOWER = (0.7, 0.6, 0.5, 0.35, 0.2)
# A sweep goes no further when two levels in a row beyond twice the knee add less than this.
_GAIN = 1.02
_SHED_AT_REST = 0.01
_SHED_SLACK = 0.1


class Tuned(NamedTuple):
    """What `tune` recommends and how it was shown: `repeats` are the throughputs at the limit, `throughput` the one of
    the repeat with the longer tail, which the proof is made around."""

    limit: Limit
    queue: Queue
    scaling: Scaling | None
    repeats: Sequence[float]
    throughput: float
    proof: str


async def tune(settings: Settings) -> Exit:
    """Raises OSError, UnreachableError, PayloadError, SettingsError."""
    slo = latency_slo(settings.slo)
    if slo is None:
        raise SettingsError(["--slo: tune needs a bound on the latency, such as 'p99<250ms'"])
    if settings.proof not in {"auto", "gate", "direct", "none"}:
        _proof_url(settings.proof)
    session = await begin(settings)
    course = _Course(session, slo)
    with session.view, contextlib.suppress(StoppedError):
        await course.run()
    return await _told(session, course.tuned, slo)


class _Course:
    """The way to a recommendation. `tuned` is what the levels have shown so far, at any time."""

    def __init__(self, session: Session, slo: Slo) -> None:
        self._session, self._slo = session, slo
        self._ladder = Ladder(session)
        self._limit: Limit | None = None
        self._proof = ""

    async def run(self) -> None:
        """All of it. Raises StoppedError, OSError, UnreachableError."""
        await self._climb()
        await self._refine()
        while (due := self._doubtful()) is not None:
            await self._ladder.callers(due, "repeat")
            await self._refine()
        self._limit = self._limit_so_far()
        if self._limit is not None and self._limit.limit and self._session.settings.proof != "none":
            await self._prove(self.tuned)

    def _doubtful(self) -> int | None:
        """A level that must be measured a second time: the limit, and the one below the knee, for whatever else ran on
        the machine made that slower, and the limit too high."""
        levels, limit = self._session.levels, self._limit_so_far()
        if limit is None or not limit.limit:
            return None
        below, _ = bracket(points_of(levels))
        callers = [level.callers for level in levels]
        return next((each for each in (limit.limit, below) if each and callers.count(each) < 2), None)

    def _limit_so_far(self) -> Limit | None:
        settings = self._session.settings
        return limit_of(self._session.levels, settings.slo, settings.preferred_batch)

    @property
    def tuned(self) -> Tuned | None:
        """None where no level keeps the objective, or the limit was not measured itself."""
        limit = self._limit or self._limit_so_far()
        at_limit = [level for level in self._session.levels if limit is not None and level.callers == limit.limit]
        if limit is None or not at_limit:
            return None
        typical = max(at_limit, key=lambda level: level.value(self._slo) or 0.0)
        repeats = [level.throughput for level in at_limit]
        return Tuned(limit, queue_of(typical, self._slo), self._scaling(), repeats, typical.throughput, self._proof)

    def _scaling(self) -> Scaling | None:
        settings = self._session.settings
        best = _best_rate(self._session.levels, settings.slo)
        if best is None:
            return None
        # Little's law over what is answered: what a replica has in flight and waiting at that rate.
        busy = best.throughput * best.answers.mean() / NS_PER_S
        return scaling_of(best.throughput, busy, settings.growth, settings.startup)

    async def _climb(self) -> None:
        """The sweep, as far as more callers can still pay."""
        for callers in self._session.settings.concurrency:
            await self._ladder.callers(callers)
            points = points_of(self._session.levels)
            if len(points) < 4:
                continue
            best = max(point.rate for point in points[:-2])
            knee = find_knee(points).throughput
            if callers >= 2 * knee and all(point.rate < _GAIN * best for point in points[-2:]):
                return

    async def _refine(self) -> None:
        """Measure between the knee and the level below it, and between the last level that keeps the objective and the
        first that does not, until neither can be told any closer."""
        settings, levels = self._session.settings, self._session.levels
        while (points := points_of(levels)) and (middle := _between(*bracket(points))):
            await self._ladder.callers(middle)
        while (limit := limit_of(levels, settings.slo)) and limit.slo and limit.slo < limit.knee.throughput:
            above = min(level.callers for level in levels if level.callers > limit.slo)
            if not (middle := _between(limit.slo, above)):
                return
            await self._ladder.callers(middle)

    async def _prove(self, tuned: Tuned | None) -> None:
        assert tuned is not None, "its limit was measured"
        settings, how = self._session.settings, self._session.settings.proof
        if how == "auto":
            how = "gate" if gate.can_gate(settings) else "direct"
        if how == "gate":
            flags = headgate_flags(tuned.limit.limit, tuned.queue, self._slo)
            try:
                async with gate.running(settings, self._session.prepared.target.address, flags) as (address, _):
                    await self._proved(f"headgate serve {flags}", tuned.throughput, address)
                    return
            except gate.GateError as error:
                self._session.view.say(f"no Headgate for the proof: {error}; proved directly")
                how = "direct"
        if how == "direct":
            await self._proved("direct", tuned.throughput, None)
            return
        url = _proof_url(how)
        try:
            address = await resolve(url.host, url.port)
        except OSError as error:
            raise UnreachableError(f"--proof {how}: {error.strerror}") from None
        await self._proved(how, tuned.throughput, address)

    async def _proved(self, how: str, capacity: float, address: Address | None) -> None:
        """Poisson arrivals around the capacity. Without a gate nothing is refused, so only rates below it tell
        anything."""
        self._proof = how
        target: Target = self._session.prepared.target
        if address is not None:
            target = replace(target, address=address)
        for share in _PROOF:
            if address is not None or share < 1.0:
                await self._ladder.rate(share * capacity, "proof", target)
        for share in _LOWER:
            if _best_rate(self._session.levels, self._session.settings.slo) is not None:
                break
            await self._ladder.rate(share * capacity, "proof", target)


def _between(low: int, high: int) -> int:
    return round(between(low, high, whole=True)) if low else 0


def _proof_url(text: str) -> Any:
    try:
        return parse_url(text)
    except ValueError:
        raise SettingsError([f"--proof {text!r}; accepted: gate, direct, none or a URL"]) from None


def _best_rate(levels: Sequence[Level], slos: Sequence[Slo]) -> Level | None:
    kept = [
        level
        for level in levels
        if level.kind == "proof" and level.keeps(slos) and level.share(Outcome.SHED) < _SHED_AT_REST
    ]
    return max(kept, key=lambda level: level.rate, default=None)


async def _told(session: Session, tuned: Tuned | None, slo: Slo) -> Exit:
    settings, levels = session.settings, session.levels
    points = points_of(levels)
    knee = find_knee(points) if points else None
    lines = [headline(session), ""]
    lines += levels_table(settings, levels, knee) if levels else ["nothing was measured"]
    parts: dict[str, object] = {}
    extra = Exit.OK
    if knee is not None:
        lines += ["", *knee_lines(knee)]
        parts["knee"] = knee_json(knee)
    if tuned is not None:
        is_proved = not session.is_stopped and _is_proved(settings, tuned, levels, slo)
        lines += ["", *_recommended(tuned, levels, slo, is_stopped=session.is_stopped)]
        parts["advice"] = {**_advice_json(tuned, slo), "proved": is_proved}
        if not session.is_stopped:  # a file does not say that what it holds is unproved
            parts["files"] = _files(tuned, slo)
        if not is_proved:
            extra = Exit.FAILED if "slo" in settings.fail_on else Exit.OK
    elif session.is_stopped:
        lines += ["", "RESULT   none yet: interrupted before a limit was found"]
    else:
        failed = await session.all_failed()
        lines += ["", *([failed] if failed else _hopeless(levels, slo))]
        extra = Exit.UNREACHABLE if failed else Exit.NO_LEVEL
    return session.finish("\n".join(lines), extra=extra, **parts)


def _hopeless(levels: Sequence[Level], slo: Slo) -> list[str]:
    first = min(levels, key=lambda level: level.load)
    return [
        f"RESULT   no limit keeps {slo.text}: {first.name} has {slo.metric} {cell(first.answers, slo.quantile or 1.0)}",
        f"         the predictor alone is too slow for {format_duration(slo.bound)} with something left for a queue;",
        "         make the objective wider, the request smaller or the predictor faster: no setting helps",
    ]


def _recommended(tuned: Tuned, levels: Sequence[Level], slo: Slo, *, is_stopped: bool) -> list[str]:
    limit, queue = tuned.limit, tuned.queue
    spread = variation(tuned.repeats)
    confidence = "good" if spread < 0.03 else "fair" if spread < 0.1 else "poor"
    cause = (
        f"{limit.limit} is the smallest level with 95 % of the plateau of {format_rate(limit.knee.plateau)}"
        if limit.slo is not None and limit.knee.throughput <= limit.slo
        else f"more than {limit.slo} in flight break {slo.text}; throughput alone would allow {limit.knee.throughput}"
    )
    at = max((level for level in levels if level.callers == limit.limit), key=lambda level: level.value(slo) or 0.0)
    tail = format_value(slo, at.value(slo) or 0.0)
    wait = format_duration(round(queue.wait_s, 3))
    trust = f"confidence: {confidence} ({len(tuned.repeats)} repeats, +-{spread:.1%})"
    if is_stopped:
        trust = "UNPROVED: interrupted " + ("during the proof" if tuned.proof else "before the proof")
    room = f"{format_rate(at.throughput)} x ({format_duration(slo.bound)} - {tail})"
    lines = [
        f"RESULT   limit {limit.limit}   queue {queue.slots}   queue timeout {wait}   {trust}",
        f"  why    {cause}",
        f"         queue = {room} = {queue.slots} requests",
    ]
    lines += _proof_lines(tuned, levels, slo, is_stopped=is_stopped)
    if (scaling := tuned.scaling) is not None:
        product = f"{scaling.busy:.1f} in flight at {format_rate(scaling.rate)} x headroom {scaling.headroom:.2f}"
        knative = f"containerConcurrency {limit.limit}, utilisation {kpa_percent(limit.limit, scaling)}%"
        keda = f'KEDA threshold "{scaling.concurrency}"; requests/s {scaling.rate * scaling.headroom:.0f}'
        lines.append(f"  scale  {product} = {scaling.concurrency}   (Knative: {knative}; {keda})")
    lines.append(f"  apply  headgate serve {headgate_flags(limit.limit, queue, slo)}")
    if tuned.scaling is not None and not is_stopped:
        others = "(or patch-headgate.yaml, keda.yaml)"
        lines.append(f"         kubectl patch isvc NAME --type merge --patch-file patch.yaml   {others}")
    return lines


def _proof_lines(tuned: Tuned, levels: Sequence[Level], slo: Slo, *, is_stopped: bool) -> list[str]:
    proofs = sorted((level for level in levels if level.kind == "proof"), key=lambda level: level.rate)
    if not proofs:
        return ["  proof  none yet" if is_stopped else "  proof  none was asked for"]
    shown = []
    for level in proofs:
        shed = level.share(Outcome.SHED)
        refused = f" shed {shed:.0%} goodput {format_rate(level.throughput)}" if shed >= _SHED_AT_REST else ""
        shown.append(f"{format_rate(level.rate)}{refused} {slo.metric} {verdict(slo, level)}")
    return [f"  proof  {tuned.proof}", *(f"         {line}" for line in shown)]


def _is_proved(settings: Settings, tuned: Tuned, levels: Sequence[Level], slo: Slo) -> bool:
    """What is admitted keeps the objective at every rate, and beyond the capacity the rest is refused."""
    proofs = [level for level in levels if level.kind == "proof"]
    if not proofs:
        return settings.proof == "none"
    if tuned.proof == "direct":
        return tuned.scaling is not None
    last = max(proofs, key=lambda level: level.rate)
    expected = max(0.0, 1 - max(tuned.repeats) / last.rate)
    is_shed = last.share(Outcome.SHED) >= expected - _SHED_SLACK
    return tuned.scaling is not None and slo.holds(last.value(slo)) and is_shed


def _advice_json(tuned: Tuned, slo: Slo) -> dict[str, object]:
    limit, scaling = tuned.limit, tuned.scaling
    return {
        "limit": limit.limit,
        "limit_by_slo": limit.slo,
        "queue": tuned.queue.slots,
        "queue_timeout_ms": tuned.queue.wait_s * 1e3,
        "deadline_ms": slo.bound * 1e3,
        "repeats": list(tuned.repeats),
        "proof": tuned.proof,
        "scaling": None
        if scaling is None
        else {
            **scaling._asdict(),
            "concurrency": scaling.concurrency,
            "container_concurrency": limit.limit,
            "utilisation_percent": kpa_percent(limit.limit, scaling),
        },
        "headgate": headgate_flags(limit.limit, tuned.queue, slo),
    }


def _files(tuned: Tuned, slo: Slo) -> dict[str, str]:
    files = {"headgate.args": headgate_flags(tuned.limit.limit, tuned.queue, slo) + "\n"}
    if tuned.scaling is not None:
        files["patch.yaml"] = isvc_patch(tuned.limit.limit, tuned.queue, tuned.scaling, slo)
        files["patch-headgate.yaml"] = gated_patch(tuned.limit.limit, tuned.queue, tuned.scaling, slo)
        files["keda.yaml"] = keda_scaledobject(tuned.scaling)
    return files
