"""The webhook's certificate: exchanged without a restart, and self-made ones."""

import base64
import datetime
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from agent.certificates import not_after, server_context
from agent.files import Watched

# Nothing renews a self-made certificate, and one that has expired means that pods silently get no agent. So it lives
# long, its key serves nothing else, and /metrics tells when it ends.
_SELF_MADE = datetime.timedelta(days=3650)
# Clocks of nodes differ.
_SLACK = datetime.timedelta(hours=1)


class Certificates:
    """A pair of files. Connections get what the files held when they were last found whole."""

    def __init__(self, cert: str, key: str) -> None:
        """Read both. Raises agent.errors.CertificateError."""
        self._cert, self._key = cert, key
        self._watched = Watched([cert, key], self._load)
        # The context that is listened with only hands connections over to the current one (PEP 466's SNI callback,
        # which runs without a name, too): reloading a live context could leave it with half a pair.
        self.context = self._load()[0]
        self.context.sni_callback = self._hand_over

    @property
    def not_after(self) -> float:
        """When the certificate ends, in seconds since 1970."""
        return self._watched.made[1]

    def refresh(self) -> bool:
        """See agent.certificates.Watched."""
        return self._watched.refresh()

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._watched.made[0]

    def _load(self) -> tuple[ssl.SSLContext, float]:
        return server_context(self._cert, self._key, alpn=["http/1.1"]), not_after(self._cert)


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
