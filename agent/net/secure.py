"""What `headgate serve` shows and keeps secret: certificates, roots, the token. Exchanged when their files are."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from agent import logs
from agent.certificates import client_context, not_after, server_context
from agent.errors import CertificateError
from agent.files import Watched
from agent.net.clear import HTTP1, HTTP2, Clear
from agent.net.guests import MOST
from agent.net.handshakes import Dialled, Handshakes
from agent.net.tls import Tls
from agent.security import Security, token
from agent.values import Address

# What a route can offer, by whether its predictor speaks HTTP/1.1 and HTTP/2.
_OFFERS: dict[tuple[bool, bool], tuple[str, ...]] = {
    (True, True): (HTTP2, HTTP1),
    (True, False): (HTTP1,),
    (False, True): (HTTP2,),
}
# Whoever speaks both, such as Prometheus, wants pages; only gRPC's health service is over HTTP/2, and gRPC offers
# nothing else.
_ADMIN_OFFER = (HTTP1, HTTP2)


class Made(NamedTuple):
    """Contexts by what they offer, and when the certificate that they show ends, if they show one."""

    contexts: dict[tuple[str, ...], Any]
    not_after: float | None


class Secure(Clear):
    """Made once, of the settings. Raises CertificateError. `look` takes over what has changed in the files.

    `room` is a buffer that everybody shares. `ports` are those that are served with TLS, by name.
    """

    ports: dict[str, list[Handshakes]]

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: Security, room: memoryview) -> None:
        super().__init__()
        self._loop = loop
        self._settings = settings
        self._room = room
        self.ports = {"data": [], "admin": []}
        self._sans = frozenset(settings.tls_client_sans)
        s = settings
        self._data = self._admin = None
        if s.tls_cert:
            self._data = Watched([s.tls_cert, s.tls_key, s.tls_client_ca], self._make_data)
        if s.admin_tls_cert:
            self._admin = Watched([s.admin_tls_cert, s.admin_tls_key, s.admin_tls_client_ca], self._make_admin)
        self._upstream: Watched[Made] | None = None
        self._token = Watched([s.admin_token_file], lambda: token(s.admin_token_file)) if s.admin_token_file else None

    @property
    def token(self) -> bytes | None:
        """What opens the admin port, if anything does."""
        return None if self._token is None else self._token.made

    @property
    def protects_admin(self) -> bool:
        """Whether the admin port has pages that are not for everybody."""
        return self._token is not None or bool(self._settings.admin_tls_client_ca)

    def ends(self) -> Iterator[tuple[str, float]]:
        """When the certificates end that are shown, in seconds since 1970, after what they are for."""
        for use, watched in (("data", self._data), ("admin", self._admin), ("upstream", self._upstream)):
            if watched is not None and watched.made.not_after is not None:
                yield use, watched.made.not_after

    def data_port(
        self,
        above: Callable[[bool], asyncio.BaseProtocol],
        *,
        http1: bool,
        http2: bool,
        room_for: Callable[[int], bool],
    ) -> Callable[[], asyncio.BaseProtocol] | None:
        """How to accept on a data port; None in the clear. `above` is told whether the client speaks HTTP/2.

        `room_for` says whether there is room for one more connection beside so many handshakes.
        """
        watched, offer = self._data, _OFFERS[http1, http2]
        if watched is None:
            return None

        def welcome(layer: Tls) -> asyncio.BaseProtocol | None:
            if self._sans and self._sans.isdisjoint(layer.peer_names):
                return None
            # The client said what it speaks, and nothing else is looked for (ALPACA).
            return above(layer.alpn == HTTP2)

        ports = self.ports["data"]
        handshakes = Handshakes(
            self._loop,
            self._room,
            lambda: watched.made.contexts[offer],
            welcome,
            lambda: not room_for(sum(port.pending for port in ports)),
        )
        ports.append(handshakes)
        return handshakes.accept

    def admin_port(self, above: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.BaseProtocol]:
        """How to accept on the admin port."""
        watched = self._admin
        if watched is None:
            return above
        handshakes = Handshakes(
            self._loop,
            self._room,
            lambda: watched.made.contexts[_ADMIN_OFFER],
            lambda _: above(),
            lambda: False,
            MOST,
        )
        self.ports["admin"].append(handshakes)
        return handshakes.accept

    def way(self, address: Address, alpn: str) -> Callable[[asyncio.BaseProtocol], Dialled] | None:
        """How to put TLS under a connection to a predictor; None in the clear."""
        if not address.tls:
            return None
        s = self._settings
        if self._upstream is None:
            self._upstream = Watched([s.upstream_ca, s.upstream_cert, s.upstream_key], self._make_upstream)
        # The root's dot is of the resolver's, and in no certificate (RFC 6066 section 3).
        watched, name = self._upstream, (s.upstream_server_name or address.host).removesuffix(".") or None
        # Every dial fails the same way, four times a second.
        failures = logs.Rarely("upstream tls failed", every_s=10.0)

        def dial(above: asyncio.BaseProtocol) -> Dialled:
            return Dialled(self._loop, above, watched.made.contexts[alpn,], self._room, name, alpn, failures)

        return dial

    def warn(self) -> None:
        """Say what is less safe than it looks."""
        if self._upstream is not None and not self._settings.upstream_verify:
            logs.event("upstream not verified", level=30, reason="--upstream-verify off")

    def look(self) -> None:
        """Take over what the files hold. What is not whole is said once, and changes nothing."""
        for use, watched in (
            ("data", self._data),
            ("admin", self._admin),
            ("upstream", self._upstream),
            ("token", self._token),
        ):
            if watched is None:
                continue
            try:
                if watched.refresh():
                    logs.event("certificates exchanged" if use != "token" else "token exchanged", use=use)
            except CertificateError as error:
                logs.event("files kept", level=30, use=use, reason=str(error))

    def stop(self, name: str) -> None:
        """End the handshakes that are under way on the ports of this name."""
        for port in self.ports[name]:
            port.stop()

    def _make_data(self) -> Made:
        s = self._settings
        contexts = {
            offer: server_context(s.tls_cert, s.tls_key, s.tls_client_ca, alpn=offer) for offer in _OFFERS.values()
        }
        return Made(contexts, not_after(s.tls_cert))

    def _make_admin(self) -> Made:
        s = self._settings
        # Optional, for the kubelet's probes have no certificate.
        context = server_context(
            s.admin_tls_cert, s.admin_tls_key, s.admin_tls_client_ca, alpn=_ADMIN_OFFER, optional=True
        )
        return Made({_ADMIN_OFFER: context}, not_after(s.admin_tls_cert))

    def _make_upstream(self) -> Made:
        s = self._settings
        contexts: dict[tuple[str, ...], Any] = {
            (alpn,): client_context(
                s.upstream_ca, s.upstream_cert, s.upstream_key, alpn=[alpn], verify=s.upstream_verify
            )
            for alpn in (HTTP1, HTTP2)
        }
        return Made(contexts, not_after(s.upstream_cert) if s.upstream_cert else None)
