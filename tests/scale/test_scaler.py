"""KEDA's part played by a real gRPC client, against the scaler and real agents, one of which is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme

from agent.scale import settings as scaler_settings
from agent.scale.discovery import Discovery, Kubernetes
from agent.scale.scaler import Server, session
from protos import external_scaler_pb2 as messages
from protos import external_scaler_pb2_grpc as services
from protos import health_pb2, health_pb2_grpc
from tests.faults.process import AgentProcess
from tests.net.bed import post
from tests.scale.peers import ApiServer, Page, endpoint, endpoint_slice, serving
from tests.sockets import PATIENCE_S, FakePredictor, eventually

SERVICE = "/externalscaler.ExternalScaler/"


class Keda:
    """A client that does what KEDA does: each poll asks for the value and for the activity."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        make = grpc.aio.insecure_channel if credentials is None else grpc.aio.secure_channel
        self.channel = make(address) if credentials is None else make(address, credentials)
        self.stub = services.ExternalScalerStub(self.channel)

    def reference(self, **metadata: str) -> Any:
        return messages.ScaledObjectRef(name="iris", namespace="team", scalerMetadata=metadata)

    async def poll(self, **metadata: str) -> tuple[float, bool]:
        """KEDA's reading of a value: the float if it is above 0, else the whole number (external_scaler.go)."""
        request = messages.GetMetricsRequest(scaledObjectRef=self.reference(**metadata))
        [value] = (await self.stub.GetMetrics(request, timeout=PATIENCE_S)).metricValues
        active = await self.stub.IsActive(self.reference(**metadata), timeout=PATIENCE_S)
        return value.metricValueFloat if value.metricValueFloat > 0 else float(value.metricValue), active.result

    async def until(self, condition: Callable[[float], bool], **metadata: str) -> None:
        """Poll until the value is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition((await self.poll(**metadata))[0]):
                pass

    async def failure(self, method: str = "GetMetrics", **metadata: str) -> tuple[grpc.StatusCode, str]:
        """How a call fails."""
        reference = self.reference(**metadata)
        request = messages.GetMetricsRequest(scaledObjectRef=reference) if method == "GetMetrics" else reference
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(self.stub, method)(request, timeout=PATIENCE_S)
        return caught.value.code(), str(caught.value.details())

    async def asked(self) -> tuple[grpc.StatusCode, str]:
        """How a call fails that needs no agent: whether it reached the scaler shows in the text."""
        return await self.failure(agents="127.0.0.1:1")


class Bench:
    """Starts scalers and their clients."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack
        self.servers: list[Server] = []

    async def scaler(self, cluster: ApiServer | None = None, **flags: str) -> Server:
        given = {"listen": "127.0.0.1:0", "interval": "50ms", "scrape_timeout": "10s", **flags}
        settings = scaler_settings.resolve({name: [text] for name, text in given.items()}, {})
        http = await self.stack.enter_async_context(session())
        api = None if cluster is None else Kubernetes(http, cluster.env, cluster.account)
        server = Server(settings, Discovery(api), http)
        await server.start()
        self.servers.append(server)
        self.stack.push_async_callback(server.stop)
        return server

    async def keda(self, cluster: ApiServer | None = None, **flags: str) -> Keda:
        server = await self.scaler(cluster, **flags)
        return await self.connect(f"127.0.0.1:{server.port}")

    async def connect(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> Keda:
        keda = Keda(address, credentials)
        await self.stack.enter_async_context(keda.channel)
        return keda

    async def pages(self, *pages: Page) -> str:
        """Agents that say what the test wants, as a list."""
        return ",".join([await self.stack.enter_async_context(serving(page.answer)) for page in pages])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        yield Bench(stack)


class RealAgents:
    """Agents as processes in front of predictors that answer nothing; `occupy` gives them requests to execute."""

    def __init__(self) -> None:
        self.agents: list[AgentProcess] = []
        self.predictors: list[FakePredictor] = []

    async def start(self, count: int) -> str:
        self.predictors = [FakePredictor().listen() for _ in range(count)]
        self.agents = [await AgentProcess.start(predictor, {"limit": "4"}) for predictor in self.predictors]
        return ",".join(agent.admin_address for agent in self.agents)

    async def occupy(self, index: int, count: int) -> None:
        for _ in range(count):
            client = await self.agents[index].client()
            await client.send(post(b"running"))
            await (await self.predictors[index].accept()).request()

    async def close(self) -> None:
        for predictor in self.predictors:
            predictor.close()
        for agent in self.agents:
            await agent.close()


@pytest.fixture
async def agents() -> AsyncIterator[RealAgents]:
    real = RealAgents()
    try:
        yield real
    finally:
        await real.close()


def about(value: float) -> Callable[[float], bool]:
    return lambda found: abs(found - value) < 0.05


async def test_the_demand_of_real_agents_is_summed_and_a_dead_one_counts_on(bench: Bench, agents: RealAgents) -> None:
    wishes = {"agents": await agents.start(3), "window": "1s", "targetPerReplica": "2.8"}
    keda = await bench.keda(hold="1h")
    assert await keda.poll(**wishes) == (0.0, False)
    await agents.occupy(0, 3)
    await agents.occupy(1, 2)
    await keda.until(about(5.0), **wishes)
    assert (await keda.poll(**wishes))[1]
    del wishes["targetPerReplica"]
    await keda.until(about(5.0 / (4 * 0.7)), **wishes)
    agents.agents[0].signal(signal.SIGKILL)
    await agents.agents[0].exit_code()
    for _ in range(5):
        assert about(5.0 / (4 * 0.7))((await keda.poll(**wishes))[0])
    impatient = await bench.keda(hold="0")
    await impatient.until(about(2.0 / (4 * 0.7)), **wishes)


async def test_activity_is_pushed_at_once_and_on_change(bench: Bench, agents: RealAgents) -> None:
    keda = await bench.keda()
    reference = keda.reference(agents=await agents.start(1), window="1s", activation="1.5")
    stream = keda.stub.StreamIsActive(reference)
    told = aiter(stream)
    assert not (await anext(told)).result
    await agents.occupy(0, 2)
    async with asyncio.timeout(PATIENCE_S):
        assert (await anext(told)).result
    for predictor in agents.predictors:
        predictor.close()
    async with asyncio.timeout(PATIENCE_S):
        assert not (await anext(told)).result
    stream.cancel()


async def test_what_is_pushed_is_not_said_twice(bench: Bench) -> None:
    page = Page(1.0)
    keda = await bench.keda()
    stream = keda.stub.StreamIsActive(keda.reference(agents=await bench.pages(page)))
    told = aiter(stream)
    assert (await anext(told)).result
    next_one = asyncio.ensure_future(anext(told))
    looks = len(page.asked)
    await eventually(lambda: len(page.asked) >= looks + 3)
    assert not next_one.done()
    page.demand = 0.0
    assert not (await next_one).result
    stream.cancel()


async def test_a_stream_survives_an_outage_and_ends_with_the_scaler(bench: Bench) -> None:
    page = Page(1.0)
    keda = await bench.keda(hold="0")
    stream = keda.stub.StreamIsActive(keda.reference(agents=await bench.pages(page)))
    told = aiter(stream)
    assert (await anext(told)).result
    # Only now: the first look, which nothing repeats, has all the time that a busy machine needs.
    [fleet] = bench.servers[0].scaler._fleets.values()
    fleet._timeout = aiohttp.ClientTimeout(total=0.05)
    page.is_silent = True
    looks = len(page.asked)
    await eventually(lambda: len(page.asked) >= looks + 3)
    page.demand, page.is_silent = 0.0, False
    assert not (await anext(told)).result
    await bench.servers[0].stop()
    with pytest.raises((StopAsyncIteration, grpc.aio.AioRpcError)):
        await anext(told)


async def test_a_stream_that_can_say_nothing_fails_at_once(bench: Bench) -> None:
    keda = await bench.keda()
    stream = keda.stub.StreamIsActive(keda.reference(agents="127.0.0.1:1"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(stream))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("wishes", "name", "whole", "target"),
    [({}, "headgate-replicas", 1, 1.0), ({"targetPerReplica": "5.6"}, "headgate-demand", 6, 5.6)],
)
async def test_the_target_is_told_as_a_float_and_as_a_whole_number(
    bench: Bench, wishes: dict[str, str], name: str, whole: int, target: float
) -> None:
    keda = await bench.keda()
    [spec] = (await keda.stub.GetMetricSpec(keda.reference(agents="127.0.0.1:1", **wishes))).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (name, whole, target)
    assert not name.startswith("s0-")


async def test_values_are_told_both_ways_and_zero_is_zero(bench: Bench) -> None:
    page = Page(2.5)
    keda = await bench.keda()
    wishes = {"agents": await bench.pages(page), "targetPerReplica": "5"}
    reference = keda.reference(**wishes)
    for name in ("", "headgate-demand"):
        request = messages.GetMetricsRequest(scaledObjectRef=reference, metricName=name)
        [value] = (await keda.stub.GetMetrics(request)).metricValues
        assert (value.metricName, value.metricValue, value.metricValueFloat) == ("headgate-demand", 3, 2.5)
    page.demand = 0.0
    await keda.until(lambda value: value == 0.0, **wishes)
    assert await keda.poll(**wishes) == (0.0, False)


async def test_activation_is_strictly_above(bench: Bench) -> None:
    keda = await bench.keda()
    pages = await bench.pages(Page(2.0))
    assert [(await keda.poll(agents=pages, activation=text))[1] for text in ("1.9", "2", "2.1")] == [True, False, False]


@pytest.mark.parametrize("method", ["GetMetrics", "IsActive", "GetMetricSpec"])
async def test_wrong_metadata_is_told_in_words(bench: Bench, method: str) -> None:
    keda = await bench.keda()
    code, text = await keda.failure(method, targetPerReplica="many")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "exactly one of service, serviceAddress and agents" in text
    assert "targetPerReplica 'many' is not accepted: expected a number such as 5.6" in text


async def test_another_metric_is_not_known(bench: Bench) -> None:
    keda = await bench.keda()
    request = messages.GetMetricsRequest(scaledObjectRef=keda.reference(agents="127.0.0.1:1"), metricName="cpu")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keda.stub.GetMetrics(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "metricName 'cpu' is not known: expected headgate-replicas" in str(caught.value.details())


async def test_nothing_known_is_an_error_and_not_zero(bench: Bench) -> None:
    keda = await bench.keda()
    code, text = await keda.failure(agents="127.0.0.1:1")
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "none of 1 agents" in text


async def test_without_a_limit_a_target_is_needed(bench: Bench) -> None:
    keda = await bench.keda()
    pages = await bench.pages(Page(2.0), Page(3.0, limit=None))
    code, text = await keda.failure(agents=pages)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "give targetPerReplica" in text
    assert (await keda.poll(agents=pages, targetPerReplica="5"))[0] == 5.0


async def test_inside_a_cluster_the_pods_of_a_service_are_asked(bench: Bench, tmp_path: Path) -> None:
    api, page = ApiServer(tmp_path), Page(7.0)
    await bench.stack.enter_async_context(api.run())
    port = (await bench.pages(page)).rpartition(":")[2]
    api.slices["team", "iris"] = [endpoint_slice(endpoint("127.0.0.1", "a"), endpoint("127.0.0.9", "b", ready=False))]
    keda = await bench.keda(api)
    assert await keda.poll(service="iris", port=port, targetPerReplica="5") == (7.0, True)
    assert await keda.poll(service="scaled-to-zero", targetPerReplica="5") == (0.0, False)


async def test_a_scaler_outside_a_cluster_says_what_it_cannot_do(bench: Bench) -> None:
    keda = await bench.keda()
    code, text = await keda.failure(service="iris")
    assert (code, "inside a Kubernetes cluster" in text) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_the_kubelets_probe(bench: Bench) -> None:
    server = await bench.scaler()
    keda = await bench.connect(f"127.0.0.1:{server.port}")
    health = health_pb2_grpc.HealthStub(keda.channel)
    states = health_pb2.HealthCheckResponse
    for service in ("", "externalscaler.ExternalScaler"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == states.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="x"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    server.scaler.stopping.set()
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == states.NOT_SERVING


async def test_workloads_that_nobody_asks_about_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.scale.scaler.MAX_FLEETS", 2)
    server = await bench.scaler()
    keda = await bench.connect(f"127.0.0.1:{server.port}")
    pages = await bench.pages(Page(1.0))
    for window in ("1s", "2s", "1s", "3s"):
        await keda.poll(agents=pages, window=window)
    assert [window for _, window in server.scaler._fleets] == [1, 3]


class Papers:
    """Certificates in files: the server's, and a client's of another authority."""

    def __init__(self, directory: Path) -> None:
        servers, clients = trustme.CA(), trustme.CA()
        server, self.client = servers.issue_cert("127.0.0.1"), clients.issue_cert("keda")
        self.roots = servers.cert_pem.bytes()
        self.flags = {name: str(directory / name) for name in ("tls_cert", "tls_key", "tls_client_ca")}
        (directory / "tls_cert").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        server.private_key_pem.write_to_path(self.flags["tls_key"])
        clients.cert_pem.write_to_path(self.flags["tls_client_ca"])

    def credentials(self, *, own: bool) -> grpc.ChannelCredentials:
        if not own:
            return grpc.ssl_channel_credentials(self.roots)
        chain = b"".join(blob.bytes() for blob in self.client.cert_chain_pems)
        return grpc.ssl_channel_credentials(self.roots, self.client.private_key_pem.bytes(), chain)


async def test_with_certificates_it_speaks_tls(bench: Bench, tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    flags = {name: path for name, path in papers.flags.items() if name != "tls_client_ca"}
    server = await bench.scaler(**flags)
    address = f"127.0.0.1:{server.port}"
    keda = await bench.connect(address, papers.credentials(own=False))
    assert (await keda.failure(agents="127.0.0.1:1"))[0] is grpc.StatusCode.UNAVAILABLE
    assert "none of 1 agents" in (await keda.failure(agents="127.0.0.1:1"))[1]
    plain = await bench.connect(address)
    assert "none of 1 agents" not in (await plain.failure(agents="127.0.0.1:1"))[1]


async def test_with_a_clients_authority_others_are_turned_away(bench: Bench, tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    server = await bench.scaler(**papers.flags)
    address = f"127.0.0.1:{server.port}"
    known = await bench.connect(address, papers.credentials(own=True))
    assert "none of 1 agents" in (await known.failure(agents="127.0.0.1:1"))[1]
    stranger = await bench.connect(address, papers.credentials(own=False))
    assert "none of 1 agents" not in (await stranger.failure(agents="127.0.0.1:1"))[1]


async def test_certificates_are_replaced_without_a_restart(bench: Bench, tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    server = await bench.scaler(**papers.flags)
    address = f"127.0.0.1:{server.port}"
    assert "none of 1 agents" in (await (await bench.connect(address, papers.credentials(own=True))).asked())[1]
    (tmp_path / "tls_key").write_bytes(b"half of what is being written")
    assert "none of 1 agents" in (await (await bench.connect(address, papers.credentials(own=True))).asked())[1]
    replaced = Papers(tmp_path)
    assert "none of 1 agents" in (await (await bench.connect(address, replaced.credentials(own=True))).asked())[1]
    assert "none of 1 agents" not in (await (await bench.connect(address, papers.credentials(own=True))).asked())[1]
