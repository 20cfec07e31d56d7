"""TLS itself: who gets in, what is spoken, what handshakes may cost, and what a cut connection is taken for."""

import datetime
import logging
import ssl
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import Outcome
from agent.net import handshakes
from agent.net.handshakes import Result
from tests.net.bed import Bed, get, post
from tests.net.http2_peers import HELLO, Http2Client, framed, grpc_head
from tests.net.tls_bed import TlsOpener, is_served
from tests.sockets import IncompleteError, Peer, dial, eventually
from tests.tls import Papers, TlsPeer, dial_tls
from tests.wire import frames_by_hand as raw

HTTP_1_1_REQUIRED = 13


def place(agent: Bed) -> tuple[str, int]:
    """The data port's."""
    host, _, port = agent.server.addresses[0].rpartition(":")
    return host, int(port)


def counts(agent: Bed) -> dict[Result, int]:
    """Handshakes of the data port by how they ended, those that did."""
    [port] = agent.server.secure.ports["data"]
    return {result: count for result, count in port.counts.items() if count}


async def connect(agent: Bed, context: ssl.SSLContext) -> TlsPeer:
    """A client with a context of its own."""
    peer = await dial_tls(*place(agent), context)
    agent._clients.append(peer)
    return peer


async def raw_client(agent: Bed) -> Peer:
    """A client that has sent nothing yet."""
    peer = await dial(*place(agent))
    agent._clients.append(peer)
    return peer


async def is_turned_away(agent: Bed, context: ssl.SSLContext) -> bool:
    """Whether a client gets nothing. With TLS 1.3 it learns that after its own part of the handshake."""
    try:
        client = await connect(agent, context)
        await client.send(get())
        await client.more()
    except (ssl.SSLError, IncompleteError, ConnectionError):
        return not agent.begun and agent.predictor.is_left_alone()
    return False


# What is spoken

HTTP1, HTTP2, BOTH = ("http/1.1",), ("h2",), ("h2", "http/1.1")


@pytest.mark.parametrize(
    ("scheme", "offer", "agreed"),
    [
        ("http", BOTH, "http/1.1"),
        ("http", HTTP2, None),
        ("http", (), None),
        ("h2c", BOTH, "h2"),
        ("h2c", HTTP1, None),
        ("auto", BOTH, "h2"),
        ("auto", ("http/1.1", "h2"), "h2"),
        ("auto", HTTP1, "http/1.1"),
        ("auto", ("spdy/1",), None),
    ],
)
async def test_what_the_predictor_speaks_is_what_is_offered(
    tls_agent: TlsOpener, papers: Papers, scheme: str, offer: tuple[str, ...], agreed: str | None
) -> None:
    agent = await tls_agent(upstream=f"{scheme}://127.0.0.1:1")
    client = await connect(agent, papers.client(*offer))
    assert client.tls.selected_alpn_protocol() == agreed


@pytest.mark.parametrize("offer", [(), HTTP1])
async def test_without_agreement_on_it_http_2_is_refused(
    tls_agent: TlsOpener, papers: Papers, offer: tuple[str, ...]
) -> None:
    agent = await tls_agent(upstream="auto://127.0.0.1:1")
    client = await connect(agent, papers.client(*offer))
    await client.send(HELLO)
    frames = raw.parse(await client.rest())
    assert [frame.kind for frame in frames] == [raw.SETTINGS, raw.GOAWAY]
    assert frames[1].payload[7] == HTTP_1_1_REQUIRED
    assert not agent.begun


async def test_after_agreement_on_http_2_a_request_of_http_1_is_refused(tls_agent: TlsOpener, papers: Papers) -> None:
    agent = await tls_agent(upstream="auto://127.0.0.1:1")
    client = await connect(agent, papers.client("h2"))
    await client.send(post(b"x"))
    assert (await client.response()).status == 505
    assert await client.rest() == b""
    assert (agent.begun, agent.faults) == (0, [Outcome.VERSION_UNSUPPORTED])


# Who gets in


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_of_tls_are_served(tls_agent: TlsOpener, papers: Papers, version: ssl.TLSVersion) -> None:
    agent = await tls_agent()
    context = papers.client()
    context.minimum_version = context.maximum_version = version
    assert await is_served(agent, await connect(agent, context))
    assert counts(agent) == {Result.DONE: 1}


