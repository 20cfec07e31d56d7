"""Everything in the clear and open to everybody, unless the settings say otherwise."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from agent.settings import Settings
from agent.values import Address

if TYPE_CHECKING:
    from agent.net.handshakes import Dialled, Handshakes

HTTP1, HTTP2 = "http/1.1", "h2"


class Clear:
    """What the server asks of its security, and the answers where there is none; see agent.net.secure."""

    def __init__(self) -> None:
        self.ports: Mapping[str, Sequence[Handshakes]] = {"data": (), "admin": ()}

    @property
    def token(self) -> bytes | None:
        """What opens the admin port, if anything does."""
        return None

    @property
    def protects_admin(self) -> bool:
        """Whether the admin port has pages that are not for everybody."""
        return False

    def ends(self) -> Iterable[tuple[str, float]]:
        """When the certificates end that are shown, in seconds since 1970, after what they are for."""
        return ()

    def data_port(
        self,
        above: Callable[[bool], asyncio.BaseProtocol],  # noqa: ARG002 - as the next four: what it is told matters not
        *,
        http1: bool,  # noqa: ARG002
        http2: bool,  # noqa: ARG002
        room_for: Callable[[int], bool],  # noqa: ARG002
    ) -> Callable[[], asyncio.BaseProtocol] | None:
        """How to accept on a data port; None in the clear. `above` is told whether the client speaks HTTP/2.

        `room_for` says whether there is room for one more connection beside so many handshakes.
        """
        return None

    def admin_port(self, above: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.BaseProtocol]:
        """How to accept on the admin port."""
        return above

    def way(
        self,
        address: Address,  # noqa: ARG002
        alpn: str,  # noqa: ARG002
    ) -> "Callable[[asyncio.BaseProtocol], Dialled] | None":
        """How to put TLS under a connection to a predictor; None in the clear."""
        return None

    def warn(self) -> None:
        """Say what is less safe than it looks."""

    def look(self) -> None:
        """Take over what the files hold. What is not whole is said once, and changes nothing."""

    def stop(self, name: str) -> None:
        """End the handshakes that are under way on the ports of this name."""


def secured(loop: asyncio.AbstractEventLoop, settings: Settings, room: memoryview) -> Clear:
    """What the settings ask for. Raises agent.errors.CertificateError."""
    files = settings.tls_cert, settings.admin_tls_cert, settings.admin_token_file
    if not any(files) and not any(address.tls for route in settings.routes for address in route.addresses):
        return Clear()
    # Loaded where it is needed: an agent in the clear starts some milliseconds sooner.
    from agent.net.secure import Secure  # noqa: PLC0415

    return Secure(loop, settings, room)
