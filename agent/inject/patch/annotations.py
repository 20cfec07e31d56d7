"""What people write on a pod, checked as the agent itself would check it.

Every setting of `headgate serve` is an annotation, `headgate.dev/` and the flag. One that the agent would not accept is
left out and told, so it never reaches a container.
"""

import difflib
import re
from collections.abc import Mapping, Set
from functools import cache
from typing import NamedTuple

from agent.errors import SettingsError
from agent.inject.patch.pod import DOMAIN, INJECT, INJECTED, RESERVED
from agent.inject.patch.servers import GRPC_KNOB, HTTP_KNOB, SERVER
from agent.knobs import Knob
from agent.settings import Settings, knobs, resolve
from agent.values import Listen

CPU = DOMAIN + "cpu"
MEMORY = DOMAIN + "memory"
SIDECAR_KIND = DOMAIN + "sidecar"
KINDS = ("native", "container")
_OTHERS = {INJECT, INJECTED, SERVER, HTTP_KNOB, GRPC_KNOB, CPU, MEMORY, SIDECAR_KIND}
# Kubernetes' quantities, without exponents (apimachinery pkg/api/resource): what cpu and memory are written like.
_CPU = re.compile(r"([0-9]+m|[0-9]+(\.[0-9]{1,3})?)")
_MEMORY = re.compile(r"([0-9]+)(Ki|Mi|Gi|Ti|k|M|G|T|)")
CPU_FORM = "a quantity such as 250m or 1"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


class Wishes(NamedTuple):
    """The agent's flags, the settings that they make, what else was asked for, and what was not accepted."""

    flags: list[str]
    settings: Settings
    cpu: str | None
    memory: str | None
    kind: str | None
    warnings: list[str]


def read(annotations: Mapping[str, str], fixed: Mapping[str, list[str]], used: Set[int] = frozenset()) -> Wishes:
    """Check a pod's annotations. Nothing raises: what is not accepted becomes a warning and the default holds.

    `fixed` are the settings that the injector decides, by name; `used` the ports that are taken in this pod.
    """
    ours = {name: text for name, text in annotations.items() if name.startswith(DOMAIN)}
    table = _table()
    given: dict[str, list[str]] = {}
    warnings = []
    for name, text in ours.items():
        knob = table.get(name)
        if knob is None:
            warnings += _unknown(name, [*table, *_OTHERS])
        elif knob.name in fixed:
            warnings.append(f"{name} is set by the injector and ignored")
        elif knob.form == "FILE":
            # Also, its parser would look at the webhook's own files.
            warnings.append(f"{name} needs a file, which the injector does not mount: it is ignored")
        else:
            texts = text.split() if knob.repeat else [text]
            for one in texts:
                try:
                    value = knob.parse(one)
                    if isinstance(value, Listen):
                        _check_free(value, used)
                    given.setdefault(knob.name, []).append(one)
                except ValueError as error:
                    warnings.append(f"{name} {one!r} is not accepted and left out: expected {error}")
    settings = _defaults()
    if given:
        try:
            settings = resolve({**given, **fixed}, {}, look=False)
        except SettingsError as error:
            warnings.append(f"all settings are left out, they contradict each other: {'; '.join(error.problems)}")
            given = {}
    flags = [f"{_by_name()[name].flag}={text}" for name, texts in fixed.items() for text in texts]
    flags += [f"{knob.flag}={text}" for knob in knobs() for text in given.get(knob.name, ()) if knob.form]
    flags += [knob.flag for knob in knobs() if not knob.form and given.get(knob.name) == ["true"]]
    return Wishes(
        flags,
        settings,
        _checked(ours, CPU, _CPU, CPU_FORM, warnings),
        _checked(ours, MEMORY, _MEMORY, "a quantity such as 256Mi or 1Gi", warnings),
        _kind(ours, warnings),
        warnings,
    )


@cache
def _table() -> dict[str, Knob]:
    return {DOMAIN + knob.flag[2:]: knob for knob in knobs()}


@cache
def _by_name() -> dict[str, Knob]:
    return {knob.name: knob for knob in knobs()}


@cache
def _defaults() -> Settings:
    """Those of an agent; its route is not looked at."""
    return resolve({"routes": ["8480=http://127.0.0.1:8080"]}, {})


def is_wanted(text: str) -> bool:
    """Whether the label `headgate.dev/inject` asks for the agent."""
    return text in {"true", "enabled"}


def is_cpu(text: str) -> bool:
    """Whether this is an amount of CPU that is not nothing."""
    return _is_amount(_CPU, text)


def cpu_millis(quantity: str) -> int:
    """A CPU quantity in thousandths of a core."""
    return int(quantity[:-1]) if quantity.endswith("m") else round(float(quantity) * 1000)


def memory_bytes(quantity: str) -> int:
    """A memory quantity in bytes."""
    match = _MEMORY.fullmatch(quantity)
    assert match is not None
    return int(match[1]) * _UNITS[match[2]]


def _check_free(listen: Listen, used: Set[int]) -> None:
    """An address that cannot be listened on would end the agent. Raises ValueError with what can."""
    if listen.port in used or listen.port in RESERVED or listen.host not in {"0.0.0.0", "127.0.0.1"}:
        raise ValueError("0.0.0.0:PORT with a port that nothing else in a KServe pod listens on")


def _unknown(name: str, known: list[str]) -> list[str]:
    if name in _OTHERS:
        return []
    near = difflib.get_close_matches(name[len(DOMAIN) :], [one[len(DOMAIN) :] for one in known], 1)
    return [f"{name} is not a setting and ignored" + (f": is {DOMAIN}{near[0]} meant?" if near else "")]


def _checked(
    ours: Mapping[str, str], name: str, pattern: re.Pattern[str], form: str, warnings: list[str]
) -> str | None:
    text = ours.get(name)
    if text is None:
        return None
    if not _is_amount(pattern, text):
        warnings.append(f"{name} {text!r} is not accepted and left out: expected {form}")
        return None
    return text


def _is_amount(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text) is not None and re.search("[1-9]", text) is not None


def _kind(ours: Mapping[str, str], warnings: list[str]) -> str | None:
    text = ours.get(SIDECAR_KIND)
    if text is not None and text not in KINDS:
        warnings.append(f"{SIDECAR_KIND} {text!r} is not accepted and left out: expected one of {', '.join(KINDS)}")
        return None
    return text