@pytest.mark.parametrize(
    "data",
    [
        get(),
        HELLO,
        b"\x16\x03\x01" + b"\xff" * 200,
        b"\x80\x2e\x01\x00\x02",
        b"\0" * 64,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
    ids=["HTTP/1.1", "HTTP/2", "a broken hello", "SSLv2", "zeros", "SSH", "an alert"],
)
async def test_what_is_no_tls_reaches_nobody(tls_agent: TlsOpener, papers: Papers, data: bytes) -> None:
    agent = await tls_agent()
    client = await raw_client(agent)
    await client.send(data)
    if data == b"\x80\x2e\x01\x00\x02":
        client.half_close()
    end = await client.ended()
    assert b"HTTP" not in end.data
    assert counts(agent) == {Result.FAILED: 1}
    assert (agent.begun, agent.faults) == (0, [])
    assert await is_served(agent, await agent.client())


async def test_who_fails_is_told_about_rarely(tls_agent: TlsOpener, caplog: pytest.LogCaptureFixture) -> None:
    agent = await tls_agent()
    with caplog.at_level(logging.WARNING, "headgate"):
        for _ in range(20):
            client = await raw_client(agent)
            await client.send(get())
            await client.ended()
    told: list[Any] = [record for record in caplog.records if record.message == "handshake failed"]
    assert 1 <= len(told) < 10
    assert told[0].facts == {"peer": "127.0.0.1", "reason": "HTTP_REQUEST"}
    assert counts(agent) == {Result.FAILED: 20}


async def test_who_comes_and_goes_is_a_probe(tls_agent: TlsOpener, caplog: pytest.LogCaptureFixture) -> None:
    agent = await tls_agent()
    [port] = agent.server.secure.ports["data"]
    client = await raw_client(agent)
    await eventually(lambda: port.pending)
    client.close()
    await eventually(lambda: not port.pending)
    assert counts(agent) == {}
    assert "handshake failed" not in caplog.text


class Clients:
    """An authority for clients, and what clients with certificates of it use."""

    def __init__(self, directory: Path, papers: Papers) -> None:
        self._papers = papers
        self._directory = directory
        self.authority = trustme.CA()
        self.ca = str(directory / "clients")
        self.trust(self.authority)

    def trust(self, authority: trustme.CA) -> None:
        """Write what the agent reads."""
        authority.cert_pem.write_to_path(self.ca)

    def context(
        self, *names: x509.GeneralName, raw: bytes = b"", authority: trustme.CA | None = None
    ) -> ssl.SSLContext:
        """Made by hand, for trustme checks what a name may be. `raw` is the encoded names, in place of `names`."""
        authority = authority or self.authority
        issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
        issuer_key: Any = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "client.test")])
        builder = x509.CertificateBuilder(
            issuer.subject, subject, key.public_key(), 1, issuer.not_valid_before_utc, datetime.datetime(2999, 1, 1)
        )
        alternatives: x509.ExtensionType = x509.SubjectAlternativeName(names or [x509.DNSName("client.test")])
        if raw:
            alternatives = x509.UnrecognizedExtension(alternatives.oid, raw)
        leaf = builder.add_extension(alternatives, critical=False).sign(issuer_key, hashes.SHA256())
        kind = serialization.PrivateFormat.PKCS8
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        pem += key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
        path = self._directory / "client.pem"
        path.write_bytes(pem)
        context = self._papers.client()
        context.load_cert_chain(path)
        return context


@pytest.fixture
def clients(tmp_path: Path, papers: Papers) -> Clients:
    return Clients(tmp_path, papers)


async def test_a_client_certificate_is_asked_for_and_checked(tls_agent: TlsOpener, clients: Clients) -> None:
    agent = await tls_agent(tls_client_ca=clients.ca)
    assert await is_turned_away(agent, agent.context)
    assert await is_turned_away(agent, clients.context(authority=trustme.CA()))
    assert counts(agent) == {Result.FAILED: 2}
    assert await is_served(agent, await connect(agent, clients.context()))


DNS, URI = x509.DNSName, x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    ("wanted", "names", "is_let_in"),
    [
        ("DNS:client.test", [DNS("client.test")], True),
        ("DNS:client.test", [DNS("other.test"), DNS("client.test")], True),
        ("URI:spiffe://c/ns/a/sa/b", [URI("spiffe://c/ns/a/sa/b")], True),
        ("email:a@b.test", [x509.RFC822Name("a@b.test")], True),
        ("DNS:client.test", [DNS("other.test")], False),
        ("DNS:client.test", [DNS("*.test")], False),
        ("DNS:client.test", [DNS("sub.client.test")], False),
        ("DNS:client.test", [DNS("client.test.evil.test")], False),
        ("DNS:client.test", [DNS("client.test\0.evil.test")], False),
        ("DNS:client.test", [URI("client.test")], False),
        ("URI:spiffe://c/ns/a/sa/b", [DNS("spiffe://c/ns/a/sa/b")], False),
        ("URI:spiffe://c/ns/a/sa/b", [URI("spiffe://c/ns/a/sa/b/c")], False),
    ],
)
async def test_a_name_is_compared_whole_and_by_its_type(
    tls_agent: TlsOpener, clients: Clients, wanted: str, names: list[x509.GeneralName], *, is_let_in: bool
) -> None:
    """CVE-2025-66220, and its older kin."""
    agent = await tls_agent(tls_client_ca=clients.ca, tls_client_sans=wanted)
    context = clients.context(*names)
    if is_let_in:
        assert await is_served(agent, await connect(agent, context))
    else:
        assert await is_turned_away(agent, context)
        assert counts(agent) == {Result.UNWELCOME: 1}


