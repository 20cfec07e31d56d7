"""The settings of `headgate scaler`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import values
from agent.certificates import unfit
from agent.errors import CertificateError, SettingsError
from agent.knobs import gather, knob
from agent.security import server_name, token
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
    agent_ca: str = knob(
        "agent-ca",
        "",
        _file,
        "ask agents over TLS: the roots that must have issued their certificates",
        form="FILE",
    )
    agent_server_name: str = knob(
        "agent-server-name",
        "",
        server_name,
        "the name that the agents' certificates are for; by default the address by which they are asked",
        form="NAME",
    )
    agent_token_file: str = knob(
        "agent-token-file",
        "",
        _file,
        "the bearer token of the agents' admin ports; needs --agent-ca",
        form="FILE",
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
    problems = _unfit_for_agents(given)
    cert, key, roots = (given.get(name) for name in ("tls_cert", "tls_key", "tls_client_ca"))
    if cert is None or key is None:
        return problems  # one of them cannot be read, which has been said
    problems += ["--tls-client-ca needs --tls-cert and --tls-key"] if roots and not cert else []
    return problems + unfit(("--tls-cert", "--tls-key", "--tls-client-ca"), cert, key, roots or "")


def _unfit_for_agents(given: Mapping[str, Any]) -> list[str]:
    ca, file = given.get("agent_ca"), given.get("agent_token_file")
    problems = unfit(("", "", "--agent-ca"), "", "", ca) if ca else []
    if file:
        try:
            token(file)
        except CertificateError as error:
            problems.append(f"--agent-token-file {error}")
    # Whoever writes a ScaledObject says who is asked: the token is for those alone who can prove who they are.
    needing = {"--agent-token-file": file, "--agent-server-name": given.get("agent_server_name")}
    return problems + [f"{flag} needs --agent-ca" for flag, value in needing.items() if value and ca == ""]
