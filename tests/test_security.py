"""The settings of TLS: what each accepts, what cannot hold together, and files that are not what they should be."""

import ssl
from pathlib import Path

import pytest

from agent.certificates import client_context
from agent.errors import SettingsError
from agent.knobs import Knob
from agent.security import Security, client_san, server_name, token
from agent.settings import Settings, knobs, resolve
from tests.tls import Papers

ROUTE = "8080=http://127.0.0.1:9000"
SECURE = "8080=https://127.0.0.1:9000"
KNOBS: dict[str, Knob] = {knob.flag: knob for knob in knobs(Security)}


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


def resolved(*, look: bool = True, route: str = ROUTE, **given: str) -> Settings:
    return resolve({"routes": [route], **{name: [text] for name, text in given.items()}}, {}, look=look)


def problems(*, route: str = ROUTE, **given: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        resolved(route=route, **given)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "http1", "http2"),
    [
        ("https://127.0.0.1:9000", True, None),
        ("h2://127.0.0.1:9001", None, True),
        ("https://127.0.0.1:9000,h2://127.0.0.1:9001", True, True),
        ("https://127.0.0.1:9000,h2://127.0.0.1:9000", True, True),
        ("http://127.0.0.1:9000,h2://127.0.0.1:9001", False, True),
        ("https+unix:/run/m.sock,h2c://127.0.0.1:9001", True, False),
    ],
)
def test_a_route_says_where_tls_is_spoken(text: str, http1: bool | None, http2: bool | None) -> None:
    (route,) = resolved(route=f"8080={text}", upstream_server_name="m.test").routes
    assert [address and address.tls for address in (route.http1, route.http2)] == [http1, http2]
    assert route.upstream == text


@pytest.mark.parametrize("host", [".test", "a..b", "x" * 64])
def test_a_host_that_cannot_be_dialled_is_refused(host: str) -> None:
    (problem,) = problems(route=f"8080=https://{host}:9000")
    assert host in problem


def test_all_is_in_the_clear_unless_told_otherwise() -> None:
    settings = resolved()
    texts = [getattr(settings, knob.name) for knob in KNOBS.values() if knob.flag != "--upstream-verify"]
    assert not any(texts)
    assert settings.upstream_verify is True


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DNS:client.test", ("DNS", "client.test")),
        ("URI:spiffe://cluster.local/ns/a/sa/b", ("URI", "spiffe://cluster.local/ns/a/sa/b")),
        ("email:a@b.test", ("email", "a@b.test")),
        ("IP:10.0.0.1", ("IP Address", "10.0.0.1")),
        ("IP:fd00::a", ("IP Address", "FD00:0:0:0:0:0:0:A")),
    ],
)
def test_a_name_has_its_type(text: str, name: tuple[str, str]) -> None:
    assert client_san(text) == name


@pytest.mark.parametrize(
    "text", ["", "client.test", "dns:client.test", "DNS:", "IP:client.test", "DNS:a\0b", "URI:a b"]
)
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="DNS:NAME"):
        client_san(text)


@pytest.mark.parametrize(
    "text",
    ["a b", "a/b", "a,b", "x" * 64, "x." * 127, "a\nb", "\u00e9.test", ".test", "a..b", ".", "*.test", "[::1]", "a:1"],
)
def test_a_server_name_that_is_none_is_refused(text: str) -> None:
    """Python raises for some of these where a connection is made, at each dial."""
    with pytest.raises(ValueError, match="the name that the certificate is for"):
        server_name(text)


@pytest.mark.parametrize("text", ["iris.default.svc", "iris.default.svc.", "x" * 63, "10.0.0.1", "fd00::1", "a_b-c"])
def test_a_server_name_that_is_accepted_can_be_dialled(text: str) -> None:
    assert server_name(text) == text
    client_context(verify=False).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=text)


