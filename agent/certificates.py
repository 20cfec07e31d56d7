"""Certificate files: the contexts that they make, and what is wrong with them."""

import calendar
import re
import ssl
import time
from collections.abc import Sequence

from agent.errors import CertificateError
from agent.files import contents

# RFC 9325 section 4.2: forward secrecy and AEAD. TLS 1.3 has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:@SECLEVEL=2"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# ASN.1: the tag of the optional version, and of the older of the two forms of a time.
_VERSION, _UTC_TIME = 0xA0, 0x17


def server_context(
    cert: str, key: str, client_ca: str = "", *, alpn: Sequence[str] = (), optional: bool = False
) -> ssl.SSLContext:
    """What a port is served with. With `client_ca`, clients must have a certificate, or may if `optional`.

    Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, alpn)
    _load_pair(context, cert, key)
    if client_ca:
        _load_roots(context, client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED
        # A session that is resumed is not authenticated anew (CVE-2025-23419 is of that class). TLS 1.2 resumes within
        # one context all the same: without tickets OpenSSL would keep 20,480 of its sessions, 12 KB each.
        context.num_tickets = 0
    return context


def client_context(
    ca: str = "", cert: str = "", key: str = "", *, alpn: Sequence[str] = (), verify: bool = True
) -> ssl.SSLContext:
    """What a server is dialled with: its certificate must lead to `ca`, or to one of the system's roots.

    Raises CertificateError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _restrict(context, alpn)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        _load_roots(context, ca)
    else:
        context.load_default_certs()
    if cert:
        _load_pair(context, cert, key)
    return context


def unfit(flags: tuple[str, str, str], cert: str, key: str, roots: str) -> list[str]:
    """What is wrong with a pair and the roots for the other side, each of which may be ""; `flags` are their names."""
    problems = []
    if bool(cert) is not bool(key):
        problems.append(f"{flags[0]} and {flags[1]} need each other")
    elif cert:
        try:
            server_context(cert, key)
            not_after(cert)
        except CertificateError as error:
            problems.append(f"{flags[0]} and {flags[1]}: {error}")
    if roots:
        try:
            client_context(roots)
        except CertificateError as error:
            problems.append(f"{flags[2]}: {error}")
    return problems


def not_after(cert: str) -> float:
    """When the first certificate of a file ends, in seconds since 1970. Raises CertificateError."""
    match = _PEM.search(_text(cert))
    try:
        der = ssl.PEM_cert_to_DER_cert(match[0] if match else "")
        # RFC 5280 section 4.1: Certificate, in it TBSCertificate; then version?, serial, signature, issuer, validity.
        _, at, _ = _element(der, _element(der, 0)[1])
        tag, _, end = _element(der, at)
        for _ in range(3 if tag != _VERSION else 4):
            at = _element(der, at)[2]
        _, begin, _ = _element(der, at)
        tag, begin, end = _element(der, _element(der, begin)[2])
        text = der[begin:end].decode("ascii")
        if tag == _UTC_TIME:
            text = ("20" if text[:2] < "50" else "19") + text
        return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
    except (ValueError, IndexError) as error:
        raise CertificateError(f"{cert} holds no certificate that can be read: {error}") from None


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at a place, and where its content begins and ends."""
    tag, size, begin = der[at], der[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, begin = int.from_bytes(der[begin : begin + count], "big"), begin + count
    if begin + size > len(der):
        raise ValueError("it is cut off")
    return tag, begin, begin + size


def _restrict(context: ssl.SSLContext, alpn: Sequence[str]) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    # CVE-2009-3555 and CVE-2011-1473; CRIME.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if alpn:
        context.set_alpn_protocols(list(alpn))


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    _text(cert), _text(key)
    try:
        # The password of none: OpenSSL would ask for it on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:
        raise CertificateError(f"{cert} and {key} are no certificate with its key, as PEM: {error}") from None


def _load_roots(context: ssl.SSLContext, roots: str) -> None:
    text = _text(roots)
    try:
        context.load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        raise CertificateError(f"{roots} holds no certificates, as PEM: {error}") from None


def _text(path: str) -> str:
    """A file's text. Raises CertificateError; OpenSSL's own error would not name the file."""
    return contents(path).decode("ascii", "ignore")
