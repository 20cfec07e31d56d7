"""Certificate files: what they make, when they end, and that half-written ones change nothing."""

import contextlib
import datetime
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from agent.certificates import client_context, not_after, server_context, unfit
from agent.errors import CertificateError
from agent.files import Watched
from tests.tls import NAME, Papers


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


def test_nothing_old_or_weak_is_offered(papers: Papers) -> None:
    for context in (server_context(papers.cert, papers.key), client_context(papers.ca)):
        suites = [suite for suite in context.get_ciphers() if suite["protocol"] != "TLSv1.3"]
        assert suites
        assert all(suite["name"].startswith("ECDHE-") and suite["aead"] for suite in suites)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


def test_clients_are_asked_for_certificates_where_there_are_roots_for_them(papers: Papers) -> None:
    assert server_context(papers.cert, papers.key).verify_mode is ssl.CERT_NONE
    assert server_context(papers.cert, papers.key, papers.ca).verify_mode is ssl.CERT_REQUIRED
    assert server_context(papers.cert, papers.key, papers.ca, optional=True).verify_mode is ssl.CERT_OPTIONAL


def test_sessions_of_clients_with_certificates_are_not_kept(papers: Papers) -> None:
    """OpenSSL would keep 20,480 of TLS 1.2, with the certificate in each."""
    served = server_context(papers.cert, papers.key, papers.ca)
    dialled = client_context(papers.ca, papers.cert, papers.key)
    dialled.maximum_version = ssl.TLSVersion.TLSv1_2
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = dialled.wrap_bio(back, there, server_hostname=NAME)
    server = served.wrap_bio(there, back, server_side=True)
    for end in (client, server, client, server, client):
        with contextlib.suppress(ssl.SSLWantReadError):
            end.do_handshake()
    with contextlib.suppress(ssl.SSLWantReadError):
        server.unwrap()
    assert served.session_stats()["accept_good"] == 1
    assert served.session_stats()["number"] == 0


def test_a_certificate_whose_end_cannot_be_read_is_unfit(papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "cert").write_bytes(papers.files["tls.crt"].replace(b"CERTIFICATE", b"X509 CERTIFICATE"))
    server_context(str(tmp_path / "cert"), papers.key)
    (problem,) = unfit(("--tls-cert", "--tls-key", "--tls-client-ca"), str(tmp_path / "cert"), papers.key, "")
    assert "holds no certificate that can be read" in problem


def test_a_servers_name_is_checked_unless_nothing_is(papers: Papers) -> None:
    assert client_context(papers.ca).check_hostname
    unchecked = client_context(verify=False)
    assert (unchecked.check_hostname, unchecked.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize("year", [2049, 2050, 2999])
def test_the_end_of_a_certificate_is_read_in_either_form(year: int, tmp_path: Path) -> None:
    end = datetime.datetime(year, 12, 31, 23, 59, 58, tzinfo=datetime.UTC)
    leaf = trustme.CA().issue_cert("a.test", not_after=end.replace(tzinfo=None))
    path = tmp_path / "cert"
    path.write_bytes(b"prose before it\n" + b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    found = not_after(str(path))
    assert found == end.timestamp()
    assert found == x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_ends_never(text: str, tmp_path: Path) -> None:
    (tmp_path / "cert").write_text(text)
    with pytest.raises(CertificateError, match="cert holds no certificate that can be read"):
        not_after(str(tmp_path / "cert"))


def test_roots_may_have_prose_between_them(papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "roots").write_bytes("caf\u00e9\n".encode() + papers.files["ca.crt"] + trustme.CA().cert_pem.bytes())
    assert len(client_context(str(tmp_path / "roots")).get_ca_certs()) == 2


def test_an_encrypted_key_is_no_key(papers: Papers, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415

    key = serialization.load_pem_private_key(papers.files["tls.key"], None)
    kind = serialization.PrivateFormat.PKCS8
    encrypted = key.private_bytes(serialization.Encoding.PEM, kind, serialization.BestAvailableEncryption(b"x"))
    (tmp_path / "key").write_bytes(encrypted)
    flags = ("--tls-cert", "--tls-key", "--tls-client-ca")
    (problem,) = unfit(flags, papers.cert, str(tmp_path / "key"), "")
    assert "are no certificate with its key" in problem


class Made:
    """Something made of the files, and how often."""

    def __init__(self, papers: Papers) -> None:
        self.count = 0
        self._papers = papers

    def make(self) -> int:
        server_context(self._papers.cert, self._papers.key)
        self.count += 1
        return self.count


def test_files_are_read_when_they_have_changed_and_not_before(papers: Papers) -> None:
    made = Made(papers)
    watched = Watched([papers.cert, papers.key, ""], made.make)
    assert [watched.refresh() for _ in range(3)] == [False] * 3
    papers.renew()
    assert [watched.refresh() for _ in range(3)] == [True, False, False]
    assert (watched.made, made.count) == (2, 2)


def test_what_is_not_whole_is_told_once_and_tried_again(papers: Papers) -> None:
    watched = Watched([papers.cert, papers.key], Made(papers).make)
    before = papers.files
    papers.renew()
    after = papers.files
    broken = [{**before, "tls.crt": after["tls.crt"]}, {"tls.key": after["tls.key"]}, {**after, "tls.crt": b"-----BEG"}]
    for files in broken:
        papers.write(files)
        with pytest.raises(CertificateError):
            watched.refresh()
        assert [watched.refresh() for _ in range(3)] == [False] * 3
        assert watched.made == 1
    papers.write(after)
    assert watched.refresh()
    assert watched.made == 2


def test_files_that_are_back_are_no_news(papers: Papers) -> None:
    watched = Watched([papers.cert], lambda: Path(papers.cert).read_bytes())
    link = papers.directory / "..data"
    target = link.readlink()
    link.unlink()
    with pytest.raises(FileNotFoundError):
        watched.refresh()
    link.symlink_to(target)
    assert not watched.refresh()
