"""Who may read the admin port, where its settings say that not everybody may."""

import binascii
import hmac
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from agent.net.clear import Clear

# The kubelet's probes can show neither a certificate nor a secret.
OPEN = {"/healthz", "/readyz"}
# A browser can send no bearer token. It asks for a password, and sends it with what the page itself fetches, too.
_CHALLENGES = ('Bearer realm="headgate"', 'Basic realm="headgate", charset="UTF-8"')


class Guard:
    """Lets in who has a certificate that was verified in the handshake, or the token."""

    def __init__(self, secure: "Clear") -> None:
        self._secure = secure

    @web.middleware
    async def check(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A middleware of aiohttp's."""
        if self._lets_in(request):
            return await handler(request)
        refusal = web.Response(status=401, text="a client certificate or the bearer token is needed\n")
        for challenge in _CHALLENGES:
            refusal.headers.add("WWW-Authenticate", challenge)
        return refusal

    def _lets_in(self, request: web.Request) -> bool:
        if not self._secure.protects_admin or request.path in OPEN:
            return True
        transport = request.transport
        if transport is not None and transport.get_extra_info("peercert"):
            return True
        token = self._secure.token
        return token is not None and hmac.compare_digest(token, _presented(request.headers.get("Authorization", "")))


def _presented(authorization: str) -> bytes:
    """The token that a client shows: as a bearer's (RFC 6750), or as the password of any user (RFC 7617)."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value.encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            return b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            pass
    return b""
