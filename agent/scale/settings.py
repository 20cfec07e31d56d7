"""The settings of `headgate scaler`."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import values
from agent.errors import SettingsError
from agent.knobs import gather, knob
from agent.values import Listen


def _file(text: str) -> str:
    """The path of a file that can be read, or nothing."""
    if text:
        try:
            Path(text).read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"a file that can be read ({why})") from None
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalerSettings:
    """The effective settings of `headgate scaler`. Durations are seconds."""

    listen: Listen = knob(
        "listen", "0.0.0.0:8482", values.listen, "where KEDA reaches the scaler over gRPC", form="HOST:PORT"
    )
    tls_cert: str = knob(
        "tls-cert", "", _file, "the server's certificate, with those that lead to its root, as PEM", form="FILE"
    )
    tls_key: str = knob("tls-key", "", _file, "the certificate's private key, as PEM", form="FILE")
    tls_client_ca: str = knob(
        "tls-client-ca", "", _file, "the roots that must have issued a client's certificate, as PEM", form="FILE"
    )
    scrape_timeout: float = knob(
        "scrape-timeout", "1s", values.duration(0.01, 60), "how long an agent may take to tell its load", form="DUR"
    )
    interval: float = knob(
        "interval",
        "1s",
        values.duration(0.05, 60),
        "how long what the agents told is told again, and how often a stream looks for a change",
        form="DUR",
    )
    hold: float = knob(
        "hold",
        "60s",
        values.duration(0, 3600),
        "how long the last word of an agent counts that is still there and does not answer",
        form="DUR",
    )
    log_level: str = knob(
        "log-level",
        "info",
        values.choice("debug", "info", "warning", "error"),
        "the least severe messages to log",
        form="LEVEL",
    )


def resolve(flags: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> ScalerSettings:
    """Build the settings; see agent.settings.resolve. Raises SettingsError with every problem found."""
    given, problems = gather(ScalerSettings, flags, env)
    problems += _contradictions(given)
    if problems:
        raise SettingsError(problems)
    return ScalerSettings(**given)


def _contradictions(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the files together. gRPC would find out with the first client, and tell nobody."""
    problems = []
    cert, key, roots = (given.get(name) for name in ("tls_cert", "tls_key", "tls_client_ca"))
    if None not in {cert, key} and bool(cert) is not bool(key):
        problems.append("--tls-cert and --tls-key need each other")
    if roots and cert == "":
        problems.append("--tls-client-ca needs --tls-cert and --tls-key")
    return problems + _unfit(cert, key, roots)


def check_files(settings: ScalerSettings) -> None:
    """Raises SettingsError where the files do not fit together now."""
    problems = _unfit(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if problems:
        raise SettingsError(problems)


def _unfit(cert: str | None, key: str | None, roots: str | None) -> list[str]:
    problems = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert and key:
        try:
            context.load_cert_chain(cert, key, password="")
        except (ssl.SSLError, ValueError):
            problems.append(f"--tls-cert {cert} and --tls-key {key} are no certificate with its key, as PEM")
    if roots:
        try:
            context.load_verify_locations(roots)
        except (ssl.SSLError, ValueError):
            problems.append(f"--tls-client-ca {roots} holds no certificates, as PEM")
    return problems
