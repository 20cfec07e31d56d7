"""The admin port over a real socket, in front of a server that has no traffic."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent import __version__
from agent.admin.app import Admin, state
from agent.admin.merge import MERGING
from agent.admin.status import Status
from agent.errors import Outcome
from agent.net.drain import Stage
from tests.fakes import FakeRecord, FakeServer
from tests.sockets import FakePredictor, Message, Peer


class FakeDrain:
    """A drain that lasts until the test says so."""

    def __init__(self) -> None:
        self.stage = Stage.SERVING
        self.done = asyncio.Event()
        self.begun = asyncio.Event()

    def begin(self) -> None:
        self.stage = Stage.DRAINING
        self.begun.set()

    async def wait(self) -> None:
        await self.done.wait()


class FakeStartup:
    """A start that waits for two predictors."""

    missing = ("127.0.0.1:9000 to accept a connection", "127.0.0.1:9001 to answer /ready with 2xx")


class Port:
    """An admin port and a client of it."""

    def __init__(self, session: aiohttp.ClientSession, server: FakeServer, drain: FakeDrain) -> None:
        self._session = session
        self.server = server
        self.drain = drain

    def get(self, path: str, headers: dict[str, str]) -> Any:
        """The answer, to be read as a context."""
        return self._session.get(path, headers=headers)

    async def ask(
        self, path: str, method: str = "GET", accept: str = "", *, merging: bool = False
    ) -> tuple[int, str, str]:
        """Returns status, body and content type. `merging` is what an agent that merges the page says."""
        headers = {"Accept": accept} | ({MERGING: "1"} if merging else {})
        async with self._session.request(method, path, headers=headers) as response:
            return response.status, await response.text(), response.headers.get("Content-Type", "")


@contextlib.asynccontextmanager
async def opened(flags: dict[str, list[str]]) -> AsyncIterator[Port]:
    """An admin port; keys are settings by name."""
    server, drain = FakeServer(flags), FakeDrain()
    server.drain = drain  # type: ignore[attr-defined]
    listener = socket.create_server(("127.0.0.1", 0))
    admin = Admin(cast(Any, server))
    await admin.start(listener)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with aiohttp.ClientSession(url) as session:
            yield Port(session, server, drain)
    finally:
        drain.done.set()
        await admin.stop()


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with opened({"limit": ["2"], "model_limits": ["m=1"]}) as port:
        yield port


async def test_it_is_alive_and_ready(port: Port) -> None:
    assert (await port.ask("/healthz"))[:2] == (200, "ok\n")
    assert (await port.ask("/readyz"))[:2] == (200, "serving\n")


async def test_before_it_is_ready_it_says_what_it_waits_for(port: Port) -> None:
    port.server.startup = FakeStartup()  # type: ignore[attr-defined]
    port.drain.stage = Stage.STARTING
    text = "".join(f"{line}\n" for line in ("starting", *(f"waits for {one}" for one in FakeStartup.missing)))
    assert (await port.ask("/readyz"))[:2] == (503, text)
    assert (await port.ask("/healthz"))[0] == 200
    shown = json.loads((await port.ask("/debug/state"))[1])
    assert (shown["state"], shown["waits_for"]) == ("starting", [*FakeStartup.missing])
    assert Status(cast(Any, port.server)).now()["waits_for"] == FakeStartup.missing
    port.drain.stage = Stage.DRAINING
    assert (await port.ask("/readyz"))[:2] == (503, "draining\n")


@pytest.mark.parametrize("stage", [Stage.DRAINING, Stage.DRAINED])
async def test_readiness_ends_with_the_drain_and_liveness_does_not(port: Port, stage: Stage) -> None:
    port.drain.stage = stage
    assert (await port.ask("/readyz"))[:2] == (503, f"{stage}\n")
    assert (await port.ask("/healthz"))[0] == 200


async def test_waiting_for_the_drain_begins_it_and_answers_at_its_end(port: Port) -> None:
    asked = asyncio.create_task(port.ask("/wait-for-drain"))
    await port.drain.begun.wait()
    assert (await port.ask("/readyz"))[0] == 503
    assert not asked.done()
    port.drain.done.set()
    assert (await asked)[:2] == (200, "drained\n")


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain"])
async def test_metrics_are_prometheus_text(port: Port, accept: str) -> None:
    status, body, content_type = await port.ask("/metrics", accept=accept)
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert "headgate_concurrency_limit" in {family.name for family in parse_text(body)}


async def test_metrics_are_open_metrics_for_those_who_ask(port: Port) -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    status, body, content_type = await port.ask("/metrics", accept=accept)
    assert (status, content_type.partition(";")[0]) == (200, "application/openmetrics-text")
    assert "headgate_requests" in {family.name for family in parse_openmetrics(body)}  # type: ignore[no-untyped-call]


async def test_the_state_is_json_for_people_and_scripts(port: Port) -> None:
    server = port.server
    for _ in range(2):
        server.admission.offer(server.admission.ticket(None, "m", server.usages["http"].of("m")), 0.0)
    server.book([FakeRecord(), FakeRecord(outcome=Outcome.QUEUE_FULL)])
    server.connections.add(1)
    server.pools[0].busy = 1
    server.pools[0].idle = 1
    status, body, content_type = await port.ask("/debug/state")
    assert (status, content_type.partition(";")[0]) == (200, "application/json")
    shown = json.loads(body)
    assert shown == json.loads(json.dumps(state(cast(Any, server))))
    assert {label: count for label, count in shown.pop("outcomes").items() if count} == {"served": 1, "queue_full": 1}
    assert shown == {
        "version": __version__,
        "state": "serving",
        "waits_for": [],
        "inflight": 1,
        "queued": 1,
        "queued_bytes": 0,
        "limit": 2,
        "queue_limit": 1000,
        "active": 0,
        "models": {
            "m": {"inflight": 1, "queued": 1, "outstanding": 0, "limit": 1},
            "_other": {"inflight": 0, "queued": 0, "outstanding": 0, "limit": None},
        },
        "connections": {"client": 1, "upstream": 2, "upstream_idle": 1},
    }


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/wait-for-drain", "/debug/state"])
async def test_nothing_can_be_written(port: Port, path: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await port.ask(path, method))[0] == 405
    assert port.drain.stage is Stage.SERVING


async def test_other_paths_do_not_exist(port: Port) -> None:
    assert (await port.ask("/v2/models/m/infer"))[0] == 404


async def test_the_metrics_of_a_page_come_behind_ours() -> None:
    predictor = FakePredictor().listen()

    async def answer(_: Message, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nnv_count 3\n#x")

    url = f"{predictor.url}/metrics"
    async with predictor.serve(answer), opened({"merge_metrics": [url]}) as port:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
        status, body, content_type = await port.ask("/metrics", accept=accept)
        assert (status, content_type.partition(";")[0]) == (200, "text/plain"), "the format that forgives"
        families = {family.name: family for family in parse_text(body)}
        assert families["nv_count"].samples[0].value == 3
        [up] = families["headgate_merge_up"].samples
        assert (up.labels, up.value) == ({"source": url}, 1)
        assert "nv_count" not in (await port.ask("/metrics", merging=True))[1], "it does not go round in circles"
    predictor.close()
