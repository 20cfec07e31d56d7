"""A workload's agents over real sockets: asked side by side, in time, and not more often than needed."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agent.scale.access import Access
from agent.scale.discovery import Discovery, DiscoveryError
from agent.scale.fleet import Fleet, UnknownLoadError
from agent.scale.ledger import Total
from agent.scale.scaler import session
from agent.scale.trigger import Find, Source
from tests.scale.peers import Handler, Page, serving
from tests.sockets import eventually
from tests.tls import NAME, Papers


class Told(Discovery):
    """A discovery that finds what the test tells it, or fails."""

    def __init__(self, agents: Sequence[str]) -> None:
        super().__init__(None)
        self.found = list(agents)
        self.error = ""
        self.asked = 0

    async def agents(self, source: Source) -> list[str]:
        self.asked += 1
        if self.error:
            raise DiscoveryError(self.error)
        return list(self.found)


class Bench:
    """Opens pages and fleets."""

    def __init__(self, stack: AsyncExitStack, http: aiohttp.ClientSession) -> None:
        self._stack = stack
        self._http = http

    async def open(self, *pages: Page | Handler, tls: ssl.SSLContext | None = None) -> list[str]:
        handlers = [page.answer if isinstance(page, Page) else page for page in pages]
        return [await self._stack.enter_async_context(serving(handler, tls)) for handler in handlers]

    def fleet(
        self,
        discovery: Discovery,
        access: Access | None = None,
        *,
        timeout_s: float = 10.0,
        interval_s: float = 0.0,
        hold_s: float = 60,
    ) -> Fleet:
        times = {"timeout_s": timeout_s, "interval_s": interval_s, "hold_s": hold_s}
        return Fleet(Source(Find.LIST), 15, discovery, self._http, access or Access(), **times)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(stack, await stack.enter_async_context(session()))


async def test_all_are_asked_for_the_window_and_summed(bench: Bench) -> None:
    pages = [Page(4.0), Page(28.0, limit=4)]
    fleet = bench.fleet(Told(await bench.open(*pages)))
    assert await fleet.read() == Total(32.0, pytest.approx(4 / 5.6 + 28 / 2.8), agents=2, held=0, missing=0)
    assert [page.asked for page in pages] == [["window=15s"], ["window=15s"]]


async def test_they_are_asked_side_by_side(bench: Bench) -> None:
    meeting = asyncio.Barrier(3)

    async def meet(request: web.Request) -> web.StreamResponse:
        await meeting.wait()  # answers when all have been asked
        return await Page(1.0).answer(request)

    fleet = bench.fleet(Told(await bench.open(meet, meet, meet)))
    assert (await fleet.read()).demand == 3.0


async def test_many_who_ask_at_once_get_one_answer(bench: Bench) -> None:
    page = Page(4.0)
    fleet = bench.fleet(Told(await bench.open(page)), interval_s=3600)
    totals = await asyncio.gather(*(fleet.read() for _ in range(20)))
    assert {total.demand for total in totals} == {4.0}
    assert len(page.asked) == 1


async def test_who_asked_and_left_holds_up_nobody(bench: Bench) -> None:
    page = Page(4.0)
    page.is_silent = True
    fleet = bench.fleet(Told(await bench.open(page)))
    first = asyncio.create_task(fleet.read())
    await eventually(lambda: page.asked)
    page.is_silent = False
    second = asyncio.create_task(fleet.read())
    first.cancel()
    assert (await second).demand == 4.0


async def test_one_that_hangs_counts_with_its_last_word(bench: Bench) -> None:
    pages = [Page(4.0), Page(28.0)]
    fleet = bench.fleet(Told(await bench.open(*pages)))
    await fleet.read()
    fleet._timeout = aiohttp.ClientTimeout(total=1.0)  # more than the other one needs on a busy machine
    pages[0].demand, pages[1].is_silent = 5.0, True
    assert await fleet.read() == Total(33.0, pytest.approx(33 / 5.6), agents=2, held=1, missing=0)


async def test_one_that_is_held_no_longer_is_left_out(bench: Bench) -> None:
    pages = [Page(4.0), Page(28.0)]
    agents = await bench.open(*pages)
    fleet = bench.fleet(Told([agents[0], "127.0.0.1:1"]), hold_s=0.0)
    assert await fleet.read() == Total(4.0, pytest.approx(4 / 5.6), agents=1, held=0, missing=1)


async def refuse(_: web.Request) -> web.StreamResponse:
    return web.json_response({"demand": 1.0, "replicas": 1.0, "limit": 1}, status=503)


async def redirect(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://169.254.169.254/latest/meta-data")


async def flood(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b'{"demand": 1.0, "replicas": 1.0, "x": "' + b"x" * (1 << 20) + b'"}')


async def prose(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>not found</html>")


@pytest.mark.parametrize("page", [refuse, redirect, flood, prose])
async def test_what_is_no_load_page_is_no_answer(bench: Bench, page: Handler) -> None:
    fleet = bench.fleet(Told(await bench.open(page)))
    with pytest.raises(UnknownLoadError, match=r"none of 1 agents tells its load at /\.headgate/load"):
        await fleet.read()


async def test_no_agents_is_no_load(bench: Bench) -> None:
    assert await bench.fleet(Told([])).read() == Total(0, 0, agents=0, held=0, missing=0)


async def test_the_list_of_agents_is_kept_for_a_while(bench: Bench) -> None:
    discovery = Told(await bench.open(Page(1.0)))
    fleet = bench.fleet(discovery)
    for _ in range(3):
        await fleet.read()
    assert discovery.asked == 1


async def test_a_discovery_that_fails_leaves_the_last_list(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.scale.fleet._DISCOVERY_S", 0.0)
    discovery = Told(await bench.open(Page(1.0)))
    fleet = bench.fleet(discovery)
    await fleet.read()
    discovery.error = "the API server is away"
    assert (await fleet.read()).demand == 1.0
    fleet._hold_s = 0.0
    with pytest.raises(UnknownLoadError, match="the API server is away"):
        await fleet.read()
    assert discovery.asked == 3


async def test_a_discovery_that_never_worked_is_an_error(bench: Bench) -> None:
    discovery = Told([])
    discovery.error = "no such thing"
    with pytest.raises(UnknownLoadError, match="no such thing"):
        await bench.fleet(discovery).read()


async def test_silence_is_logged_once_and_so_is_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "headgate")
    page = Page(1.0)
    [agent] = await bench.open(page)
    discovery = Told([agent, "127.0.0.1:1"])
    fleet = bench.fleet(discovery)
    for _ in range(3):
        await fleet.read()
    assert [record.message for record in caplog.records] == ["agent does not answer"]
    fleet._agents = [agent]
    await fleet.read()
    assert len(caplog.records) == 1, "it has left"


async def test_protected_agents_are_asked_over_tls_with_the_token(bench: Bench, tmp_path: Path) -> None:
    papers, file, given = Papers(tmp_path / "papers", NAME), tmp_path / "token", []

    async def answer(request: web.Request) -> web.StreamResponse:
        given.append(request.headers.get("Authorization"))
        return await Page(4.0).answer(request)

    file.write_text("one\n")
    found = Told(await bench.open(answer, tls=papers.server()))
    fleet = bench.fleet(found, Access(papers.ca, NAME, str(file)))
    assert (await fleet.read()).demand == 4.0
    file.write_text("another")
    assert (await fleet.read()).demand == 4.0
    assert given == ["Bearer one", "Bearer another"]
    for access in (Access(papers.ca, "", str(file)), Access(Papers(tmp_path / "other").ca, NAME, str(file)), Access()):
        with pytest.raises(UnknownLoadError):
            await bench.fleet(found, access).read()
    assert len(given) == 2, "nobody else is shown the token"
