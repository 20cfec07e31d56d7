"""Measures level after level, and knows what it has measured."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from loadgen.level import Level
from loadgen.measure import measure_callers, measure_rate
from loadgen.resume import take
from loadgen.scrape import Scraper, split_of
from loadgen.session import Session
from loadgen.tables import heading, row_of
from loadgen.target import Target


class StoppedError(Exception):
    """Somebody asked to end; what was measured stands."""


class Ladder:
    """Levels against one target, with a pause between them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._scraper = Scraper(session.settings.scrape)
        self._is_first = True

    async def callers(self, callers: int, kind: str = "level") -> Level:
        """A closed-loop level. Raises OSError, StoppedError."""
        settings = self._session.settings
        if (level := take(self._session.done, kind, callers=callers)) is not None:
            return self._taken(level)
        longest_s = settings.warmup + settings.max_level_time
        return await self._measured(
            kind,
            longest_s,
            f"{callers} callers",
            lambda: measure_callers(settings, self._session.prepared.target, callers, self._session.watch),
        )

    async def rate(self, rate: float, kind: str = "level", target: Target | None = None, seconds: float = 0.0) -> Level:
        """An open-loop level, against another target where one is given. Raises OSError, StoppedError."""
        settings, where = self._session.settings, target or self._session.prepared.target
        if (level := take(self._session.done, kind, rate=rate)) is not None:
            return self._taken(level)
        longest_s = settings.warmup + (seconds or settings.max_level_time) + settings.timeout
        return await self._measured(
            kind,
            longest_s,
            f"{rate:.4g} requests a second",
            lambda: measure_rate(settings, where, rate, self._session.watch, seconds=seconds),
        )

    def _taken(self, level: Level) -> Level:
        session = self._session
        if session.is_stopped:
            raise StoppedError
        if not session.levels:
            session.view.say(heading())
        session.levels.append(level)
        session.view.add(level, row_of(level))
        return level

    async def _measured(self, kind: str, longest_s: float, name: str, measure: Callable[[], Awaitable[Level]]) -> Level:
        session = self._session
        if not session.levels:
            session.view.say(heading())
        if not self._is_first:
            await session.pause(session.settings.cooldown)
        self._is_first = False
        if session.is_stopped:
            raise StoppedError
        session.view.plan(f"{session.settings.command}: {kind}, {name}", longest_s)
        before = await self._scraper.read()
        level = await measure()
        if session.is_stopped:
            raise StoppedError
        level = replace(level, kind=kind, server=split_of(before, await self._scraper.read()))
        session.levels.append(level)
        session.view.add(level, row_of(level))
        return level
