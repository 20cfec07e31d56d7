"""TLS as other programs speak it: openssl, curl, nghttp, h2load, grpcio, tritonclient, nghttpd, aiohttp, uvicorn."""

import asyncio
import http.client
import os
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc
import tritonclient.http
import trustme
from aiohttp import web

from protos.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from tests.tls import Papers

from .conftest import StartAgent, unavailable
from .grpcpayloads import tensor
from .grpcserver import serving
from .h2server import program
from .install import KSERVE, InstallError
from .processes import HOST, Agent, Child, eventually, free_port

pytestmark = pytest.mark.contract

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"


async def run(*command: str, send: bytes = b"") -> tuple[int, str]:
    """A program's exit code, and all that it prints."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30.0):
        output, _ = await child.communicate(send)
    assert child.returncode is not None
    return child.returncode, output.decode(errors="replace")


def tool(name: str) -> str:
    path = program(name)
    if path is None:
        unavailable(f"{name} is not installed")
    return str(path)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    """The agent's certificate and the predictor's."""
    return Papers(tmp_path / "papers")


async def answer(message: bytes, _: Any) -> bytes:
    """Any inference: the model's name, and the first input's bytes."""
    request = ModelInferRequest.FromString(message)
    response = ModelInferResponse(model_name=request.model_name)
    output = response.outputs.add(name="OUTPUT0", datatype="FP32")
    output.shape.extend([len(request.raw_input_contents[0]) // 4])
    response.raw_output_contents.append(request.raw_input_contents[0])
    return response.SerializeToString()


async def live(message: bytes, _: Any) -> bytes:
    return b"\x08\x01"


async def echo(messages: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message


async def page(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/octet-stream")


@pytest.fixture
async def predictor(papers: Papers) -> AsyncIterator[str]:
    """A route's upstream: aiohttp and grpcio over TLS, strangers to the agent's own TLS both."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0, ssl_context=papers.server())
    await site.start()
    pair = (papers.files["tls.key"], papers.files["tls.crt"])
    methods = {INFER: answer, LIVE: live}
    try:
        async with serving(methods, {STREAM: echo}, credentials=grpc.ssl_server_credentials([pair])) as address:
            yield f"https://{HOST}:{runner.addresses[0][1]},h2://{address}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def agent(papers: Papers, predictor: str, start_agent: StartAgent) -> Agent:
    """TLS on both sides."""
    flags = ("--tls-cert", papers.cert, "--tls-key", papers.key, "--upstream-ca", papers.ca)
    return await asyncio.to_thread(start_agent, predictor, *flags)


# openssl

WEAK = ("-cipher", "ALL@SECLEVEL=0")