CONTRADICTIONS = {
    "roots for clients alone": (ROUTE, {"tls_client_ca": "ca"}, "--tls-client-ca needs --tls-cert and --tls-key"),
    "names without roots": (ROUTE, {"tls_client_sans": "DNS:a"}, "--tls-client-san needs --tls-client-ca"),
    "roots for admins alone": (ROUTE, {"admin_tls_client_ca": "ca"}, "--admin-tls-client-ca needs --admin-tls-cert"),
    "a certificate alone": (ROUTE, {"tls_cert": "cert"}, "--tls-cert and --tls-key need each other"),
    "a key alone": (ROUTE, {"admin_tls_key": "key"}, "--admin-tls-cert and --admin-tls-key need each other"),
    "a key for the predictor alone": (SECURE, {"upstream_key": "key"}, "--upstream-cert and --upstream-key need each"),
    "roots for a predictor in the clear": (ROUTE, {"upstream_ca": "ca"}, "--upstream-ca needs a --route to https://"),
    "no check in the clear": (ROUTE, {"upstream_verify": "off"}, "--upstream-verify needs a --route to https://"),
    "roots and no check": (
        SECURE,
        {"upstream_verify": "off", "upstream_ca": "ca"},
        "--upstream-ca is of no use with --upstream-verify off",
    ),
    "a socket without a name": (
        "8080=https+unix:/run/m.sock",
        {},
        "--route to TLS on a Unix socket needs --upstream-server-name",
    ),
    "another's key": (ROUTE, {"tls_cert": "cert", "tls_key": "ca"}, "are no certificate with its key"),
    "a certificate that is not there": (ROUTE, {"tls_cert": "/no/file", "tls_key": "key"}, "/no/file: No such file"),
    "roots that are none": (SECURE, {"upstream_ca": "key"}, "holds no certificates"),
    "a token that is not there": (ROUTE, {"admin_token_file": "/no/file"}, "--admin-token-file /no/file: No such file"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_what_cannot_hold_together(case: str, papers: Papers) -> None:
    route, given, text = CONTRADICTIONS[case]
    files = {"cert": papers.cert, "key": papers.key, "ca": papers.ca}
    (problem,) = problems(route=route, **{name: files.get(value, value) for name, value in given.items()})
    assert text in problem


def test_all_files_are_looked_at_before_anything_is_said(papers: Papers) -> None:
    found = problems(
        route=SECURE,
        tls_cert=papers.cert,
        tls_key=papers.ca,
        upstream_ca="/no/file",
        admin_tls_cert="/no/file",
        admin_tls_key=papers.key,
        admin_token_file="/no/token",
        limit="0",
    )
    assert len(found) == 5


def test_a_file_that_is_being_replaced_does_not_stand_in_the_way_of_other_settings() -> None:
    settings = resolved(look=False, tls_cert="/no/file", tls_key="/no/key", admin_token_file="/no/token")
    assert settings.tls_cert == "/no/file"


def test_everything_at_once_is_accepted(papers: Papers, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    settings = resolved(
        route="8080=https://127.0.0.1:9000,h2://127.0.0.1:9000",
        tls_cert=papers.cert,
        tls_key=papers.key,
        tls_client_ca=papers.ca,
        tls_client_sans="DNS:a",
        upstream_ca=papers.ca,
        upstream_server_name="m.test",
        upstream_cert=papers.cert,
        upstream_key=papers.key,
        admin_tls_cert=papers.cert,
        admin_tls_key=papers.key,
        admin_tls_client_ca=papers.ca,
        admin_token_file=str(tmp_path / "token"),
    )
    assert settings.shown()["tls_client_sans"] == ["DNS:a"]
    assert settings.shown()["routes"] == ["0.0.0.0:8080=https://127.0.0.1:9000,h2://127.0.0.1:9000"]


@pytest.mark.parametrize("text", ["", "\n", "two words", "caf\u00e9", "a\nb"])
def test_a_token_is_one_word(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(ValueError, match="holds no token"):
        token(str(tmp_path / "token"))
    (tmp_path / "token").write_text(" s3cret\r\n")
    assert token(str(tmp_path / "token")) == b"s3cret"
