"""The settings of `headgate webhook`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent import values
from agent.errors import SettingsError
from agent.inject.patch.annotations import CPU_FORM, is_cpu
from agent.knobs import gather, knob
from agent.values import Listen

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-/:@]{0,254}")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9\-]{0,61}[a-z0-9])?")


def _image(text: str) -> str:
    if text and _IMAGE.fullmatch(text) is None:
        raise ValueError("the name of an image, such as ghcr.io/headgate/headgate:1.0")
    return text


def _cpu(text: str) -> str:
    if not is_cpu(text):
        raise ValueError(CPU_FORM)
    return text


def _dns_name(text: str) -> str:
    if _DNS_NAME.fullmatch(text) is None:
        raise ValueError("a name of lower case letters, digits and -, at most 63 characters")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """The effective settings of `headgate webhook`. Durations are seconds."""

    listen: Listen = knob(
        "listen", "0.0.0.0:9443", values.listen, "where the API server reaches the webhook over TLS", form="HOST:PORT"
    )
    tls_cert: str = knob("tls-cert", "", str, "the certificate, as PEM; the file is watched", form="FILE")
    tls_key: str = knob("tls-key", "", str, "the certificate's private key, as PEM; the file is watched", form="FILE")
    image: str = knob("image", "", _image, "the image of the containers that are injected", form="IMAGE")
    image_pull_policy: str = knob(
        "image-pull-policy",
        "",
        values.choice("", "Always", "IfNotPresent", "Never"),
        "their pull policy; Kubernetes' own rule by default",
        form="POLICY",
    )
    cpu: str = knob("cpu", "250m", _cpu, "the CPU that they request", form="QUANTITY")
    sidecar: str = knob(
        "sidecar",
        "auto",
        values.choice("auto", "native", "container"),
        "inject native sidecars or ordinary containers; auto asks the API server for its version (native from 1.29)",
        form="auto|native|container",
    )
    drain_delay: float = knob(
        "drain-delay",
        "5s",
        values.duration(0, 3600),
        "how long to go on answering after SIGTERM, while endpoints are still being removed",
        form="DUR",
    )
    log_level: str = knob(
        "log-level",
        "info",
        values.choice("debug", "info", "warning", "error"),
        "the least severe messages to log",
        form="LEVEL",
    )
    bootstrap_certs: bool = knob(
        "bootstrap-certs", "false", values.switch, "print a Secret with a new certificate, and exit", form=""
    )
    namespace: str = knob(
        "namespace", "headgate-system", _dns_name, "the namespace that the certificate is for", form="NAME"
    )
    service: str = knob(
        "service", "headgate-webhook", _dns_name, "the Service that the certificate is for", form="NAME"
    )


def resolve(flags: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> WebhookSettings:
    """Build the settings; see agent.settings.resolve. Raises SettingsError with every problem found."""
    given, problems = gather(WebhookSettings, flags, env)
    problems += _missing(given)
    if problems:
        raise SettingsError(problems)
    return WebhookSettings(**given)


def _missing(given: Mapping[str, Any]) -> list[str]:
    """What serving needs and printing does not."""
    if given.get("bootstrap_certs"):
        return []
    wanted = {"tls_cert": "FILE", "tls_key": "FILE", "image": "IMAGE"}
    return [f"--{name.replace('_', '-')} is required: {form}" for name, form in wanted.items() if given.get(name) == ""]
