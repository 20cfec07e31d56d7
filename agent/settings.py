"""Every knob, once: flag, environment name, default, accepted range and help.

A setting comes from its flag, else from `HEADGATE_` + the flag in capitals, else from its default. All problems are
found before anything starts and are reported together.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from agent.errors import SettingsError
from agent.observe.accesslog import Mode


class Address(NamedTuple):
    """Where a predictor listens: host and port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> bytes:
        """What to put in Host where the client named none."""
        return b"localhost" if self.path else f"{_bracketed(self.host)}:{self.port}".encode()

    def __str__(self) -> str:
        return f"http+unix:{self.path}" if self.path else f"http://{_bracketed(self.host)}:{self.port}"


class Listen(NamedTuple):
    """Where the agent listens; port 0 takes a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


class Route(NamedTuple):
    """A listening address and the predictor behind it."""

    listen: Listen
    upstream: Address


# What `--limit auto` stands for: about what a CPU predictor with a handful of workers runs at its best throughput.
AUTO_LIMIT = 16


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# Parsers: text to value; a ValueError says which values are accepted.

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB|)")
_UNIT_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def duration(low: float, high: float) -> Callable[[str], float]:
    """A parser of durations between two bounds in seconds."""

    def parse(text: str) -> float:
        match = _DURATION.fullmatch(text)
        value = float(match[1]) * _UNIT_S[match[2]] if match else 0.0 if text == "0" else -1.0
        if not low <= value <= high:
            raise ValueError(f"a duration such as 500ms, 2s or 1m, from {low:g}s to {high:g}s")
        return value

    return parse


def size(low: int, high: int) -> Callable[[str], int]:
    """A parser of sizes between two bounds in bytes."""

    def parse(text: str) -> int:
        match = _SIZE.fullmatch(text)
        value = int(match[1]) * _UNIT_BYTES[match[2]] if match else -1
        if not low <= value <= high:
            raise ValueError(f"a size such as 64KiB or 1MiB, from {low} to {high} bytes")
        return value

    return parse


def number(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers between two bounds."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else low - 1
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return parse


def choice(*names: str) -> Callable[[str], str]:
    """A parser of one of several words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return parse


def _switch(text: str) -> bool:
    return choice("true", "false")(text) == "true"


