"""The agents of one workload over one window: found, asked side by side, and summed."""

import asyncio
from time import monotonic

import aiohttp

from agent import logs
from agent.scale import ledger
from agent.scale.access import Access
from agent.scale.discovery import Discovery, DiscoveryError
from agent.scale.ledger import Ledger, Said, Total
from agent.scale.page import PATH
from agent.scale.trigger import Source

# Pods come and go in seconds, and each look costs the API server or the name server a question.
_DISCOVERY_S = 5.0
_MAX_BYTES = 64 * 1024


class UnknownLoadError(Exception):
    """Nothing is known of a workload's load. The text is for KEDA's log."""


class Fleet:
    """Reads a workload's load at most every `interval_s`, however many ask for it.

    `timeout_s` bounds an agent's answer, `hold_s` how long its last word counts, and the last list of agents.
    """

    def __init__(
        self,
        source: Source,
        window: int,
        discovery: Discovery,
        session: aiohttp.ClientSession,
        access: Access,
        *,
        timeout_s: float,
        interval_s: float,
        hold_s: float,
    ) -> None:
        self._source = source
        self._path = f"{PATH.decode()}?window={window}s"
        self._discovery = discovery
        self._session = session
        self._access = access
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._interval_s = interval_s
        self._hold_s = hold_s
        self._ledger = Ledger(hold_s)
        self._lock = asyncio.Lock()
        self._agents: list[str] = []
        self._found_at: float | None = None
        self._total: Total | None = None
        self._read_at = 0.0
        self._silent: set[str] = set()

    async def read(self) -> Total:
        """The load now. Raises UnknownLoadError where there are agents and none has told anything lately."""
        async with self._lock:
            if self._total is None or monotonic() - self._read_at >= self._interval_s:
                self._total = None
                self._access.look()
                agents = await self._find()
                answers = await asyncio.gather(*map(self._ask, agents))
                self._note({agent for agent, said in zip(agents, answers, strict=True) if said is None})
                self._read_at = monotonic()
                self._total = self._ledger.keep(agents, answers, self._read_at)
            total = self._total
        if total.missing and not total.agents:
            raise UnknownLoadError(f"none of {total.missing} agents tells its load at {PATH.decode()}")
        return total

    async def _find(self) -> list[str]:
        now = monotonic()
        if self._found_at is None or now - self._found_at >= _DISCOVERY_S:
            try:
                self._agents = await self._discovery.agents(self._source)
                self._found_at = now
            except DiscoveryError as error:
                if self._found_at is None or now - self._found_at > self._hold_s:
                    raise UnknownLoadError(str(error)) from error
                logs.event("discovery failed", level=30, error=str(error), agents=len(self._agents))
        return self._agents

    async def _ask(self, agent: str) -> Said | None:
        try:
            url, options = f"{self._access.scheme}://{agent}{self._path}", self._access.options()
            async with self._session.get(url, timeout=self._timeout, allow_redirects=False, **options) as answer:
                body = await answer.content.read(_MAX_BYTES)
                return ledger.read(body) if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    def _note(self, silent: set[str]) -> None:
        """Log who has fallen silent and who is back, once each."""
        for agent in sorted(silent - self._silent):
            logs.event("agent does not answer", level=30, agent=agent)
        for agent in sorted((self._silent - silent) & set(self._agents)):
            logs.event("agent answers again", agent=agent)
        self._silent = silent
