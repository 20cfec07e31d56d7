"""Who the agents of a workload are: lists, names, and an API server of the test's behind real TLS."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import trustme

from agent.scale.discovery import Discovery, DiscoveryError, Kubernetes, ready_addresses
from agent.scale.scaler import session
from agent.scale.trigger import Find, Source
from tests.scale.peers import ApiServer, endpoint, endpoint_slice

IRIS = Source(Find.SLICES, "team", "iris", 8481)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with session() as http:
        yield http


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    server = ApiServer(tmp_path)
    async with server.run():
        yield server


SLICES = {
    "ready, and ready where nothing is said": (
        [endpoint_slice(endpoint("10.0.0.2", "b", ready=True), endpoint("10.0.0.1", "a"))],
        ["10.0.0.1", "10.0.0.2"],
    ),
    "not ready": (
        [endpoint_slice(endpoint("10.0.0.1", ready=False), endpoint("10.0.0.2", ready=True, serving=True))],
        ["10.0.0.2"],
    ),
    "going": ([endpoint_slice(endpoint("10.0.0.1", ready=False, serving=True, terminating=True))], []),
    "a pod in the slices of both families": (
        [
            endpoint_slice(endpoint("fd00::1", "a"), endpoint("fd00::2", "b"), family="IPv6"),
            endpoint_slice(endpoint("10.0.0.1", "a")),
        ],
        ["10.0.0.1", "fd00::2"],
    ),
    "a pod in two slices": ([endpoint_slice(endpoint("10.0.0.1"))] * 2, ["10.0.0.1"]),
    "names": ([endpoint_slice(endpoint("example.com"), family="FQDN")], []),
    "nulls": ([{"addressType": "IPv4", "endpoints": None}, {"addressType": "IPv4"}], []),
    "no addresses": ([{"addressType": "IPv4", "endpoints": [{"addresses": None, "conditions": None}]}], []),
}


@pytest.mark.parametrize("case", SLICES)
def test_a_ready_pod_is_one_agent(case: str) -> None:
    slices, expected = SLICES[case]
    assert ready_addresses(slices) == expected


async def test_the_slices_of_a_service_are_listed(http: aiohttp.ClientSession, api: ApiServer) -> None:
    api.slices["team", "iris"] = [
        endpoint_slice(endpoint("10.0.0.1", "a")),
        endpoint_slice(endpoint("fd00::7", "b"), family="IPv6"),
    ]
    api.slices["team", "other"] = [endpoint_slice(endpoint("10.9.9.9", "c"))]
    discovery = Discovery(Kubernetes(http, api.env, api.account))
    assert await discovery.agents(IRIS) == ["10.0.0.1:8481", "[fd00::7]:8481"]
    assert await discovery.agents(IRIS._replace(name="nobody")) == []


async def test_long_lists_come_in_pages(http: aiohttp.ClientSession, api: ApiServer) -> None:
    api.slices["team", "iris"] = [endpoint_slice(endpoint(f"10.0.0.{i}")) for i in range(1, 8)]
    api.page = 3
    assert len(await Kubernetes(http, api.env, api.account).agents("team", "iris", 1)) == 7
    assert api.requests == 3


async def test_the_token_is_read_again_for_every_question(http: aiohttp.ClientSession, api: ApiServer) -> None:
    api.slices["team", "iris"] = [endpoint_slice(endpoint("10.0.0.1"))]
    cluster = Kubernetes(http, api.env, api.account)
    await cluster.agents("team", "iris", 1)
    api.token = "secret-2"
    with pytest.raises(DiscoveryError, match="answered 401 for the EndpointSlices in 'team'"):
        await cluster.agents("team", "iris", 1)
    api.mount("secret-2")
    assert await cluster.agents("team", "iris", 1) == ["10.0.0.1:1"]


async def test_what_the_role_forbids_is_said(http: aiohttp.ClientSession, api: ApiServer) -> None:
    with pytest.raises(DiscoveryError, match=r"answered 403 .* must allow to list endpointslices"):
        await Kubernetes(http, api.env, api.account).agents("forbidden", "iris", 1)


async def test_a_server_of_another_authority_is_not_believed(
    http: aiohttp.ClientSession, api: ApiServer, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    with pytest.raises(DiscoveryError, match="cannot be asked: ClientConnectorCertificateError"):
        await Kubernetes(http, api.env, tmp_path).agents("team", "iris", 1)
    assert api.requests == 0, "the token did not leave"


async def test_a_server_that_is_gone(http: aiohttp.ClientSession, api: ApiServer) -> None:
    env = {**api.env, "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(DiscoveryError, match="cannot be asked"):
        await Kubernetes(http, env, api.account).agents("team", "iris", 1)


@pytest.mark.parametrize("env", [{}, {"KUBERNETES_SERVICE_HOST": "127.0.0.1"}])
async def test_outside_a_cluster(http: aiohttp.ClientSession, tmp_path: Path, env: dict[str, str]) -> None:
    with pytest.raises((OSError, ValueError)):
        Kubernetes(http, env, tmp_path)
    with pytest.raises(DiscoveryError, match="needs a scaler inside a Kubernetes cluster"):
        await Discovery(None).agents(IRIS)


async def test_a_list_is_a_list() -> None:
    assert await Discovery(None).agents(Source(Find.LIST, agents=("b:1", "a:2"))) == ["b:1", "a:2"]


async def test_a_name_is_looked_up() -> None:
    assert "127.0.0.1:7" in await Discovery(None).agents(Source(Find.DNS, name="localhost", port=7))
    assert await Discovery(None).agents(Source(Find.DNS, name="::1", port=7)) == ["[::1]:7"]


@pytest.mark.parametrize("error", [socket.EAI_NONAME, socket.EAI_NODATA])
async def test_a_name_that_leads_nowhere_has_no_agents(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(error, "no such name")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    assert await Discovery(None).agents(Source(Find.DNS, name="iris", port=7)) == []


async def test_a_name_server_that_is_down_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    with pytest.raises(DiscoveryError, match="'iris' cannot be looked up: temporary failure"):
        await Discovery(None).agents(Source(Find.DNS, name="iris", port=7))
