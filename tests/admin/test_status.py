"""The page for people and its stream over a real socket; a real browser reads it in tests/contract/test_status.py."""

import asyncio
import json
import re
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from time import monotonic
from typing import Any, cast

import aiohttp
import pytest

from agent import __version__
from agent.admin import status
from agent.admin.app import Admin
from agent.errors import Outcome
from agent.net.pulse import Pulse
from agent.observe.history import Event
from agent.policy.usage import OTHER, UsageTable
from tests.admin.test_app import FakeDrain
from tests.fakes import FakeRecord, FakeServer
from tests.sockets import PATIENCE_S

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\n\ud800"


class Viewer:
    """Reads a stream event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The name and the data of the next event."""
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.response.content.readuntil(b"\n\n")).decode()
        name, data, *rest = text[:-2].split("\n")
        assert not rest, "an event has two lines, whatever is in it"
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


class Site:
    """An admin port with a pulse that beats when told."""

    def __init__(self, server: FakeServer, pulse: Pulse, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.pulse = pulse
        self.session = session
        self._viewers: list[Viewer] = []

    async def watch(self) -> Viewer:
        """One more who looks."""
        viewer = Viewer(await self.session.get("/status/events"))
        self._viewers.append(viewer)
        return viewer

    def close(self) -> None:
        """Everybody goes."""
        for viewer in self._viewers:
            viewer.response.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    server = FakeServer({"limit": ["2"], "model_limits": ["m=1"]}, monotonic())
    server.drain = FakeDrain()  # type: ignore[attr-defined]
    admin = Admin(cast(Any, server))
    listener = socket.create_server(("127.0.0.1", 0))
    await admin.start(listener)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}") as session:
            site = Site(server, server.pulse, session)
            yield site
            site.close()
    finally:
        server.pulse.stop()
        await admin.stop()


async def test_the_page_runs_its_own_script_and_style_and_nothing_else(site: Site) -> None:
    async with site.session.get("/status") as response:
        html = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert response.content_type == "text/html"
    assert "default-src 'none'" in policy
    for element in ("style", "script"):
        [inside] = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        assert f"{element}-src 'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'" in policy
    assert not re.search(r"\son\w+=|\sstyle=", html), "neither would run"
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html)
    assert "innerHTML" not in html


async def test_a_viewer_gets_the_past_and_then_a_reading_a_beat(site: Site) -> None:
    server, start = site.server, monotonic()
    for _ in range(3):
        server.admission.offer(server.admission.ticket(None, "m", server.usages["http"].of("m")), start)
    for second in range(3):
        server.book([FakeRecord(usage=server.usages["http"].of("m"), dispatched=1000.0, ended=1000.09)] * 10)
        server.book([FakeRecord(usage=server.usages["http"].of("m"), outcome=Outcome.OVERLOAD, dispatched=0.0)] * 5)
        site.pulse.beat(start + second)
    viewer = await site.watch()
    name, past = await viewer.next()
    assert (name, past["version"], past["settings"]["limit"]) == ("past", __version__, 2)
    assert past["settings"]["model_limits"] == {"m": 1}
    assert len(past["points"]) == 2
    _, executing, queued, refused, limit, served, refusals, failed, p50, p99 = past["points"][-1]
    assert (executing, queued, limit, served, refusals, failed) == (1.0, 2.0, 2, 10.0, 5.0, 0.0)
    assert refused == pytest.approx(5 * 0.09)
    assert 0.05 < p50 <= p99 <= 0.1
    name, now = await viewer.next()
    assert (name, now["state"], now["inflight"], now["queued"], now["limit"]) == ("now", "serving", 1, 2, 2)
    assert now["point"] == past["points"][-1]
    assert now["rejected"] == {"overload": 15}
    [row] = [row for row in now["models"] if row["name"] == "m"]
    assert (row["inflight"], row["queued"], row["limit"], row["served"], row["refused"]) == (1, 2, 1, 30, 15)
    site.pulse.beat(start + 3.0)
    name, now = await viewer.next()
    assert (name, now["point"][5]) == ("now", 0.0)


async def test_rates_of_a_model_are_those_of_the_last_beats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(status, "monotonic", lambda: clock[0])
    page = status.Status(cast(Any, site.server))
    usage = site.server.usages["grpc"].learn("m", 1000.0)
    for second in range(30):
        clock[0] = 1000.0 + second
        rows = {str(row["name"]): row for row in cast(Any, page.now()["models"])}
        seconds = min(second, 10)
        assert rows["m"]["rates"] == pytest.approx([2.0, 1.0, 1.0] if seconds else [0.0] * 3)
        assert rows[OTHER]["rates"] == [0.0] * 3
        site.server.book(
            FakeRecord(usage=usage, outcome=outcome, protocol="grpc", dispatched=1000.0, ended=1000.1)
            for outcome in (Outcome.SERVED, Outcome.SERVED, Outcome.OVERLOAD, Outcome.TIMEOUT)
        )


async def test_decisions_are_told_newest_first(site: Site) -> None:
    for number in range(3):
        site.server.pulse.history.events.append(Event(1000.0 + number, "", 8 + number, "raised", 10.0))
    viewer = await site.watch()
    await viewer.next()
    _, now = await viewer.next()
    assert [decision["limit"] for decision in now["decisions"]] == [10, 9, 8]
    assert now["decisions"][0]["reason"] == "raised"


async def test_settings_that_change_are_told_again(site: Site) -> None:
    viewer = await site.watch()
    assert [(await viewer.next())[0] for _ in range(2)] == ["past", "now"]
    site.server.settings = replace(site.server.settings, queue=7)
    site.pulse.beat(monotonic())
    name, past = await viewer.next()
    assert (name, past["settings"]["queue"]) == ("past", 7)
    assert (await viewer.next())[0] == "now"


async def test_a_hostile_model_name_is_data(site: Site) -> None:
    site.server.usages["http"] = UsageTable([HOSTILE], 0.0)
    viewer = await site.watch()
    await viewer.next()
    _, now = await viewer.next()
    assert HOSTILE in {row["name"] for row in now["models"]}


async def test_viewers_are_bounded_and_their_places_are_free_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_VIEWERS", 2)
    viewers = [await site.watch() for _ in range(3)]
    assert [viewer.response.status for viewer in viewers] == [200, 200, 503]
    viewers[0].response.close()

    async with asyncio.timeout(PATIENCE_S):
        while (await site.watch()).response.status != 200:
            site.pulse.beat(monotonic())  # its next event finds nobody


async def test_the_stream_ends_with_the_agent(site: Site) -> None:
    viewer = await site.watch()
    await viewer.next()
    await viewer.next()
    site.pulse.stop()
    async with asyncio.timeout(PATIENCE_S):
        assert await viewer.response.content.read() == b""


async def test_only_get(site: Site) -> None:
    for path in ("/status", "/status/events"):
        async with site.session.post(path) as response:
            assert response.status == 405
