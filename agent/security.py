"""The settings of TLS, on both sides and on the admin port, and of who may read the admin port.

They belong to `headgate serve`; see agent.settings.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent import values
from agent.errors import CertificateError
from agent.files import contents
from agent.knobs import knob

_KINDS = {"DNS": "DNS", "URI": "URI", "IP": "IP Address", "email": "email"}


def client_san(text: str) -> tuple[str, str]:
    """A subject alternative name: its type, as Python's ssl calls it, and its whole value."""
    kind, _, value = text.partition(":")
    known = kind in _KINDS and value.isascii() and value.isprintable() and " " not in value
    if known and kind == "IP":
        try:
            # As Python's ssl writes them: IPv6 in full and in capitals.
            address = ipaddress.ip_address(value)
            value = ":".join(f"{int(part, 16):X}" for part in address.exploded.split(":")) if ":" in value else value
        except ValueError:
            known = False
    if not known or not value:
        raise ValueError("DNS:NAME, URI:NAME, IP:ADDRESS or email:NAME, such as URI:spiffe://cluster.local/ns/a/sa/b")
    return _KINDS[kind], value


def server_name(text: str) -> str:
    """A name, or an address, that a certificate may be for; empty for the route's."""
    if text and not values.is_host(text):
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError("the name that the certificate is for, such as iris-predictor.default.svc") from None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """A part of the settings of `headgate serve`. Files are paths, "" for none."""

    tls_cert: str = knob(
        "tls-cert",
        "",
        str,
        "serve the data ports with TLS: the certificate and its chain, as PEM; watched",
        form="FILE",
    )
    tls_key: str = knob("tls-key", "", str, "the certificate's private key, as PEM; watched", form="FILE")
    tls_client_ca: str = knob(
        "tls-client-ca",
        "",
        str,
        "the roots that must have issued a client's certificate, as PEM; watched; without, clients need none",
        form="FILE",
    )
    tls_client_sans: tuple[tuple[str, str], ...] = knob(
        "tls-client-san",
        "",
        client_san,
        "a subject alternative name that a client's certificate must have, one of these if several (repeatable)",
        form="TYPE:NAME",
        repeat=True,
    )
    upstream_ca: str = knob(
        "upstream-ca",
        "",
        str,
        "the roots that must have issued the predictor's certificate, as PEM; watched; the system's by default",
        form="FILE",
    )
    upstream_server_name: str = knob(
        "upstream-server-name",
        "",
        server_name,
        "the name that the predictor's certificate is for, if it is not the host of the route",
        form="NAME",
    )
    upstream_cert: str = knob(
        "upstream-cert", "", str, "the certificate to show to the predictor, as PEM; watched", form="FILE"
    )
    upstream_key: str = knob("upstream-key", "", str, "its private key, as PEM; watched", form="FILE")
    upstream_verify: bool = knob(
        "upstream-verify",
        "on",
        lambda text: values.choice("on", "off")(text) == "on",
        "whether the predictor's certificate is checked; off encrypts to whoever answers",
        form="on|off",
    )
    admin_tls_cert: str = knob(
        "admin-tls-cert",
        "",
        str,
        "serve the admin port with TLS: the certificate and its chain, as PEM; watched",
        form="FILE",
    )
    admin_tls_key: str = knob("admin-tls-key", "", str, "its private key, as PEM; watched", form="FILE")
    admin_tls_client_ca: str = knob(
        "admin-tls-client-ca",
        "",
        str,
        "the roots whose certificates let in to the admin port's protected pages, as PEM; watched",
        form="FILE",
    )
    admin_token_file: str = knob(
        "admin-token-file",
        "",
        str,
        "a file with the bearer token that lets in to the admin port's protected pages; watched",
        form="FILE",
    )


def contradictions(given: Mapping[str, Any], *, look: bool) -> list[str]:
    """A sentence for each thing that cannot hold together; with `look`, for each file that is not what it should be."""
    problems = []
    if given.get("tls_client_ca") and not given.get("tls_cert"):
        problems.append("--tls-client-ca needs --tls-cert and --tls-key")
    if given.get("tls_client_sans") and not given.get("tls_client_ca"):
        problems.append("--tls-client-san needs --tls-client-ca")
    if given.get("admin_tls_client_ca") and not given.get("admin_tls_cert"):
        problems.append("--admin-tls-client-ca needs --admin-tls-cert and --admin-tls-key")
    problems += _meaningless(given) + _nameless(given)
    if not look:
        return problems
    # Not above: it loads ssl, and with it sockets, for whoever only reads settings.
    from agent.certificates import unfit  # noqa: PLC0415

    for cert, key, roots in (
        ("tls-cert", "tls-key", "tls-client-ca"),
        ("upstream-cert", "upstream-key", "upstream-ca"),
        ("admin-tls-cert", "admin-tls-key", "admin-tls-client-ca"),
    ):
        paths = [given.get(flag.replace("-", "_"), "") for flag in (cert, key, roots)]
        problems += unfit((f"--{cert}", f"--{key}", f"--{roots}"), *paths)
    path = given.get("admin_token_file")
    if path:
        try:
            token(path)
        except CertificateError as error:
            problems.append(f"--admin-token-file {error}")
    return problems


def token(path: str) -> bytes:
    """The token in a file. Raises CertificateError, naming the file, where there is none."""
    found = contents(path).strip()
    if not found or any(not 0x20 < byte < 0x7F for byte in found):
        raise CertificateError(f"{path} holds no token: one line of printable characters without spaces")
    return found


def _nameless(given: Mapping[str, Any]) -> list[str]:
    """Unix sockets with TLS: no part of their address is a name that a certificate could be for."""
    if given.get("upstream_server_name") or given.get("upstream_verify") is False:
        return []
    addresses = [address for route in given.get("routes", ()) for address in route.addresses]
    return ["--route to TLS on a Unix socket needs --upstream-server-name"] * any(a.tls and a.path for a in addresses)


def _meaningless(given: Mapping[str, Any]) -> list[str]:
    """What is said of TLS to a predictor that none is spoken to."""
    routes = given.get("routes")
    if routes is None or any(address.tls for route in routes for address in route.addresses):
        if given.get("upstream_verify") is False and given.get("upstream_ca"):
            return ["--upstream-ca is of no use with --upstream-verify off"]
        return []
    names = ("upstream_ca", "upstream_server_name", "upstream_cert", "upstream_key")
    told = [name for name in names if given.get(name)]
    if given.get("upstream_verify") is False:
        told.append("upstream_verify")
    return [f"--{name.replace('_', '-')} needs a --route to https:// or h2://" for name in told]
