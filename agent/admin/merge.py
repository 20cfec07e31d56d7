"""`--merge-metrics`: fetches the metrics of predictors, so that whoever scrapes the pod needs to know one port only."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp

from agent.admin.foreign import Families
from agent.values import Page

# For all pages together: Prometheus gives up after ten seconds, and our own numbers must not wait for a predictor that
# is busy.
TIMEOUT_S = 1.0
# vLLM has some 300 KiB, Triton 50 KiB for each hundred models.
MAX_BYTES = 4 * 1024 * 1024
# So many lines are read in a turn of the loop that relays: half a millisecond.
_SLICE = 500

# A page that is merged into itself by way of another agent must not go round in circles.
MERGING = "x-headgate-merging"
_HEADERS = {
    "Accept": "text/plain;version=0.0.4,*/*;q=0.1",
    "Accept-Encoding": "identity",
    "User-Agent": "headgate",
    MERGING: "1",
}


class PageState(NamedTuple):
    """How it went with one page: whether it was read, and how many of its lines made no sense."""

    source: str
    is_up: bool
    dropped: int


class Merged(NamedTuple):
    """The text of all pages that were read, and how it went with each."""

    lines: list[str]
    pages: list[PageState]


class Merger:
    """Fetches pages when asked. Whoever asks while it does so gets the same."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages
        self._session: aiohttp.ClientSession | None = None
        self._fetching: asyncio.Task[Merged] | None = None

    @property
    def has_pages(self) -> bool:
        return bool(self._pages)

    async def merged(self) -> Merged:
        """The pages as of now. Takes little longer than TIMEOUT_S, and raises nothing for what they do."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_all())
        return await asyncio.shield(self._fetching)

    async def close(self) -> None:
        """Give up what is being fetched."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _fetch_all(self) -> Merged:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=_HEADERS, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        bodies = await asyncio.gather(*(self._fetch(self._session, str(page)) for page in self._pages))
        families = Families()
        states = []
        for page, body in zip(self._pages, bodies, strict=True):
            source = str(page)
            reader = families.reader(source if len(self._pages) > 1 else "")
            for number, line in enumerate(body.decode(errors="replace").split("\n") if body else ()):
                reader.feed(line.removesuffix("\r"))
                if number % _SLICE == _SLICE - 1:
                    await asyncio.sleep(0)
            states.append(PageState(source, body is not None and bool(reader.samples or not body), reader.dropped))
        return Merged(list(families.lines()), states)

    async def _fetch(self, session: aiohttp.ClientSession, url: str) -> bytes | None:
        """The body of a page, or None where there is none to be had."""
        try:
            async with asyncio.timeout(TIMEOUT_S), session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MAX_BYTES:
                        return None
                return bytes(body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
