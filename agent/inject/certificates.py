"""The webhook's certificate: watched files, exchanged without a restart, and self-made ones."""

import base64
import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Nothing renews a self-made certificate, and one that has expired means that pods silently get no agent. So it lives
# long, its key serves nothing else, and /metrics tells when it ends.
_SELF_MADE = datetime.timedelta(days=3650)
# Clocks of nodes differ.
_SLACK = datetime.timedelta(hours=1)


class CertificateError(Exception):
    """The files hold no certificate with its key; the message names them."""


class Certificates:
    """A pair of files. Connections get what the files held when they were last found whole."""

    def __init__(self, cert: str, key: str) -> None:
        """Read both. Raises CertificateError."""
        self._files = Path(cert), Path(key)
        self._seen = self._stamp()
        self._current, self.not_after = self._load()
        # The context that is listened with only hands connections over to the current one (PEP 466's SNI callback,
        # which runs without a name, too): reloading a live context could leave it with half a pair.
        self.context = self._load()[0]
        self.context.sni_callback = self._hand_over

    def refresh(self) -> bool:
        """Look at the files. Returns whether they hold something new, which is used from now on.

        Raises CertificateError when they do and it is not whole: the old pair stays, and the next call tries again.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._current, self.not_after = self._load()
        self._seen = stamp
        return True

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _stamp(self) -> list[tuple[int, int, int]]:
        try:
            states = [path.stat() for path in self._files]
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from None
        return [(state.st_mtime_ns, state.st_ino, state.st_size) for state in states]

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """A context with the pair, and the second since 1970 when its certificate ends."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        cert, key = self._files
        try:
            context.load_cert_chain(cert, key)
            certificate = x509.load_pem_x509_certificate(cert.read_bytes())
        except (OSError, ValueError) as error:
            raise CertificateError(f"{cert} and {key} are no certificate with its key: {error}") from None
        return context, certificate.not_valid_after_utc.timestamp()


def self_made(namespace: str, service: str, now: datetime.datetime) -> str:
    """A Secret, as YAML, with a certificate for a Service, its key, and the root that issued it.

    The root's own key is forgotten: nothing else can be issued by it.
    """
    host = f"{service}.{namespace}.svc"
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{service} root")])
    root = (
        _unsigned(root_name, root_name, root_key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        _unsigned(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]), root_name, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    data = {
        "ca.crt": root.public_bytes(serialization.Encoding.PEM),
        "tls.crt": certificate.public_bytes(serialization.Encoding.PEM),
        "tls.key": private,
    }
    lines = [f"  {name}: {base64.b64encode(value).decode()}" for name, value in data.items()]
    head = f"apiVersion: v1\nkind: Secret\nmetadata:\n  name: {service}-tls\n  namespace: {namespace}\n"
    until = certificate.not_valid_after_utc
    return (
        f"# For {host} until {until:%Y-%m-%d}. It holds a private key: keep it out of version control.\n"
        f"{head}type: kubernetes.io/tls\ndata:\n" + "\n".join(lines) + "\n"
    )


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _SELF_MADE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
