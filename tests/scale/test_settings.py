"""The scaler's knobs: defaults, ranges, files that do not fit, and their rows in the documents."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trustme

import agent
from agent.cli import main
from agent.errors import SettingsError
from agent.scale.settings import ScalerSettings, resolve
from agent.settings import knobs
from agent.values import Listen

KNOBS = {knob.flag: knob for knob in knobs(ScalerSettings)}


def resolved(env: dict[str, str] | None = None, **flags: str) -> ScalerSettings:
    return resolve({name: [text] for name, text in flags.items()}, env or {})


def problems(**flags: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        resolved(**flags)
    return caught.value.problems


def test_the_defaults() -> None:
    assert resolved() == ScalerSettings(
        listen=Listen("0.0.0.0", 8482),
        tls_cert="",
        tls_key="",
        tls_client_ca="",
        scrape_timeout=1.0,
        interval=1.0,
        hold=60.0,
        agent_ca="",
        agent_server_name="",
        agent_token_file="",
        log_level="info",
    )


def test_flags_win_over_variables() -> None:
    settings = resolved({"HEADGATE_LISTEN": "127.0.0.1:1", "HEADGATE_HOLD": "5m"}, listen="127.0.0.1:2")
    assert (settings.listen, settings.hold) == (Listen("127.0.0.1", 2), 300.0)


BAD: list[tuple[str, str, str]] = [
    ("listen", "off", "PORT or HOST:PORT"),
    ("tls_cert", "/nowhere/at/all", "a file that can be read (No such file or directory)"),
    ("tls_key", "/", "a file that can be read (Is a directory)"),
    ("tls_client_ca", "a\0b", "a file that can be read (embedded null byte)"),
    ("scrape_timeout", "0", "from 0.01s to 60s"),
    ("interval", "10ms", "from 0.05s to 60s"),
    ("hold", "2h", "from 0s to 3600s"),
    ("log_level", "loud", "one of debug, info"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BAD)
def test_a_bad_value_is_named_with_what_is_accepted(name: str, text: str, expected: str) -> None:
    problem = problems(**{name: text})[0]
    assert problem.startswith(f"--{name.replace('_', '-')} {text!r} is not accepted: expected ")
    assert expected in problem


def test_all_problems_are_reported_at_once() -> None:
    assert len(problems(**{name: text for name, text, _ in BAD})) == len(BAD)


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, str]:
    """A certificate, its key, its root, another key, and prose, by name."""
    authority = trustme.CA()
    paths = {name: str(tmp_path / name) for name in ("cert", "key", "roots", "other", "prose")}
    one, other = authority.issue_cert("scaler"), authority.issue_cert("other")
    one.cert_chain_pems[0].write_to_path(paths["cert"])
    one.private_key_pem.write_to_path(paths["key"])
    other.private_key_pem.write_to_path(paths["other"])
    authority.cert_pem.write_to_path(paths["roots"])
    Path(paths["prose"]).write_text("prose")
    return paths


def test_certificates_that_fit_are_accepted(papers: dict[str, str]) -> None:
    settings = resolved(tls_cert=papers["cert"], tls_key=papers["key"], tls_client_ca=papers["roots"])
    assert (settings.tls_cert, settings.tls_key) == (papers["cert"], papers["key"])


UNFIT: dict[str, tuple[dict[str, str], str]] = {
    "no key": ({"tls_cert": "cert"}, "--tls-cert and --tls-key need each other"),
    "no certificate": ({"tls_key": "key"}, "--tls-cert and --tls-key need each other"),
    "another key": ({"tls_cert": "cert", "tls_key": "other"}, "are no certificate with its key"),
    "prose": ({"tls_cert": "prose", "tls_key": "key"}, "are no certificate with its key"),
    "a token for anybody": ({"agent_token_file": "prose"}, "--agent-token-file needs --agent-ca"),
    "no token": ({"agent_ca": "roots", "agent_token_file": "key"}, "holds no token"),
    "prose for the agents' roots": ({"agent_ca": "prose"}, "--agent-ca: "),
    "roots alone": ({"tls_client_ca": "roots"}, "--tls-client-ca needs --tls-cert and --tls-key"),
    "prose for roots": (
        {"tls_cert": "cert", "tls_key": "key", "tls_client_ca": "prose"},
        "holds no certificates",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_files_that_do_not_fit(papers: dict[str, str], case: str) -> None:
    names, text = UNFIT[case]
    (problem,) = problems(**{flag: papers[name] for flag, name in names.items()})
    assert text in problem


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["scaler", *arguments, "--check-config"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_check_config_prints_the_effective_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADGATE_HOLD", "5s")
    values = shown(capsys, "--listen", "[::1]:0")
    assert list(values) == [knob.name for knob in KNOBS.values()]
    assert (values["listen"], values["hold"]) == ("[::1]:0", 5.0)


def test_bad_settings_end_with_64_and_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaler", "--hold", "x", "--listen", "y", "--route", "z"]) == 64
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "headgate scaler: 4 problems with the settings:"
    assert any("'--route' (headgate scaler --help lists all)" in line for line in lines)


def test_the_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["scaler", "--help"])
    assert exited.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{knob.flag} " in text and f"[{knob.env}]" in text for knob in KNOBS.values())


README = (Path(agent.__file__).parent / "README.md").read_text().partition("\n## The scaler\n")[2]
ROWS = re.findall(r"^\| `(--[\w-]+)` \| `(.+?)` \| (.+?) \| (.+?) \|$", README, re.MULTILINE)


def test_every_setting_has_a_row_in_the_documents() -> None:
    assert [(flag, form, default) for flag, form, default, _ in ROWS] == [
        (knob.flag, knob.form, f"`{knob.default}`" if knob.default else "none") for knob in KNOBS.values()
    ]
