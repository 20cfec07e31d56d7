"""What a ScaledObject's trigger asks of the scaler: its metadata, checked (PURE)."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from math import isfinite
from typing import NamedTuple

from agent import values
from agent.scale.demand import LONGEST_S
from agent.scale.page import SLOW_S

# Agents of one workload; HPA itself stops at a few hundred pods.
MAX_AGENTS = 1000
ADMIN_PORT = 8481

# What KEDA reads from the same metadata for itself.
_KEDAS = frozenset(
    {"scalerAddress", "caCert", "tlsCertFile", "tlsClientCert", "tlsClientKey", "enableTLS", "unsafeSsl", "metricType"}
)
_KEYS = ("service", "port", "serviceAddress", "agents", "targetPerReplica", "activation", "window")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ADDRESS = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9.\-]{0,251}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


class MetadataError(Exception):
    """The metadata is wrong. The text names every key, its value, and what is accepted."""


class Find(StrEnum):
    """How the agents of a workload are found."""

    SLICES = "service"  # the EndpointSlices of a Service, from the Kubernetes API
    DNS = "serviceAddress"  # the addresses of a headless Service
    LIST = "agents"


class Source(NamedTuple):
    """Where a workload's agents are: the Service (with its namespace) or host, and the port; or their addresses."""

    find: Find
    namespace: str = ""
    name: str = ""
    port: int = 0
    agents: tuple[str, ...] = ()


class Trigger(NamedTuple):
    """A trigger's wishes. `target` None scales by the replicas that the agents ask for, with a target of one each.

    `activation` is the demand above which a workload is active, `window` how many seconds the demand is the mean of.
    """

    source: Source
    target: float | None
    activation: float
    window: int

    @property
    def metric(self) -> str:
        """The metric's name. KEDA puts sN- before it, so it must not look like that."""
        return "headgate-replicas" if self.target is None else "headgate-demand"


def read(namespace: str, metadata: Mapping[str, str]) -> Trigger:
    """The trigger of a ScaledObject in this namespace. Raises MetadataError with everything that is wrong."""
    problems = _unknown(metadata)
    source = _source(namespace, metadata, problems)
    target = _number(metadata, "targetPerReplica", problems)
    if target == 0.0:
        problems.append("targetPerReplica '0' is not accepted: expected a number above 0, such as 5.6")
    activation = _number(metadata, "activation", problems)
    window = _window(metadata, problems)
    if problems or source is None:
        raise MetadataError("; ".join(problems))
    return Trigger(source, target, activation or 0.0, window)


def _unknown(metadata: Mapping[str, str]) -> list[str]:
    """Keys that look like a slip of the pen. KEDA hands over its own keys too, and may have more tomorrow."""
    problems = []
    for key in sorted(set(metadata) - set(_KEYS) - _KEDAS):
        close = get_close_matches(key.lower(), [known.lower() for known in _KEYS], n=1, cutoff=0.8)
        if close:
            meant = next(known for known in _KEYS if known.lower() == close[0])
            problems.append(f"{key!r} is not known (is {meant} meant?)")
    return problems


def _source(namespace: str, metadata: Mapping[str, str], problems: list[str]) -> Source | None:
    given = [find for find in Find if metadata.get(find.value)]
    if len(given) != 1:
        named = " and ".join(given) or "none"
        problems.append(f"exactly one of service, serviceAddress and agents is needed, not {named}")
        return None
    if "port" in metadata and given[0] is not Find.SLICES:
        problems.append("port goes with service alone")
    text = metadata[given[0].value]
    if given[0] is Find.SLICES:
        port = _port(metadata.get("port", str(ADMIN_PORT)))
        if port is None:
            problems.append(f"port {metadata['port']!r} is not accepted: expected a number from 1 to 65535")
        for name, value in (("service", text), ("namespace", namespace)):
            if _LABEL.fullmatch(value) is None:
                problems.append(f"{name} {value!r} is not accepted: expected the name of a Kubernetes object")
        return Source(Find.SLICES, namespace, text, port or 0)
    if given[0] is Find.DNS:
        address = _address(text)
        if address is None:
            problems.append(f"serviceAddress {text!r} is not accepted: expected HOST:PORT")
            return None
        return Source(Find.DNS, name=address[0], port=address[1])
    agents = [part.strip() for part in text.split(",")]
    problems += [f"agents: {part!r} is not accepted: expected HOST:PORT" for part in agents if _address(part) is None]
    if len(agents) > MAX_AGENTS:
        problems.append(f"agents: more than {MAX_AGENTS}")
    return Source(Find.LIST, agents=tuple(dict.fromkeys(agents)))


def _address(text: str) -> tuple[str, int] | None:
    match = _ADDRESS.fullmatch(text)
    port = None if match is None else _port(match[2])
    return None if match is None or port is None else (match[1].removeprefix("[").removesuffix("]"), port)


def _port(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536 else None


def _number(metadata: Mapping[str, str], key: str, problems: list[str]) -> float | None:
    text = metadata.get(key, "")
    if not text:
        return None
    if _NUMBER.fullmatch(text) is None or not isfinite(float(text)):
        problems.append(f"{key} {text!r} is not accepted: expected a number such as 5.6")
        return None
    return float(text)


def _window(metadata: Mapping[str, str], problems: list[str]) -> int:
    text = metadata.get("window") or f"{SLOW_S}s"
    try:
        seconds = values.duration(1, LONGEST_S)(text)
    except ValueError as error:
        problems.append(f"window {text!r} is not accepted: expected {error}")
        return 0
    if seconds != int(seconds):
        problems.append(f"window {text!r} is not accepted: expected whole seconds")
    return int(seconds)
