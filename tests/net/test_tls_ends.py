"""TLS connections: what is cut, and what each holds; the predictor's: whom the agent believes, and what failures do."""

import gc
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from agent.errors import Outcome
from agent.net import pool
from agent.net.drain import Stage
from agent.net.tls import Tls
from tests.net.bed import INFER, OK, get, post
from tests.net.http2_peers import Http2Client
from tests.net.tls_bed import TlsOpener, is_served
from tests.sockets import FakePredictor, Peer, eventually
from tests.tls import NAME, Papers, TlsPeer, TlsPredictor

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"


# What is cut is not complete


async def test_an_upload_that_is_cut_is_never_completed(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    client = await agent.client()
    assert isinstance(client, TlsPeer)
    await client.send(b"POST %b HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" % INFER)
    predictor = await agent.predictor.accept()
    await predictor.until(b"abc\r\n")
    client.cut()
    assert (await predictor.ended()).was_reset
    await eventually(lambda: agent.outcomes == [Outcome.CLIENT_GONE])


async def test_an_answer_that_is_cut_is_never_completed(tls_agent: TlsOpener, papers: Papers) -> None:
    """One that lasts until the end of the connection: TCP's end alone may be an attacker's."""
    agent = await tls_agent(TlsPredictor(papers.server()).listen(), upstream_ca=papers.ca)
    for is_cut in (False, True):
        client = await agent.client()
        await client.send(post(b"x"))
        predictor = await agent.predictor.accept()
        assert isinstance(predictor, TlsPeer)
        await predictor.request()
        await predictor.send(b"HTTP/1.1 200 OK\r\n\r\nall there is")
        await client.until(b"all there is")
        (predictor.cut if is_cut else predictor.close)()
        assert (await client.ended()).was_reset is is_cut
    await eventually(lambda: agent.outcomes == [Outcome.SERVED, Outcome.UPSTREAM_TRUNCATED])


async def test_a_tunnel_that_is_cut_ends_cut(tls_agent: TlsOpener, papers: Papers) -> None:
    agent = await tls_agent(TlsPredictor(papers.server()).listen(), upstream_ca=papers.ca)
    for side in ("client", "predictor"):
        client = await agent.client()
        await client.send(get(b"/ws", b"Connection: upgrade", b"Upgrade: x"))
        predictor = await agent.predictor.accept()
        await predictor.head()
        await predictor.send(SWITCH)
        await client.head()
        assert isinstance(client, TlsPeer)
        assert isinstance(predictor, TlsPeer)
        near, far = (client, predictor) if side == "client" else (predictor, client)
        near.cut()
        assert (await far.ended()).was_reset


async def test_what_came_before_the_end_is_delivered_to_a_slow_reader(tls_agent: TlsOpener, papers: Papers) -> None:
    """The predictor has long ended when the client begins to read."""
    agent = await tls_agent(TlsPredictor(papers.server()).listen(), upstream_ca=papers.ca)
    client, transport = await agent.narrow_client()
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    body = bytes(range(256)) * 2048
    agent.start(predictor.send(b"HTTP/1.1 200 OK\r\n\r\n" + body), then=predictor.close)
    await agent.sent()
    assert transport.get_write_buffer_size()
    assert (await client.response()).body == body


async def test_nothing_gathers_behind_the_end(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    client = await agent.client()
    assert isinstance(client, TlsPeer)
    await client.send(post(b"x"))
    predictor = await agent.predictor.accept()
    await predictor.request()
    [connection] = agent.server.connections
    layer: Any = connection._transport
    client.say_end()
    record = b"\x17\x03\x03\x40\x00" + bytes(0x4000)
    for _ in range(100):
        await Peer.send(client, record)
    await predictor.send(OK)
    assert (await client.response()).status == 200
    assert layer._incoming.pending == 0


async def test_who_asks_tls_for_answers_and_reads_none_is_dropped(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    client, transport = await agent.narrow_client()
    layer: Any = transport
    for begun, unread, is_kept in ((b"PO", 1 << 20, True), (b"ST", 5 << 20, False)):
        layer._tcp.write(bytes(unread))
        layer._outgoing.write(b"the answer to a key update")
        await client.send(begun)
        await eventually(lambda: not layer._outgoing.pending)
        assert layer.is_closing() is not is_kept


async def test_a_broken_record_ends_the_connection(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    client = await agent.client()
    client.sock.send(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
    assert (await client.ended()).was_reset


# What a connection holds


class Noting:
    """A memory BIO that notes how much goes through it at once."""

    def __init__(self, inner: ssl.MemoryBIO) -> None:
        self.most = 0
        self._inner = inner

    @property
    def pending(self) -> int:
        return self._inner.pending

    def write(self, data: memoryview) -> int:
        self.most = max(self.most, len(data))
        return self._inner.write(data)

    def read(self) -> bytes:
        data = self._inner.read()
        self.most = max(self.most, len(data))
        return data


async def test_large_bodies_leave_no_large_buffers(tls_agent: TlsOpener) -> None:
    """A memory BIO never shrinks: what goes through at once is what a connection costs from then on."""
    agent = await tls_agent()
    client, transport = await agent.narrow_client()
    layer: Any = transport
    came, went = layer._incoming, layer._outgoing = Noting(layer._incoming), Noting(layer._outgoing)
    body = bytes(1 << 20)
    agent.start(client.send(post(body)))
    predictor = await agent.predictor.accept()
    assert (await predictor.request()).body == body
    agent.start(predictor.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)))
    assert (await client.response()).body == body
    assert 16 * 1024 < came.most <= 64 * 1024
    assert 16 * 1024 < went.most <= 65 * 1024


@pytest.mark.parametrize("is_known", [True, False])
async def test_no_connection_waits_for_the_collector(
    tls_agent: TlsOpener, papers: Papers, tmp_path: Path, *, is_known: bool
) -> None:
    """Each has tens of kilobytes that Python's collector does not see, and so does not hurry for."""
    own = papers if is_known else Papers(tmp_path / "own")
    agent = await tls_agent(TlsPredictor(own.server()).listen(), upstream_ca=papers.ca)
    gc.collect()
    gc.disable()
    try:
        client = await agent.client()
        await client.send(post(b"x"))
        if is_known:
            predictor = await agent.predictor.accept()
            await predictor.request()
            await predictor.send(OK)
        await client.response()
        if is_known:
            predictor.close()
        await Peer.send(client, b"\x17\x03\x03\x00\x20part")
        client.close()
        await eventually(lambda: not any(isinstance(each, Tls) for each in gc.get_objects()))
    finally:
        gc.enable()


# The predictor's side


async def test_a_predictors_certificate_is_checked(
    tls_agent: TlsOpener, papers: Papers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A dial that can only end the same way is not waited for."""
    stranger = Papers(tmp_path / "stranger")
    agent = await tls_agent(TlsPredictor(stranger.server()).listen(), upstream_ca=papers.ca)
    client = await agent.client()
    with caplog.at_level(logging.WARNING, "headgate"):
        for _ in range(2):
            await client.send(post(b"x"))
            reply = await client.response()
            assert (reply.status, reply.values(b"x-headgate-reason")) == (502, [b"upstream_tls"])
    told: list[Any] = [record.facts for record in caplog.records if record.message == "upstream tls failed"]  # type: ignore[attr-defined]
    assert [facts["reason"] for facts in told] == ["unable to get local issuer certificate"]
    assert agent.predictor.is_left_alone()


@pytest.mark.parametrize(
    ("names", "name", "status"),
    [((NAME,), "", 502), ((NAME,), NAME, 200), ((NAME,), NAME + ".", 200), (("x.test",), NAME, 502)],
)
async def test_a_predictors_name_is_checked(
    tls_agent: TlsOpener, tmp_path: Path, names: tuple[str, ...], name: str, status: int
) -> None:
    own = Papers(tmp_path / "own", *names)
    predictor = TlsPredictor(own.server()).listen()
    agent = await tls_agent(predictor, upstream_ca=own.ca, upstream_server_name=name)
    client = await agent.client()
    await client.send(post(b"x"))
    if status == 200:
        peer = await predictor.accept()
        await peer.request()
        await peer.send(OK)
    assert (await client.response()).status == status


async def test_checking_can_be_turned_off_and_that_is_said(
    tls_agent: TlsOpener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = Papers(tmp_path / "own", "x.test")
    with caplog.at_level(logging.WARNING, "headgate"):
        agent = await tls_agent(TlsPredictor(own.server()).listen(), upstream_verify="off")
    assert "upstream not verified" in [record.message for record in caplog.records]
    assert await is_served(agent, await agent.client())


async def test_the_agent_shows_its_own_certificate(tls_agent: TlsOpener, papers: Papers) -> None:
    context = papers.server()
    papers.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    predictor = TlsPredictor(context).listen()
    agent = await tls_agent(predictor, upstream_ca=papers.ca, upstream_cert=papers.cert, upstream_key=papers.key)
    assert await is_served(agent, await agent.client())


async def test_new_roots_are_for_new_connections_to_the_predictor(tls_agent: TlsOpener, tmp_path: Path) -> None:
    own, roots = Papers(tmp_path / "own"), Papers(tmp_path / "roots")
    agent = await tls_agent(TlsPredictor(own.server()).listen(), upstream_ca=roots.ca)
    client = await agent.client()
    await client.send(get())
    assert (await client.response()).status == 502
    roots.write(own.files)
    agent.server.secure.look()
    assert await is_served(agent, client)


async def test_the_start_is_looked_for_over_tls(tls_agent: TlsOpener, papers: Papers) -> None:
    """On a port that speaks both protocols by ALPN, the page is asked for over HTTP/1.1."""
    predictor = TlsPredictor(papers.server("h2", "http/1.1"))
    upstream = f"{predictor.url},{predictor.url.replace('https', 'h2')}"
    settings = {"upstream_ca": papers.ca, "ready_when": "reachable", "ready_path": "/v2/health/ready"}
    agent = await tls_agent(predictor, upstream, **settings)
    assert agent.server.drain.stage is Stage.STARTING
    predictor.listen()
    look = await predictor.accept()
    assert isinstance(look, TlsPeer)
    assert look.tls.selected_alpn_protocol() == "http/1.1"
    assert (await look.request()).target == b"/v2/health/ready"
    await look.send(OK)
    await eventually(lambda: agent.server.drain.stage is Stage.SERVING)


async def test_a_predictor_without_http_2_is_told_apart(tls_agent: TlsOpener, papers: Papers) -> None:
    predictor = TlsPredictor(papers.server("http/1.1"), scheme="h2").listen()
    agent = await tls_agent(predictor, upstream_ca=papers.ca, context=papers.client("h2"))
    client = Http2Client(await agent.client())
    await client.flush()
    half = await client.answer(await client.call(b"x"))
    assert (half.grpc_status, half.reason) == (14, b"upstream_tls")


async def test_a_predictor_in_the_clear_is_told_apart(tls_agent: TlsOpener, papers: Papers) -> None:
    predictor = FakePredictor().listen()
    agent = await tls_agent(predictor, predictor.url.replace("http", "https"), upstream_ca=papers.ca)
    client = await agent.client()
    await client.send(post(b"x"))
    peer = await predictor.accept()
    await peer.more()
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert (await client.response()).values(b"x-headgate-reason") == [b"upstream_tls"]


async def test_a_predictor_that_leaves_in_the_handshake_is_dialled_again(tls_agent: TlsOpener, papers: Papers) -> None:
    """It may be restarting: nothing of the request has been sent."""
    predictor = FakePredictor().listen()
    agent = await tls_agent(predictor, predictor.url.replace("http", "https"), upstream_ca=papers.ca)
    client = await agent.client()
    await client.send(post(b"x"))
    (await predictor.accept()).close()
    peer = await predictor.accept()
    again = await TlsPeer(peer.sock, papers.server()).handshake()
    predictor.peers[-1] = again
    assert (await again.request()).body == b"x"
    await again.send(OK)
    assert (await client.response()).raw == OK


async def test_a_handshake_with_the_predictor_has_a_time_out(
    tls_agent: TlsOpener, papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT_S", 0.05)
    predictor = FakePredictor().listen()
    agent = await tls_agent(predictor, predictor.url.replace("http", "https"), upstream_ca=papers.ca)
    client = await agent.client()
    await client.send(get())
    peer = await predictor.accept()
    assert (await client.response()).values(b"x-headgate-reason") == [b"upstream_unavailable"]
    await peer.ended()
