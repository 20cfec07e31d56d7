"""How agents are asked: in the clear, or over TLS, with the token that protects their admin ports."""

from typing import Any

from agent import logs
from agent.certificates import client_context
from agent.errors import CertificateError
from agent.files import Watched
from agent.security import token


class Access:
    """Files that are "" are not used. Raises agent.errors.CertificateError.

    `name` is whom the agents' certificates are for: they are asked by addresses, which few certificates name.
    """

    def __init__(self, ca: str = "", name: str = "", token_file: str = "") -> None:
        self.scheme = "https" if ca else "http"
        self._name = name
        self._context = Watched([ca], lambda: client_context(ca, alpn=["http/1.1"])) if ca else None
        self._token = Watched([token_file], lambda: token(token_file).decode()) if token_file else None

    def options(self) -> dict[str, Any]:
        """Arguments of a request of aiohttp's."""
        options: dict[str, Any] = {}
        if self._context is not None:
            options["ssl"] = self._context.made
            if self._name:
                options["server_hostname"] = self._name
        if self._token is not None:
            options["headers"] = {"Authorization": f"Bearer {self._token.made}"}
        return options

    def look(self) -> None:
        """Take over what has changed in the files; what is not whole changes nothing."""
        for watched in (self._context, self._token):
            try:
                if watched is not None and watched.refresh():
                    logs.event("access to agents exchanged")
            except CertificateError as error:
                logs.event("files kept", level=30, reason=str(error))