async def test_a_name_that_is_no_text_is_none(tls_agent: TlsOpener, clients: Clients) -> None:
    """Python raises where it is asked for the names."""
    agent = await tls_agent(tls_client_ca=clients.ca, tls_client_sans="DNS:client.test")
    assert await is_turned_away(agent, clients.context(raw=b"\x30\x04\x82\x02\xff\xfe"))
    assert counts(agent) == {Result.UNWELCOME: 1}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_from_before_new_roots_lets_nobody_in(
    tls_agent: TlsOpener, clients: Clients, version: ssl.TLSVersion
) -> None:
    """CVE-2025-23419 is of that class: what is resumed is not authenticated anew."""
    agent = await tls_agent(tls_client_ca=clients.ca)
    context = clients.context()
    context.minimum_version = context.maximum_version = version
    first = await connect(agent, context)
    assert await is_served(agent, first)
    session = first.tls.session
    assert version is ssl.TLSVersion.TLSv1_2 or session is None or not session.has_ticket
    clients.trust(trustme.CA())
    agent.server.secure.look()
    agent.forget()
    assert await is_served(agent, first), "what is open goes on"
    agent.forget()
    peer = await dial(*place(agent))
    again = TlsPeer(peer.sock, context, "127.0.0.1", session=session)
    agent._clients.append(again)
    with pytest.raises((ssl.SSLError, IncompleteError, ConnectionError)):  # noqa: PT012 - in either of the two
        await again.handshake()
        await again.send(get())
        await again.more()
    assert not again.tls.session_reused
    assert not agent.begun


# Certificates that are replaced


async def test_new_files_are_for_new_connections(tls_agent: TlsOpener, tmp_path: Path) -> None:
    papers = Papers(tmp_path / "own")
    agent = await tls_agent(tls_cert=papers.cert, tls_key=papers.key, context=papers.client())
    old = await agent.client()
    assert isinstance(old, TlsPeer)
    papers.renew()
    agent.server.secure.look()
    new = await connect(agent, papers.client())
    assert await is_served(agent, old)
    assert await is_served(agent, new)
    assert old.serial != new.serial
    papers.renew(trustme.CA())
    agent.server.secure.look()
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(agent, agent.context)
    assert await is_served(agent, await connect(agent, papers.client()))