@pytest.mark.parametrize(
    ("arguments", "protocol"),
    [
        (("-tls1_3",), "TLSv1.3"),
        (("-tls1_2",), "TLSv1.2"),
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"), "TLSv1.2"),
        (("-tls1_1", *WEAK), None),
        (("-tls1", *WEAK), None),
        (("-tls1_2", "-cipher", "AES128-GCM-SHA256@SECLEVEL=0"), None),  # no forward secrecy
        (("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA@SECLEVEL=0"), None),  # no AEAD
        (("-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256@SECLEVEL=0"), None),
        (("-tls1_2", "-cipher", "aNULL@SECLEVEL=0"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
async def test_openssl_finds_nothing_old_or_weak(
    agent: Agent, papers: Papers, arguments: tuple[str, ...], protocol: str | None
) -> None:
    code, shown = await run(
        tool("openssl"), "s_client", "-connect", agent.address, "-CAfile", papers.ca, "-brief", *arguments
    )
    if protocol is None:
        assert code != 0
        assert "alert" in shown
    else:
        assert code == 0, shown
        assert f"Protocol version: {protocol}" in shown
        assert "Verification: OK" in shown


async def test_openssl_may_not_renegotiate_and_gets_no_compression(agent: Agent, papers: Papers) -> None:
    command = (tool("openssl"), "s_client", "-connect", agent.address, "-CAfile", papers.ca, "-tls1_2", "-comp")
    _, shown = await run(*command, send=b"R\n")
    assert "Compression: NONE" in shown
    assert "RENEGOTIATING" in shown
    assert "no renegotiation" in shown.lower()


@pytest.mark.parametrize(("offer", "agreed"), [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1"), ("spdy/1", "")])
async def test_openssl_agrees_on_a_protocol(agent: Agent, papers: Papers, offer: str, agreed: str) -> None:
    _, shown = await run(
        tool("openssl"), "s_client", "-connect", agent.address, "-CAfile", papers.ca, "-alpn", offer, send=b"Q\n"
    )
    assert (f"ALPN protocol: {agreed}" if agreed else "No ALPN negotiated") in shown


# Clients of HTTP


@pytest.mark.parametrize("version", ["--http1.1", "--tls-max 1.2 --http1.1", "--tlsv1.3 --http1.1"])
async def test_curl_uploads_and_gets_it_back(
    agent: Agent, papers: Papers, curl: str, tmp_path: Path, version: str
) -> None:
    (tmp_path / "large").write_bytes(bytes(range(256)) * 32768)
    url = f"https://{agent.address}/v2/models/m/infer"
    arguments = ("--silent", "--show-error", "--cacert", papers.ca, *version.split())
    files = ("--data-binary", f"@{tmp_path / 'large'}", "--output", str(tmp_path / "back"))
    code, shown = await run(curl, *arguments, *files, url)
    assert code == 0, shown
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


async def test_clients_of_http_2(papers: Papers, curl: str, start_agent: StartAgent, tmp_path: Path) -> None:
    """nghttpd over TLS behind, curl, nghttp and h2load in front: streams in dozens on each connection."""
    (tmp_path / "large").write_bytes(bytes(range(256)) * 32768)
    (tmp_path / "small").write_bytes(b"small\n")
    port = free_port()
    argv = [tool("nghttpd"), f"--address={HOST}", f"--htdocs={tmp_path}", str(port), papers.key, papers.cert]
    server = Child("nghttpd", argv, log=tmp_path / "nghttpd.log", env={})
    try:
        flags = ("--tls-cert", papers.cert, "--tls-key", papers.key, "--upstream-ca", papers.ca)
        agent = await asyncio.to_thread(start_agent, f"h2://{HOST}:{port}", *flags)
        url = f"https://{agent.address}"
        for path in ("small", "large"):
            wanted = (tmp_path / path).read_bytes()
            back = tmp_path / f"{path}.back"
            code, shown = await run(
                curl, "--silent", "--http2", "--cacert", papers.ca, "--output", str(back), "-w", "%{http_version}",
                f"{url}/{path}",
            )  # fmt: skip
            assert (code, shown) == (0, "2")
            assert back.read_bytes() == wanted
        code, shown = await run(tool("nghttp"), "--null-out", "--stat", f"{url}/small", f"{url}/large")
        assert code == 0, shown
        code, shown = await run(tool("h2load"), "-n", "400", "-c", "4", "-m", "20", f"{url}/small")
        assert "400 succeeded, 0 failed" in shown, shown
        assert "Application protocol: h2" in shown
    finally:
        server.kill()


# gRPC


async def test_grpcio_calls_and_streams(agent: Agent, papers: Papers) -> None:
    credentials = grpc.ssl_channel_credentials(papers.files["ca.crt"])
    async with grpc.aio.secure_channel(agent.address, credentials) as channel:
        assert await channel.unary_unary(LIVE)(b"", timeout=20) == b"\x08\x01"
        stream = channel.stream_stream(STREAM)(timeout=20)
        for size in (1, 1000, 1_000_000):
            message = ModelInferRequest(model_name="m", id="x" * size).SerializeToString()
            await stream.write(message)
            assert await stream.read() == message
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_grpcio_does_not_believe_another_root(agent: Agent) -> None:
    credentials = grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())
    async with grpc.aio.secure_channel(agent.address, credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(LIVE)(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_grpcio_shows_a_certificate(
    papers: Papers, predictor: str, start_agent: StartAgent, tmp_path: Path
) -> None:
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients")
    agent = await asyncio.to_thread(
        start_agent, predictor, "--tls-cert", papers.cert, "--tls-key", papers.key, "--upstream-ca", papers.ca,
        "--tls-client-ca", str(tmp_path / "clients"), "--tls-client-san", "DNS:client.test",
    )  # fmt: skip
    codes = []
    for issuer, name in ((clients, "client.test"), (clients, "other.test"), (trustme.CA(), "client.test")):
        leaf = issuer.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        credentials = grpc.ssl_channel_credentials(papers.files["ca.crt"], leaf.private_key_pem.bytes(), chain)
        async with grpc.aio.secure_channel(agent.address, credentials) as channel:
            try:
                await channel.unary_unary(LIVE)(b"", timeout=20)
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]


async def test_the_library_for_v2_over_both(agent: Agent, papers: Papers) -> None:
    values = numpy.arange(1024, dtype=numpy.float32)

    def ask() -> None:
        with tritonclient.grpc.InferenceServerClient(agent.address, ssl=True, root_certificates=papers.ca) as client:
            assert client.is_server_live()
            result = client.infer("m", [tensor(values)], client_timeout=20)
            assert (result.as_numpy("OUTPUT0") == values).all()
        with tritonclient.http.InferenceServerClient(
            agent.address, ssl=True, ssl_context_factory=papers.client
        ) as client:
            assert client.is_server_live()

    await asyncio.to_thread(ask)


# Certificates that are replaced


def serial_of(agent: Agent, context: ssl.SSLContext) -> tuple[object, http.client.HTTPSConnection]:
    """A new connection, and the serial number of the certificate that it was shown."""
    host, _, port = agent.address.rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=20)
    connection.connect()
    certificate = connection.sock.getpeercert()
    return certificate["serialNumber"], connection


def is_served(connection: http.client.HTTPSConnection) -> bool:
    connection.request("POST", "/v2/models/m/infer", b"ping")
    return connection.getresponse().read() == b"ping"


@pytest.mark.parametrize("by", ["itself", "SIGHUP"])
async def test_a_certificate_is_replaced_under_way(agent: Agent, papers: Papers, by: str) -> None:
    def check() -> None:
        before, old = serial_of(agent, papers.client())
        assert is_served(old)
        papers.renew()
        if by == "SIGHUP":
            os.kill(agent.child.pid, signal.SIGHUP)

        def is_new() -> bool:
            serial, connection = serial_of(agent, papers.client())
            served = is_served(connection)
            connection.close()
            return served and serial != before

        eventually(is_new, "new connections are shown the new certificate")
        assert is_served(old), "the old connection goes on"
        old.close()

    await asyncio.to_thread(check)
    assert {event["use"] for event in agent.events("certificates exchanged")} == {"data", "upstream"}


# A server of the field


@pytest.fixture
def uvicorn(papers: Papers, tmp_path: Path) -> Iterator[str]:
    """uvicorn, which serves KServe's and MLServer's models, with TLS of its own. Gives "host:port"."""
    try:
        python = KSERVE.python()
    except InstallError as error:
        unavailable(str(error))
        return
    (tmp_path / "app.py").write_text(
        "async def app(scope, receive, send):\n"
        "    body = b''\n"
        "    while (message := await receive())['type'] == 'http.request':\n"
        "        body += message['body']\n"
        "        if not message['more_body']:\n"
        "            break\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    port = free_port()
    argv = [str(python), "-m", "uvicorn", "app:app", "--port", str(port), "--lifespan", "off"]
    argv += ["--ssl-certfile", papers.cert, "--ssl-keyfile", papers.key]
    child = Child("uvicorn", argv, log=tmp_path / "uvicorn.log", env={})
    try:
        child.await_event(lambda: "running on" in child.log.read_text(), "it listens", 30.0)
        yield f"{HOST}:{port}"
    finally:
        child.kill_family()


@pytest.mark.parametrize("flags", [("--upstream-ca",), ("--upstream-verify", "off")])
async def test_uvicorn_behind(
    uvicorn: str, papers: Papers, start_agent: StartAgent, curl: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    given = (*flags, papers.ca) if len(flags) == 1 else flags
    agent = await asyncio.to_thread(start_agent, f"https://{uvicorn}", *given)
    (tmp_path / "large").write_bytes(bytes(range(256)) * 8192)
    for _ in range(3):
        files = ("--data-binary", f"@{tmp_path / 'large'}", "--output", str(tmp_path / "back"))
        code, shown = await run(curl, "--silent", "--show-error", *files, f"{agent.url}/v2/models/m/infer")
        assert code == 0, shown
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
