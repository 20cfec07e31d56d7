"""The beds with TLS on both sides of the agent: what holds in the clear is to hold there, too."""

import ssl
from collections.abc import AsyncIterator
from typing import Protocol

import pytest

from agent.net import http1_upstream as upstream_module
from tests.net.bed import OK, Bed, Opener, get
from tests.net.http2_bed import Http2Bed, Http2Opener
from tests.sockets import FakePredictor, Peer
from tests.tls import Papers, TlsPredictor, dial_tls


class TlsBed(Bed):
    """A running agent with TLS on both sides."""

    context: ssl.SSLContext

    async def _dial(self, host: str, port: int, kernel_buffer: int | None) -> Peer:
        return await dial_tls(host, port, self.context, kernel_buffer=kernel_buffer)


class TlsHttp2Bed(Http2Bed):
    """The same, with HTTP/2 on both sides."""

    context: ssl.SSLContext

    async def _dial(self, host: str, port: int, kernel_buffer: int | None) -> Peer:
        return await dial_tls(host, port, self.context, kernel_buffer=kernel_buffer)


async def is_served(agent: Bed, client: Peer) -> bool:
    """Whether a request on this connection gets through to the predictor and back."""
    await client.send(get())
    peer, _ = await agent.predictor.next()
    await peer.send(OK)
    return (await client.response()).raw == OK


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """One certificate for everybody; who renews it has one of their own."""
    return Papers(tmp_path_factory.mktemp("papers"))


class TlsOpener(Protocol):
    """Starts an agent whose data port speaks TLS, in front of a predictor in the clear unless told otherwise.

    `context` is what clients use; further keywords are settings by name, as text.
    """

    async def __call__(
        self,
        predictor: FakePredictor | None = None,
        upstream: str = "",
        *,
        context: ssl.SSLContext | None = None,
        **settings: str,
    ) -> TlsBed: ...


@pytest.fixture
async def tls_agent(papers: Papers, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TlsOpener]:
    """Each agent is checked after the test, as those of `bed` are."""
    monkeypatch.setattr(upstream_module, "REST_S", 0.0)
    beds: list[TlsBed] = []

    async def open_agent(
        predictor: FakePredictor | None = None,
        upstream: str = "",
        *,
        context: ssl.SSLContext | None = None,
        **settings: str,
    ) -> TlsBed:
        flags = {"tls_cert": papers.cert, "tls_key": papers.key, **settings}
        new = TlsBed(flags, predictor or FakePredictor().listen(), upstream)
        new.context = context or papers.client()
        beds.append(new)
        await new.server.start()
        return new

    yield open_agent
    for each in beds:
        await each.close()


@pytest.fixture
def tls_bed(tls_agent: TlsOpener, papers: Papers) -> Opener:
    """`bed` with TLS on both sides."""

    async def open_bed(predictor: FakePredictor | None = None, **settings: str) -> Bed:
        return await tls_agent(_over_tls(predictor, TlsPredictor(papers.server())), upstream_ca=papers.ca, **settings)

    return open_bed


@pytest.fixture
async def tls_h2bed(papers: Papers) -> AsyncIterator[Http2Opener]:
    """`h2bed` with TLS on both sides; the route's scheme is h2 for h2c."""
    beds: list[Http2Bed] = []

    async def open_bed(
        predictor: FakePredictor | None = None,
        *,
        scheme: str = "h2c",
        other: FakePredictor | None = None,
        **settings: str,
    ) -> Http2Bed:
        assert (scheme, other) == ("h2c", None)
        predictor = _over_tls(predictor, TlsPredictor(papers.server("h2"), scheme="h2"))
        flags = {"tls_cert": papers.cert, "tls_key": papers.key, "upstream_ca": papers.ca, **settings}
        new = TlsHttp2Bed(flags, predictor, predictor.url)
        new.context = papers.client("h2")
        beds.append(new)
        await new.server.start()
        return new

    yield open_bed
    for each in beds:
        await each.close()


def _over_tls(given: FakePredictor | None, predictor: TlsPredictor) -> FakePredictor:
    """In place of a predictor in the clear, one that listens if that does."""
    if isinstance(given, TlsPredictor):
        return given
    if given is None or given.is_listening:
        predictor.listen()
    if given is not None:
        given.close()
    return predictor