async def test_half_of_a_new_pair_changes_nothing_and_is_told_once(
    tls_agent: TlsOpener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    papers = Papers(tmp_path / "own")
    agent = await tls_agent(tls_cert=papers.cert, tls_key=papers.key, context=papers.client())
    before = papers.files
    papers.renew()
    papers.write({**papers.files, "tls.key": before["tls.key"]})
    with caplog.at_level(logging.INFO, "headgate"):
        for _ in range(3):
            agent.server.secure.look()
            assert await is_served(agent, await agent.client())
        papers.write(papers.files)
        agent.server.secure.look()
    told: list[Any] = [record for record in caplog.records if record.message != "predictor reachable"]
    assert [record.message for record in told] == ["files kept", "certificates exchanged"]
    assert papers.cert in told[0].facts["reason"]
    assert await is_served(agent, await agent.client())


async def test_the_end_of_each_certificate_is_a_metric(tls_agent: TlsOpener, papers: Papers) -> None:
    agent = await tls_agent(
        upstream="https://127.0.0.1:1", upstream_ca=papers.ca, upstream_cert=papers.cert, upstream_key=papers.key
    )
    text = (await agent.page(b"/metrics")).decode()
    for use in ("data", "upstream"):
        [line] = [line for line in text.splitlines() if f'not_after_seconds{{use="{use}"}}' in line]
        assert float(line.split()[1]) > 2e9
    assert 'headgate_tls_handshakes_total{port="data",result="done"} 0' in text


# What handshakes may cost


async def test_a_handshake_that_takes_too_long_is_ended(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    silent, slow = await raw_client(agent), await raw_client(agent)
    await slow.send(b"\x16\x03\x01\x02\x00\x01")
    [port] = agent.server.secure.ports["data"]
    await eventually(lambda: port.pending == 2)
    port.expire(monotonic() + handshakes.TIMEOUT_S - 5)
    assert port.pending == 2
    port.expire(monotonic() + handshakes.TIMEOUT_S)
    for client in (silent, slow):
        await client.ended()
    assert counts(agent) == {Result.TIMEOUT: 2}


async def test_the_oldest_handshake_gives_way(tls_agent: TlsOpener, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await tls_agent()
    [port] = agent.server.secure.ports["data"]
    monkeypatch.setattr(port, "_most", 4)
    flood = [await raw_client(agent) for _ in range(9)]
    for client in flood[:5]:
        await client.ended()
    assert counts(agent) == {Result.CROWDED: 5}
    assert await is_served(agent, await agent.client())


async def test_handshakes_count_as_connections(tls_agent: TlsOpener) -> None:
    agent = await tls_agent(max_connections="3")
    client = await agent.client()
    [port] = agent.server.secure.ports["data"]
    for _ in range(2):
        await raw_client(agent)
    await eventually(lambda: port.pending == 2)
    await (await raw_client(agent)).ended()
    assert counts(agent) == {Result.DONE: 1, Result.FULL: 1}
    assert await is_served(agent, client)


async def test_one_handshake_a_turn_leaves_the_others_their_share(tls_agent: TlsOpener) -> None:
    """However many have sent their part, a request on an open connection waits for few of them."""
    agent = await tls_agent()
    client = await agent.client()
    assert await is_served(agent, client)
    [port] = agent.server.secure.ports["data"]
    before = port.counts[Result.DONE]
    crowd = []
    for _ in range(64):
        peer = await raw_client(agent)
        stranger = TlsPeer(peer.sock, agent.context, "127.0.0.1")
        with pytest.raises(ssl.SSLWantReadError):
            stranger.tls.do_handshake()
        crowd.append(stranger)
    await eventually(lambda: port.pending == 64)
    for stranger in crowd:
        stranger.sock.send(stranger._outgoing.read())
    assert await is_served(agent, client)
    assert sum(stranger.has_more for stranger in crowd) < 64, "the others have not all had their turn before"
    for stranger in crowd:
        await stranger.handshake()
        stranger.close()
    await eventually(lambda: port.counts[Result.DONE] == before + 64)


async def test_a_drain_waits_for_no_handshake(tls_agent: TlsOpener) -> None:
    agent = await tls_agent()
    client = await raw_client(agent)
    [port] = agent.server.secure.ports["data"]
    await eventually(lambda: port.pending)
    agent.server.drain.begin()
    await agent.server.drain.wait()
    await client.ended()


# The admin port


async def test_the_admin_port_speaks_tls_and_knows_certificates(
    tls_agent: TlsOpener, papers: Papers, clients: Clients, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret")
    agent = await tls_agent(
        admin_tls_cert=papers.cert,
        admin_tls_key=papers.key,
        admin_tls_client_ca=clients.ca,
        admin_token_file=str(tmp_path / "token"),
    )
    host, _, port = agent.server.admin_address.rpartition(":")

    async def ask(context: ssl.SSLContext, path: bytes, *fields: bytes) -> int:
        peer = await dial_tls(host, int(port), context)
        try:
            await peer.send(get(path, b"Connection: close", *fields))
            return (await peer.response()).status
        finally:
            peer.close()

    token = b"Authorization: Bearer s3cret"
    assert await ask(papers.client(), b"/readyz") == 200
    assert await ask(papers.client(), b"/metrics") == 401
    assert await ask(papers.client(), b"/metrics", token) == 200
    assert await ask(clients.context(), b"/metrics") == 200
    assert await ask(papers.client("h2", "http/1.1"), b"/metrics", token) == 200
    with pytest.raises((ssl.SSLError, IncompleteError)):
        await ask(clients.context(authority=trustme.CA()), b"/readyz")
    # gRPC probes offer HTTP/2 alone, and show nothing.
    probe = Http2Client(await dial_tls(host, int(port), papers.client("h2")))
    await probe.flush()
    checked = await probe.answer(await probe.send(grpc_head(b"/grpc.health.v1.Health/Check"), framed(b"")))
    assert (checked.grpc_status, bytes(checked.body)) == (0, framed(b"\x08\x01"))
    probe.peer.close()
    (tmp_path / "token").write_text("another")
    agent.server.secure.look()
    assert await ask(papers.client(), b"/metrics", token) == 401
    (tmp_path / "token").write_text("")
    agent.server.secure.look()
    assert await ask(papers.client(), b"/metrics", b"Authorization: Bearer") == 401
    assert await ask(papers.client(), b"/metrics", b"Authorization: Bearer another") == 200