def _limit(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return AUTO_LIMIT if text == "auto" else number(1, 1_000_000)(text)
    except ValueError:
        raise ValueError("auto, none, or a whole number from 1 to 1000000") from None


def _model_limit(text: str) -> tuple[str, int]:
    name, _, bound = text.rpartition("=")
    try:
        if not name:
            raise ValueError
        return name, number(1, 1_000_000)(bound)
    except ValueError:
        raise ValueError("NAME=N with N a whole number from 1 to 1000000") from None


def _host_port(text: str, default_host: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host else default_host
    if not re.fullmatch(r"[A-Za-z0-9.\-_:]+", host):
        raise ValueError
    return host, number(0, 65535)(port)


def listen(text: str) -> Listen:
    """A listening address: PORT (on every interface) or HOST:PORT."""
    try:
        return Listen(*_host_port(text, "0.0.0.0"))
    except ValueError:
        raise ValueError("PORT or HOST:PORT with a port from 0 to 65535") from None


_UPSTREAM_FORM = "http://HOST:PORT or http+unix:/PATH"


def _upstream(text: str) -> Address:
    scheme, _, rest = text.partition(":")
    if scheme in {"h2c", "auto"}:
        raise ValueError(f"{_UPSTREAM_FORM}; this version serves HTTP/1.1 and has no {scheme} upstreams")
    if scheme == "http+unix" and rest.startswith("/") and len(rest) < 108:
        return Address("", 0, rest)
    try:
        if scheme != "http" or not rest.startswith("//"):
            raise ValueError
        host, port = _host_port(rest[2:].removesuffix("/"), "")
        if not host or not port:
            raise ValueError
    except ValueError:
        raise ValueError(_UPSTREAM_FORM) from None
    # `localhost` resolves to ::1 first where predictors listen on IPv4 alone.
    return Address("127.0.0.1" if host == "localhost" else host, port)


def _route(text: str) -> Route:
    left, separator, right = text.partition("=")
    if not separator:
        raise ValueError("LISTEN=UPSTREAM, such as 8080=http://127.0.0.1:18080")
    try:
        return Route(listen(left), _upstream(right))
    except ValueError as error:
        raise ValueError(f"LISTEN=UPSTREAM with LISTEN = PORT or HOST:PORT and UPSTREAM = {error}") from None


def _knob(
    flag: str, default: str | None, parse: Callable[[str], Any], text: str, *, form: str, repeat: bool = False
) -> Any:
    """Declare a setting. `default` is text, parsed like any other; None means that the setting is required."""
    return field(
        metadata={"flag": flag, "default": default, "parse": parse, "help": text, "form": form, "repeat": repeat}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of `headgate serve`. Durations are seconds, sizes bytes."""

    routes: tuple[Route, ...] = _knob(
        "route",
        None,
        _route,
        "listen there and forward to that predictor (repeatable)",
        form="LISTEN=UPSTREAM",
        repeat=True,
    )
    admin: Listen = _knob(
        "admin", "0.0.0.0:8481", listen, "where /metrics, /readyz and the like are served", form="HOST:PORT"
    )
    limit: int | None = _knob(
        "limit",
        "auto",
        _limit,
        f"how many requests the predictor may execute at once; auto is {AUTO_LIMIT} in this version",
        form="N|auto|none",
    )
    model_limits: tuple[tuple[str, int], ...] = _knob(
        "model-limit", "", _model_limit, "a lower limit for one model (repeatable)", form="NAME=N", repeat=True
    )
    queue: int = _knob(
        "queue", "1000", number(0, 1_000_000), "how many requests may wait; further ones are refused at once", form="N"
    )
    queue_bytes: int = _knob(
        "queue-bytes",
        "128MiB",
        size(1 << 16, 1 << 40),
        "how many bytes of waiting requests may be held in memory",
        form="SIZE",
    )
    queued_body: int = _knob(
        "queued-body",
        "64KiB",
        size(1 << 10, 1 << 30),
        "how much of a waiting request's body is read; the rest stays in the client's socket",
        form="SIZE",
    )
    policy: str = _knob("policy", "fifo", choice("fifo"), "the order of the queue", form="fifo")
    deadline: float = _knob(
        "deadline",
        "10s",
        duration(0.001, 86400),
        "how long a request may wait for its slot and for a predictor that restarts; then 504 or 503",
        form="DUR",
    )
    timeout: float = _knob(
        "timeout", "0", duration(0, 86400), "bound on a whole exchange, answer included; 0 is none", form="DUR"
    )
    overload_status: int = _knob(
        "overload-status",
        "503",
        lambda text: int(choice("503", "429")(text)),
        "the status of a refusal for lack of room",
        form="503|429",
    )
    unknown_route: str = _knob(
        "unknown-route",
        "bypass",
        choice("bypass", "admit"),
        "what a POST to a route that no protocol knows is: let through, or admitted like inference",
        form="bypass|admit",
    )
    retry_stale: bool = _knob(
        "retry-stale",
        "false",
        _switch,
        "send a request once more when a reused connection closes before any answer; the model may run it twice",
        form="",
    )
    head_timeout: float = _knob(
        "head-timeout", "10s", duration(0.1, 3600), "how long a request's head may take to arrive; then 408", form="DUR"
    )
    idle_timeout: float = _knob(
        "idle-timeout", "300s", duration(0.1, 86400), "how long a client's connection may be idle", form="DUR"
    )
    max_head: int = _knob("max-head", "64KiB", size(1 << 10, 1 << 20), "the largest head; then 431", form="SIZE")
    max_connections: int = _knob(
        "max-connections",
        "10000",
        number(1, 1_000_000),
        "how many client connections; further ones are closed",
        form="N",
    )
    drain_delay: float = _knob(
        "drain-delay",
        "5s",
        duration(0, 3600),
        "how long to go on accepting after SIGTERM, while endpoints are still being removed",
        form="DUR",
    )
    drain_timeout: float = _knob(
        "drain-timeout", "20s", duration(0, 86400), "how long running requests may take to end after that", form="DUR"
    )
    log_level: str = _knob(
        "log-level",
        "info",
        choice("debug", "info", "warning", "error"),
        "the least severe messages to log",
        form="LEVEL",
    )
    access_log: Mode = _knob(
        "access-log",
        "errors",
        lambda text: Mode(choice(*Mode)(text)),
        "which exchanges to log on standard output",
        form="off|errors|all",
    )


class Knob(NamedTuple):
    """One setting, as the command line and the documents need it."""

    name: str
    flag: str
    env: str
    default: str | None
    form: str
    help: str
    repeat: bool
    parse: Callable[[str], Any]


def knobs() -> list[Knob]:
    """All settings in the order of their declaration."""
    return [
        Knob(
            name=name,
            flag="--" + spec.metadata["flag"],
            env="HEADGATE_" + spec.metadata["flag"].upper().replace("-", "_"),
            default=spec.metadata["default"],
            form=spec.metadata["form"],
            help=spec.metadata["help"],
            repeat=spec.metadata["repeat"],
            parse=spec.metadata["parse"],
        )
        for name, spec in Settings.__dataclass_fields__.items()
    ]


def resolve(flags: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> Settings:
    """Build the settings. `flags` holds the texts given for each setting's name, `env` the environment.

    Raises SettingsError with every problem found.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for knob in knobs():
        source, texts = knob.flag, list(flags.get(knob.name, ()))
        if not texts and knob.env in env:
            source, texts = knob.env, env[knob.env].split() if knob.repeat else [env[knob.env]]
        if not texts:
            if knob.default is None:
                problems.append(f"{knob.flag} is required: {knob.form} ({knob.help})")
                continue
            texts = [] if knob.repeat else [knob.default]
        parsed = []
        for text in texts:
            try:
                parsed.append(knob.parse(text))
            except ValueError as error:
                problems.append(f"{source} {text!r} is not accepted: expected {error}")
        if parsed or knob.repeat:
            values[knob.name] = tuple(parsed) if knob.repeat else parsed[-1]
    problems += _contradictions(values)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Settings that are accepted one by one and cannot hold together."""
    problems = []
    listens = [route.listen for route in values.get("routes", ())] + ([values["admin"]] if "admin" in values else [])
    for index, one in enumerate(listens):
        if one.port and any(_collide(one, other) for other in listens[:index]):
            problems.append(f"port {one.port} is listened on twice (--route and --admin need ports of their own)")
    for route in values.get("routes", ()):
        if not route.upstream.path and any(_is_loop(route.upstream, other) for other in listens):
            problems.append(
                f"--route {route.listen}={route.upstream} forwards to a port that the agent itself listens on"
            )
    limit = values.get("limit")
    names = [name for name, _ in values.get("model_limits", ())]
    problems += [f"--model-limit names {name!r} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if limit is not None:
        problems += [
            f"--model-limit {name}={bound} is above --limit {limit}"
            for name, bound in values.get("model_limits", ())
            if bound > limit
        ]
    queue_bytes, queued_body = values.get("queue_bytes"), values.get("queued_body")
    if queue_bytes is not None and queued_body is not None and queued_body > queue_bytes:
        problems.append(f"--queued-body {queued_body} is above --queue-bytes {queue_bytes}")
    return problems


def _collide(one: Listen, other: Listen) -> bool:
    wild = {"0.0.0.0", "::"}
    return one.port == other.port and (one.host == other.host or one.host in wild or other.host in wild)


def _is_loop(upstream: Address, other: Listen) -> bool:
    return upstream.port == other.port and (
        upstream.host == other.host
        or (upstream.host.startswith("127.") and other.host in {"0.0.0.0", "::", "127.0.0.1"})
    )
